"""Known inputs: the same numbers on every machine, cheap to make in any length."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import cache
from operator import mul

_PERIOD = 251  # a prime: no row of a matrix begins as the one before


class Pattern:
    """Numbers from an integer hash that begin anew after 251: within `size` of `middle`, multiples of size / 16, so
    that f16 and bf16 hold them exactly where size is a power of two and middle a small multiple of 1/2."""

    def __init__(self, seed: int, middle: float = 0.0, size: float = 1.0) -> None:
        self.key = (seed, middle, size)
        self._values = _period(seed, middle, size)

    def __getitem__(self, index: int) -> float:
        return self._values[index % _PERIOD]

    def part(self, first: int, count: int) -> list[float]:
        """Numbers first .. first + count - 1."""
        at = first % _PERIOD
        return (self._values * ((at + count) // _PERIOD + 1))[at : at + count]

    def pack(self, count: int, dtype: str = "f32") -> bytes:
        """The first `count` numbers as they lie in memory."""
        period = pack(self._values, dtype)
        size = len(period) // _PERIOD
        return (period * (count // _PERIOD + 1))[: count * size]


@cache
def _period(seed: int, middle: float, size: float) -> list[float]:
    return [middle + size * (2 * n - 15) / 16 for n in steps(seed)]


@cache
def steps(seed: int) -> Sequence[int]:
    """251 whole numbers 0..15."""
    found = []
    for i in range(_PERIOD):
        word = (i + 1 + 1009 * seed) * 0x9E3779B1 & 0xFFFFFFFF
        word = (word ^ word >> 15) * 0x85EBCA77 & 0xFFFFFFFF
        found.append(word >> 13 & 15)
    return found


class Types:
    """Rows [groups, count, width] of which each is one of five: dot products with all of them are five."""

    COUNT = 5

    def __init__(self, seed: int, width: int) -> None:
        pattern = Pattern(seed)
        self.rows = [pattern.part(i * width, width) for i in range(self.COUNT)]
        self._steps = steps(seed + 1)

    def of(self, group: int, index: int) -> int:
        """Which of the five a row is."""
        return self._steps[(101 * group + index) % _PERIOD] % self.COUNT

    def pack(self, groups: Iterable[int], count: int, dtype: str = "f32") -> bytes:
        """All rows of these groups as they lie in memory."""
        packed = [pack(row, dtype) for row in self.rows]
        return b"".join(packed[self.of(g, i)] for g in groups for i in range(count))

    def dots(self, values: Sequence[float]) -> list[float]:
        """values . row of each of the five."""
        return [dot(row, values) for row in self.rows]


def pack(values: Sequence[float], dtype: str) -> bytes:
    """Little-endian f32 or f16."""
    return struct.pack(f"<{len(values)}{'e' if dtype == 'f16' else 'f'}", *values)


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    """Sum of products, in double precision."""
    total: float = sum(map(mul, a, b))
    return total
