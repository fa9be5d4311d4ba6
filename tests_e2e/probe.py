"""Runs inside Pyodide, in a worker that booted as the engine's does: what tests_e2e/ asks the browser's GPU host.

Also runs in CPython over the native host, so that both can be compared.
"""

from __future__ import annotations

import json
import random
import struct
import sys
from typing import Any

from py_engine.errors import EngineError
from py_engine.host.gpu import Binding, Buffer, Copy, Dispatch, Gpu, Recording
from py_engine.ops.step import STEP_BYTES, Pass, pack_step

# Counts as a sampler would: a token a step, halted by the limit; `trail` shows that nothing runs beyond a halt.
COUNT = """
struct Step { token: u32, halt: u32, pos: u32, count: u32, rows: u32, limit: u32, r0: u32, r1: u32 }
@group(0) @binding(0) var<storage, read_write> step: Step;
@group(0) @binding(1) var<storage, read_write> trail: array<u32>;
override by: u32 = 1u;
@compute @workgroup_size(1) fn main() {
  if (step.halt != 0u) { return; }
  step.token = step.token + by;
  trail[step.count] = step.token;
  step.count += 1u;
  step.pos += 1u;
  if (step.count >= step.limit) { step.halt = 2u; }
}
"""
SCALE = """
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) at: vec3<u32>) {
  if (at.x < arrayLength(&y)) { y[at.x] = x[at.x] * 0.5 + 1.0; }
}
"""


async def open_any() -> Gpu:
    if sys.platform == "emscripten":
        from py_engine.host.adapter_browser import open_gpu
    else:
        from py_engine.host.adapter_native import open_gpu  # type: ignore[assignment]
    return await open_gpu()


async def call(name: str, arguments: str) -> str:
    """Run the function of that name; errors of the engine come back as {"error": [type, message]}."""
    try:
        return json.dumps(await globals()[name](*json.loads(arguments)))
    except EngineError as error:
        return json.dumps({"error": [error.type, str(error)]})


async def info() -> dict[str, Any]:
    """What the device is."""
    gpu = await open_any()
    try:
        return {
            "adapter": vars(gpu.info),
            "limits": vars(gpu.limits),
            "features": sorted(gpu.features),
            "enable": gpu.enable_lines(frozenset({"subgroups"})),
        }
    finally:
        gpu.close()


