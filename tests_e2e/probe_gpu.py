"""Functions for probe.py: the browser's GPU host, its decode loop and its errors."""

from __future__ import annotations

import struct
import sys
from typing import Any

from py_engine.errors import EngineError
from py_engine.host.gpu import Binding, Buffer, Copy, Dispatch, Gpu, Recording
from py_engine.ops.step import STEP_BYTES, Pass, pack_step

# Counts as a sampler would: one token a step, halted by the limit. `trail` shows that nothing runs after a halt.
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
        from py_engine.host.adapter_native import open_gpu
    return await open_gpu()


async def info() -> dict[str, Any]:
    """Facts about the device."""
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
    """Upload n words, run a kernel over them, read them back. Also returns the counters after everything was freed."""
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
        )  # overwrites x, after the kernel that read it
        await gpu.check()
        copied = struct.unpack("<4f", await gpu.read(x, 0, 16))
        gpu.destroy_buffer(x)
        gpu.destroy_buffer(x)
        gpu.destroy_buffer(y)
        return {"out": out, "part": part, "copied": copied, "counters": vars(gpu.counters)}
    finally:
        gpu.close()


async def decode(
    steps: int,
    depth: int,
    limit: int,
    await_each: bool,
    dispatches: int,
    stop_after: int = 0,
    begun: bool = False,
) -> dict[str, Any]:
    """Run the counting kernel `dispatches` times a step through the decode loop. Returns the results and their batches.

    With `await_each` the plan is cut into command buffers of two dispatches. `stop_after`: call stop() after this many
    results. `begun`: the first result is the step as the host wrote it.
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
        loop = gpu.decode_loop(plan, step, steps, depth, begun=begun)
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
    """Three timed passes of 1, 2 and 1 counting dispatches in two command buffers. Returns the timestamps and the
    counts."""
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
    """Measure the forms of a matvec on a device that does not report itself as software. Returns what is stored, and
    which form is then used."""
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
    """The batches in which Python gets the results of a long run of quick steps."""
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
    """RMSNorm and a 4-bit matvec added to a residual, through trace, planner and replay: y [96] from x [128]."""
    from py_engine.graph.kernels import Kernels
    from py_engine.graph.matrix import Matrix
    from py_engine.graph.plan import Planner
    from py_engine.graph.submit import GroupedSubmit, SingleSubmit
    from py_engine.graph.trace import Tensor
    from py_engine.ops.gate import Finish
    from py_engine.ops.matvec import matvec
    from py_engine.ops.norm import Norm

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
            told = await gpu.read(y.buffer, 0, 4 * rows)
            outputs = list(struct.unpack(f"<{rows}f", told))
        return {"y": outputs, "dispatches": gpu.counters.dispatches}
    finally:
        gpu.close()


async def hide_webgpu() -> None:
    """From now on this worker's navigator has no gpu."""
    import js

    js.Object.defineProperty(js.navigator, "gpu", js.Object.fromEntries([["value", None]]))


async def counting(gpu: Gpu, groups: int = 1) -> tuple[Buffer, Recording]:
    """A step buffer, and a plan that counts in it."""
    step, trail = gpu.create_buffer("step", STEP_BYTES), gpu.create_buffer("trail", 4096)
    gpu.write(step, 0, pack_step(pos=0, rows=1, limit=1000))
    pipeline = await gpu.create_pipeline("count", COUNT, {"by": 1})
    group = gpu.bind_group("count", pipeline, [Binding(step), Binding(trail)])
    return step, gpu.record([[[Dispatch("count", pipeline, group, (groups, 1, 1))]]], False)


async def two_loops() -> list[list[int]]:
    """Start a second loop before the first is drained. Both give their own results, although they share the ring."""
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
    """A shader that does not compile."""
    gpu = await open_any()
    try:
        await gpu.create_pipeline(
            "broken kernel", "@compute @workgroup_size(1) fn main() { nonsense(); }", {}
        )
    finally:
        gpu.close()


async def bad_binding() -> None:
    """An unaligned offset. A browser refuses it late, a native host at once."""
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
    """An upload beyond the end of the buffer."""
    gpu = await open_any()
    try:
        x = gpu.create_buffer("small", 16)
        gpu.write(x, 0, bytes(32))
        await gpu.check()
    finally:
        gpu.close()


async def lose_while_decoding() -> None:
    """Destroy the device during a loop."""
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
    """In a full ring, run a plan that the device refuses, then one that it accepts."""
    gpu = await open_any()
    try:
        error = ""
        for groups in (100_000, 1):  # every device allows 65,535, and few allow more
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
    """A fetched Uint8Array goes to the GPU without being copied into Python."""
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
