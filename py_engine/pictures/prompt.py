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

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from py_engine.errors import InputError
from py_engine.inputs.tokenizer import Tokenizer
from py_engine.pictures.plan import PicturePlan, VideoPlan

Piece = tuple[str, bool]  # (text, is a control token), as ChatTemplate.pieces gives them
Grid = tuple[int, int]  # (rows, columns) of prompt rows


Plan = PicturePlan | VideoPlan


def runs(plan: Plan, ids: Sequence[int]) -> list[tuple[Sequence[int], Grid]]:
    """The runs of rows that a plan has in the prompt, each with the grid (rows, columns) that it fills line by line: a
    run for each piece, of a video for each step. `ids`: of all of its rows."""
    pieces = [plan.piece] if isinstance(plan, VideoPlan) else plan.pieces
    found: list[tuple[Sequence[int], Grid]] = []
    start = 0
    for piece in pieces:
        steps, down, across = piece.grid
        side = math.isqrt(
            piece.patches // piece.rows
        )  # patches on a side of the block that makes a row
        for _ in range(steps):
            end = start + piece.rows // steps
            found.append((ids[start:end], (down // side, across // side)))
            start = end
    return found


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

    def expand(self, pieces: Iterable[Piece], plans: Sequence[Plan]) -> list[Piece]:
        """The pieces of a rendered prompt with one image or video token for each run of rows, and the tokens around
        them. Raises InputError when the template wrote other tokens than one for each of `plans`, in their order."""
        marks: dict[str, type[Plan]] = {self.image: PicturePlan}
        if self.video:
            marks[self.video] = VideoPlan
        found: list[Piece] = []
        left = list(plans)
        closing = ""  # the template's own token behind a video, which goes
        for text, control in pieces:
            kind = marks.get(text) if control else None
            if control and text == closing:
                closing = ""
            elif kind is None:
                _put(found, text, control)
            elif not left or not isinstance(left[0], kind):
                raise InputError(
                    "this model's chat template does not print the pictures of these messages one after another, with"
                    " one mark for each"
                )
            else:
                plan = left.pop(0)
                if isinstance(plan, PicturePlan):
                    found += self._image(plan)
                else:
                    closing = self._video(found, plan)
        if left:
            raise InputError(
                f"this model's chat template leaves out {len(left)} of {len(plans)} pictures: put them into messages of"
                " the user"
            )
        return found

    def fill(
        self, ids: Sequence[int], runs: Sequence[Sequence[int]], known: Mapping[str, int]
    ) -> list[int]:
        """The ids of expanded pieces, with the next of `runs` in the place of each image or video token. `known`: ids
        of the control tokens."""
        marks, left = self._ids(known), iter(runs)
        return [j for i in ids for j in (next(left) if i in marks else (i,))]

    def fill_rows(
        self, ids: Sequence[int], runs: Sequence[Sequence[int]], known: Mapping[str, int]
    ) -> list[int]:
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

    def _image(self, plan: PicturePlan) -> list[Piece]:
        if not self.tiled:
            return [(self.image, True)] * len(plan.pieces)
        pieces: list[Piece] = [("<|image_start|>", True)]
        for piece in plan.pieces:
            if piece.kind == "tile":
                pieces.append((f"<|img_row_{piece.row}_col_{piece.column}|>", True))
            elif piece.kind == "thumbnail":
                pieces.append(("<|img_thumbnail|>", True))
            pieces.append((self.image, True))
        return [*pieces, ("<|image_end|>", True)]

    def _video(self, found: list[Piece], plan: VideoPlan) -> str:
        """Add a video to the pieces before it. Returns the template's token behind it, if that goes."""
        opening, closing = self.around
        wrapped = bool(found) and found[-1] == (opening, True)
        if wrapped:
            found.pop()
        assert self.video is not None
        for seconds in plan.times:
            _put(found, f"<{seconds:.1f} seconds>", False)
            found += [(opening, True), (self.video, True), (closing, True)]
        return closing if wrapped else ""


def _put(found: list[Piece], text: str, control: bool) -> None:
    """Add a piece. Plain text goes on after plain text, since the tokenizer joins letters across them."""
    if not control and found and not found[-1][1]:
        found[-1] = (found[-1][0] + text, False)
    else:
        found.append((text, control))


def grid_positions(ids: Sequence[int], grids: Mapping[int, Grid]) -> list[tuple[int, int, int]]:
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