async def round_trip(n: int) -> dict[str, Any]:
    """Upload n words, run a kernel over them, read back; then the counters after everything was freed."""
    gpu = await open_any()
    try:
        x, y = gpu.create_buffer("x", 4 * n), gpu.create_buffer("y", 4 * n)
        gpu.write(x, 0, struct.pack(f"<{n}f", *range(n)))
        pipeline = await gpu.create_pipeline("scale", SCALE, {})
        group = gpu.bind_group("scale", pipeline, [Binding(x), Binding(y)])
        await gpu.check()
        plan = gpu.record([[[Dispatch("scale", pipeline, group, (-(-n // 64), 1, 1))]]], False)
        await gpu.replay(plan)
        out = struct.unpack(f"<{n}f", await gpu.read(y))
        part = struct.unpack("<2f", await gpu.read(y, 8, 8))
        await gpu.copy(
            [Copy(y, x, 8, 16, 4), Copy(y, x, 4)]
        )  # over x, behind the kernel that read it
        await gpu.check()
        copied = struct.unpack("<4f", await gpu.read(x, 0, 16))
        gpu.destroy_buffer(x)
        gpu.destroy_buffer(x)
        gpu.destroy_buffer(y)
        return {"out": out, "part": part, "copied": copied, "counters": vars(gpu.counters)}
    finally:
        gpu.close()


async def decode(
    steps: int, depth: int, limit: int, await_each: bool, dispatches: int, stop_after: int = 0
) -> dict[str, Any]:
    """Run the counting kernel `dispatches` times a step through the decode loop; what came back, in which batches.

    The plan is cut into command buffers of two dispatches when each is awaited.
    `stop_after`: stop() after that many results.
    """
    gpu = await open_any()
    try:
        step, trail = gpu.create_buffer("step", STEP_BYTES), gpu.create_buffer("trail", 4096)
        gpu.write(step, 0, pack_step(pos=5, rows=1, limit=limit, token=100))
        one = await gpu.create_pipeline("count", COUNT, {"by": 1})
        group = gpu.bind_group("count", one, [Binding(step), Binding(trail)])
        await gpu.check()
        calls = [Dispatch("count", one, group, (1, 1, 1))] * dispatches
        cut = [[calls[i : i + 2]] for i in range(0, dispatches, 2)] if await_each else [[calls]]
        plan = gpu.record(cut, await_each)
        before = vars(gpu.counters).copy()
        loop = gpu.decode_loop(plan, step, steps, depth)
        batches = []
        while batch := await loop.next():
            batches.append(batch)
            if stop_after and sum(map(len, batches)) >= stop_after:
                loop.stop()
        again = await loop.next()
        after = vars(gpu.counters).copy()
        state = struct.unpack("<8I", await gpu.read(step))
        return {
            "batches": batches,
            "again": again,
            "state": state,
            "trail": list(struct.unpack("<64I", await gpu.read(trail, 0, 256))),
            "counted": {k: after[k] - before[k] for k in after},
            "in_flight": after["max_steps_in_flight"],
        }
    finally:
        gpu.close()


async def timed(repeats: int) -> dict[str, Any]:
    """Three timed passes of 1, 2 and 1 counting dispatches in two command buffers: the stamps, and what was counted."""
    gpu = await open_any()
    try:
        step, trail = gpu.create_buffer("step", STEP_BYTES), gpu.create_buffer("trail", 4096)
        gpu.write(step, 0, pack_step(pos=0, rows=1, limit=10**6))
        pipeline = await gpu.create_pipeline("count", COUNT, {"by": 1})
        group = gpu.bind_group("count", pipeline, [Binding(step), Binding(trail)])
        await gpu.check()
        call = Dispatch("count", pipeline, group, (1, 1, 1))
        plan = gpu.record([[[call], [call, call]], [[call]]], False)
        before = gpu.counters.live_buffers
        stamps = await gpu.time_passes(plan, repeats)
        return {
            "stamps": stamps,
            "count": struct.unpack("<8I", await gpu.read(step))[3],
            "left": gpu.counters.live_buffers - before,
        }
    finally:
        gpu.close()


async def tunings() -> dict[str, Any]:
    """Measure a matvec's forms on a device that does not admit to be software; what is kept, and what is then used."""
    from dataclasses import asdict, replace

    from py_engine.checks.autotune import chosen_forms
    from py_engine.graph.kernels import Kernels
    from py_engine.graph.trace import Call, kernel
    from py_engine.host import open_io
    from py_engine.ops.matvec import MatvecTask, candidates

    gpu, io = await open_any(), open_io()
    try:
        gpu.info = replace(gpu.info, fallback=False, description="for a test")
        task = MatvecTask(64, 32, "f32", 0, "f16", "store", False)
        calls = [Call("y", kernel("matvec"), [], frozenset(), (1, 1, 1), task)]
        kernels = Kernels(gpu)
        before = gpu.counters.live_buffers
        measured = await chosen_forms(calls, gpu, io, kernels, True)
        compiled = len(kernels)
        kept = await chosen_forms(calls, gpu, io, kernels, True)
        return {
            "measured": [asdict(form) for form in measured.values()],
            "known": list(measured) == [task]
            and measured[task] in candidates(task, gpu.features, gpu.info),
            "kept": kept == measured,
            "compiled": [compiled, len(kernels) - compiled],
            "left": gpu.counters.live_buffers - before,
        }
    finally:
        gpu.close()


async def paced(steps: int) -> dict[str, Any]:
    """How a long run of quick steps reaches Python."""
    import time

    gpu = await open_any()
    try:
        step, trail = gpu.create_buffer("step", STEP_BYTES), gpu.create_buffer("trail", 64)
        gpu.write(step, 0, pack_step(pos=0, rows=1, limit=10**6))
        pipeline = await gpu.create_pipeline("count", COUNT, {"by": 1})
        group = gpu.bind_group("count", pipeline, [Binding(step), Binding(trail)])
        plan = gpu.record([[[Dispatch("count", pipeline, group, (1, 1, 1))]]], False)
        began = time.perf_counter()
        loop = gpu.decode_loop(plan, step, steps, 4)
        sizes = []
        while batch := await loop.next():
            sizes.append(len(batch))
        ms = (time.perf_counter() - began) * 1e3
        return {"batches": len(sizes), "results": sum(sizes), "ms": ms, "first_batch": sizes[0]}
    finally:
        gpu.close()


async def traced() -> dict[str, Any]:
    """RMSNorm + 4-bit matvec added to a residual, by trace, planner and replay: y [96] from x [128]."""
    from py_engine.graph.kernels import Kernels
    from py_engine.graph.matrix import Matrix
    from py_engine.graph.plan import Planner
    from py_engine.graph.submit import GroupedSubmit, SingleSubmit
    from py_engine.graph.trace import Tensor
    from py_engine.ops.gate import Finish
    from py_engine.ops.matvec import Norm, matvec

    rows, cols = 96, 128
    gpu = await open_any()
    try:

        def put(name: str, shape: tuple[int, ...], dtype: str, raw: bytes) -> Tensor:
            buffer = gpu.create_buffer(name, max(256, len(raw)))
            gpu.write(buffer, 0, raw)
            return Tensor(name, shape, dtype, Binding(buffer))  # type: ignore[arg-type]

        x = put(
            "x",
            (1, cols),
            "f32",
            struct.pack(f"<{cols}f", *(((i * 37) % 23 - 11) / 8 for i in range(cols))),
        )
        y = put("y", (1, rows), "f32", struct.pack(f"<{rows}f", *(i / 4 for i in range(rows))))
        weight = put(
            "w", (rows * cols // 8,), "u32",
            struct.pack(f"<{rows * cols // 8}I", *((i * 2654435761) % 2**32 for i in range(rows * cols // 8))),
        )  # fmt: skip
        pairs = [v for i in range(rows * cols // 32) for v in ((i % 7 + 1) / 64, -(i % 5) / 16)]
        scales = put("s", (len(pairs),), "u32", struct.pack(f"<{len(pairs)}f", *pairs))
        norm = put(
            "n", (cols,), "f32", struct.pack(f"<{cols}f", *(1 + (i % 3) / 4 for i in range(cols)))
        )
        step = put("step", (8,), "u32", pack_step(pos=0, rows=1))
        matrix = Matrix(rows, cols, "q4", weight, 0, scales, 32, "f32")
        outputs = []
        for strategy in (SingleSubmit(), GroupedSubmit(1, 1)):
            trace = Pass(1, gpu.features, gpu.info, step=step)
            h = trace.tensor("h", 1, rows)
            matvec(trace, "project", x, matrix, h, norm=Norm(norm, 1e-6))
            matvec(trace, "residual", x, matrix, y, finish=Finish("add"))
            planner = Planner(gpu, Kernels(gpu), strategy)
            planner.reserve([trace])
            await planner.allocate()
            plan = await planner.lower([trace])
            await gpu.replay(plan.recording)
            outputs = list(
                struct.unpack(f"<{rows}f", await gpu.read(y.binding.buffer, 0, 4 * rows))
            )  # type: ignore[union-attr]
        return {"y": outputs, "dispatches": gpu.counters.dispatches}
    finally:
        gpu.close()


def set_endpoint(endpoint: str) -> None:
    """The hub of what is loaded next."""
    if sys.platform == "emscripten":
        import js

        js.jerboa.env.set("HF_ENDPOINT", endpoint)
    else:
        import os

        os.environ["HF_ENDPOINT"] = endpoint


async def greedy(
    endpoint: str,
    repo: str,
    prompts: list[list[int]],
    count: int,
    context: int = 1024,
    phone: bool = False,
) -> dict[str, Any]:
    """Load a model in f32 (or, as the page has it on a `phone`, by itself quantised) from a hub, continue each prompt
    greedily, close; what stayed on the device."""
    from py_engine.host import open_gpu, open_io
    from py_engine.serve.engine import Engine

    set_endpoint(endpoint)
    gpu, io = await open_gpu(), open_io()
    try:
        dtype = "f32"
        if phone:
            import js

            js.jerboa.env.set("JERBOA_HANDHELD", "1")
            dtype = "auto"
        engine = await Engine.load(repo, gpu=gpu, io=io, dtype=dtype, context=context)
        tokens = [
            await engine.generate_ids(ids, max_tokens=count, ignore_eos=True) for ids in prompts
        ]
        info = engine.info()
        await engine.close()
        left = vars(gpu.counters)
        return {
            "tokens": tokens,
            "info": info,
            "buffers_left": left["live_buffers"],
            "ahead": left["max_steps_in_flight"],
        }
    finally:
        gpu.close()
        getattr(io, "close", lambda: None)()  # CPython keeps connections


async def quantised(endpoint: str, repo: str, layer: str, rows: int, cols: int) -> dict[str, Any]:
    """One plain layer of a hub's checkpoint, quantised to 4 bits on its way: fields and pairs as hex."""
    from py_engine.abort import Abort
    from py_engine.graph.kernels import Kernels
    from py_engine.host import open_io
    from py_engine.sources.address import open_repository
    from py_engine.sources.safetensors import read_tensors
    from py_engine.weights.loader import Loader
    from py_engine.weights.store import WeightStore

    set_endpoint(endpoint)
    gpu, io = await open_any(), open_io()
    try:
        repository = await open_repository(repo, io)
        tensors = await read_tensors(repository)
        store = WeightStore(gpu, tensors, lambda _: None, form="q4", family="probe")
        (matrix,) = store.linear([layer], [rows], cols).parts
        await Loader(gpu, Kernels(gpu), repository, lambda _: None, Abort()).run(store.jobs)
        found = {}
        for name, tensor in (("fields", matrix.weight), ("pairs", matrix.scales)):
            assert tensor is not None and tensor.binding is not None
            found[name] = (await gpu.read(tensor.binding.buffer, 0, tensor.nbytes)).hex()
        return found
    finally:
        gpu.close()
        io.close()


async def tokenize(address: str, texts: list[str]) -> dict[str, Any]:
    """Ids of each text by the tokenizer.json at an address, and the texts decoded from them."""
    from py_engine.host import open_io
    from py_engine.inputs.tokenizer import Tokenizer

    io = open_io()
    try:
        file = io.to_bytes((await io.fetch(address)).body)
        tokenizer = await Tokenizer.load(file)
        ids = [tokenizer.encode(text) for text in texts]
        return {"ids": ids, "decoded": [tokenizer.decode(line) for line in ids]}
    finally:
        getattr(io, "close", lambda: None)()


async def prepare_chat() -> None:
    """The wheels of chat templates lie where Python imports them: probe.mjs did it."""


async def templates(sources: list[str]) -> list[dict[str, Any]]:
    """What chat templates from somewhere come to."""
    return [measure_template(source) for source in sources]


def measure_template(source: str) -> dict[str, Any]:
    """`error`: what the InputError says, "" without one; `seconds` that the template took; `peak`: the most bytes that
    Python had meanwhile, above what it had before."""
    import gc
    import tracemalloc

    from py_engine.errors import InputError
    from py_engine.inputs.sandbox import LimitedEnvironment
    from py_engine.inputs.template_budget import CLOCK

    def outcome() -> str:
        environment = LimitedEnvironment()
        messages = [{"role": "user", "content": "hi"}]
        try:
            template = environment.compile_limited(source)
            environment.render_limited(template, {"messages": messages})
        except InputError as error:
            return str(error)
        return ""

    begun = CLOCK()
    error = outcome()
    took = CLOCK() - begun
    gc.collect()
    tracemalloc.start()
    outcome()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {"error": error, "seconds": took, "peak": peak}


async def json_refusals(texts: list[str]) -> list[str]:
    """What the reader of JSON from outside says of texts (of bytes, as latin-1)."""
    from py_engine.errors import FormatError
    from py_engine.host.json_text import parse_json

    found = []
    for text in texts:
        try:
            parse_json(text.encode("latin-1"), "it")
            found.append("")
        except FormatError as error:
            found.append(str(error))
    return found


async def storage_helpers() -> dict[str, Any]:
    """What each gives, under its name."""
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


async def session(endpoint: str, repo: str, name: str) -> dict[str, Any]:
    """Restore the session, or run a prompt and save it; then logits and an answer that grows the KV cache."""
    import hashlib

    from py_engine.serve.engine import Engine

    set_endpoint(endpoint)
    async with await Engine.load(
        repo, dtype="f32", context=256, context_classes=(32, 96)
    ) as engine:
        saved = [info.name for info in await engine.list_sessions()]
        if name in saved:
            await engine.restore_session(name)
        else:
            await engine.generate_ids([(11 * i + 5) % 250 for i in range(40)], 9, ignore_eos=True)
            await engine.save_session(name)
        decoder = engine._loaded.decoder
        ids = [*decoder.prefix.ids, 7, 8, 9]
        logits = await engine.logits(ids, reuse=True)
        ran = decoder.prefilled
        answer = await engine.generate_ids([*ids, 1], 70, ignore_eos=True)
        return {
            "saved": saved,
            "ran": ran,
            "logits": hashlib.sha256(bytes(logits)).hexdigest(),
            "answer": answer,
            "class": engine.info()["context"]["class"],
        }


async def hide_webgpu() -> None:
    """From now on this worker's navigator has no gpu."""
    import js

    js.Object.defineProperty(js.navigator, "gpu", js.Object.fromEntries([["value", None]]))


async def hide_opfs() -> None:
    """From now on this worker has no private file system, as in some private windows."""
    import js

    js.Object.defineProperty(
        js.navigator.storage, "getDirectory", js.Object.fromEntries([["value", None]])
    )


async def random_number() -> float:
    """Of the module-level generator."""
    import random

    return random.random()


async def counting(gpu: Gpu, groups: int = 1) -> tuple[Buffer, Recording]:
    """A step, and a plan that counts in it."""
    step, trail = gpu.create_buffer("step", STEP_BYTES), gpu.create_buffer("trail", 4096)
    gpu.write(step, 0, pack_step(pos=0, rows=1, limit=1000))
    pipeline = await gpu.create_pipeline("count", COUNT, {"by": 1})
    group = gpu.bind_group("count", pipeline, [Binding(step), Binding(trail)])
    return step, gpu.record([[[Dispatch("count", pipeline, group, (groups, 1, 1))]]], False)


async def two_loops() -> list[list[int]]:
    """A second loop begun before the first was drained: both give their own results, sharing the ring."""
    gpu = await open_any()
    try:
        step, plan = await counting(gpu)
        first = gpu.decode_loop(plan, step, 20, 4)
        got = [[r[0] for r in await first.next()]]
        first.stop()
        second = gpu.decode_loop(plan, step, 5, 4)
        tokens: list[int] = []
        while batch := await second.next():
            tokens += [r[0] for r in batch]
        return [*got, tokens]
    finally:
        gpu.close()


async def bad_shader() -> None:
    """Does not compile."""
    gpu = await open_any()
    try:
        await gpu.create_pipeline(
            "broken kernel", "@compute @workgroup_size(1) fn main() { nonsense(); }", {}
        )
    finally:
        gpu.close()


async def bad_binding() -> None:
    """An unaligned offset: refused late by a browser, at once by a native host."""
    gpu = await open_any()
    try:
        x, y = gpu.create_buffer("x", 1024), gpu.create_buffer("y", 1024)
        pipeline = await gpu.create_pipeline("scale", SCALE, {})
        gpu.bind_group("layer 3 scale", pipeline, [Binding(x, 4), Binding(y)])
        await gpu.check()
    finally:
        gpu.close()


async def too_big() -> None:
    """A buffer above the device's limit."""
    gpu = await open_any()
    try:
        gpu.create_buffer("monster", gpu.limits.max_buffer_bytes + 4)
    finally:
        gpu.close()


async def bad_upload() -> None:
    """An upload beyond the buffer's end."""
    gpu = await open_any()
    try:
        x = gpu.create_buffer("small", 16)
        gpu.write(x, 0, bytes(32))
        await gpu.check()
    finally:
        gpu.close()


async def lose_while_decoding() -> None:
    """Destroy the device under a running loop."""
    gpu = await open_any()
    step, trail = gpu.create_buffer("step", STEP_BYTES), gpu.create_buffer("trail", 4096)
    gpu.write(step, 0, pack_step(pos=0, rows=1, limit=10**9))
    pipeline = await gpu.create_pipeline("count", COUNT, {"by": 1})
    group = gpu.bind_group("count", pipeline, [Binding(step), Binding(trail)])
    plan = gpu.record([[[Dispatch("count", pipeline, group, (1, 1, 1))]]], False)
    loop = gpu.decode_loop(plan, step, 10**6, 4)
    await loop.next()
    gpu._js.device.destroy()  # type: ignore[attr-defined]
    while await loop.next():
        pass


async def fail_while_decoding() -> dict[str, Any]:
    """A plan that the device refuses, in a full ring; then one that it takes."""
    gpu = await open_any()
    try:
        error = ""
        for groups in (100_000, 1):  # a device takes at least 65,535, and few take more
            step, plan = await counting(gpu, groups)
            loop = gpu.decode_loop(plan, step, 9, 4)
            tokens: list[int] = []
            try:
                while batch := await loop.next():
                    tokens += [r[0] for r in batch]
            except EngineError as failure:
                error = str(failure)
        return {"error": error, "tokens": tokens}
    finally:
        gpu.close()


async def upload_js(n: int) -> dict[str, Any]:
    """A fetched Uint8Array goes to the GPU without entering Python."""
    from py_engine.host.io_browser import BrowserIo

    io, gpu = BrowserIo(), await open_any()
    try:
        answer = await io.fetch("./engine.zip")
        size = min(n, io.nbytes(answer.body)) & ~3
        x = gpu.create_buffer("x", size)
        gpu.write(x, 0, io.slice(answer.body, 0, size))
        await gpu.check()
        same = (await gpu.read(x)) == io.to_bytes(io.slice(answer.body, 0, size))
        return {"size": size, "same": same, "uploaded": gpu.counters.upload_bytes}
    finally:
        gpu.close()


async def open_store(kind: str, root: str) -> Any:
    """A store of this kind: a class of public/blobs.mjs, or "Memory"; in CPython, files below `root`."""
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
    """Every method of a BlobStore, with offsets across pieces and out of order; what was seen."""
    from py_engine.host import open_io

    io, files = open_io(), await open_store(kind, root)
    far = (4 << 20) - 3  # across the border of two CacheStorage pieces
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
    """What another tab's store reads of files that this one has open, for reading and for writing."""
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
    """Take a lock and keep it; the seconds that it took, None when another has it and `wait` is false."""
    import time

    started = time.monotonic()
    held = (await open_store("Opfs", "locks")).lock(name, wait=wait)
    _held.append(held)  # what is forgotten is given back
    return time.monotonic() - started if await held.__aenter__() else None


async def older_webkit(yes: bool) -> None:
    """For webkit_files.mjs."""
    import js

    js.olderWebKit = yes


async def fill_store(kind: str, root: str, most: int) -> dict[str, Any]:
    """Write until there is no room; what was kept is whole."""
    from py_engine.errors import StorageFullError
    from py_engine.host import open_io

    io, files = open_io(), await open_store(kind, root)
    piece, count = random.Random(5).randbytes(1 << 20), 0  # that no database makes smaller
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
    """Load a model's weights through the store, in a form of weights/store.py, without compiling the model; what was
    told, and a sum of what lies on the GPU. `patience_s`: the hub may be silent for so long, and between two tries no
    time passes."""
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
    """Which kinds of store this browser gives, for weights and for records."""
    from py_engine.host import open_io

    return [(await open_io().open_store("test", records=records)).kind for records in (False, True)]


async def write_record(kind: str, text: str) -> None:
    """Write a record as breadcrumbs are, and one as the calibration is; they are on the medium then."""
    files = await open_store(kind, f"records-{kind}")
    await files.write("crumb", 0, text.encode())
    await files.flush("crumb")
    await files.replace("record", text.encode())


async def read_records(kind: str) -> list[str]:
    """Both."""
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


async def arm_store(at: int, how: str) -> None:
    """From now on the change number `at` of this worker's stores fails (store_faults.mjs)."""
    import js

    faults = js.storeFaults
    faults.at, faults.how, faults.changes, faults.read = at, how, 0, 0


async def traffic() -> list[int]:
    """Bytes that this worker's stores read since arm_store, and those that the last `keep` uploaded."""
    import js

    return [int(js.storeFaults.read), _uploaded[-1]]


async def store_changes() -> int:
    """How often this worker's stores were changed since arm_store."""
    import js

    return int(js.storeFaults.changes)
