"""From pictures to the rows of patches that a vision tower takes, on the GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from py_engine.errors import InputError
from py_engine.graph.buffers import Buffers
from py_engine.graph.kernels import Kernels
from py_engine.graph.plan import Planner
from py_engine.graph.submit import SubmitStrategy
from py_engine.graph.trace import Call, Tensor, Trace
from py_engine.host.gpu import Gpu
from py_engine.host.pictures import Channels
from py_engine.ops.patches import PARAMETERS, pack_parameters, patches, values
from py_engine.ops.resample import resample
from py_engine.pictures.layout import plan_picture, plan_video
from py_engine.pictures.picture import Picture
from py_engine.pictures.plan import Grid, PicturePlan, Piece, VideoPlan
from py_engine.pictures.resizer import Resizer
from py_engine.pictures.rules import Area, Rules


class PictureReader:
    """Prepares pictures for one model on one device.

    rules: the model's. max_pixels: what pictures are resized to at most (Rules.within); None: what the rules say.
    video: the rules for frames of a video; None: those for pictures. most_patches: of one piece, and of a frame, that
    the tower takes; tiles are smaller than that anyway.
    """

    def __init__(
        self,
        gpu: Gpu,
        kernels: Kernels,
        rules: Rules,
        strategy: SubmitStrategy,
        *,
        max_pixels: int | None = None,
        video: Rules | None = None,
        most_patches: int | None = None,
    ) -> None:
        self._gpu, self._kernels, self._strategy = gpu, kernels, strategy
        # One binding holds all patches of a picture.
        most = gpu.limits.max_binding_bytes // (4 * rules.row) * rules.patch**2
        self._frame_pixels = (most_patches or most) * rules.patch**2
        whole = self._frame_pixels if isinstance(rules.sizing, Area) else most
        self.rules = rules.within(min(most, whole, max_pixels or most))
        self.video_rules = (video or rules).within(min(most, max_pixels or most))
        self._resizer = Resizer(gpu, kernels, strategy)

    def plan(self, width: int, height: int) -> PicturePlan:
        """The pieces of a picture of this size. Raises InputError for sides of 0 and extreme shapes."""
        return plan_picture(self.rules, width, height)

    def plan_video(self, width: int, height: int, frames: int, times: Sequence[float]) -> VideoPlan:
        """The plan of a video of so many frames, taken at `times` (seconds). Raises InputError."""
        rules = self.video_rules.within(self._frame_pixels * max(1, frames))
        return plan_video(rules, width, height, frames, times)

    def patch_bytes(self, piece: Piece) -> int:
        """GPU bytes of a piece's patches."""
        return 4 * piece.patches * self.rules.row

    async def patches(self, picture: Picture, piece: Piece) -> Tensor:
        """The patches of a piece, f32 [piece.patches, rules.row], in the order of the model's image processor.

        The tensor has a buffer of its own, which the caller frees (`Gpu.destroy_buffer(tensor.buffer)`) when the tower
        has run. Raises HostError, OutOfMemoryError.
        """
        return await self._patches([picture], piece, self.rules)

    async def video_patches(self, frames: Sequence[Picture], plan: VideoPlan) -> Tensor:
        """As `patches`, for all frames of a video: f32 [plan.piece.patches, rules.row], step by step. The last frame is
        repeated where it has no partner. Raises InputError for frames of different sizes or of another number."""
        if len(frames) != plan.frames:
            raise InputError(f"{len(frames)} frames for the plan of a video of {plan.frames}")
        for i, frame in enumerate(frames):
            if (frame.width, frame.height) != (plan.width, plan.height):
                raise InputError(
                    f"frame {i} of the video has {frame.width} x {frame.height} pixels, the first one {plan.width} x "
                    f"{plan.height}: all frames have one size"
                )
        return await self._patches(frames, plan.piece, self.video_rules)

    async def pixels(self, picture: Picture, piece: Piece) -> bytes:
        """The resized pixels of a piece as the patches are cut from them: RGB and 255, row by row."""
        buffers = Buffers(self._gpu)
        _, _, width, height = piece.box
        try:
            target = buffers.make("pixels", height, width, dtype="u32")
            await self._resizer.resize(picture.pixels, piece, self.rules.filter, target)
            return await self._gpu.read(target.buffer, 0, target.nbytes)
        finally:
            buffers.release()

    async def _patches(self, pictures: Sequence[Picture], piece: Piece, rules: Rules) -> Tensor:
        gpu = self._gpu
        result, inner = Buffers(gpu), Buffers(gpu)
        _, _, width, height = piece.box
        steps, down, across = piece.grid
        try:
            rows = result.make("patches", piece.patches, rules.row)
            table = inner.make("values", 3, 256)
            parameters = inner.make("parameters", PARAMETERS, dtype="u32")
            several = min(rules.frames, len(pictures))
            resized = [
                inner.make(f"pixels {i}", height, width, dtype="u32") for i in range(several)
            ]
            await gpu.check()
            gpu.write(table.buffer, 0, values(rules.mean, rules.std, rules.scale))
            trace, count = Trace(piece.patches), down * across
            patches(
                trace,
                (resized[0], resized[-1]),
                table,
                parameters,
                rows,
                count,
                **_form(rules),
            )
            planner = Planner(gpu, self._kernels, self._strategy)
            planner.reserve([trace])
            plan = await planner.lower([trace])
            for step in range(steps):
                for i, target in enumerate(resized):
                    picture = pictures[min(step * rules.frames + i, len(pictures) - 1)]
                    await self._resizer.resize(picture.pixels, piece, rules.filter, target)
                words = pack_parameters(count, across, width, step * count)
                gpu.write(parameters.buffer, 0, words)
                await gpu.replay(plan.recording)
            return rows
        except BaseException:
            result.release()
            raise
        finally:
            inner.release()


def picture_calls(rules: Rules) -> list[Call]:
    """A call of each kernel that prepares pictures by these rules, for the self-check (checks/self_check.py): both
    passes of resizing for RGB (arrays; files in CPython) and for RGB with a byte to skip (a browser's), and patches.
    Their tensors have no buffers."""
    trace = Trace(1)
    nothing = Tensor("picture", (1, rules.row), "u32")
    channels: tuple[Channels, ...] = (3, 4)
    for n in channels:
        for vertical in (False, True):
            five = (nothing,) * 5
            resample(trace, *five, (1, 1), channels=n, vertical=vertical)
    pair = (nothing, nothing)
    patches(trace, pair, nothing, nothing, nothing, 1, **_form(rules))
    return trace.calls


def _form(rules: Rules) -> _Form:
    return {
        "patch": rules.patch,
        "merge": rules.merge if rules.blocks else 1,
        "frames": rules.frames,
        "channels_last": rules.channels_last,
    }


class _Form(TypedDict):
    """How the kernel of patches is specialised."""

    patch: int
    merge: int
    frames: int
    channels_last: bool


def grid_rows(rules: Rules, grid: Grid) -> int:
    """Rows that patches of this grid take in the prompt. Raises InputError for grids that the projector cannot take."""
    steps, down, across = grid
    if min(grid) < 1 or down % rules.merge or across % rules.merge:
        raise InputError(
            f"a grid of {list(grid)} patches (time, down, across): down and across are multiples of {rules.merge}"
        )
    return steps * (down // rules.merge) * (across // rules.merge)
