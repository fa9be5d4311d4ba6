"""Known inputs for checks: the same numbers on every machine, quickly made in any length."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from operator import mul
from typing import TypeVar

from py_engine.graph.trace import Q8_GROUP

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
    """Rows [groups, count, width], of which only five are different. So five dot products give those of all rows."""

    COUNT = 5

    def __init__(self, seed: int, width: int, dtype: str = "f32") -> None:
        """`dtype`: what the rows are stored as, which may round them."""
        pattern = Pattern(seed)
        self._dtype = dtype
        self.rows = [held(pattern.part(i * width, width), dtype) for i in range(self.COUNT)]
        self._kinds = [n % self.COUNT for n in _steps(seed + 1)]

    def kinds(self, group: int, count: int) -> list[int]:
        """For the first `count` rows of a group: which of the five each is."""
        return _stretch(self._kinds, 101 * group, count)

    def pack(self, groups: Iterable[int], count: int) -> bytes:
        """The bytes of all rows of these groups."""
        packed = [pack(row, self._dtype) for row in self.rows]
        return b"".join(packed[kind] for group in groups for kind in self.kinds(group, count))

    def dots(self, values: Sequence[float]) -> list[float]:
        """The dot product of `values` with each of the five rows."""
        return [dot(row, values) for row in self.rows]


def pack(values: Sequence[float], dtype: str) -> bytes:
    """The bytes of numbers as little-endian f32 or f16, or of a row as q8 (shaders/lib/kv_q8.wgsl)."""
    if dtype == "q8":
        return _pack_q8(values)
    return struct.pack(f"<{len(values)}{'e' if dtype == 'f16' else 'f'}", *values)


def unpack(data: bytes, dtype: str) -> list[float]:
    """The numbers that `pack` made these bytes of, as far as `dtype` holds them."""
    if dtype == "q8":
        return _unpack_q8(data)
    form = "e" if dtype == "f16" else "f"
    return list(struct.unpack(f"<{len(data) // struct.calcsize(form)}{form}", data))


def held(values: Sequence[float], dtype: str) -> list[float]:
    """The numbers as `dtype` holds them."""
    return unpack(pack(values, dtype), dtype)


def spread(values: Sequence[float], dtype: str) -> list[float]:
    """A row of a query or a key as a KV cache of this dtype takes it: for q8 multiplied by Hadamard matrices
    (shaders/lib/kv_append_q8.wgsl)."""
    found = list(values)
    if dtype != "q8":
        return found
    width = len(found)
    block = min(width & -width, Q8_GROUP)
    half = 1
    while half < block:
        for i in range(width):
            if not i & half:
                found[i], found[i + half] = found[i] + found[i + half], found[i] - found[i + half]
        half *= 2
    return [v / math.sqrt(block) for v in found]


def _pack_q8(values: Sequence[float]) -> bytes:
    ends, found = b"", bytearray()
    for at in range(0, len(values), Q8_GROUP):
        group = values[at : at + Q8_GROUP]
        pair = struct.pack("<2e", min(group), max(group))
        least, greatest = struct.unpack("<2e", pair)
        step = (greatest - least) / 255 or 1.0
        found += bytes(min(max(int((v - least) / step + 0.5), 0), 255) for v in group)
        ends += pair
    return bytes(found) + ends


def _unpack_q8(data: bytes) -> list[float]:
    groups = -(-len(data) // (Q8_GROUP + 4))
    width = len(data) - 4 * groups
    ends = struct.unpack(f"<{2 * groups}e", data[width:])
    found = []
    for i, byte in enumerate(data[:width]):
        least, greatest = ends[i // Q8_GROUP * 2 :][:2]
        found.append(least + (greatest - least) * byte / 255)
    return found


def dot(a: Iterable[float], b: Iterable[float]) -> float:
    """Sum of products, in double precision."""
    total: float = sum(map(mul, a, b))
    return total
