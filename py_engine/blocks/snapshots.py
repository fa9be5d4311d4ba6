"""Copies of a recurrent state, on the GPU. The state cannot be rolled back, so a copy is restored instead."""

from __future__ import annotations

from collections.abc import Sequence

from py_engine.graph.trace import Tensor
from py_engine.graph.transfer import Span
from py_engine.host.gpu import Buffer, Copy, Gpu

BUDGET_BYTES = 96 << 20  # four of Qwen3.5-0.8B's 20 MB
FEWEST, MOST = 2, 16  # two: the end of a question and the end of an answer


class Snapshots:
    """Room for `count` copies of `tensors` (all of fixed size). It is allocated at the start, so saving allocates
    nothing.

    `count` is what BUDGET_BYTES holds, from FEWEST to MOST; 0 without tensors. Freed by `release`.
    """

    def __init__(self, gpu: Gpu, tensors: Sequence[Tensor]) -> None:
        self._gpu = gpu
        self._tensors = tensors
        self._size = sum(tensor.nbytes for tensor in tensors)
        self._buffers: list[Buffer] = []
        count = max(FEWEST, min(BUDGET_BYTES // self._size, MOST)) if self._size else 0
        try:
            for i in range(count):
                self._buffers.append(gpu.create_buffer(f"snapshot {i}", self._size))
        except BaseException:
            self.release()
            raise

    @property
    def count(self) -> int:
        """How many copies there is room for."""
        return len(self._buffers)

    @property
    def nbytes(self) -> int:
        """GPU bytes of all copies, used or not."""
        return sum(buffer.nbytes for buffer in self._buffers)

    async def save(self, slot: int) -> None:
        """Copy the state as it will be after everything submitted so far."""
        await self._copy(slot, restore=False)

    async def restore(self, slot: int) -> None:
        """Copy a snapshot back into the state."""
        await self._copy(slot, restore=True)

    def live_spans(self) -> list[Span]:
        """Where the state itself is."""
        found = []
        for tensor in self._tensors:
            assert tensor.binding is not None
            found.append(Span(tensor.binding.buffer, tensor.binding.offset, tensor.nbytes))
        return found

    def span(self, slot: int) -> Span:
        """Where a snapshot is."""
        return Span(self._buffers[slot], 0, self._size)

    def release(self) -> None:
        """Free the buffers."""
        for buffer in self._buffers:
            self._gpu.destroy_buffer(buffer)
        self._buffers.clear()

    async def _copy(self, slot: int, *, restore: bool) -> None:
        stored, at = self._buffers[slot], 0
        copies = []
        for live in self.live_spans():
            sides = (live.buffer, live.offset), (stored, at)
            (source, of), (target, to) = reversed(sides) if restore else sides
            copies.append(Copy(source, target, live.nbytes, of, to))
            at += live.nbytes
        await self._gpu.copy(copies)
