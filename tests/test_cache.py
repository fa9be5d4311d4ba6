"""The cache of weights over a real hub server and real files: killed loads, damage, a full disk, no network, several
processes.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import huggingface_hub
import pytest

from py_engine.errors import HubError, StorageError, StorageFullError
from py_engine.host.io import Response
from py_engine.host.io_native import NativeIo
from py_engine.kept import journal, opening, writer
from py_engine.kept.library import Library
from py_engine.kept.manifest import Manifest, Stored
from py_engine.kept.opening import open_kept
from py_engine.sources.address import open_repository
from py_engine.sources.spans import Spans
from tests import hub_server as hub_module
from tests.hub_loads import NAME, SIZES, FaultIo, Killed, die, load, make_repository
from tests.hub_server import COMMIT, Fault, HubServer, hub_server

FOLDER = "models--org--tiny"
FILE = "model.safetensors"
T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@pytest.fixture(autouse=True)
def no_waiting_for_the_medium(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests kill processes, not machines, so nothing needs fsync."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda _: None)


# Sizes with which the small files of these tests are written in as many steps as large files are.
LINE_BYTES = 10_000
PIECE_BYTES = 4096


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "JOURNAL_BYTES", LINE_BYTES)
    monkeypatch.setattr("py_engine.host.io_native.PIECE_BYTES", PIECE_BYTES)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def tensors(root: Path) -> dict[str, bytes]:
    return make_repository(root)


@pytest.fixture
def server(
    root: Path, tensors: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    with hub_server(root) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield running


@pytest.fixture
def hub(stores: Path) -> Path:
    """The hub cache folder."""
    return stores / "hub"


def once(
    before: Callable[[int, str, str], None] = lambda *_: None,
    notes: list[str] | None = None,
    now: float | None = None,
    **options: Any,
) -> tuple[dict[str, bytes], FaultIo, list[str]]:
    """One load: the tensors, the io with its counts, the notes. `now`: the time that its clock gives."""
    io, notes = FaultIo(before), [] if notes is None else notes
    if now is not None:
        io.time = lambda: now  # type: ignore[method-assign]
    try:
        return run(load(io, notes=notes, **options)), io, notes
    finally:
        io.close()


def asked(server: HubServer, name: str = FILE) -> int:
    """How many bytes of a file the file host was asked for."""
    total = 0
    for request in server.requests:
        if request.port == "cdn" and request.path.endswith(name) and request.range:
            start, end = re.fullmatch(r"bytes=(\d+)-(\d+)", request.range).groups()  # type: ignore[union-attr]
            total += int(end) + 1 - int(start)
    return total


def stored(io: FaultIo) -> Manifest | None:
    """What the store reports about the repository."""

    async def go() -> Manifest | None:
        library = Library(await io.open_store("models"), io)
        found, _ = await library.load(NAME, COMMIT)
        if found is not None:
            await library.settle(found)
        return found

    return run(go())


# -- a warm load -------------------------------------------------------------------------------------------------------


def test_an_exact_revision_is_loaded_without_a_request(
    server: HubServer, tensors: dict[str, bytes], root: Path
) -> None:
    address = f"{NAME}@{COMMIT}"
    cold, _, notes = once(address=address)
    assert cold == tensors and notes == []
    size = (root / NAME / FILE).stat().st_size
    assert asked(server) == size, "every byte is fetched once"
    server.requests.clear()
    warm, io, notes = once(address=address)
    assert warm == tensors and notes == [] and server.requests == []
    assert io.store is not None and io.store.calls == 1, "only the time of the last use is written"
    blob = next(
        name
        for name in io.store.read_bytes
        if "/blobs/" in name and io.store.read_bytes[name] > 10_000
    )
    assert size - 8 <= io.store.read_bytes[blob] <= size, "every byte is read once"


def test_a_branch_is_asked_for_once_and_offline_not_at_all(
    server: HubServer, tensors: dict[str, bytes]
) -> None:
    once()
    server.requests.clear()
    assert once()[0] == tensors
    assert [r.path for r in server.requests] == [f"/api/models/{NAME}/revision/main"]
    server.close()
    began = time.monotonic()
    warm, _, notes = once()
    assert warm == tensors and "using the copy here" in notes[0]
    assert time.monotonic() - began < opening.CHECK_TIMEOUT_S


@pytest.mark.parametrize("fault", [500, 404, 401, "html", "drop", "redirect-loop"])
def test_a_hub_in_trouble_does_not_hold_up_what_is_here(
    server: HubServer, tensors: dict[str, bytes], fault: int | str
) -> None:
    once()
    server.fail("listing", *[fault] * 40)
    warm, _, notes = once()
    assert warm == tensors and len(notes) == (fault != 404)  # 404: a mirror without listings


def test_a_mirror_without_listings_is_kept_too(
    server: HubServer,
    tensors: dict[str, bytes],
    hub: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "listing", False)
    assert once()[0] == tensors
    server.requests.clear()
    assert once(address=f"{NAME}@{COMMIT}")[0] == tensors
    assert server.requests == [], "not for files either that the repository does not have"
    blob = blob_of(hub)
    body = bytearray(blob.read_bytes())
    body[-3] ^= 1
    blob.write_bytes(body)
    warm, _, notes = once()
    assert warm == tensors and "t11 was damaged" in notes[0]
    found = stored(FaultIo())
    assert found is not None and found.files[FILE].sum == hub_module._sha256(root / NAME / FILE)
    server.close()
    assert once()[0] == tensors


def test_huggingface_hub_reads_what_was_stored(
    server: HubServer, root: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once()
    server.close()
    for name in (FILE, "config.json"):
        path = huggingface_hub.try_to_load_from_cache(NAME, name, cache_dir=hub)
        assert (
            isinstance(path, str) and Path(path).read_bytes() == (root / NAME / name).read_bytes()
        )
    found = huggingface_hub.scan_cache_dir(hub)
    assert not found.warnings
    assert [(r.repo_id, len(r.revisions)) for r in found.repos] == [(NAME, 1)]
    assert {r.commit_hash for repo in found.repos for r in repo.revisions} == {COMMIT}


def test_what_huggingface_hub_stored_is_not_fetched_again(
    server: HubServer, tensors: dict[str, bytes], root: Path, hub: Path
) -> None:
    """huggingface_hub names its blobs by their sha256. A clean-up of the engine's files leaves them."""
    sum_ = hub_module._sha256(root / NAME / FILE)
    blob = hub / FOLDER / "blobs" / sum_
    blob.parent.mkdir(parents=True)
    blob.write_bytes((root / NAME / FILE).read_bytes())
    assert once()[0] == tensors and asked(server) == 0
    io = FaultIo()

    async def clean() -> None:
        library = Library(await io.open_store("models"), io)
        for manifest, complete in await library.manifests():
            assert complete
            await library.delete(manifest)
        assert await library.manifests() == []

    run(clean())
    assert blob.read_bytes() == (root / NAME / FILE).read_bytes()


