"""Checks of the kernels that prepare pictures: whole numbers, so every bit is compared."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from py_engine.checks.workbench import Bench, Check, constants, difference, whole
from py_engine.graph.trace import Call, Tensor
from py_engine.ops import patches as cutting
from py_engine.ops import resample as resizing

_SIZE, _LINES = 75, 3  # pixels of a line, more than a workgroup; lines


def _byte(i: int) -> int:
    """Known bytes: 0 and 255 among them, so that sums leave the range on both sides."""
    return min(255, (i * 97 + i // 7) % 331)


def resample(bench: Bench, calls: Sequence[Call]) -> Check:
    """resample.wgsl: three lines of a cubic, from 131 pixels to 75, with room between the lines of the input; or as
    many columns."""
    [call] = calls
    [channels, vertical] = whole(constants(call), "CHANNELS", "VERTICAL")
    given = resizing.taps(131, _SIZE, "bicubic")
    row, column = (_LINES + 2, 1) if vertical else (133, 1)
    size = (_LINES, _SIZE) if vertical else (_SIZE, _LINES)
    pixels = 131 * row if vertical else row * _LINES
    raw = bytes(map(_byte, range(pixels * channels + 4)))[: -(-pixels * channels // 4) * 4]
    target = bench.make("resized", size[1], size[0] + 1, dtype="u32")

    def put(name: str, data: bytes) -> Tensor:
        return bench.put(name, data, len(data) // 4, dtype="u32")

    parameters = resizing.pack_parameters(*size, (2, row, column), given.width, (1, size[0] + 1))
    bench.call(
        call,
        [
            put("pixels", raw + bytes(12)),
            put("weights", given.weights.tobytes()),
            put("starts", given.starts.tobytes()),
            put("parameters", parameters),
            target,
        ],
        (-(-size[0] // resizing.GROUP), size[1], 1),
    )
    got = bench.read(target)

    def value(place: int, line: int, colour: int) -> int:
        total = 1 << resizing.PRECISION - 1
        for t in range(given.stops[place] - given.starts[place]):
            at = given.starts[place] + t
            pixel = 2 + (at * row + line if vertical else line * row + at)
            at = pixel * channels + (colour if channels > 1 else 0)
            total += given.weights[place * given.width + t] * (raw + bytes(12))[at]
        return min(max(total >> resizing.PRECISION, 0), 255)

    def verify() -> str:
        words, wide = got.words(), size[0] + 1
        for place in (0, 1, 37, 63, 64, _SIZE - 1):
            for line in range(_LINES):
                x, y = (line, place) if vertical else (place, line)
                wanted = sum(value(place, line, c) << 8 * c for c in range(3)) | 0xFF000000
                found = words[1 + y * wide + x] if 1 + y * wide + x < len(words) else wanted
                if found != wanted:
                    return f"pixel ({x}, {y}) is {found:08x}, not {wanted:08x}"
        return ""

    return Check(calls, verify)


def patches(bench: Bench, calls: Sequence[Call]) -> Check:
    """patches.wgsl: one row of squares of patches, of two different pictures."""
    [call] = calls
    [patch, merge, frames, last] = whole(
        constants(call), "PATCH", "MERGE", "FRAMES", "CHANNELS_LAST"
    )
    across, width = 2 * merge, 2 * merge * patch + 1
    count, area = merge * across, patch * patch
    pictures = [bytes(_byte(i + 5 * f) for i in range(4 * merge * patch * width)) for f in range(2)]
    table = cutting.values((0.5, 0.25, 0.125), (0.5, 1.0, 2.0), 1 / 255)
    given = struct.unpack("<768f", table)
    y = bench.make("patches", count + 1, 3 * frames * area)
    words = cutting.pack_parameters(count, across, width, 1)
    bench.call(
        call,
        [
            *(bench.put("picture", p, len(p) // 4, dtype="u32") for p in pictures),
            bench.put("values", table, 3, 256),
            bench.put("parameters", words, 4, dtype="u32"),
            y,
        ],
        (count, 1, 1),
    )
    sample = sorted({0, 1, merge, count - 1})
    got = [bench.read(y, (1 + n) * 3 * frames * area, 3 * frames * area) for n in sample]

    def row(n: int) -> list[float]:
        square, inside = divmod(n, merge * merge)
        top = inside // merge * patch
        left = (square * merge + inside % merge) * patch
        found = [0.0] * (3 * frames * area)
        for i in range(area):
            pixel = 4 * ((top + i // patch) * width + left + i % patch)
            for f in range(frames):
                for c in range(3):
                    at = 3 * i + c if last else (c * frames + f) * area + i
                    found[at] = given[256 * c + pictures[f][pixel + c]]
        return found

    def verify() -> str:
        wrong = (difference(read.floats(), row(n)) for n, read in zip(sample, got, strict=True))
        return next(filter(None, wrong), "")

    return Check(calls, verify)
