"""The sizes that image processors resize a picture to, as transformers computes them (5.24), in the same float64.

Sizes are (width, height) in pixels. Python's `round` is meant where it stands: halves go to the even number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

Size = tuple[int, int]


def smart_resize(
    width: int, height: int, factor: int, least: int, most: int, *, shortest: int = 0
) -> Size:
    """Sides that are multiples of `factor`, an area between `least` and `most` pixels, and about the same shape
    (Qwen2-VL and later). LFM2-VL has a side count at least `shortest` before it looks at the area."""
    return _fitted((width, height), 1, 1, factor, (least, most), shortest)


def smart_resize_frames(
    width: int, height: int, frames: int, pair: int, factor: int, least: int, most: int
) -> Size:
    """As smart_resize, for a video (Qwen3-VL): the limits hold for the pixels of all `frames` together, whose number
    counts as rounded to a multiple of `pair`."""
    if min(width, height) < factor:
        scale = max(factor / height, factor / width)
        width, height = int(width * scale), int(height * scale)
    rounded = round(frames / pair) * pair
    return _fitted((width, height), frames, rounded, factor, (least, most), 0)


def _fitted(
    size: Size, frames: int, rounded: int, factor: int, limits: tuple[int, int], shortest: int
) -> Size:
    width, height = size
    least, most = limits
    w, h = (max(shortest, round(side / factor) * factor) for side in size)
    if rounded * h * w > most:
        beta = math.sqrt(frames * height * width / most)
        w, h = (max(factor, math.floor(side / beta / factor) * factor) for side in size)
    elif rounded * h * w < least:
        beta = math.sqrt(least / (frames * height * width))
        w, h = (math.ceil(side * beta / factor) * factor for side in size)
    return w, h


def too_large(width: int, height: int, patch: int, factor: int, most: float) -> bool:
    """Whether LFM2-VL cuts a picture into tiles: its area, rounded, is above `most` pixels."""
    w, h = (max(patch, round(side / factor) * factor) for side in (width, height))
    return w * h > most


@cache
def _tilings(least: int, most: int) -> Sequence[Size]:
    """All (columns, rows) of `least` to `most` tiles, by their number; of equal ones the narrow ones first."""
    found = [(w, h) for w in range(1, most + 1) for h in range(1, most + 1)]
    return sorted(
        (g for g in found if least <= g[0] * g[1] <= most), key=lambda g: (g[0] * g[1], g)
    )


def tiling(width: int, height: int, tile: int, least: int, most: int) -> Size:
    """(columns, rows): among all grids of `least` to `most` tiles the one whose shape is nearest to the picture's. Of
    equally near ones, a larger one is taken if the picture has more than half of its pixels (LFM2-VL)."""
    shape, best, distance = width / height, (1, 1), math.inf
    for columns, rows in _tilings(least, most):
        off = abs(shape - columns / rows)
        roomy = width * height > 0.5 * (tile * tile * columns * rows)
        if off < distance or (off == distance and roomy):
            best, distance = (columns, rows), off
    return best


def within_patches(width: int, height: int, patch: int, most: int) -> Size:
    """The largest size of about the same shape whose sides are multiples of `patch` and that has at most `most`
    patches (SigLIP2 NaFlex)."""

    def scaled(scale: float) -> Size:
        w, h = (max(patch, math.ceil(side * scale / patch) * patch) for side in (width, height))
        return w, h

    step = 1e-5
    low, high = step / 10, 100.0
    while high - low >= step:
        middle = (low + high) / 2
        w, h = scaled(middle)
        if (h / patch) * (w / patch) <= most:
            low = middle
        else:
            high = middle
    return scaled(low)


def shortest_edge(width: int, height: int, edge: int) -> Size:
    """The same shape, the shorter side `edge` pixels long."""
    short, long = sorted((width, height))
    other = int(edge * long / short)
    return (edge, other) if width <= height else (other, edge)
