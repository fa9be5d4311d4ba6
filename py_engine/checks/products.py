"""Rows of a model's matrix, and their products with known inputs, in double precision."""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Sequence
from operator import mul
from typing import NamedTuple

from py_engine.checks.inputs import Pattern, dot
from py_engine.checks.workbench import Bench, Read, constants, whole
from py_engine.graph.trace import Call, Tensor

_LOW = bytes(b & 15 for b in range(256))
_HIGH = bytes(b >> 4 for b in range(256))


class Product(NamedTuple):
    """w . x, and the sum of magnitudes that limits its rounding error."""

    value: float
    size: float

    def times(self, factor: float) -> Product:
        """The product with x * `factor`."""
        return Product(factor * self.value, abs(factor) * self.size)


class Input:
    """The input x of products. Most of it is 0, so that the CPU computes products quickly."""

    def __init__(self, values: Sequence[float]) -> None:
        self._size = len(values)
        self._places = [i for i, v in enumerate(values) if v]
        self._values = [values[i] for i in self._places]
        self._groups: dict[int, _Groups] = {}

    def __len__(self) -> int:
        """How many of the numbers are not 0."""
        return len(self._values)

    def terms(self, row: Sequence[float]) -> list[float]:
        """The terms of a row's product with x that are not 0."""
        return list(map(mul, self._values, map(row.__getitem__, self._places)))

    def groups(self, size: int) -> _Groups:
        """x in groups of so many numbers."""
        if size not in self._groups:
            edges = [bisect_left(self._places, i) for i in range(0, self._size + 1, size)]
            cuts = list(map(slice, edges, edges[1:]))
            parts = [self._values[cut] for cut in cuts]
            magnitudes = [sum(map(abs, part)) for part in parts]
            self._groups[size] = _Groups(cuts, list(map(sum, parts)), magnitudes)
        return self._groups[size]


class _Groups(NamedTuple):
    """An input, cut into groups."""

    cuts: list[slice]  # for each group: its numbers that are not 0
    sums: list[float]
    magnitudes: list[float]  # for each group: the sum of magnitudes


class MatrixRows:
    """Some rows of the matrix that a call reads, given as runs (first, count)."""

    def __init__(self, bench: Bench, call: Call, runs: Sequence[tuple[int, int]]) -> None:
        c = constants(call)
        [self._cols, self._group, scale_format] = whole(c, "K", "GROUP", "SCALE_FORMAT")
        names = (use.removeprefix("weight_").removesuffix("_any") for use in call.kernel.uses)
        self.format = next(n for n in names if n in ("f32", "f16", "bf16", "q4", "q8"))
        rows = [row for first, count in runs for row in range(first, first + count)]
        self._places = {row: place for place, row in enumerate(rows)}
        bits = {"f32": 32, "f16": 16, "bf16": 16, "q8": 8, "q4": 4}[self.format]
        self._row_bytes = self._cols * bits // 8
        self._scale_format = ("f16", "bf16", "f32")[scale_format]
        self._scale_bytes = 0
        if self.format in ("q4", "q8"):
            pair = 8 if self._scale_format == "f32" else 4
            self._scale_bytes = self._cols // self._group * pair

        def read(tensor: Tensor, size: int) -> Read:
            return bench.read_bytes(tensor, [(at * size, n * size) for at, n in runs if size])

        self._weight = read(call.tensors[1], self._row_bytes)
        self._scales = read(call.tensors[2 if self._scale_bytes else 1], self._scale_bytes)

    def values(self, row: int) -> Sequence[float]:
        """The values of a row of the matrix."""
        raw = self._part(self._weight, self._row_bytes, row)
        if not self._scale_bytes:
            return _floats(raw, self.format)
        fields, g, scales, biases = self._fields(raw), self._group, *self._affine(row)
        return [
            s * q + b
            for i, (s, b) in enumerate(zip(scales, biases, strict=True))
            for q in fields[i * g : (i + 1) * g]
        ]

    def product(self, row: int, x: Input) -> Product:
        """The product of a row with x."""
        raw = self._part(self._weight, self._row_bytes, row)
        if not self._scale_bytes:
            terms = x.terms(_floats(raw, self.format))
            return Product(sum(terms), sum(map(abs, terms)))
        scales, biases = self._affine(row)
        groups, terms = x.groups(self._group), x.terms(self._fields(raw))
        sums = [sum(terms[cut]) for cut in groups.cuts]
        largest = 15 if self.format == "q4" else 255
        most = [largest * abs(s) + abs(b) for s, b in zip(scales, biases, strict=True)]
        value = dot(scales, sums) + dot(biases, groups.sums)
        return Product(value, dot(most, groups.magnitudes))

    def _part(self, read: Read, size: int, row: int) -> bytes:
        at = self._places[row] * size
        return read.bytes[at : at + size]

    def _fields(self, raw: bytes) -> Sequence[int]:
        if self.format == "q8":
            return raw
        fields = bytearray(2 * len(raw))
        fields[0::2], fields[1::2] = raw.translate(_LOW), raw.translate(_HIGH)
        return fields

    def _affine(self, row: int) -> tuple[Sequence[float], Sequence[float]]:
        """(scales, biases) of the groups of a row."""
        numbers = _floats(self._part(self._scales, self._scale_bytes, row), self._scale_format)
        return numbers[0::2], numbers[1::2]


