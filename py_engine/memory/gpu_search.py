"""The vectors of a namespace on a GPU, and the nearest of them (ops/nearest.py)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from py_engine.checks import distinct
from py_engine.checks.self_check import run_checks
from py_engine.graph.buffers import Buffers
from py_engine.graph.kernels import Kernels
from py_engine.graph.plan import Plan, Planner
from py_engine.graph.submit import SubmitStrategy
from py_engine.graph.trace import Tensor, Trace
from py_engine.host.gpu import Copy, Gpu
from py_engine.memory.namespace import Namespace
from py_engine.memory.vectors import Scored
from py_engine.ops.nearest import best_size, max_rows, nearest, padded, score_of, unpack

PART_BYTES = 8 << 20  # a buffer of vectors; a namespace that grows gets one more
MAX_SCORES = 256  # rows whose scores are asked for at a time


class GpuSearch:
    """Buffers on one device. `release` frees them; after the loss of the device there is nothing to free."""

    def __init__(self, gpu: Gpu, kernels: Kernels, strategy: SubmitStrategy, width: int) -> None:
        self.gpu = gpu
        self._kernels, self._strategy = kernels, strategy
        self._width, self._k = width, padded(width)
        self._part_rows = max_rows(width, min(PART_BYTES, gpu.limits.max_binding_bytes))
        self._kept, self._grown = Buffers(gpu), Buffers(gpu)
        self._parts: list[Tensor] = []
        self._query = self._kept.make("query", self._k)
        self._scores = self._kept.make("scores", MAX_SCORES, dtype="u32")
        self._live = self._keys = self._query  # made with the first part
        self._plans: dict[int, tuple[Planner, Plan, Tensor]] = {}  # by the size of their best
        self._rows = 0
        self._version = -1
        self._checked = False

    @property
    def nbytes(self) -> int:
        """GPU bytes."""
        plans = sum(planner.activation_bytes for planner, _, _ in self._plans.values())
        return self._kept.nbytes + self._grown.nbytes + plans

    async def fill(self, namespace: Namespace) -> None:
        """Upload the rows that are not here yet. Raises StorageError, OutOfMemoryError, DeviceLostError."""
        await self._grow(namespace.rows)
        async for first, data in namespace.vectors(self._rows):
            row, stride, at = first, namespace.stride, 0
            while at < len(data):
                part, inside = divmod(row, self._part_rows)
                n = min(len(data) // stride - at // stride, self._part_rows - inside)
                piece = data[at : at + n * stride]
                self.gpu.write(self._parts[part].buffer, inside * stride, piece)
                row, at = row + n, at + n * stride
            await self.gpu.idle()  # so that no more than a slice waits in memory
            self._rows = row
        if self._version != namespace.version:
            live = bytes(namespace.live)
            self.gpu.write(self._live.buffer, 0, live + bytes(-len(live) % 4))
            self._version = namespace.version

    async def _grow(self, rows: int) -> None:
        """Have parts for so many rows."""
        count = max(1, -(-rows // self._part_rows))
        if count <= len(self._parts):
            return
        self._release_plans()
        while len(self._parts) < count:
            self._parts.append(self._kept.make("vectors", self._part_rows, self._k, dtype="f16"))
        capacity = count * self._part_rows
        self._grown.release()
        self._live = self._grown.make("live", capacity // 32, dtype="u32")
        self._keys = self._grown.make("keys", capacity, dtype="u32")
        self._version = -1
        await self.gpu.check()

    async def wrong(self) -> str:
        """What the kernels compute wrongly on this device; "" if they are right. Looks once."""
        if self._checked:
            return ""
        self._checked = True
        await self._plan(best_size(1))
        trace = Trace(1)
        best = self._plans[best_size(1)][2]
        nearest(trace, self._parts, self._query, self._live, self._keys, best)
        chains = distinct(trace.calls).values()
        failed = await run_checks(self.gpu, self._kernels, self._strategy, chains)
        return "; ".join(f"{check.name} {reason}" for check, reason in failed)

    async def best(self, query: Sequence[float], count: int) -> list[Scored]:
        """The best live rows, the best first; of equal ones the oldest first. Raises HostError."""
        plan, best = await self._plan(best_size(count))
        self.gpu.write(self._query.buffer, 0, _f32(query, self._k))
        await self.gpu.replay(plan.recording)
        found = unpack(await self.gpu.read(best.buffer, 0, best.nbytes))
        return found[:count]

    async def scores(self, rows: Sequence[int]) -> list[Scored]:
        """What the last search gave for these live rows, at most MAX_SCORES."""
        if not rows:
            return []
        copies = [
            Copy(self._keys.buffer, self._scores.buffer, 4, 4 * row, 4 * i)
            for i, row in enumerate(rows)
        ]
        await self.gpu.copy(copies)
        words = await self.gpu.read(self._scores.buffer, 0, 4 * len(rows))
        keys = struct.unpack(f"<{len(rows)}I", words)
        return [(row, score_of(key)) for row, key in zip(rows, keys, strict=True)]

    async def _plan(self, size: int) -> tuple[Plan, Tensor]:
        if size not in self._plans:
            best = self._grown.make("best", size, 2, dtype="u32")
            trace = Trace(1)
            nearest(trace, self._parts, self._query, self._live, self._keys, best)
            planner = Planner(self.gpu, self._kernels, self._strategy)
            planner.reserve([trace])
            await planner.allocate()
            self._plans[size] = planner, await planner.lower([trace]), best
        _, plan, best = self._plans[size]
        return plan, best

    def _release_plans(self) -> None:
        for planner, _, _ in self._plans.values():
            planner.release()
        self._plans.clear()

    def release(self) -> None:
        """Free every buffer."""
        self._release_plans()
        self._grown.release()
        self._kept.release()


def _f32(values: Sequence[float], size: int) -> bytes:
    return struct.pack(f"<{len(values)}f", *values) + bytes(4 * (size - len(values)))
