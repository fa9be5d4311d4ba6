"""Functions for probe.py: the stores for weights and records, and the browser's storage."""

from __future__ import annotations

import random
import sys
from typing import Any

from py_engine.errors import EngineError
from tests_e2e.probe_gpu import open_any


async def storage_helpers() -> dict[str, Any]:
    """The result of each helper, by name."""
    import py_engine
    from py_engine.errors import InputError

    refused = ""
    try:
        await py_engine.can_cache_model("400")  # type: ignore[arg-type]
    except InputError as error:
        refused = str(error)
    return {
        "refused": refused,
        "get_storage_status": await py_engine.get_storage_status(),
        "can_cache_model": await py_engine.can_cache_model(1),
        "request_persistent_storage": await py_engine.request_persistent_storage(),
        "get_install_guidance": py_engine.get_install_guidance(),
        "is_standalone": py_engine.is_standalone(),
        "is_ios": py_engine.is_ios(),
    }


async def hide_opfs() -> None:
    """From now on this worker has no private file system, as in some private windows."""
    import js

    js.Object.defineProperty(
        js.navigator.storage, "getDirectory", js.Object.fromEntries([["value", None]])
    )


async def open_store(kind: str, root: str) -> Any:
    """A store of this kind: a class of public/blobs.mjs, or "Memory". In CPython, files below `root`."""
    if sys.platform == "emscripten":
        import js
        from pyodide.ffi import to_js

        from py_engine.host.store_browser import BrowserStore

        kinds = to_js([getattr(js.jerboa.blobs.KINDS, kind)] if kind != "Memory" else [])
        return BrowserStore(root, await js.jerboa.blobs.openStore(root, False, kinds))
    from pathlib import Path

    from py_engine.host.store_native import FileStore

    return FileStore(Path(root))


async def store(kind: str, root: str) -> dict[str, Any]:
    """Call every method of a BlobStore, with offsets across pieces and out of order. Returns the results."""
    from py_engine.host import open_io

    io, files = open_io(), await open_store(kind, root)
    far = (4 << 20) - 3  # across the border between two CacheStorage pieces
    seen: dict[str, Any] = {}

    async def text(name: str, *span: int) -> str:
        return io.to_bytes(await files.read(name, *span)).hex()

    seen["empty"] = [await files.names(), await files.size("a/b"), await files.names("a")]
    await files.write("a/b", 4, b"efgh")
    await files.write("a/b", 0, b"abcd")
    await files.write("a/c.bin", far, b"123456")
    await files.write("a/b", 6, b"GHij")
    await files.flush("a/b")
    await files.write("d", 0, io.slice(await files.read("a/b"), 2, 5))
    seen["sizes"] = [await files.size(name) for name in ("a/b", "a/c.bin", "d", "a", "a/b/x")]
    seen["bytes"] = [await text("a/b"), await text("a/b", 5, 100), await text("a/b", 50, 60)]
    seen["bytes"] += [await text("a/c.bin", far - 2, far + 4), await text("d")]
    await files.close()
    await files.write("a/c.bin", far + 1, b"x")
    await files.flush("a/c.bin")
    for body in (b"first", b"the second", b"3"):
        await files.replace("a/index", body)
        seen.setdefault("replaced", []).append(await text("a/index"))
    await files.replace("new/index", b"{}")
    seen["again"] = [await text("a/c.bin", far), await files.size("a/c.bin")]
    seen["list"] = [await files.names(), await files.names("a"), await files.names("new")]
    try:
        await files.read("nowhere/x")
    except FileNotFoundError:
        seen["absent"] = True
    for name in ("../x", "a//b", "", "/x"):
        try:
            await files.write(name, 0, b"")
        except EngineError as error:
            seen.setdefault("refused", []).append(error.type)
    async with files.lock("one") as held:
        async with files.lock("one", wait=False) as second, files.lock("two", wait=False) as other:
            seen["locks"] = [held, second, other]
    async with files.lock("one", shared=True), files.lock("one", shared=True, wait=False) as both:
        seen["locks"].append(both)
    async with files.lock("one", wait=False) as free:
        seen["locks"].append(free)
    await files.delete("a/b")
    await files.delete("a/none")
    seen["deleted"] = [await files.names()]
    await files.delete("a")
    seen["deleted"].append(await files.names())
    await files.delete("new/index")
    await files.delete("d")
    seen["deleted"].append(await files.names())
    return seen


