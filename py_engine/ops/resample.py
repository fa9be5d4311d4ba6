"""Resizes pictures as Pillow does 8-bit ones (shaders/resample.wgsl): weights on the host, sums in whole numbers."""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from py_engine.graph.trace import Tensor, Trace, kernel

Filter = Literal["bilinear", "bicubic"]

PRECISION = 22  # bits behind the point of a weight
GROUP = 64  # threads of a workgroup, each a pixel of a line
PARAMETERS = 12  # words of the parameters of a pass


def _bilinear(x: float) -> float:
    x = abs(x)
    return 1.0 - x if x < 1.0 else 0.0


def _bicubic(x: float) -> float:
    """Keys' cubic with a = -0.5, in the order of operations of Pillow's."""
    a, x = -0.5, abs(x)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    if x < 2.0:
        return (((x - 5) * x + 8) * x - 4) * a
    return 0.0


_FILTERS: Mapping[Filter, tuple[Callable[[float], float], float]] = {
    "bilinear": (_bilinear, 1.0),
    "bicubic": (_bicubic, 2.0),
}


@dataclass(frozen=True)
class Taps:
    """The weights of a row (or column) of output pixels first .. first + len(starts) - 1.

    Output i is the sum over t < width of weights[i * width + t] * input[starts[i] + t], where weights behind the
    filter's end are 0, divided by 2^PRECISION. It sees inputs starts[i] .. stops[i] - 1, all of them begin .. end - 1.
    """

    starts: array[int]  # unsigned
    stops: array[int]
    weights: array[int]  # signed
    width: int

    @property
    def begin(self) -> int:
        """The first input that any of them sees."""
        return self.starts[0]

    @property
    def end(self) -> int:
        """The input behind the last one that any of them sees."""
        return self.stops[-1]


@lru_cache(maxsize=8)
def taps(source: int, target: int, kind: Filter, first: int = 0, count: int | None = None) -> Taps:
    """Weights that resize `source` pixels to `target`, for the `count` output pixels from `first` on (None: all).

    The same numbers as Pillow's precompute_coeffs and normalize_coeffs_8bpc (src/libImaging/Resample.c). Frames of a
    video and tiles share them, so nobody changes them.
    """
    function, reach = _FILTERS[kind]
    scale = source / target
    stretch = max(scale, 1.0)
    support = reach * stretch
    width = min(math.ceil(support) * 2 + 1, source)
    shrink = 1.0 / stretch
    count = target - first if count is None else count
    starts, stops, weights = array("I"), array("I"), array("i")
    for i in range(first, first + count):
        center = (i + 0.5) * scale
        low = max(int(center - support + 0.5), 0)
        high = min(int(center + support + 0.5), source)
        row = [function((x - center + 0.5) * shrink) for x in range(low, high)]
        total = 0.0
        for weight in row:  # not sum(), which rounds less
            total += weight
        if total != 0.0:
            row = [weight / total for weight in row]
        fixed = [int(weight * (1 << PRECISION) + (0.5 if weight >= 0 else -0.5)) for weight in row]
        starts.append(low)
        stops.append(high)
        weights.extend(fixed + [0] * (width - len(fixed)))
    return Taps(starts, stops, weights, width)


def columns_first(source: tuple[int, int], target: tuple[int, int]) -> bool:
    """Whether Pillow resizes the columns before the rows, from a size to another (width, height).

    The order matters, since each pass rounds. This is what Pillow 13 does, found by trying (the same for all filters);
    older versions always begin with the rows.
    """
    (width, height), (w, h) = source, target
    return h < height and height - h > 2 * (width - w)


def resample(
    trace: Trace,
    source: Tensor,
    weights: Tensor,
    starts: Tensor,
    parameters: Tensor,
    target: Tensor,
    size: tuple[int, int],
    *,
    channels: Literal[1, 3, 4],
    vertical: bool,
    label: str = "resample",
) -> None:
    """One pass: at most `size` (width, height) pixels of `target`, u32 with R, G, B from the lowest byte up.

    source: bytes (as u32 words), `channels` a pixel: grey, RGB, or RGB and one that is not read. weights i32 and starts
    u32 as Taps has them. parameters u32 [PARAMETERS] (`pack_parameters`) say where the pixels are, so the same
    recording serves all bands of a picture. `vertical`: sums run down a column, else along a row.
    """
    width, height = size
    trace.call(
        label,
        kernel("resample", constants={"CHANNELS": channels, "VERTICAL": vertical}),
        [(source, "r"), (weights, "r"), (starts, "r"), (parameters, "r"), (target, "w")],
        (-(-width // GROUP), height, 1),
    )


def pack_parameters(
    line: int,
    lines: int,
    source: tuple[int, int, int],
    width: int,
    target: tuple[int, int],
    first: int = 0,
) -> bytes:
    """The parameters of a pass.

    line, lines: output pixels of a line, and lines. source: where pixel (0, 0) of the input is (it may be before the
    start of the buffer, if it has no weight), the distance between its rows, between its columns. width: weights of a
    pixel. target: where pixel (0, 0) of the output goes, and the distance between its lines. first: place in the
    weights of the first output row or column. All in pixels.
    """
    return struct.pack(f"<{PARAMETERS}i", line, lines, *source, width, first, *target, 0, 0, 0)
