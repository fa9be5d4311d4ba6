"""Rows of integers as shaders/quantise.wgsl writes them, for checks."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from py_engine.ops.quantise import quantised_words

_MOST = 16256  # the largest integer
_PLACES = (0, 2, 4, 6, 1, 3, 5, 7)  # the order of eight parts in a row


class IntegerRow(NamedTuple):
    """Numbers integers[i] * scale."""

    integers: list[int]
    scale: float

    @property
    def values(self) -> list[float]:
        """The numbers."""
        return [self.scale * q for q in self.integers]

    @property
    def sums(self) -> list[float]:
        """The sum of each 64 integers."""
        return [float(sum(self.integers[i : i + 64])) for i in range(0, len(self.integers), 64)]

    def pack(self, factor: float = 1.0) -> bytes:
        """The bytes of the row times a factor."""
        high = [(q + 64) >> 7 for q in self.integers]
        low = [q - 128 * h for q, h in zip(self.integers, high, strict=True)]
        numbers = [*self.sums, self.scale * factor]
        size = quantised_words(len(self.integers)) * 4
        packed = _interleaved(high) + _interleaved(low) + struct.pack(f"<{len(numbers)}f", *numbers)
        return packed + bytes(size - len(packed))


def integer_row(values: Sequence[float]) -> IntegerRow:
    """Numbers rounded as the kernel rounds them. They are not all 0."""
    [scale] = struct.unpack("<f", struct.pack("<f", max(map(abs, values)) / _MOST))
    return IntegerRow([round(v / scale) for v in values], scale)


def unpacked(data: bytes, k: int) -> tuple[IntegerRow, Sequence[float]]:
    """A row of k numbers, and the sums that stand with it."""
    high, low = _in_order(data[:k]), _in_order(data[k : 2 * k])
    numbers = struct.unpack(f"<{k // 64 + 1}f", data[2 * k : 2 * k + k // 16 + 4])
    integers = [128 * h + q for h, q in zip(high, low, strict=True)]
    return IntegerRow(integers, numbers[-1]), numbers[:-1]


def _interleaved(parts: list[int]) -> bytes:
    given, found = struct.pack(f"{len(parts)}b", *parts), bytearray(len(parts))
    for i, place in enumerate(_PLACES):
        found[i::8] = given[place::8]
    return bytes(found)


def _in_order(data: bytes) -> Sequence[int]:
    found = bytearray(len(data))
    for i, place in enumerate(_PLACES):
        found[place::8] = data[i::8]
    return memoryview(found).cast("b")
