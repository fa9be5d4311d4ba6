"""One picture or video for a model that sees: its plan, the ids of its rows, and what makes these rows."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from py_engine.arguments import shown
from py_engine.errors import InputError, ModelError
from py_engine.graph.trace import Tensor
from py_engine.inputs.content_ids import content_ids
from py_engine.inputs.media import Medium
from py_engine.pictures.picture import Picture
from py_engine.pictures.plan import PicturePlan, Piece, VideoPlan
from py_engine.pictures.prompt import Plan
from py_engine.pictures.sized import SizedPicture, sized_picture
from py_engine.tasks.loaded import Loaded

DEFAULT_FPS = 2.0  # of a video that does not say it

Source = tuple[Sequence[int], Callable[[], Awaitable[Tensor]]]


@dataclass(eq=False)
class Viewed:
    """A picture or a video with its place in the prompt. `ids`: one for each of its rows. It holds no buffer."""

    plan: Plan
    ids: list[int]
    pictures: Sequence[SizedPicture]  # frames of a video; none where patches were given
    patches: memoryview | None = None
    opened: list[Picture] = field(default_factory=list)

    async def open(self, loaded: Loaded) -> list[Picture]:
        """Its pictures, decoded once for all of its pieces."""
        if not self.opened:
            for picture in self.pictures:
                self.opened.append(await picture.open(loaded.io))
        return self.opened

    def close(self) -> None:
        """Free what was decoded. What the caller decoded stays his."""
        for picture, given in zip(self.opened, self.pictures, strict=False):
            if picture is not given.content:
                picture.close()
        self.opened.clear()

    def sources(self, loaded: Loaded) -> list[Source]:
        """The ids of each piece, and what makes their rows with a model that is loaded."""
        plan = self.plan
        if isinstance(plan, VideoPlan):
            return [(self.ids, partial(self._rows, loaded, plan.piece))]
        found: list[Source] = []
        start = 0
        for piece in plan.pieces:
            ids = self.ids[start : start + piece.rows]
            found.append((ids, partial(self._rows, loaded, piece)))
            start += piece.rows
        return found

    async def _rows(self, loaded: Loaded, piece: Piece) -> Tensor:
        """The rows of a piece, by the tower."""
        vision, reader = loaded.vision, loaded.reader
        assert vision is not None
        if self.patches is not None:
            return await vision.rows(self.patches, piece.grid)
        assert reader is not None
        pictures = await self.open(loaded)
        if isinstance(self.plan, VideoPlan):
            patches = await reader.video_patches(pictures, self.plan)
        else:
            patches = await reader.patches(pictures[0], piece)
        try:
            return await vision.rows(patches, piece.grid)
        finally:
            loaded.runtime.gpu.destroy_buffer(patches.buffer)


def view(loaded: Loaded, medium: Medium) -> Viewed:
    """A picture or a video for a model that sees. Raises InputError for what is none, ModelError where the model's
    files do not say how pictures are prepared."""
    if medium.form == "patches":
        return _patches(loaded, medium)
    if "grid" in medium.more:
        raise InputError(
            f"{medium.where}.grid belongs to patches; of {medium.form} it is worked out"
        )
    reader = loaded.reader
    if reader is None:
        raise ModelError(f"{medium.where}: {loaded.unprepared}")
    if medium.kind == "video":
        return _video(loaded, medium)
    picture = sized_picture(medium.content, loaded.io, what=medium.where, **medium.more)
    plan = reader.plan(picture.width, picture.height)
    return Viewed(plan, _ids(loaded, plan, [picture.digest]), [picture])


def _video(loaded: Loaded, medium: Medium) -> Viewed:
    frames, fps = medium.content, medium.more.get("fps", DEFAULT_FPS)
    if isinstance(frames, (str, bytes, Mapping)) or not hasattr(frames, "__len__"):
        raise InputError(f"{medium.where}: give a video's frames, a list of pictures")
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps <= 1000:
        raise InputError(f"{medium.where}.fps={shown(fps)}: give frames per second, above 0")
    pictures = [
        sized_picture(frame, loaded.io, what=f"{medium.where}.frames[{n}]")
        for n, frame in enumerate(frames)
    ]
    if not pictures:
        raise InputError(f"{medium.where} has no frames")
    first = pictures[0]
    for n, picture in enumerate(pictures):
        if (picture.width, picture.height) != (first.width, first.height):
            raise InputError(
                f"{medium.where}.frames[{n}] has {picture.width} x {picture.height} pixels, the first frame"
                f" {first.width} x {first.height}: all frames of a video have one size"
            )
    times = [n / fps for n in range(len(pictures))]
    assert loaded.reader is not None
    plan = loaded.reader.plan_video(first.width, first.height, len(pictures), times)
    return Viewed(plan, _ids(loaded, plan, [p.digest for p in pictures]), pictures)


def _patches(loaded: Loaded, medium: Medium) -> Viewed:
    """A picture in patches [n, k] float32, with the grid (1, rows, columns) that they are of."""
    assert loaded.vision is not None
    where, grid = medium.where, medium.more.get("grid")
    try:
        view = memoryview(medium.content)
        steps, down, across = (int(n) for n in grid or ())
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{where}: give patches, float32 [n, k], with their grid, (1, rows, columns)"
        ) from error
    if view.format not in ("f", "<f", "B") or not view.c_contiguous:
        raise InputError(f"{where}: patches are of type {view.format!r}: give float32, row by row")
    if steps != 1:
        raise InputError(f"{where}: the grid of a picture begins with 1, not {steps}")
    rows = loaded.vision.count((steps, down, across))
    columns = loaded.vision.tower.patch.cols
    if view.nbytes != 4 * steps * down * across * columns:
        raise InputError(
            f"{where}: patches have {view.nbytes:,} bytes; a grid of {down} x {across} with {columns} float32 each has"
            f" {4 * steps * down * across * columns:,}"
        )
    piece = Piece((across, down), (0, 0, across, down), (steps, down, across), rows)
    plan = PicturePlan(across, down, [piece])
    data = memoryview(bytes(view))  # the caller may change his array before the model sees it
    return Viewed(plan, _ids(loaded, plan, [hashlib.sha256(data).digest()]), [], data)


def _ids(loaded: Loaded, plan: Plan, digests: Sequence[bytes]) -> list[int]:
    kind = "video" if isinstance(plan, VideoPlan) else "image"
    return content_ids(f"{loaded.family} {kind}", plan.rows, [*digests, repr(plan).encode()])
