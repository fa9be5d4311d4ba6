"""Small measurements of a device: memory bandwidth, cost of a dependent dispatch, cost of a round trip."""

from __future__ import annotations

import time
from dataclasses import dataclass

from py_engine.graph.kernels import Kernels
from py_engine.graph.plan import Plan, Planner
from py_engine.graph.submit import SingleSubmit
from py_engine.graph.trace import Tensor, Trace, kernel
from py_engine.host.gpu import Binding, Buffer, Gpu

_CHAIN = 400
_GROUP_BYTES = 64 << 10


@dataclass(frozen=True)
class Probes:
    """read_gb_s: GB/s of plain reads. dispatch_us: microseconds of one dispatch in a pipelined chain of 400.
    round_trip_us: microseconds of a submit and its readback."""

    read_gb_s: float
    dispatch_us: float
    round_trip_us: float


async def probe(gpu: Gpu) -> Probes:
    """Measure a device. Needs up to 512 MB of GPU memory for a moment, 16 MB on software adapters. Raises HostError."""
    kernels = Kernels(gpu)
    read_bytes = min(
        16 << 20 if gpu.info.fallback else 512 << 20, gpu.limits.max_binding_bytes
    ) & ~(_GROUP_BYTES - 1)
    buffers = [gpu.create_buffer("probe", n) for n in (read_bytes, 256)]
    source, count = (Tensor(b.label, (b.nbytes // 4,), "u32", Binding(b)) for b in buffers)
    try:
        read = Trace(1)
        for _ in range(4):
            read.call(
                "read",
                kernel("probe_read"),
                [(source, "r"), (count, "w")],
                (read_bytes // _GROUP_BYTES, 1, 1),
            )
        chain = Trace(1)
        for _ in range(_CHAIN):
            chain.call("tick", kernel("probe_tick"), [(count, "w")], (1, 1, 1))
        planner = Planner(gpu, kernels, SingleSubmit())
        planner.reserve([read, chain])
        reads, ticks = await planner.lower([read]), await planner.lower([chain])
        return Probes(
            round(4 * read_bytes / 1e9 / await _seconds(gpu, reads), 3),
            round(await _seconds(gpu, ticks) / _CHAIN * 1e6, 3),
            round(await _round_trip(gpu, buffers[1]) * 1e6, 1),
        )
    finally:
        for buffer in buffers:
            gpu.destroy_buffer(buffer)


async def _seconds(gpu: Gpu, plan: Plan) -> float:
    """Seconds of one replay, from the best of five batches. In a batch submits do not wait for each other."""
    batch = 1 if gpu.info.fallback else 4
    best = float("inf")
    for _ in range(6):  # the first warms up and is never the best
        started = time.perf_counter()
        for _ in range(batch):
            await gpu.replay(plan.recording)
        await gpu.idle()
        best = min(best, (time.perf_counter() - started) / batch)
    return best


async def _round_trip(gpu: Gpu, buffer: Buffer) -> float:
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        await gpu.read(buffer, 0, 16)
        best = min(best, time.perf_counter() - started)
    return best
