"""The pictures and videos of a request: their ids in the prompt, and where the rows behind these come from."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from py_engine.arguments import shown
from py_engine.errors import InputError, ModelError
from py_engine.generate.given import Given, Positions
from py_engine.graph.trace import Tensor
from py_engine.inputs.content_ids import content_ids
from py_engine.inputs.media import Medium, media_of
from py_engine.inputs.messages import Message
from py_engine.pictures.picture import Picture
from py_engine.pictures.plan import PicturePlan, Piece, VideoPlan
from py_engine.pictures.prompt import PicturePrompt, Plan, grid_positions, runs
from py_engine.pictures.sized import SizedPicture, sized_picture
from py_engine.tasks.loaded import Loaded

DEFAULT_FPS = 2.0  # of a video that does not say it


@dataclass(eq=False)
class _Item:
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


class Seen:
    """The pictures of one request, planned and named by their content. They are decoded, and the tower runs, only when
    the state of the model lacks their rows; after the loss of a device, again."""

    def __init__(self, loaded: Loaded, media: Sequence[Medium]) -> None:
        """Raises InputError for what is no picture, and for a model that sees none; ModelError where its files do not
        say how they are prepared."""
        self._tokenizer = loaded.tokenizer
        self._prompt = _prompt_of(loaded, media[0]) if media else None
        self._items = [_item(loaded, medium, self._prompt) for medium in media]
        self._media = media

    def encode(self, pieces: Sequence[tuple[str, bool]], said: Sequence[Message]) -> list[int]:
        """The ids of a rendered prompt, with those of the rows of all pictures in the messages `said`."""
        if self._prompt is None:
            return self._tokenizer.encode_pieces(pieces)
        numbers = {id(medium): n for n, medium in enumerate(self._media)}
        items = [self._items[numbers[id(medium)]] for medium in media_of(said, self._media)]
        expanded = self._prompt.expand(pieces, [item.plan for item in items])
        known = self._tokenizer.control
        if lacking := {text for text, control in expanded if control} - known.keys():
            raise ModelError(
                f"tokenizer.json has no token {min(lacking)}, which a picture of this size needs in the prompt"
            )
        rows = [run for item in items for run, _ in runs(item.plan, item.ids)]
        return self._prompt.fill(self._tokenizer.encode_pieces(expanded), rows, known)

    def fill(self, ids: Sequence[int]) -> list[int]:
        """`ids` that hold a picture's token once for each row, with the ids of the rows of all pictures. Raises
        InputError when they are not as many."""
        if self._prompt is None:
            return [*ids]
        rows = [item.ids for item in self._items]
        return self._prompt.fill_rows(ids, rows, self._tokenizer.control)

    def given(self, loaded: Loaded, ids: Sequence[int]) -> Given | None:
        """The rows of a prompt's negative ids, made by a model that is loaded; None without pictures."""
        if not self._items:
            return None
        found = {run[0]: grid for item in self._items for run, grid in runs(item.plan, item.ids)}
        positions = None
        if (
            loaded.decoder.state.positions is not None
        ):  # the model has rotary positions of several axes
            positions = Positions(grid_positions(ids, found))
        given = Given(positions)
        present = {*ids}
        for item in self._items:
            if item.ids[0] in present:
                for part, source in _sources(loaded, item):
                    given.add(part, source)
        return given

    def forget(self, loaded: Loaded) -> None:
        """Free what a prefill decoded and computed."""
        for item in self._items:
            item.close()
        if self._items and loaded.vision is not None:
            loaded.vision.forget()


def _prompt_of(loaded: Loaded, first: Medium) -> PicturePrompt:
    prompt = PicturePrompt.of(loaded.tokenizer)
    if loaded.vision is None or loaded.generating is None:
        raise loaded.cannot(
            f"see pictures ({first.where}): it has no vision tower, or was loaded with vision='off'"
        )
    if prompt is None:
        raise ModelError(
            f"{loaded.name}: tokenizer.json has no token for a picture (<|image_pad|>, <image>): its files are"
            " incomplete. Fetch the repository again."
        )
    return prompt


def _item(loaded: Loaded, medium: Medium, prompt: PicturePrompt | None) -> _Item:
    assert prompt is not None
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
        if prompt.video is None:
            raise InputError(
                f"{medium.where}: {loaded.family} takes pictures, and no videos: give single frames"
            )
        return _video(loaded, medium)
    picture = sized_picture(medium.content, loaded.io, what=medium.where, **medium.more)
    plan = reader.plan(picture.width, picture.height)
    return _Item(plan, _ids(loaded, plan, [picture.digest]), [picture])


def _video(loaded: Loaded, medium: Medium) -> _Item:
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
    return _Item(plan, _ids(loaded, plan, [p.digest for p in pictures]), pictures)


def _patches(loaded: Loaded, medium: Medium) -> _Item:
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
    return _Item(plan, _ids(loaded, plan, [hashlib.sha256(data).digest()]), [], data)


def _ids(loaded: Loaded, plan: Plan, digests: Sequence[bytes]) -> list[int]:
    kind = "video" if isinstance(plan, VideoPlan) else "image"
    return content_ids(f"{loaded.family} {kind}", plan.rows, [*digests, repr(plan).encode()])


Part = tuple[Sequence[int], Callable[[], Awaitable[Tensor]]]


def _sources(loaded: Loaded, item: _Item) -> list[Part]:
    """The ids of each piece, and what makes their rows."""
    plan = item.plan
    if isinstance(plan, VideoPlan):
        return [(item.ids, partial(_rows, loaded, item, plan.piece))]
    found: list[Part] = []
    start = 0
    for piece in plan.pieces:
        found.append((item.ids[start : start + piece.rows], partial(_rows, loaded, item, piece)))
        start += piece.rows
    return found


async def _rows(loaded: Loaded, item: _Item, piece: Piece) -> Tensor:
    """The rows of a piece, by the tower."""
    vision, reader = loaded.vision, loaded.reader
    assert vision is not None
    if item.patches is not None:
        return await vision.rows(item.patches, piece.grid)
    assert reader is not None
    pictures = await item.open(loaded)
    if isinstance(item.plan, VideoPlan):
        patches = await reader.video_patches(pictures, item.plan)
    else:
        patches = await reader.patches(pictures[0], piece)
    try:
        return await vision.rows(patches, piece.grid)
    finally:
        loaded.decoder.gpu.destroy_buffer(patches.buffer)
