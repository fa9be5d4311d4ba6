"""How pictures and videos stand in a prompt: which tokens are around their rows, and which positions the rows have.

A chat template writes one token for a picture. The model gets a row for each cell of the picture's grid instead, in
one run or in several (tiles, frames of a video), with tokens around them:

  Qwen3.5   the row run of a picture stands between the template's vision_start and vision_end. A video is, for each
            pair of frames, its time as text, vision_start, a row run, vision_end.
  LFM2-VL   image_start, the row run of each tile behind a token that names its place, the thumbnail's token and row
            run, image_end; of a picture in one piece image_start, its row run, image_end.

Reference: transformers, models/qwen3_vl/processing_qwen3_vl.py, models/qwen3_5/modeling_qwen3_5.py (get_rope_index),
models/lfm2_vl/processing_lfm2_vl.py. For a video the first one also keeps the template's vision_start and vision_end
around all of its frames in some versions; here they go, as in the published models' own processors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from py_engine.errors import InputError
from py_engine.inputs.media import Kind
from py_engine.inputs.tokenizer import Tokenizer

Piece = tuple[str, bool]  # (text, is a control token), as ChatTemplate.pieces gives them
Grid = tuple[int, int]  # (rows, columns) of prompt rows


@dataclass(frozen=True)
class Layout:
    """Where the rows of a picture or a video go.

    `grids`: of each run of rows, in the order of the prompt. `tiles`: (rows, columns) of a picture that was cut into
    tiles; a grid more than tiles is the thumbnail. `times`: seconds from the beginning of a video, for each grid.
    """

    kind: Kind
    grids: Sequence[Grid]
    tiles: Grid = (1, 1)
    times: Sequence[float] = ()

    @property
    def rows(self) -> int:
        """Rows of the prompt, tokens around them left out."""
        return sum(rows * columns for rows, columns in self.grids)


@dataclass(frozen=True)
class PicturePrompt:
    """The control tokens of one model. `image`, `video`: what its template writes for one (`video` None: it takes
    none). `around`: the tokens that the template puts before and behind, where frames of a video need them again.
    `tiled`: whether pictures are written as LFM2-VL has them."""

    image: str
    video: str | None
    around: tuple[str, str] = ("", "")
    tiled: bool = False

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> PicturePrompt | None:
        """By the tokens that a tokenizer has; None: it has none for pictures."""
        known = tokenizer.control
        if "<|image_pad|>" in known:
            around = ("<|vision_start|>", "<|vision_end|>")
            video = "<|video_pad|>" if {"<|video_pad|>", *around} <= known.keys() else None
            return cls("<|image_pad|>", video, around)
        if "<image>" in known:
            return cls("<image>", None, tiled="<|image_start|>" in known)
        return None

    def expand(self, pieces: Iterable[Piece], layouts: Sequence[Layout]) -> list[Piece]:
        """The pieces of a rendered prompt with one image or video token for each grid, and the tokens around them.

        Raises InputError when the template wrote other tokens than one for each of `layouts`, in their order.
        """
        marks: dict[str, Kind] = {self.image: "image"}
        if self.video:
            marks[self.video] = "video"
        found: list[Piece] = []
        left = list(layouts)
        closing = ""  # the template's own token behind a video, which goes
        for text, control in pieces:
            kind = marks.get(text) if control else None
            if control and text == closing:
                closing = ""
            elif kind is None:
                _put(found, text, control)
            elif not left or left[0].kind != kind:
                raise InputError(
                    "the model's chat template does not print the pictures of these messages in their order, one mark"
                    " for each: use another template"
                )
            elif kind == "image":
                found += self._image(left.pop(0))
            else:
                closing = self._video(found, left.pop(0))
        if left:
            raise InputError(
                f"the model's chat template leaves out {len(left)} of the pictures: put them into messages of the user"
            )
        return found

    def fill(self, ids: Sequence[int], runs: Sequence[Sequence[int]], known: Mapping[str, int]) -> list[int]:
        """The ids of expanded pieces, with the next of `runs` in the place of each image or video token. `known`: ids
        of the control tokens."""
        marks, left = self._ids(known), iter(runs)
        return [j for i in ids for j in (next(left) if i in marks else (i,))]

    def fill_rows(self, ids: Sequence[int], runs: Sequence[Sequence[int]], known: Mapping[str, int]) -> list[int]:
        """Ids in which the image or video token is repeated for each row, with the ids of `runs` in their places.
        Raises InputError when they are not as many."""
        marks = self._ids(known)
        found, wanted = sum(i in marks for i in ids), sum(map(len, runs))
        if found != wanted:
            raise InputError(
                f"ids hold the token of a picture {found} times, but the pictures that are given have {wanted} rows:"
                f" repeat {self.image} ({known[self.image]}) once for each row"
            )
        rows = (row for run in runs for row in run)
        return [next(rows) if i in marks else i for i in ids]

    def _ids(self, known: Mapping[str, int]) -> set[int]:
        return {known[text] for text in (self.image, self.video) if text}

    def _image(self, layout: Layout) -> list[Piece]:
        here = (self.image, True)
        if not self.tiled:
            return [here] * len(layout.grids)
        rows, columns = layout.tiles
        if rows * columns == 1:
            return [("<|image_start|>", True), here, ("<|image_end|>", True)]
        pieces: list[Piece] = [("<|image_start|>", True)]
        for row in range(rows):
            for column in range(columns):
                pieces += [(f"<|img_row_{row + 1}_col_{column + 1}|>", True), here]
        if len(layout.grids) > rows * columns:
            pieces += [("<|img_thumbnail|>", True), here]
        return [*pieces, ("<|image_end|>", True)]

    def _video(self, found: list[Piece], layout: Layout) -> str:
        """Add a video to the pieces before it. Returns the template's token behind it, if that goes."""
        opening, closing = self.around
        wrapped = bool(found) and found[-1] == (opening, True)
        if wrapped:
            found.pop()
        assert self.video is not None
        for seconds in layout.times:
            _put(found, f"<{seconds:.1f} seconds>", False)
            found += [(opening, True), (self.video, True), (closing, True)]
        return closing if wrapped else ""


def _put(found: list[Piece], text: str, control: bool) -> None:
    """Add a piece. Plain text goes on after plain text, since the tokenizer joins letters across them."""
    if not control and found and not found[-1][1]:
        found[-1] = (found[-1][0] + text, False)
    else:
        found.append((text, control))


def grid_positions(
    ids: Sequence[int], grids: Mapping[int, Grid]
) -> list[tuple[int, int, int]]:
    """The position of each id in time, height and width (M-RoPE). `grids`: by the first id of a run of rows, its grid.

    A run's rows share the time of its beginning, from which height and width count; what follows goes on from the
    largest of its extents.
    """
    positions: list[tuple[int, int, int]] = []
    now = 0
    while len(positions) < len(ids):
        grid = grids.get(ids[len(positions)])
        if grid is None:
            positions.append((now, now, now))
            now += 1
        else:
            rows, columns = grid
            positions += [(now, now + y, now + x) for y in range(rows) for x in range(columns)]
            now += max(rows, columns)
    return positions
