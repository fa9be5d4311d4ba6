"""Runs a vision tower: the patches of a picture, or of the frames of a video, to rows on the GPU. Knows no files."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import partial
from operator import index

from py_engine.arguments import shown
from py_engine.blocks.vision import Tower, TowerInputs
from py_engine.errors import InputError
from py_engine.generate.runtime import Runtime
from py_engine.graph.buffers import Buffers
from py_engine.graph.kernels import Kernels
from py_engine.graph.programs import Program
from py_engine.graph.submit import SubmitStrategy
from py_engine.graph.trace import Tensor
from py_engine.host.gpu import AdapterInfo, Copy, Gpu
from py_engine.ops.patch_positions import OUTSIDE
from py_engine.ops.step import STEP_BYTES, Pass, pack_step, pass_program

PASS_ROWS = (256, 1024)  # sizes of plans; a pass takes the smallest that holds its frames
# One more, whose buffers and plan are made for the first picture that is so large: 1 megapixel in patches of 16.
MOST_ROWS = 4096

Grid = tuple[int, int, int]  # frames, and rows and columns of patches in each


class TowerRunner(Runtime):
    """One tower that runs. A picture's rows stay on the GPU until `forget`."""

    def __init__(
        self,
        gpu: Gpu,
        kernels: Kernels,
        tower: Tower,
        *,
        exact: bool,
        strategy: SubmitStrategy | None = None,
    ) -> None:
        """`exact`, `strategy`: as for Runtime. Raises OutOfMemoryError; then nothing stays allocated."""
        self.tower = tower
        self._buffers, self._found = Buffers(gpu), Buffers(gpu)
        self._grid: tuple[int, int] | None = None  # whose places, spans and taps are on the GPU
        self._frames = 0  # for so many frames
        rows, k = MOST_ROWS, tower.patch.cols
        make = partial(self._buffers.make, dtype="u32")
        try:
            self._step = make("step", STEP_BYTES // 4)
            rope = tower.rope.table(rows) if tower.rope else b""
            self._inputs = TowerInputs(
                patches=self._buffers.make("patches", rows, k),
                places=make("places", rows, 2),
                spans=make("spans", rows, 2),
                order=make("order", rows),
                axes=make("axes", len(tower.rope.axes) if tower.rope else 1),
                taps=self._buffers.make("taps", 2, rows, 2 + tower.positions.taps),
                rope=self._buffers.make("rope", max(len(rope) // 4, 1)),
                merged=make("blocks of a pass", STEP_BYTES // 4),
            )
            self._out = self._buffers.make("rows", rows // tower.side**2, tower.width)
        except BaseException:
            self._buffers.release()
            raise
        if tower.rope:
            gpu.write(self._inputs.rope.buffer, 0, rope)
            gpu.write(self._inputs.axes.buffer, 0, array("I", tower.rope.axes).tobytes())
        super().__init__(
            gpu, kernels, [self._program(gpu.info)], exact=exact, strategy=strategy, forms=None
        )

    def _program(self, info: AdapterInfo) -> Program:
        def see(trace: Pass) -> None:
            self.tower.forward(trace, self._inputs, self._out)

        return pass_program(
            "see", see, step=self._step, info=info, sizes=PASS_ROWS, later=MOST_ROWS
        )

    @property
    def context(self) -> int:
        """The most patches of a picture, with CLS."""
        return MOST_ROWS

    @property
    def nbytes(self) -> int:
        """GPU bytes of everything here: inputs, activations, rows that were not forgotten."""
        return self._buffers.nbytes + self._found.nbytes + self.programs.activation_bytes

    def memory(self) -> dict[str, int]:
        """GPU bytes of everything here, by kind."""
        return {
            "state_bytes": self._buffers.nbytes + self._found.nbytes,
            "snapshot_bytes": 0,
            "activation_bytes": self.programs.activation_bytes,
        }

    async def fill(self) -> None:
        """Make room for the largest picture, now and not when it comes. Raises OutOfMemoryError."""
        if self.programs.later("see") is not None:
            await self.programs.extend("see")

    async def widen(self) -> bool:
        """Return False: there is nothing wider than what `fill` makes."""
        return False

    async def rows(self, patches: Tensor | bytes | memoryview, grid: Sequence[int]) -> Tensor:
        """The rows of a picture: f32 [n, width] on the GPU, n = rows_of(tower, grid), until `forget`.

        patches: f32 [t h w, k], on the GPU or as little-endian bytes, in the order and with the numbers of the family
        (its file in models/ says which). grid: frames t (a still has 1; of a video with 2 pictures a frame half as
        many as pictures), rows h and columns w of patches. Frames do not see each other.
        Raises InputError for patches that are not of this grid, OutOfMemoryError, DeviceLostError.
        """
        tower, (t, h, w) = self.tower, checked(self.tower, grid)
        n, k = h * w, tower.patch.cols
        given = patches if isinstance(patches, Tensor) else memoryview(patches).cast("B")
        if given.nbytes != 4 * t * n * k:
            raise InputError(
                f"patches have {given.nbytes:,} bytes; a grid of {t} x {h} x {w} patches of {k} float32 has "
                f"{4 * t * n * k:,}"
            )
        if tower.extra + n > self.programs.sizes("see")[-1]:
            await self.fill()
        found = self._found.make("picture", rows_of(tower, grid), tower.width)
        rows = tower.extra + n  # of a frame
        most = 1 if tower.extra else self.programs.sizes("see")[-1] // rows
        out_bytes = 4 * tower.width * (n // tower.side**2 + tower.extra)  # of a frame
        for first in range(0, t, most):
            frames = min(most, t - first)
            self._place(frames, (h, w))
            await self._upload(given, 4 * first * n * k, 4 * frames * n * k)
            await self.gpu.replay(self.programs.find("see", frames * rows).recording)
            size = frames * out_bytes
            await self.gpu.copy([Copy(self._out.buffer, found.buffer, size, 0, first * out_bytes)])
        return found

    def forget(self) -> None:
        """Free the rows of all pictures so far. What was submitted to read them still does."""
        self._found.release()

    def _place(self, frames: int, grid: tuple[int, int]) -> None:
        """Upload what depends on the grid alone, unless it is there."""
        tower, inputs, (h, w) = self.tower, self._inputs, grid
        rows = frames * (h * w + tower.extra)
        if (grid, frames) == (self._grid, self._frames):
            return
        self._grid, self._frames = grid, frames
        places = places_of(grid, tower.side if tower.by_blocks else 1)
        if tower.extra:
            places = array("I", [OUTSIDE, OUTSIDE]) + places
        frame = rows // frames
        spans = array("I")
        for i in range(frames):
            spans.extend((i * frame, (i + 1) * frame) * frame)
        order = order_of(grid, tower.side, tower.by_blocks, frames)
        half = inputs.taps.nbytes // 2
        for tensor, offset, data in (
            (inputs.places, 0, places.tobytes() * frames),
            (inputs.spans, 0, spans.tobytes()),
            (inputs.order, 0, order.tobytes()),
            (inputs.taps, 0, tower.positions.packed(h)),
            (inputs.taps, half, tower.positions.packed(w)),
            (self._step, 0, pack_step(pos=0, rows=rows)),
            (inputs.merged, 0, pack_step(pos=0, rows=rows // tower.side**2)),
        ):
            self.gpu.write(tensor.buffer, offset, data)

    async def _upload(self, patches: Tensor | memoryview, start: int, size: int) -> None:
        """Put bytes of the patches behind the rows that are no patches."""
        target, at = self._inputs.patches.buffer, 4 * self.tower.extra * self.tower.patch.cols
        if isinstance(patches, Tensor):
            assert patches.binding is not None
            begin = patches.binding.offset + start
            await self.gpu.copy([Copy(patches.buffer, target, size, begin, at)])
        else:
            self.gpu.write(target, at, patches[start : start + size])

    def release(self) -> None:
        """Free inputs, activations and rows; the weights belong to whoever loaded them."""
        self.programs.release()
        self._buffers.release()
        self._found.release()


def checked(tower: Tower, grid: Sequence[int]) -> Grid:
    """The grid of a picture. Raises InputError for one that the tower cannot take."""
    try:
        t, h, w = map(index, grid)
    except (TypeError, ValueError) as error:
        raise InputError(f"grid={shown(grid)}: give frames, rows and columns of patches") from error
    side, most = tower.side, MOST_ROWS - tower.extra
    if min(t, h, w) < 1 or h % side or w % side:
        raise InputError(
            f"a grid of {t} x {h} x {w} patches: this tower takes rows and columns that are multiples of {side}"
        )
    if tower.extra and t > 1:
        raise InputError(f"a grid of {t} frames: this tower takes one picture at a time")
    if h * w > most:
        raise InputError(
            f"a picture of {h} x {w} patches: this tower takes at most {most}. Make it smaller (max_pixels)."
        )
    return t, h, w


def rows_of(tower: Tower, grid: Sequence[int]) -> int:
    """Rows that a picture becomes. Raises InputError for a grid that the tower cannot take."""
    t, h, w = checked(tower, grid)
    return t * (h * w // tower.side**2 + tower.extra)


def places_of(grid: tuple[int, int], side: int) -> array[int]:
    """(row, column) of each patch, u32, in the order in which patches come: by blocks of `side` x `side`, row by row
    within and without; side 1: row by row."""
    h, w = grid
    found = array("I")
    for top in range(0, h, side):
        # Of the blocks of a line: its columns, for each row of a block.
        for left in range(0, w, side):
            for y in range(top, top + side):
                for x in range(left, left + side):
                    found.append(y)
                    found.append(x)
    return found


def order_of(grid: tuple[int, int], side: int, by_blocks: bool, frames: int) -> array[int]:
    """The patch numbers, u32, block by block and in each block row by row, frame after frame."""
    h, w = grid
    n = h * w
    if by_blocks or side == 1:
        return array("I", range(frames * n))
    places = places_of(grid, side)
    one = [y * w + x for y, x in zip(places[::2], places[1::2], strict=True)]
    return array("I", [i * n + p for i in range(frames) for p in one])
