"""Resizes a picture on the GPU, band by band, so that no buffer grows with the picture: at most some 70 MB beside the
result, whatever its size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from py_engine.graph.buffers import Buffers
from py_engine.graph.kernels import Kernels
from py_engine.graph.plan import Plan, Planner
from py_engine.graph.submit import SubmitStrategy
from py_engine.graph.trace import Tensor, Trace
from py_engine.host.gpu import Gpu
from py_engine.host.pictures import Channels, Pixels
from py_engine.ops.resample import (
    GROUP,
    PARAMETERS,
    Filter,
    Taps,
    columns_first,
    pack_parameters,
    resample,
    taps,
)
from py_engine.pictures.plan import Piece

BAND_BYTES = 16 << 20  # of the picture on the GPU at a time
MIDDLE_BYTES = 48 << 20  # of what was resized along the rows and not yet down the columns


class Resizer:
    """Resizes pictures as Pillow does. `strategy`: how commands are submitted."""

    def __init__(self, gpu: Gpu, kernels: Kernels, strategy: SubmitStrategy) -> None:
        self._gpu, self._kernels, self._strategy = gpu, kernels, strategy

    async def resize(self, pixels: Pixels, piece: Piece, kind: Filter, target: Tensor) -> None:
        """target u32 [height, width] of piece.box: the pixels of the piece. Returns when all is submitted. Raises
        HostError, OutOfMemoryError."""
        left, top, width, height = piece.box
        across = taps(pixels.width, piece.size[0], kind, left, width)
        down = taps(pixels.height, piece.size[1], kind, top, height)
        buffers = Buffers(self._gpu)
        run = self._rows_first
        if columns_first((pixels.width, pixels.height), piece.size):
            run = self._columns_first
        try:
            await run(buffers, pixels, across, down, target)
        finally:
            buffers.release()

    async def _rows_first(
        self, buffers: Buffers, pixels: Pixels, across: Taps, down: Taps, target: Tensor
    ) -> None:
        """The picture comes in bands of rows, once for each strip of the result's columns; a strip is as wide as the
        room between the passes allows, mostly all of it."""
        height, width = target.shape
        lines = down.end - down.begin
        most = min(lines, _rows_within(pixels, BAND_BYTES))
        strip = min(width, max(GROUP, MIDDLE_BYTES // (4 * lines) // GROUP * GROUP))
        source = buffers.make("band", -(-pixels.band_bytes(most) // 4), dtype="u32")
        middle = buffers.make("resized rows", lines, strip, dtype="u32")
        rows = self._weighted(buffers, across, source, middle)
        columns = self._weighted(buffers, down, middle, target)
        await self._gpu.check()
        along = await self._plan(rows, (strip, most), pixels.channels, vertical=False)
        below = await self._plan(columns, (strip, height), 4, vertical=True)
        for first in range(0, width, strip):
            size = min(strip, width - first)
            for at in range(down.begin, down.end, most):
                count = min(most, down.end - at)
                band = await pixels.load(self._gpu, source.buffer, at, count)
                place = (band.base, band.row, band.column)
                to = ((at - down.begin) * strip, strip)
                await self._run(along, rows, (size, count), place, to, first)
            place = (-down.begin * strip, strip, 1)
            await self._run(below, columns, (size, height), place, (first, width), 0)

    async def _columns_first(
        self, buffers: Buffers, pixels: Pixels, across: Taps, down: Taps, target: Tensor
    ) -> None:
        """The result is made a group of its rows at a time, of the band of the picture's rows that these see."""
        height, width = target.shape
        groups = list(_groups(down, height, _rows_within(pixels, BAND_BYTES)))
        most = max(end - begin for _, _, begin, end in groups)
        longest = max(count for _, count, _, _ in groups)
        source = buffers.make("band", -(-pixels.band_bytes(most) // 4), dtype="u32")
        middle = buffers.make("resized columns", longest, pixels.width, dtype="u32")
        columns = self._weighted(buffers, down, source, middle)
        rows = self._weighted(buffers, across, middle, target)
        await self._gpu.check()
        channels = pixels.channels
        below = await self._plan(columns, (pixels.width, longest), channels, vertical=True)
        along = await self._plan(rows, (width, longest), 4, vertical=False)
        for first, count, begin, end in groups:
            band = await pixels.load(self._gpu, source.buffer, begin, end - begin)
            place = (band.base - begin * band.row, band.row, band.column)
            size = (pixels.width, count)
            await self._run(below, columns, size, place, (0, pixels.width), first)
            place = (0, pixels.width, 1)
            await self._run(along, rows, (width, count), place, (first * width, width), 0)

    def _weighted(self, buffers: Buffers, given: Taps, source: Tensor, target: Tensor) -> _Pass:
        weights = buffers.make("weights", len(given.weights), dtype="u32")
        starts = buffers.make("starts", len(given.starts), dtype="u32")
        parameters = buffers.make("parameters", PARAMETERS, dtype="u32")
        self._gpu.write(weights.buffer, 0, given.weights.tobytes())
        self._gpu.write(starts.buffer, 0, given.starts.tobytes())
        return _Pass(source, weights, starts, parameters, target, given.width)

    async def _plan(
        self, one: _Pass, size: tuple[int, int], channels: Channels, *, vertical: bool
    ) -> Plan:
        """A recording of a pass for at most `size` pixels."""
        trace = Trace(size[1])
        tensors = (one.source, one.weights, one.starts, one.parameters, one.target)
        resample(trace, *tensors, size, channels=channels, vertical=vertical)
        planner = Planner(self._gpu, self._kernels, self._strategy)
        planner.reserve([trace])
        return await planner.lower([trace])

    async def _run(
        self,
        plan: Plan,
        one: _Pass,
        size: tuple[int, int],
        source: tuple[int, int, int],
        target: tuple[int, int],
        first: int,
    ) -> None:
        words = pack_parameters(*size, source, one.width, target, first)
        self._gpu.write(one.parameters.buffer, 0, words)
        await self._gpu.replay(plan.recording)


def _rows_within(pixels: Pixels, nbytes: int) -> int:
    """How many rows of the picture fit into so many bytes; at least one."""
    low, high = 1, pixels.height
    while low < high:
        middle = (low + high + 1) // 2
        if pixels.band_bytes(middle) <= nbytes:
            low = middle
        else:
            high = middle - 1
    return low


def _groups(down: Taps, height: int, most: int) -> Iterator[tuple[int, int, int, int]]:
    """Groups of output rows that see at most `most` rows of the input (a single one may see more): first row, number
    of rows, begin and end of what they see."""
    first = 0
    while first < height:
        begin, count = down.starts[first], 1
        while first + count < height and down.stops[first + count] - begin <= most:
            count += 1
        yield first, count, begin, down.stops[first + count - 1]
        first += count


@dataclass(frozen=True, eq=False)
class _Pass:
    """The tensors of a pass, along the rows or down the columns. `width`: weights of a pixel."""

    source: Tensor
    weights: Tensor
    starts: Tensor
    parameters: Tensor
    target: Tensor
    width: int
