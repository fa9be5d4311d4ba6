"""Known inputs for checks: the same numbers on every machine, quickly made in any length."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from operator import mul
from typing import TypeVar

_PERIOD = 251  # a prime, so that no row of a matrix begins like the one before


T = TypeVar("T")


def _stretch(period: list[T], first: int, count: int) -> list[T]:
    """Items first .. first + count - 1 of a list of 251 items that repeats."""
    at = first % _PERIOD
    return (period * ((at + count) // _PERIOD + 1))[at : at + count]


class Cycle:
    """251 numbers that repeat."""

    def __init__(self, values: list[float]) -> None:
        self._values = values

    def __getitem__(self, index: int) -> float:
        return self._values[index % _PERIOD]

    def part(self, first: int, count: int) -> list[float]:
        """Numbers first .. first + count - 1."""
        return _stretch(self._values, first, count)

    def map(self, function: Callable[[float], float]) -> Cycle:
        """The numbers with a function applied; each value is computed once."""
        return Cycle(list(map(function, self._values)))

    def rounded(self, dtype: str) -> Cycle:
        """The numbers as f32 or f16 holds them."""
        return Cycle(list(unpack(self.period(dtype), dtype)))

    def times(self, other: Cycle) -> Cycle:
        """Products of numbers, one by one."""
        return Cycle(list(map(mul, self._values, other._values)))

    def period(self, dtype: str = "f32", first: int = 0) -> bytes:
        """The bytes of 251 numbers, from number `first` on."""
        return pack(self.part(first, _PERIOD), dtype)

    def pack(self, count: int, dtype: str = "f32") -> bytes:
        """The bytes of the first `count` numbers."""
        period = self.period(dtype)
        return (period * (count // _PERIOD + 1))[: count * (len(period) // _PERIOD)]


class Pattern(Cycle):
    """Numbers from an integer hash: within `size` of `middle`, but never `middle` itself. They are multiples of
    size / 16, so f16 and bf16 hold them exactly when `size` is a power of two and `middle` a small multiple of 1/2.
    `thin`: four of five are 0."""

    def __init__(
        self, seed: int, middle: float = 0.0, size: float = 1.0, *, thin: bool = False
    ) -> None:
        self.key = (seed, middle, size, thin)
        super().__init__(_numbers(*self.key))


@cache
def _numbers(seed: int, middle: float, size: float, thin: bool) -> list[float]:
    values = [middle + size * (2 * n - 15) / 16 for n in range(16)]
    return [0.0 if thin and i % 5 else values[n] for i, n in enumerate(_steps(seed))]


def _steps(seed: int) -> list[int]:
    """251 whole numbers 0..15. Each seed below 250 walks through the same numbers with another stride."""
    hashed, stride = _hashed(), seed + 1
    return [hashed[(i * stride + seed) % _PERIOD] for i in range(_PERIOD)]


@cache
def _hashed() -> list[int]:
    found = []
    for i in range(_PERIOD):
        word = (i + 1) * 0x9E3779B1 & 0xFFFFFFFF
        word = (word ^ word >> 15) * 0x85EBCA77 & 0xFFFFFFFF
        found.append(word >> 13 & 15)
    return found


class Types:
    """Rows [groups, count, width]. Only five are different, so dot products with all rows are five."""

    COUNT = 5

    def __init__(self, seed: int, width: int) -> None:
        pattern = Pattern(seed)
        self.rows = [pattern.part(i * width, width) for i in range(self.COUNT)]
        self._kinds = [n % self.COUNT for n in _steps(seed + 1)]

    def kinds(self, group: int, count: int) -> list[int]:
        """For the first `count` rows of a group: which of the five each is."""
        return _stretch(self._kinds, 101 * group, count)

    def pack(self, groups: Iterable[int], count: int, dtype: str = "f32") -> bytes:
        """The bytes of all rows of these groups."""
        packed = [pack(row, dtype) for row in self.rows]
        return b"".join(packed[kind] for group in groups for kind in self.kinds(group, count))

    def dots(self, values: Sequence[float]) -> list[float]:
        """The dot product of `values` with each of the five rows."""
        return [dot(row, values) for row in self.rows]


def pack(values: Sequence[float], dtype: str) -> bytes:
    """The bytes of numbers as little-endian f32 or f16."""
    return struct.pack(f"<{len(values)}{'e' if dtype == 'f16' else 'f'}", *values)


def unpack(data: bytes, dtype: str) -> tuple[float, ...]:
    """The numbers that `pack` made bytes of."""
    letter = "e" if dtype == "f16" else "f"
    return struct.unpack(f"<{len(data) // struct.calcsize(letter)}{letter}", data)


def dot(a: Iterable[float], b: Iterable[float]) -> float:
    """Sum of products, in double precision."""
    total: float = sum(map(mul, a, b))
    return total
