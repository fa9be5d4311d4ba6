"""Plans: into which pieces the rules of a model cut a picture or a video. Needs no pixels and no GPU."""

from __future__ import annotations

from collections.abc import Sequence

from py_engine.errors import InputError
from py_engine.pictures.plan import PicturePlan, Piece, VideoPlan
from py_engine.pictures.rules import Area, Fixed, Patches, Rules, Tiles
from py_engine.pictures.sizes import (
    Size,
    shortest_edge,
    smart_resize,
    smart_resize_frames,
    tiling,
    too_large,
    within_patches,
)

MAX_ASPECT = 200  # of the longer side to the shorter
MAX_FRAMES = 768


def check_size(width: int, height: int, what: str = "the picture") -> None:
    """Raise InputError for sides of 0 and for a shape that no model was made for."""
    if width < 1 or height < 1:
        raise InputError(f"{what} is {width} x {height} pixels: it has no pixels at all")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InputError(
            f"{what} is {width} x {height} pixels: one side is more than {MAX_ASPECT} times as long as the other. "
            "Cut it into several pictures."
        )


def plan_picture(rules: Rules, width: int, height: int) -> PicturePlan:
    """The pieces of a picture of this size (after its orientation was applied). Raises InputError (check_size)."""
    check_size(width, height)
    sizing = rules.sizing
    block = rules.patch * rules.merge
    if isinstance(sizing, Tiles):
        return _tiled(rules, sizing, width, height)
    if isinstance(sizing, Area):
        size = smart_resize(width, height, block, sizing.least, sizing.most)
    elif isinstance(sizing, Patches):
        size = within_patches(width, height, rules.patch, sizing.most)
    else:
        return PicturePlan(width, height, [_cropped(rules, sizing, width, height)])
    return PicturePlan(width, height, [_whole(rules, size)])


def _tiled(rules: Rules, sizing: Tiles, width: int, height: int) -> PicturePlan:
    block = rules.patch * rules.merge
    whole = smart_resize(width, height, block, sizing.least, sizing.most, shortest=block)
    if not too_large(width, height, rules.patch, block, sizing.split):
        return PicturePlan(width, height, [_whole(rules, whole)])
    tile = sizing.tile
    columns, rows = tiling(width, height, tile, sizing.fewest, sizing.largest)
    size, grid = (columns * tile, rows * tile), (1, tile // rules.patch, tile // rules.patch)
    pieces = [
        Piece(
            size, (x * tile, y * tile, tile, tile), grid, (tile // block) ** 2, "tile", y + 1, x + 1
        )
        for y in range(rows)
        for x in range(columns)
    ]
    if sizing.thumbnail and len(pieces) > 1:
        small = _whole(rules, whole)
        pieces.append(Piece(small.size, small.box, small.grid, small.rows, "thumbnail"))
    return PicturePlan(width, height, pieces, (rows, columns))


def _whole(rules: Rules, size: Size, frames: int = 1) -> Piece:
    width, height = size
    grid = (frames, height // rules.patch, width // rules.patch)
    rows = frames * (grid[1] // rules.merge) * (grid[2] // rules.merge)
    return Piece(size, (0, 0, width, height), grid, rows)


def _cropped(rules: Rules, sizing: Fixed, width: int, height: int) -> Piece:
    edge = sizing.size
    size = shortest_edge(width, height, edge) if isinstance(edge, int) else edge
    w, h = sizing.crop or size
    left, top = (size[0] - w) // 2, (size[1] - h) // 2
    # What is left over at the right and at the bottom fills no patch: a convolution with this stride skips it.
    grid = (1, h // rules.patch, w // rules.patch)
    return Piece(size, (left, top, w, h), grid, grid[1] * grid[2])


def plan_video(
    rules: Rules, width: int, height: int, frames: int, times: Sequence[float]
) -> VideoPlan:
    """The plan of a video of `frames` pictures of one size. `times`: seconds at which each was taken.

    Raises InputError for models that take no videos, for more than MAX_FRAMES frames, and as check_size does.
    """
    check_size(width, height, "a frame of the video")
    pair, sizing = rules.frames, rules.sizing
    if pair == 1 or not isinstance(sizing, Area):
        raise InputError("this model takes no videos: give pictures instead")
    if not pair <= frames <= MAX_FRAMES:
        raise InputError(f"a video of {frames} frames: give {pair} to {MAX_FRAMES}")
    if len(times) != frames:
        raise InputError(f"{len(times)} times for {frames} frames: give one for each")
    size = smart_resize_frames(
        width, height, frames, pair, rules.patch * rules.merge, sizing.least, sizing.most
    )
    steps = -(-frames // pair)
    padded = [*times, *[times[-1]] * (steps * pair - frames)]
    means = [(padded[i] + padded[i + pair - 1]) / 2 for i in range(0, len(padded), pair)]
    return VideoPlan(width, height, frames, pair, _whole(rules, size, steps), means)