_held: list[Any] = []


async def store_twice(kind: str, root: str) -> list[str]:
    """What the store of another tab reads from files that this one has open, for reading and for writing."""
    from py_engine.host import open_io

    io, mine, theirs = open_io(), await open_store(kind, root), await open_store(kind, root)
    await mine.replace("read", b"read here")
    await mine.read("read")
    await mine.write("written", 0, b"written here")
    await mine.flush("written")
    seen = [io.to_bytes(await theirs.read(name)).decode() for name in ("read", "written")]
    try:
        await theirs.write("written", 0, b"no")
    except EngineError as error:
        seen.append(error.type + ": " + str(error))
    for files in (theirs, mine):
        await files.close()
    for name in ("read", "written"):
        await mine.delete(name)
    return seen


async def lock(name: str, wait: bool) -> float | None:
    """Take a lock and keep it. Returns the seconds that it took, or None when another tab has it and `wait` is
    false."""
    import time

    started = time.monotonic()
    held = (await open_store("Opfs", "locks")).lock(name, wait=wait)
    _held.append(held)  # a lock without a reference is released
    return time.monotonic() - started if await held.__aenter__() else None


async def older_webkit(yes: bool) -> None:
    """Make webkit_files.mjs behave like an older WebKit."""
    import js

    js.olderWebKit = yes


async def fill_store(kind: str, root: str, most: int) -> dict[str, Any]:
    """Write until there is no room. Returns whether stored files are whole."""
    from py_engine.errors import StorageFullError
    from py_engine.host import open_io

    io, files = open_io(), await open_store(kind, root)
    piece, count = random.Random(5).randbytes(1 << 20), 0  # no database can compress these bytes
    await files.replace("before", b"as it was")
    try:
        while count < most:
            await files.write(f"{count // 64}.bin", count % 64 * len(piece), piece)
            await files.flush(f"{count // 64}.bin")
            count += 1
        full = ""
    except StorageFullError as error:
        full = str(error)
    good = io.to_bytes(await files.read("before")) == b"as it was"
    if count:
        last = count - 1
        start = last % 64 * len(piece)
        read = await files.read(f"{last // 64}.bin", start, start + len(piece))
        good = good and io.to_bytes(read) == piece
    for name in await files.names():
        await files.delete(name)
    return {"count": count, "full": full, "good": good, "left": await files.names()}


_uploaded: list[int] = []


async def keep(
    endpoint: str, repo: str, form: Any = "stored", patience_s: float | None = None
) -> dict[str, Any]:
    """Load a model's weights through the store, in a form of weights/store.py, without compiling the model. Returns
    the notes, and a sum of what is on the GPU. `patience_s`: how long the hub may be silent; waits between two tries
    take no time."""
    import hashlib
    from functools import partial

    import js

    from py_engine.abort import Abort
    from py_engine.graph.kernels import Kernels
    from py_engine.host import open_io
    from py_engine.kept.opening import open_kept
    from py_engine.models import build_model
    from py_engine.sources.address import open_repository
    from py_engine.sources.config import quantization, read_config
    from py_engine.sources.safetensors import read_tensors
    from py_engine.weights.loader import Loader
    from py_engine.weights.mlx_quant import quantization_of
    from py_engine.weights.store import WeightStore

    js.jerboa.env.set("HF_ENDPOINT", endpoint)
    notes: list[str] = []
    gpu, io = await open_any(), open_io()
    if patience_s is not None:
        fetch = io.fetch

        async def hurried(*given: Any, **options: Any) -> Any:
            return await fetch(*given, **{**options, "timeout_s": patience_s})

        async def sleep(seconds: float) -> None:
            pass

        io.fetch, io.sleep = hurried, sleep  # type: ignore[method-assign]
    repository = await open_repository(repo, io, partial(open_kept, note=notes.append))
    try:
        config = await read_config(repository)
        tensors = await read_tensors(repository)
        quantised = quantization_of(tensors, quantization(config))
        weights = WeightStore(gpu, tensors, quantised, form=form, family="test")
        kernels = Kernels(gpu)
        build_model(config, weights)
        await Loader(gpu, kernels, repository, lambda _: None, Abort()).run(weights.jobs)
        await repository.commit()
        await kernels.settle()
        sums = [
            hashlib.sha256(await gpu.read(tensor.binding.buffer)).hexdigest()
            for job in weights.jobs
            for tensor in (job.target, job.scales)
            if tensor and tensor.binding
        ]
        kind = (await io.open_store("models")).kind
        _uploaded.append(gpu.counters.upload_bytes)
        return {"notes": notes, "kept": repository.kept, "kind": kind, "sums": sums}
    finally:
        await repository.close()
        gpu.close()


