"""What is cut from a picture: its pieces, with their sizes, grids of patches, and rows in the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from py_engine.pictures.sizes import Size

Grid = tuple[int, int, int]  # patches: in time, down, across


@dataclass(frozen=True)
class Piece:
    """A part of a picture (or of a video) that the tower sees by itself.

    The picture is resized to `size` (width, height); the piece is `box` of that: (left, top, width, height) in pixels.
    `grid`: its patches (time, down, across). `rows`: how many rows the projector makes of it, which is what it takes in
    the prompt. `kind`: "whole", or "tile" with its `row` and `column` in the picture (from 1), or "thumbnail".
    """

    size: Size
    box: tuple[int, int, int, int]
    grid: Grid
    rows: int
    kind: Literal["whole", "tile", "thumbnail"] = "whole"
    row: int = 0
    column: int = 0

    @property
    def patches(self) -> int:
        """How many patches its grid has."""
        t, h, w = self.grid
        return t * h * w


@dataclass(frozen=True)
class PicturePlan:
    """The pieces of one picture, in the order in which they stand in the prompt.

    `width`, `height`: the picture's own. `tiles`: (rows, columns) of the tiles, (1, 1) for a picture in one piece.
    """

    width: int
    height: int
    pieces: Sequence[Piece]
    tiles: tuple[int, int] = (1, 1)

    @property
    def rows(self) -> int:
        """Rows that the picture's pieces take in the prompt, without the marks between them."""
        return sum(piece.rows for piece in self.pieces)


@dataclass(frozen=True)
class VideoPlan:
    """The frames of a video as one piece, whose grid has a step for every `pair` frames.

    `times`: for each step the seconds that stand before it in the prompt (mean of its frames). The last frame is
    repeated where it has no partner. `rows_each`: rows of one step in the prompt.
    """

    width: int
    height: int
    frames: int
    pair: int
    piece: Piece
    times: Sequence[float]

    @property
    def rows(self) -> int:
        """Rows of all steps in the prompt."""
        return self.piece.rows

    @property
    def rows_each(self) -> int:
        """Rows of one step."""
        return self.piece.rows // self.piece.grid[0]