def _floats(raw: bytes, form: str) -> Sequence[float]:
    """Numbers of a tensor's dtype, from bytes in memory."""
    if form == "bf16":
        wide = bytearray(2 * len(raw))
        wide[2::4], wide[3::4] = raw[0::2], raw[1::2]
        raw, form = bytes(wide), "f32"
    if form == "f32":
        return memoryview(raw).cast("f")
    return struct.unpack(f"<{len(raw) // 2}e", raw)


class Outputs:
    """A sample of a layer's outputs, in short runs (first, middle, last), and the rows of the matrix that make them.

    `sections`: how many rows of the matrix make one output (a gate and its up: 2); they are one section's length apart.
    `count`: all outputs. `base`: the first row of the matrix for them.
    """

    def __init__(self, bench: Bench, call: Call, count: int, sections: int, base: int) -> None:
        # Workgroups have a power of two of rows. The runs have every place modulo 8: 0 to 2, then 3 and 4, and, where
        # `count` is a multiple of 8, 5 to 7.
        middle = count // 2 // 8 * 8 + 3
        runs = {0: 3, middle: 2, max(0, count - 3): 3}
        self.runs = [(at, min(n, count - at)) for at, n in runs.items() if at < count]
        self.indices = [i for at, n in self.runs for i in range(at, at + n)]
        starts = [base + s * count for s in range(sections)]
        self._rows = [[start + i for start in starts] for i in self.indices]
        runs_of_rows = [(start + at, n) for start in starts for at, n in self.runs]
        self._matrix = MatrixRows(bench, call, runs_of_rows)
        self._products: dict[Input, list[list[Product]]] = {}

    @classmethod
    def of(cls, bench: Bench, call: Call, count: int, sections: int, base: int) -> Outputs:
        """The sample for a call; the same object for all calls with these outputs."""
        key = ("outputs", call.tensors[1].binding, count, sections, base)
        return bench.keep(key, lambda: cls(bench, call, count, sections, base))

    def products(self, x: Input) -> list[list[Product]]:
        """For each output, one product for each section."""
        if x not in self._products:
            self._products[x] = [[self._matrix.product(r, x) for r in rows] for rows in self._rows]
        return self._products[x]

    def at(self, start: int) -> list[tuple[int, int]]:
        """The runs of the sample in a row that begins at `start`."""
        return [(start + at, n) for at, n in self.runs]

    def of_pattern(self, pattern: Pattern, start: int) -> list[float]:
        """The pattern's numbers at the sampled outputs."""
        return [pattern[start + i] for i in self.indices]