async def store_kinds() -> list[str]:
    """The kinds of store that this browser gives, for weights and for records."""
    from py_engine.host import open_io

    return [(await open_io().open_store("test", records=records)).kind for records in (False, True)]


async def write_record(kind: str, text: str) -> None:
    """Write a record as breadcrumbs do, and one as the calibration does. Both are on the disk afterwards."""
    files = await open_store(kind, f"records-{kind}")
    await files.write("crumb", 0, text.encode())
    await files.flush("crumb")
    await files.replace("record", text.encode())


async def read_records(kind: str) -> list[str]:
    """Read both records."""
    from py_engine.host import open_io

    io, files = open_io(), await open_store(kind, f"records-{kind}")
    return [io.to_bytes(await files.read(name)).decode() for name in ("crumb", "record")]


async def stored_files(part: str) -> dict[str, int]:
    """Sizes of the files in the store of models whose name contains `part`."""
    from py_engine.host import open_io

    models = await open_io().open_store("models")
    found = {name: await models.size(name) or 0 for name in await models.names() if part in name}
    await models.close()
    return found


async def flip(name: str, offset: int) -> None:
    """Flip a bit of a file in the store of models."""
    from py_engine.host import open_io

    io = open_io()
    models = await io.open_store("models")
    byte = io.to_bytes(await models.read(name, offset, offset + 1))[0]
    await models.write(name, offset, bytes([byte ^ 4]))
    await models.flush(name)
    await models.close()


async def clear_store() -> None:
    """Delete everything in the store of models."""
    from py_engine.host import open_io

    models = await open_io().open_store("models")
    for name in await models.names():
        await models.delete(name)
    await models.close()


async def write_in_steps(nbytes: int) -> None:
    """From now on this worker writes small files of weights as it writes large ones: in steps of `nbytes`, with a line
    of the journal for each."""
    from py_engine.host import open_io
    from py_engine.kept import writer

    io, write = open_io(), writer.Writer._write_piece

    async def in_steps(self: Any, name: str, stored: Any, place: int, piece: Any) -> None:
        for start in range(0, io.nbytes(piece), nbytes):
            part = io.slice(piece, start, min(start + nbytes, io.nbytes(piece)))
            await write(self, name, stored, place + start, part)

    writer.Writer._write_piece = in_steps  # type: ignore[method-assign]
    writer.JOURNAL_BYTES = nbytes


async def arm_store(at: int, how: str) -> None:
    """From now on, change number `at` of this worker's stores fails (store_faults.mjs)."""
    import js

    faults = js.storeFaults
    faults.at, faults.how, faults.changes, faults.read = at, how, 0, 0


async def traffic() -> list[int]:
    """Bytes that this worker's stores read since arm_store, and bytes that the last `keep` uploaded."""
    import js

    return [int(js.storeFaults.read), _uploaded[-1]]


async def store_changes() -> int:
    """How many changes this worker's stores had since arm_store."""
    import js

    return int(js.storeFaults.changes)