# -- a kill ------------------------------------------------------------------------------------------------------------


def changes_of_a_cold_load() -> int:
    _, io, _ = once()
    assert io.store is not None
    return io.store.calls


def killed_at(k: int, half: bool) -> bool:
    """Run a load in a child process that dies before the k-th change of its store (or `half` way through a write).
    Returns whether it died."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # warnings about forking while the server's threads run
        child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    try:
        io = FaultIo(lambda n, *_: die() if n == k and not half else None)
        if half:
            opened = io.open_store

            async def open_store(name: str) -> Any:
                store = await opened(name)
                whole = store.write

                async def write(name: str, offset: int, data: Any) -> None:
                    if io.store is not None and io.store.calls == k - 1:
                        await whole(name, offset, memoryview(data)[: len(data) // 2])
                        die()
                    await whole(name, offset, data)

                store.write = write  # type: ignore[method-assign]
                return store

            io.open_store = open_store  # type: ignore[method-assign, assignment]
        run(load(io))
    finally:
        os._exit(0)


@pytest.mark.parametrize(
    "half",
    [
        pytest.param(False, id="between writes", marks=pytest.mark.slow),
        pytest.param(True, id="within a write"),
    ],
)
def test_killed_at_every_write_boundary(
    server: HubServer, tensors: dict[str, bytes], hub: Path, root: Path, half: bool
) -> None:
    """The next load completes with the right tensors. It fetches nothing again that was noted; at most the bytes of one
    line of the journal were lost."""
    size = (root / NAME / FILE).stat().st_size
    line = LINE_BYTES + PIECE_BYTES
    kills = 0
    for k in range(1, changes_of_a_cold_load() + 1):
        shutil.rmtree(hub, ignore_errors=True)
        if not killed_at(k, half):
            assert half, "each change is a place to die"
            continue
        kills += 1
        io = FaultIo()
        before = stored(io)
        kept = before.files[FILE].spans.nbytes if before and FILE in before.files else 0
        blobs = [p for p in (hub / FOLDER / "blobs").glob("*") if p.stat().st_size > 5000]
        written = max((p.stat().st_size for p in blobs), default=0)
        assert written - kept <= line, f"killed at {k}: {written} written, {kept} known"
        server.requests.clear()
        warm, _, notes = once()
        assert warm == tensors and notes == [], f"killed at {k}"
        assert asked(server) == size - kept, f"killed at {k}"
        after = stored(io)
        assert after is not None and after.files[FILE].whole and after.files[FILE].checked
        again = once(address=f"{NAME}@{COMMIT}")[0]
        assert again == tensors
    assert kills > (20 if half else 40)


def test_a_large_tensor_goes_on_at_the_missing_range(
    server: HubServer,
    tensors: dict[str, bytes],
    root: Path,
    hub: Path,
) -> None:
    size = (root / NAME / FILE).stat().st_size
    k, inside = 10, 0
    while not 10_000 < inside < 90_000:  # until the kill falls into the large tensor
        k += 1
        assert k < 500, "no kill fell within the large tensor"
        shutil.rmtree(hub, ignore_errors=True)
        assert killed_at(k, half=False)
        kept = stored(FaultIo())
        inside = kept.files[FILE].spans.nbytes if kept and FILE in kept.files else 0
    server.requests.clear()
    assert once()[0] == tensors
    assert asked(server) == size - inside


# -- damage ------------------------------------------------------------------------------------------------------------


def blob_of(hub: Path, name: str = FILE) -> Path:
    return (hub / FOLDER / "snapshots" / COMMIT / name).resolve()


@pytest.mark.parametrize("tensor", [f"t{i}" for i in range(len(SIZES))])
def test_one_flipped_bit_is_found_fetched_again_and_named(
    server: HubServer, tensors: dict[str, bytes], hub: Path, root: Path, tensor: str
) -> None:
    once()
    blob, whole = blob_of(hub), (root / NAME / FILE).read_bytes()
    at = whole.index(tensors[tensor]) + len(tensors[tensor]) // 2
    damaged = bytearray(whole)
    damaged[at] ^= 1 << (at % 8)
    blob.write_bytes(damaged)
    server.requests.clear()
    warm, _, notes = once()
    assert warm == tensors
    assert len(notes) == 1 and f"{tensor} was damaged" in notes[0]
    assert asked(server) == len(tensors[tensor]), "exactly what differs"
    assert blob.read_bytes() == whole, "the store is whole again"
    assert once()[2] == []


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_damaged_small_file_is_fetched_again(
    server: HubServer, tensors: dict[str, bytes], hub: Path, root: Path, name: str
) -> None:
    once()
    blob = blob_of(hub, name)
    body = bytearray(blob.read_bytes())
    body[3] ^= 4
    blob.write_bytes(body)
    warm, _, notes = once()
    assert warm == tensors and len(notes) == 1 and name in notes[0]
    assert blob_of(hub, name).read_bytes() == (root / NAME / name).read_bytes()


@pytest.mark.parametrize(
    "how", ["removed", "cut", "folder removed", "index damaged", "index removed"]
)
def test_somebody_took_files_away(
    server: HubServer, tensors: dict[str, bytes], hub: Path, root: Path, how: str
) -> None:
    once()
    blob, index = blob_of(hub), hub / FOLDER / "jerboa" / f"{COMMIT}.json"
    if how == "removed":
        blob.unlink()
    elif how == "cut":
        os.truncate(blob, 50_000)
    elif how == "folder removed":
        shutil.rmtree(blob.parent)
    elif how == "index damaged":
        index.write_bytes(index.read_bytes().replace(b'"size"', b'"sise"', 1))
    else:
        index.unlink()
    assert once()[0] == tensors
    server.close()
    assert once()[0] == tensors


def test_damage_that_cannot_be_repaired_offline_is_said(
    server: HubServer, tensors: dict[str, bytes], hub: Path, root: Path
) -> None:
    once()
    blob = blob_of(hub)
    body = bytearray(blob.read_bytes())
    body[-1] ^= 1
    blob.write_bytes(body)
    server.close()
    notes: list[str] = []
    with pytest.raises(HubError, match="no answer"):
        once(notes=notes)
    assert any("t11 was damaged" in note for note in notes)


# -- no room -----------------------------------------------------------------------------------------------------------


def test_no_room_at_every_write(server: HubServer, tensors: dict[str, bytes], hub: Path) -> None:
    """For every k: all writes from the k-th on are refused. The load gives the right tensors and reports the full disk,
    and nothing of it stays on disk."""
    count = changes_of_a_cold_load()
    for k in range(1, count):
        shutil.rmtree(hub, ignore_errors=True)

        def refuse(n: int, method: str, name: str, k: int = k) -> None:
            if n >= k and method != "delete":
                raise StorageFullError(f"{name}: there is no room left on this disk.")

        got, io, notes = once(refuse)
        assert got == tensors, k
        # The time of last use is written last. Nothing depends on it, so nobody is told when it fails.
        said = [note for note in notes if "not kept on this device" in note]
        done = stored(io)
        assert said and done is None or not said and done is not None and done.files[FILE].whole, k
        if said:
            assert not [p for p in hub.rglob("*") if p.is_file() and ".locks" not in p.parts], k


def test_no_room_once_at_every_write(
    root: Path, server: HubServer, tensors: dict[str, bytes], hub: Path, tmp_path: Path
) -> None:
    """For every k: the k-th change is refused, an older model is deleted, and the change then succeeds."""
    other = "org/older"
    shutil.copytree(root / NAME, root / other)
    count = changes_of_a_cold_load()
    shutil.rmtree(hub)
    once(address=other)
    full = hub.rename(tmp_path / "with the older one")
    freed = 0
    for k in range(1, count):
        shutil.rmtree(hub, ignore_errors=True)
        shutil.copytree(full, hub, symlinks=True)
        refused: list[str] = []

        def refuse(
            n: int, method: str, name: str, k: int = k, refused: list[str] = refused
        ) -> None:
            if n == k and method != "delete":
                refused.append(name)
                raise StorageFullError(f"{name}: there is no room left on this disk.")

        got, io, notes = once(refuse)
        assert got == tensors and notes == [], k
        done = stored(io)
        assert done is not None and done.files[FILE].whole, k
        # The last change writes the time of last use, on which nothing depends.
        gone = not (hub / "models--org--older").exists()
        assert gone == bool(refused), (k, refused)
        freed += gone
    assert freed > 30


def test_older_models_make_room_by_last_use(
    root: Path, server: HubServer, tensors: dict[str, bytes], hub: Path
) -> None:
    for i, other in enumerate(("a", "b", "c")):
        shutil.copytree(root / NAME, root / "org" / other)
        once(address=f"org/{other}", now=1003.0 - i)
    foreign = hub / "models--org--theirs" / "blobs" / "x"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"not ours")
    refused = []

    def refuse(n: int, method: str, name: str) -> None:
        if n == 20 and method == "write":
            refused.append(name)
            raise StorageFullError("full")

    got, _, notes = once(refuse)
    assert got == tensors and notes == [] and refused
    left = sorted(p.name for p in hub.glob("models--*"))
    assert left == ["models--org--a", "models--org--b", "models--org--theirs", FOLDER]
    assert foreign.read_bytes() == b"not ours"
    server.close()
    assert once()[0] == tensors


def test_room_made_among_commits_spares_what_they_share(
    server: HubServer, root: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older commit is deleted, but not its tokenizer, which the newer commit shares."""
    once()
    monkeypatch.setattr(hub_module, "COMMIT", "c" * 40)
    tensors = make_repository(root, seed=4)
    refused = []

    def refuse(n: int, method: str, name: str) -> None:
        if n == 1:
            refused.append(name)
            raise StorageFullError("full")

    got, _, notes = once(refuse)
    assert got == tensors and notes == [] and refused
    assert [p.name for p in (hub / FOLDER / "snapshots").iterdir()] == ["c" * 40]
    server.close()
    assert once()[0] == tensors


