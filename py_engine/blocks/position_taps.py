"""How learned positions of patches, a square table, are resampled to a picture's grid: the taps of one axis.

Resampling is separable: a patch's position is the table weighted by the taps of its row and of its column. The host
computes them, once for each grid; shaders/patch_positions.wgsl applies them.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import ceil, floor
from typing import Literal

# corners: bilinear between the centres of the corners (Qwen's towers). triangle: bilinear, half pixels, widened where
# the grid is smaller than the table (SigLIP2 NaFlex; torch's antialias). bicubic: Keys' kernel with a = -0.75, half
# pixels, the edge repeated (DINOv2; torch's bicubic).
Resampling = Literal["corners", "triangle", "bicubic"]

Taps = tuple[int, Sequence[float]]  # the first place in the table, and weights from there on


def most_taps(kind: Resampling, side: int) -> int:
    """The most taps of an axis, whatever the grid."""
    return {"corners": min(2, side), "triangle": side, "bicubic": min(4, side)}[kind]


def axis_taps(kind: Resampling, side: int, count: int) -> list[Taps]:
    """The taps of each of `count` places, on a table that is `side` wide. Weights sum to 1."""
    make = {"corners": _corners, "triangle": _triangle, "bicubic": _bicubic}[kind]
    return [make(side, count, i) for i in range(count)]


def packed(kind: Resampling, side: int, count: int) -> bytes:
    """The taps of `count` places, f32 [count, 2 + most_taps]: the first place, how many, and their weights."""
    width, out = most_taps(kind, side), array("f")
    for first, weights in axis_taps(kind, side, count):
        out.extend((first, len(weights), *weights))
        out.extend([0.0] * (width - len(weights)))
    return out.tobytes()


def _corners(side: int, count: int, i: int) -> Taps:
    place = i * (side - 1) / (count - 1) if count > 1 else 0.0
    first = min(floor(place), max(side - 2, 0))
    part = place - first
    return first, [1.0 - part, part] if side > 1 else [1.0]


def _triangle(side: int, count: int, i: int) -> Taps:
    scale = side / count
    support, centre = max(scale, 1.0), (i + 0.5) * scale - 0.5
    first, end = max(ceil(centre - support), 0), min(floor(centre + support), side - 1) + 1
    weights = [max(1.0 - abs(j - centre) / support, 0.0) for j in range(first, end)]
    total = sum(weights)
    return first, [w / total for w in weights]


def _bicubic(side: int, count: int, i: int) -> Taps:
    place = (i + 0.5) * side / count - 0.5
    before = floor(place)
    first, width = min(max(before - 1, 0), max(side - 4, 0)), min(4, side)
    weights = [0.0] * width
    for j in range(before - 1, before + 3):
        weights[min(max(j, 0), side - 1) - first] += _keys(abs(place - j))
    return first, weights


def _keys(x: float, a: float = -0.75) -> float:
    """Keys 1981, doi:10.1109/TASSP.1981.1163711."""
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0
