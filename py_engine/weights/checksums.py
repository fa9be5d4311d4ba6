"""The GPU's checksums of a load: computed for each tensor, while its slices are uploaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from py_engine.graph.trace import Tensor, Trace
from py_engine.host.gpu import Binding, Buffer, Gpu
from py_engine.ops.checksum import PART_BYTES, Part, checksum, pack, unpack
from py_engine.sources.jobs import TensorInfo
from py_engine.sources.repository import Sum
from py_engine.sources.spans import Spans

_ALIGN = 256  # bytes; a storage binding starts at a multiple


@dataclass(eq=False)
class _Tally:
    """The state of one tensor: its place among the sums, the bytes added, whether they were cut inside a word."""

    slot: int
    seen: Spans = field(default_factory=Spans)
    odd: bool = False


class Checksums:
    """Checksums of the tensors of one load. `pieces`: the most `add` calls between two `call`s."""

    def __init__(self, gpu: Gpu, tensors: Sequence[TensorInfo], pieces: int) -> None:
        self._gpu = gpu
        self._tallies = {tensor: _Tally(slot) for slot, tensor in enumerate(dict.fromkeys(tensors))}
        self._parts: dict[Buffer, list[Part]] = {}
        self._sums = gpu.create_buffer("checksums", 8 * max(len(self._tallies), 2))
        self._table = gpu.create_buffer("checksum parts", max(_ALIGN * pieces, _ALIGN))

    def add(self, tensor: TensorInfo, start: int, end: int, buffer: Buffer, offset: int) -> None:
        """Add bytes start..end of a tensor, which lie in a buffer from byte `offset` on, filled up to whole words with
        zeros. Bytes that were added before do not count twice."""
        tally = self._tallies[tensor]
        for a, b, here in list(tally.seen.cut(start, end)):
            if here:
                continue
            first = offset + a - start
            if a % 4 or first % 4:
                tally.odd = True
                continue
            part = Part(first // 4, (b - a + 3) // 4, a // 4, tally.slot)
            self._parts.setdefault(buffer, []).append(part)
            tally.seen.add(a, b)

    def call(self, trace: Trace) -> None:
        """Append dispatches that sum what was added since the last call, and upload the table that they read."""
        at = 0
        for buffer, parts in self._parts.items():
            table = pack(parts)
            self._gpu.write(self._table, at, table)
            words = Tensor(buffer.label, (buffer.nbytes // 4,), "u32", Binding(buffer))
            region = Binding(self._table, at, len(parts) * PART_BYTES)
            checksum(
                trace,
                words,
                Tensor("checksum parts", (4 * len(parts),), "u32", region),
                Tensor("checksums", (2 * len(self._tallies),), "u32", Binding(self._sums)),
                parts,
            )
            at += -(-len(table) // _ALIGN) * _ALIGN
        self._parts.clear()

    async def read(self) -> dict[TensorInfo, Sum]:
        """The sums so far, of all tensors of which exactly one range was added."""
        values = unpack(await self._gpu.read(self._sums))
        found = {}
        for tensor, tally in self._tallies.items():
            ranges = tally.seen.ranges
            if len(ranges) == 1 and not tally.odd:
                found[tensor] = Sum(*ranges[0], values[tally.slot])
        return found

    def release(self) -> None:
        """Free the buffers."""
        self._gpu.destroy_buffer(self._sums)
        self._gpu.destroy_buffer(self._table)