def test_a_model_in_use_is_not_evicted(
    root: Path, server: HubServer, tensors: dict[str, bytes], hub: Path
) -> None:
    shutil.copytree(root / NAME, root / "org" / "used")
    once(address="org/used")

    def refuse(n: int, method: str, name: str) -> None:
        if method == "write":
            raise StorageFullError("full")

    async def go() -> None:
        store = await FaultIo().open_store("models")
        async with store.lock("models--org--used", shared=True):
            got, _, notes = await asyncio.to_thread(once, refuse)
        assert got == tensors and "not kept" in notes[0]

    run(go())
    assert (hub / "models--org--used" / "jerboa" / f"{COMMIT}.json").exists()


def test_a_read_only_home(server: HubServer, tensors: dict[str, bytes], hub: Path) -> None:
    hub.parent.mkdir(parents=True, exist_ok=True)
    hub.write_bytes(b"a file where the folder should be")
    got, _, notes = once()
    assert got == tensors and notes


# -- the hub -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [404, 416, "html", "short", "stall", "drop", "redirect-loop", "wrong-range"]
    + ["gzip", "gzip-whole"],
)
def test_faults_of_the_server_leave_the_store_as_it_was(
    server: HubServer,
    tensors: dict[str, bytes],
    hub: Path,
    fault: int | str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hurried(self: FaultIo, *given: Any, **options: Any) -> Any:
        return await NativeIo.fetch(self, *given, **{**options, "timeout_s": 0.4})

    monkeypatch.setattr(FaultIo, "fetch", hurried)
    server.fail(FILE, None, *[fault] * 100)
    with pytest.raises(HubError):
        once()
    found = stored(FaultIo())
    assert found is None or not found.files[FILE].whole
    assert not (hub / FOLDER / "jerboa" / f"{COMMIT}.json").exists()
    server.clear_faults()
    assert once()[0] == tensors


def test_a_file_that_is_not_what_the_hub_says_is_refused(
    server: HubServer, root: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listing gives the sha256 of other bytes, as with a proxy that changes files or a faulty mirror."""
    good = hub_module._sha256(root / NAME / FILE)
    body = bytearray((root / NAME / FILE).read_bytes())
    body[-5] ^= 1
    (root / NAME / FILE).write_bytes(body)
    right = hub_module._sha256
    monkeypatch.setattr(
        hub_module, "_sha256", lambda file: good if file.name == FILE else right(file)
    )
    notes: list[str] = []
    with pytest.raises(HubError, match="sha256"):
        once(notes=notes)
    assert "fetching it again" in notes[0]
    assert not (hub / FOLDER / "jerboa" / f"{COMMIT}.json").exists()
    assert not [p for p in (hub / FOLDER / "blobs").glob("*") if p.stat().st_size > 5000]


def test_a_small_file_is_compared_with_its_git_object_id(
    server: HubServer, root: Path, tensors: dict[str, bytes]
) -> None:
    """The first answer differs from the listing's file by a byte; the second one is right."""
    place = root / NAME / "config.json"
    whole = place.read_text()

    def put_back(n: int, method: str, name: str) -> None:
        if not place.read_text() == whole and n == 4:
            place.write_text(whole)

    listing = server.take_fault

    def take_fault(name: str) -> Fault | None:
        if name == "config.json" and place.read_text() == whole and not spoiled:
            spoiled.append(name)
            place.write_text(whole.replace("qwen3", "qwen2"))
        return listing(name)

    spoiled: list[str] = []
    server.take_fault = take_fault  # type: ignore[method-assign]
    got, _, notes = once(put_back)
    assert spoiled and got == tensors
    assert len(notes) == 1 and "config.json" in notes[0]


def test_hf_hub_offline_asks_for_nothing(
    server: HubServer, tensors: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        once()
    monkeypatch.delenv("HF_HUB_OFFLINE")
    once()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    server.requests.clear()
    assert once()[0] == tensors and server.requests == []

    async def full(*_: object, **__: object) -> None:
        raise StorageError("no store")

    monkeypatch.setattr(NativeIo, "open_store", full)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        once()
    assert server.requests == []


def test_a_file_that_changes_meanwhile_is_refused_or_compared(
    server: HubServer, root: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a listing there is no sha256, so the ETag has to show the change."""
    monkeypatch.setattr(server, "listing", False)
    make_repository(root, seed=1)
    body = (root / NAME / FILE).read_bytes()
    make_repository(root)
    changed = False

    def change(n: int, method: str, name: str) -> None:
        nonlocal changed
        if not changed and name.endswith(".incomplete") and n > 12:
            changed = True
            (root / NAME / FILE).write_bytes(body)

    with pytest.raises(HubError, match="changed on the hub"):
        once(change)
    assert changed and not (hub / FOLDER / "jerboa" / f"{COMMIT}.json").exists()


@pytest.mark.parametrize("size", [0, 1000], ids=["as long", "shorter"])
def test_a_file_without_a_sha256_that_changed_between_two_loads(
    server: HubServer,
    root: Path,
    tensors: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    size: int,
) -> None:
    """Bytes of the old file are not mixed with the new one: the load that notices the change ends, and the next one
    starts from nothing."""
    monkeypatch.setattr(journal, "FLUSH_BYTES", 1)
    server.listing = False

    def kill(n: int, method: str, name: str) -> None:
        if method == "write" and n > 16:
            raise Killed

    with pytest.raises(Killed):
        once(kill)
    now = make_repository(root, 1, (*SIZES[:-1], SIZES[-1] - size))
    with pytest.raises(HubError):
        once()
    assert once()[0] == now
    assert once()[::2] == (now, [])


def test_a_portal_on_the_way_does_not_hold_up_what_is_here(
    server: HubServer, tensors: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    once()
    fetch = NativeIo.fetch

    async def portal(self: NativeIo, url: str, *given: Any, **options: Any) -> Response:
        if "/api/" in url:
            return Response(200, {"content-type": "text/plain"}, b"please log in", url)
        return await fetch(self, url, *given, **options)

    monkeypatch.setattr(NativeIo, "fetch", portal)
    got, _, notes = once()
    assert got == tensors and "using the copy here" in notes[0]


def test_what_a_repair_brings_is_compared_too(
    server: HubServer, tensors: dict[str, bytes], root: Path, hub: Path
) -> None:
    """One bit is wrong in the store, and another one in what the hub now sends."""
    address = f"{NAME}@{COMMIT}"
    once(address=address)
    flip_in_weights(hub)
    file = root / NAME / FILE
    right = file.read_bytes()
    file.write_bytes(right[:60_001] + bytes([right[60_001] ^ 1]) + right[60_002:])
    with pytest.raises(HubError, match="changes files"):
        once(address=address)
    file.write_bytes(right)
    assert once(address=address)[0] == tensors


def test_a_new_commit_takes_the_place_of_the_old_one(
    server: HubServer, root: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once()
    newer = "f" * 40
    monkeypatch.setattr(hub_module, "COMMIT", newer)
    tensors = make_repository(root, seed=2)
    got, _, notes = once()
    assert got == tensors and "was replaced" in notes[0]
    kept = [p for p in (hub / FOLDER / "blobs").iterdir() if p.stat().st_size > 5000]
    assert len(kept) == 1, "the old weights are gone"
    assert [p.name for p in (hub / FOLDER / "snapshots").iterdir()] == [newer]
    server.close()
    assert once()[0] == tensors


def test_unchanged_files_of_a_new_commit_are_not_fetched_again(
    server: HubServer, root: Path, tensors: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    once()
    commit_other_config(root, monkeypatch)
    server.requests.clear()
    assert once()[0] == tensors
    assert asked(server) == 0


def test_a_new_commit_of_the_same_weights_hides_no_damage(
    server: HubServer,
    tensors: dict[str, bytes],
    root: Path,
    hub: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The checksums of the older commit's tensors hold for the newer one's."""
    once()
    flip_in_weights(hub)
    commit_other_config(root, monkeypatch)
    server.requests.clear()
    got, _, notes = once()
    assert got == tensors and asked(server) == len(tensors["t2"])
    assert "t2 was damaged" in notes[0]
    assert once()[::2] == (tensors, [])


def test_a_new_commit_with_one_new_shard_hides_no_damage_in_the_other(
    server: HubServer, root: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checksums of the other shard are then unknown, so the sha256 of the whole file is compared again."""
    other = root / NAME / "other.safetensors"
    tensors = make_repository(root)
    other.write_bytes(b"the first")
    once()
    flip_in_weights(hub)
    monkeypatch.setattr(hub_module, "COMMIT", "e" * 40)
    other.write_bytes(b"the second")
    got, _, notes = once()
    assert got == tensors and f"{FILE} does not have the sha256" in notes[0]


def test_an_old_commit_goes_even_if_a_load_ended_before_it_did(
    server: HubServer, root: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once()
    monkeypatch.setattr(hub_module, "COMMIT", "f" * 40)
    tensors = make_repository(root, seed=2)

    def kill(n: int, method: str, name: str) -> None:
        if method == "delete" and COMMIT in name:
            raise Killed

    with pytest.raises(Killed):
        once(kill)
    got, _, notes = once()
    assert got == tensors and "was replaced and is deleted" in notes[0]
    assert [p.name for p in (hub / FOLDER / "snapshots").iterdir()] == ["f" * 40]
    assert once()[2] == []


def commit_other_config(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a newer commit with the same weights."""
    monkeypatch.setattr(hub_module, "COMMIT", "e" * 40)
    (root / NAME / "config.json").write_text(json.dumps({"model_type": "qwen3", "seed": 77}))


def flip_in_weights(hub: Path) -> None:
    """Flip a bit of tensor t2 in the store."""
    blob = blob_of(hub)
    body = bytearray(blob.read_bytes())
    body[60_000] ^= 1
    blob.write_bytes(body)


def test_a_pinned_commit_stays_beside_a_newer_branch(
    server: HubServer, root: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once(address=f"{NAME}@{COMMIT}")
    monkeypatch.setattr(hub_module, "COMMIT", "d" * 40)
    make_repository(root, seed=3)
    once()
    assert len(list((hub / FOLDER / "jerboa").glob("*.json"))) == 2


def test_an_empty_file_is_no_obstacle(
    server: HubServer, tensors: dict[str, bytes], root: Path, hub: Path
) -> None:
    (root / NAME / "__init__.py").write_bytes(b"")
    assert once()[::2] == (tensors, [])
    server.requests.clear()
    assert once(address=f"{NAME}@{COMMIT}")[::2] == (tensors, []) and server.requests == []


def test_a_damaged_line_of_the_journal_costs_what_follows_it_only() -> None:
    manifest = Manifest(NAME, COMMIT, {"a": Stored(100, "b" * 64, "b" * 64)})
    lines = [manifest.journal_line("a", manifest.files["a"], 10 * i, 10 * i + 10) for i in range(4)]
    lines[2] = lines[2][:-9] + b"\n"
    found = Manifest.from_journal(manifest.journal() + b"".join(lines))
    assert found is not None and found.files["a"].spans.ranges == [(0, 20)]


def test_some_tensors_only(
    server: HubServer, tensors: dict[str, bytes], hub: Path, root: Path
) -> None:
    """A text model reads part of a file that has other parts too. The rest is not fetched; a later load that needs it
    adds it."""
    size = (root / NAME / FILE).stat().st_size
    got, _, _ = once(only=("t2",))
    assert got == {"t2": tensors["t2"]} and asked(server) < size
    before = asked(server)
    assert once(only=("t2",))[0] == got and asked(server) == before
    assert once()[0] == tensors and asked(server) == size


# -- two at once -------------------------------------------------------------------------------------------------------

OTHER = """
import asyncio, sys
from tests.hub_loads import FaultIo, load
from pathlib import Path
notes = []
print("ready", flush=True)
sys.stdin.readline()
got = asyncio.run(load(FaultIo(), notes=notes))
print(sum(map(len, got.values())), len(notes), flush=True)
"""


def test_two_processes_fetch_once(server: HubServer, tensors: dict[str, bytes], root: Path) -> None:
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in pair:
        assert process.stdout and process.stdout.readline() == "ready\n"
    said = []
    for process in pair:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    for process in pair:
        out, _ = process.communicate(timeout=60)
        said.append(out.split())
        assert process.returncode == 0
    assert [int(total) for total, _ in said] == [sum(SIZES)] * 2
    everything = sum((root / NAME / name).stat().st_size for name in (FILE,))
    assert asked(server) <= 1.05 * everything


def test_two_loads_that_want_the_rest_fetch_it_once(
    server: HubServer, tensors: dict[str, bytes], root: Path
) -> None:
    """Some tensors are stored. Both loads hold the read lock until they see what is missing."""
    once(only=("t2",))

    async def both() -> list[dict[str, bytes]]:
        ios = FaultIo(), FaultIo()
        loaded = await asyncio.gather(*map(load, ios))
        for io in ios:
            io.close()
        return loaded

    assert run(both()) == [tensors, tensors]
    assert asked(server) == (root / NAME / FILE).stat().st_size


def test_many_readings_at_a_time_leave_threads_for_their_writes(
    server: HubServer, root: Path
) -> None:
    size = 1 << 16
    make_repository(root, sizes=[size] * 12)

    async def go() -> None:
        io = FaultIo()
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        repository = await open_repository(NAME, io, partial(open_kept, note=print))
        readings = [repository.read(FILE, i * size, (i + 1) * size) for i in range(12)]
        got = await asyncio.wait_for(asyncio.gather(*readings), 60)
        whole = (root / NAME / FILE).read_bytes()
        assert b"".join(bytes(part) for part in got) == whole[: 12 * size]
        assert asked(server) >= 12 * size
        await repository.close()
        io.close()

    run(go())


# -- spans -------------------------------------------------------------------------------------------------------------


def test_spans_are_sets_of_bytes() -> None:
    import random

    rng = random.Random(1)
    for _ in range(300):
        spans, truth = Spans(), set[int]()
        for _ in range(12):
            a = rng.randrange(50)
            b = a + rng.randrange(12)
            if rng.random() < 0.6:
                spans.add(a, b)
                truth |= set(range(a, b))
            else:
                spans.remove(a, b)
                truth -= set(range(a, b))
            assert {x for a, b in spans.ranges for x in range(a, b)} == truth
            assert all(
                b < c for (_, b), (c, _) in zip(spans.ranges, spans.ranges[1:], strict=False)
            )
            assert spans.nbytes == len(truth)
            assert spans.cover(a, b) == (set(range(a, b)) <= truth)
            pieces = list(spans.cut(3, 57))
            assert [x for a, b, _ in pieces for x in range(a, b)] == list(range(3, 57))
            assert all((x in truth) == here for a, b, here in pieces for x in range(a, b))
