"""Moves ranges of many GPU buffers out and in, as if they were one long range of bytes, in slices. In a browser the
bytes stay JavaScript arrays."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from py_engine.host.gpu import Buffer, Copy, Gpu
from py_engine.host.store import Bytes

SLICE_BYTES = 8 << 20


@dataclass(frozen=True, eq=False)
class Span:
    """`nbytes` of a buffer, from `offset` on. Both are multiples of 4."""

    buffer: Buffer
    offset: int
    nbytes: int


def slices(nbytes: int) -> Iterator[tuple[int, int]]:
    """Starts and ends of slices of SLICE_BYTES; the last one may be smaller."""
    for start in range(0, nbytes, SLICE_BYTES):
        yield start, min(start + SLICE_BYTES, nbytes)


class Transfer:
    """The bytes of `spans`, one after another, read and written through a staging buffer.

    The buffer is made when an `async with` block is entered, which may raise OutOfMemoryError, and freed at its end.
    """

    def __init__(self, gpu: Gpu, spans: Sequence[Span]) -> None:
        self._gpu = gpu
        self._spans = [span for span in spans if span.nbytes]
        self._starts = [0, *accumulate(span.nbytes for span in self._spans)]
        self.nbytes = self._starts[-1]
        self._staging: Buffer | None = None

    async def __aenter__(self) -> Transfer:
        size = max(4, min(SLICE_BYTES, self.nbytes))
        self._staging = self._gpu.create_buffer("staging", size)
        try:
            await self._gpu.check()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._staging is not None:
            self._gpu.destroy_buffer(self._staging)

    def slices(self) -> Iterator[tuple[int, int]]:
        """Starts and ends of the slices, in order."""
        return slices(self.nbytes)

    async def read(self, start: int, end: int) -> Bytes:
        """Read the bytes of a slice."""
        assert self._staging is not None
        await self._gpu.copy(
            [
                Copy(span.buffer, self._staging, n, span.offset + at, to)
                for span, at, to, n in self._within(start, end)
            ]
        )
        return await self._gpu.download(self._staging, 0, end - start)

    async def write(self, start: int, end: int, data: Bytes) -> None:
        """Write the bytes of a slice to their places. Returns when the GPU has them."""
        assert self._staging is not None
        self._gpu.write(self._staging, 0, data)
        await self._gpu.copy(
            [
                Copy(self._staging, span.buffer, n, to, span.offset + at)
                for span, at, to, n in self._within(start, end)
            ]
        )
        await self._gpu.idle()

    def _within(self, start: int, end: int) -> Iterator[tuple[Span, int, int, int]]:
        """The parts of spans within start..end: (span, place in it, place in the slice, number of bytes)."""
        i, at = bisect_right(self._starts, start) - 1, start
        while at < end:
            span, inside = self._spans[i], at - self._starts[i]
            n = min(span.nbytes - inside, end - at)
            yield span, inside, at - start, n
            at += n
            i += 1
