"""Checks of the kernels around matrices: embedding, norms, products for a token and for a chunk.

The matrix is the model's own, read back where results are compared; inputs, biases and norms are known ones.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import mul
from typing import NamedTuple

from py_engine.generate.checks.bench import (
    TOLERANCE_F16,
    Bench,
    Check,
    Read,
    constants,
    difference,
    first_of,
    gelu_tanh,
    normed,
    silu,
    whole,
)
from py_engine.generate.checks.inputs import Pattern, dot, pack
from py_engine.generate.checks.short_conv import ShortConvolution
from py_engine.graph.buffers import Dtype
from py_engine.graph.trace import Call, Tensor
from py_engine.ops.gate import ACTIVATIONS
from py_engine.ops.matvec import EPILOGUES

# Of the sum of all |w x| of a product, of quantised w of |scale| q and |bias|: f32 sums stay within 1e-6 of it. A chunk
# of 32 left out of rows of 8192 is 1e-4 of it.
_PRODUCT = 1e-5
# Tensor units see w rounded to 11 bits: that is at most 2^-11 of the sum, and its square root of K-th part if the
# errors are of either sign, as they are; this is 16 times that.
_UNITS = 16 * 2.0**-11

_X, _NORM, _BIAS, _Y = 31, 32, 33, 34  # seeds
_FACTORS = (1.0, -0.5, 0.75, -1.25, 0.25)  # of the rows of a chunk
_ABSOLUTE = 1e-6  # what a sum with numbers of size 1 may be off by, whatever the product
_ACTIVATE = {ACTIVATIONS["silu"]: silu, ACTIVATIONS["gelu_tanh"]: gelu_tanh}
_READING = (EPILOGUES["add"], EPILOGUES["multiply"])  # these look at what y holds
_LOW = bytes(b & 15 for b in range(256))
_HIGH = bytes(b >> 4 for b in range(256))


class Product(NamedTuple):
    """w . x and what its rounding errors are a part of."""

    value: float
    size: float


class Input:
    """x of products, with its sums over groups."""

    def __init__(self, values: Sequence[float]) -> None:
        self.values = values
        self._groups: dict[int, list[tuple[Sequence[float], float, float]]] = {}

    def groups(self, size: int) -> list[tuple[Sequence[float], float, float]]:
        """Of each group: its values, their sum, the sum of their magnitudes."""
        if size not in self._groups:
            parts = [self.values[i : i + size] for i in range(0, len(self.values), size)]
            self._groups[size] = [(p, sum(p), sum(map(abs, p))) for p in parts]
        return self._groups[size]


class MatrixRows:
    """Rows first .. first + count - 1 of the matrix that a call reads."""

    def __init__(self, bench: Bench, call: Call, first: int, count: int) -> None:
        c = constants(call)
        [self._cols, self._group, scale_format] = whole(c, "K", "GROUP", "SCALE_FORMAT")
        names = (use.removeprefix("weight_").removesuffix("_any") for use in call.kernel.uses)
        self.format = next(n for n in names if n in ("f32", "f16", "bf16", "q4", "q8"))
        self.first, self.count = first, count
        bits = {"f32": 32, "f16": 16, "bf16": 16, "q8": 8, "q4": 4}[self.format]
        self._row_bytes = self._cols * bits // 8
        weight, scales = call.tensors[1], call.tensors[2]
        self._weight = bench.read_bytes(weight, first * self._row_bytes, count * self._row_bytes)
        self._scales: Read | None = None
        self._scale_format = ("f16", "bf16", "f32")[scale_format]
        if self.format in ("q4", "q8"):
            self._pairs = self._cols // self._group
            size = self._pairs * (8 if self._scale_format == "f32" else 4)
            self._scales = bench.read_bytes(scales, first * size, count * size)

    def values(self, row: int) -> Sequence[float]:
        """Row `row` of the matrix, one of these."""
        raw = self._raw(row)
        if self._scales is None:
            return _floats(raw, self.format)
        fields = self._fields(raw)
        pairs = (pair for pair in self._affine(row) for _ in range(self._group))
        return [s * q + b for q, (s, b) in zip(fields, pairs, strict=True)]

    def product(self, row: int, x: Input) -> Product:
        """Row . x."""
        raw = self._raw(row)
        if self._scales is None:
            terms = list(map(mul, _floats(raw, self.format), x.values))
            return Product(sum(terms), sum(map(abs, terms)))
        fields, g = self._fields(raw), self._group
        largest = 15 if self.format == "q4" else 255
        value = size = 0.0
        groups = x.groups(g)
        for i, ((s, b), (part, total, magnitude)) in enumerate(
            zip(self._affine(row), groups, strict=True)
        ):
            value += s * dot(fields[i * g : (i + 1) * g], part) + b * total
            size += (abs(s) * largest + abs(b)) * magnitude
        return Product(value, size)

    def _raw(self, row: int) -> bytes:
        at = (row - self.first) * self._row_bytes
        return self._weight.bytes[at : at + self._row_bytes]

    def _fields(self, raw: bytes) -> Sequence[int]:
        if self.format == "q8":
            return raw
        fields = bytearray(2 * len(raw))
        fields[0::2], fields[1::2] = raw.translate(_LOW), raw.translate(_HIGH)
        return fields

    def _affine(self, row: int) -> list[tuple[float, float]]:
        """(scale, bias) of each group of a row."""
        assert self._scales is not None
        size = self._pairs * (8 if self._scale_format == "f32" else 4)
        at = (row - self.first) * size
        numbers = _floats(self._scales.bytes[at : at + size], self._scale_format)
        return list(zip(numbers[0::2], numbers[1::2], strict=True))


def _floats(raw: bytes, form: str) -> Sequence[float]:
    """Numbers as they lie in memory."""
    if form == "bf16":
        wide = bytearray(2 * len(raw))
        wide[2::4], wide[3::4] = raw[0::2], raw[1::2]
        raw, form = bytes(wide), "f32"
    if form == "f32":
        return memoryview(raw).cast("f")
    return struct.unpack(f"<{len(raw) // 2}e", raw)


class Outputs:
    """A sample of a layer's outputs in short runs (first, middle, last), and the rows of the matrix behind them.

    `sections`: rows of the matrix behind an output, as far apart as a section is long (a gate and its up). `count`
    outputs; the matrix's rows for them begin at `base`.
    """

    def __init__(self, bench: Bench, call: Call, count: int, sections: int, base: int) -> None:
        # Of a workgroup's rows, which are a power of two, the first five and the last three are among them.
        middle = count // 2 // 8 * 8 + 3
        runs = {0: 3, middle: 2, max(0, count - 3): 3}
        self.runs = [(at, min(n, count - at)) for at, n in runs.items() if at < count]
        self._parts = [
            [MatrixRows(bench, call, base + s * count + at, n) for s in range(sections)]
            for at, n in self.runs
        ]
        self._base, self._count = base, count
        self._products: dict[Input, list[list[Product]]] = {}

    @classmethod
    def of(cls, bench: Bench, call: Call, count: int, sections: int, base: int) -> Outputs:
        """The same for all calls that have these outputs."""
        key = ("outputs", call.tensors[1].binding, count, sections, base)
        return bench.keep(key, lambda: cls(bench, call, count, sections, base))

    def products(self, x: Input) -> list[list[Product]]:
        """For each output, one product for each section."""
        if x not in self._products:
            self._products[x] = [
                [p.product(self._base + s * self._count + i, x) for s, p in enumerate(parts)]
                for (at, n), parts in zip(self.runs, self._parts, strict=True)
                for i in range(at, at + n)
            ]
        return self._products[x]

    @property
    def indices(self) -> list[int]:
        """The outputs, in order of the runs."""
        return [i for at, n in self.runs for i in range(at, at + n)]


def norm(bench: Bench, calls: Sequence[Call]) -> Check:
    """norm.wgsl: two rows."""
    [call] = calls
    c = constants(call)
    [k, add] = whole(c, "K", "ADD")
    rows, x, weight, before = 2, Pattern(_X), Pattern(_NORM, 1.5), Pattern(_Y)
    y = bench.put("y", before.pack(rows * k), rows, k)
    bench.call(call, [bench.known(x, rows, k), bench.known(weight, k), y], (rows, 1, 1))
    got = bench.read(y)

    def verify() -> str:
        wanted: list[float] = []
        for t in range(rows):
            row = normed(x.part(t * k, k), weight.part(0, k), c["EPS"], c["OFFSET"])
            old = before.part(t * k, k) if add else [0.0] * k
            wanted += [a + b for a, b in zip(row, old, strict=True)]
        return difference(got.floats(), wanted)

    return Check(calls, verify)


def narrow(bench: Bench, calls: Sequence[Call]) -> Check:
    """narrow.wgsl: two rows, and what f16 cannot hold."""
    [call] = calls
    c = constants(call)
    [k, norms] = whole(c, "K", "NORM")
    rows, x, weight = 2, Pattern(_X, size=1.0 if norms else 131072.0), Pattern(_NORM, 1.5)
    y = bench.make("y", rows, k, dtype="f16")
    weights = bench.known(weight, k) if norms else bench.zeros
    bench.call(call, [bench.known(x, rows, k), weights, y], (rows, 1, 1))
    got = bench.read(y)

    def verify() -> str:
        wanted: list[float] = []
        for t in range(rows):
            row = x.part(t * k, k)
            if norms:
                row = normed(row, weight.part(0, k), c["EPS"], c.get("OFFSET", 0.0))
            wanted += [max(-65504.0, min(v, 65504.0)) for v in row]
        return difference(got.floats("f16"), wanted, TOLERANCE_F16)

    return Check(calls, verify)


def embed(bench: Bench, calls: Sequence[Call]) -> Check:
    """embed.wgsl: first, middle and last row of this part of the table; an id behind the table means its last."""
    [call] = calls
    c = constants(call)
    [n, k, offset, vocab] = whole(c, "N", "K", "ROW_OFFSET", "VOCAB")
    rows = [0, n // 2, n - 1]
    ids = [offset + row for row in rows]
    if offset + n == vocab:
        ids[-1] = vocab + 7
    y = bench.make("y", len(ids), k)
    tokens = bench.put("ids", struct.pack("<3I", *ids), len(ids), dtype="u32")
    bench.call(call, [tokens, *call.tensors[1:3], y], (call.groups[0], len(ids), 1))
    got = bench.read(y)
    table = [MatrixRows(bench, call, row, 1) for row in rows]

    def verify() -> str:
        values = got.floats()
        wanted = [
            [c["SCALE"] * w for w in part.values(row)]
            for part, row in zip(table, rows, strict=True)
        ]
        return first_of(
            [difference(values[t * k : (t + 1) * k], row) for t, row in enumerate(wanted)]
        )

    return Check(calls, verify)


def matvec(bench: Bench, calls: Sequence[Call]) -> Check:
    """matvec.wgsl over the whole matrix, with what is fused before and behind it."""
    [call] = calls
    c = constants(call)
    [n, k, r, outputs_a_group, base, at] = whole(
        c, "N", "K", "R", "OUTPUTS", "ROW_BASE", "Y_OFFSET"
    )
    sections = r // outputs_a_group
    outputs = Outputs.of(bench, call, n // sections, sections, base)
    # The row of x that is meant stands last where the kernel is to look for it.
    rows = 3 if c["LAST_ROW"] else 1
    pattern, weight = Pattern(_X), Pattern(_NORM, 1.5)
    x = bench.known(pattern, rows, k)
    norm_weight = bench.known(weight, k) if c["NORM"] else bench.zeros
    y = bench.put("y", _held(c, at + n // sections), at + n // sections)
    values = pattern.part((rows - 1) * k, k)
    conv = ShortConvolution(bench, c, n // 3) if sections == 3 else None
    if conv:
        bias, step, more = conv.weights, bench.step(conv.position, 1), [conv.history]
    else:
        bias, step, more = _bias(bench, c, n), bench.step(6, rows), []
    bench.call(call, [x, *call.tensors[1:3], norm_weight, bias, step, y, *more])
    got = [bench.read(y, at + first, count) for first, count in outputs.runs]
    after = [conv.read(bench, 0, first, count) for first, count in outputs.runs] if conv else []

    def verify() -> str:
        row = _known_input(bench, k)
        if c["NORM"]:
            row = Input(normed(values, weight.part(0, k), c["EPS"], c["NORM_OFFSET"]))
        elif c["LAST_ROW"]:
            row = Input(values)
        found = list(chain.from_iterable(read.floats() for read in got))
        products = outputs.products(row)
        if conv:
            kept = chain.from_iterable(read.floats() for read in after)
            return first_of(
                _convolved(conv, i, parts, value, old)
                for i, parts, value, old in zip(outputs.indices, products, found, kept, strict=True)
            )
        return first_of(
            _ending(c, i, parts, Pattern(_Y)[at + i], 1.0, value, _PRODUCT)
            for i, parts, value in zip(outputs.indices, products, found, strict=True)
        )

    return Check(calls, verify)


def matmul(bench: Bench, calls: Sequence[Call]) -> Check:
    """matmul.wgsl and matmul_units.wgsl: a tile of rows and three more; those behind stay as they are."""
    [call] = calls
    c = constants(call)
    [n, k, rt, base, columns, at, epilogue] = whole(
        c, "N", "K", "RT", "ROW_BASE", "Y_COLS", "Y_OFFSET", "EPILOGUE"
    )
    units = call.kernel.stem == "matmul_units"
    tile = 64 if units else 8 * rt
    valid, rows = tile + 3, tile + 16
    sections = 2 if epilogue == EPILOGUES["gated"] else 1
    outputs = Outputs.of(bench, call, n // sections, sections, base)
    dtype: Dtype = "f16" if units else "f32"
    x = bench.keep(("chunk", rows, k, dtype), lambda: _chunk(bench, rows, k, dtype))
    before = Pattern(_Y)
    data = _held(c, rows * columns)
    y = bench.put("y", data, rows, columns)
    tensors = [x, *call.tensors[1:3], _bias(bench, c, n), bench.step(6, valid), y]
    bench.call(call, tensors, (call.groups[0], -(-rows // tile), 1))
    # One of each eight rows, which a thread holds one of; the next tile's; one that is not valid.
    tokens = [*(8 * i + 3 * i % 8 for i in range(tile // 8)), tile, valid - 1, valid]
    got = [[bench.read(y, t * columns + at + f, m) for f, m in outputs.runs] for t in tokens]
    allowed = max(_UNITS / k**0.5, _PRODUCT) if units else _PRODUCT

    def verify() -> str:
        products = outputs.products(_known_input(bench, k))
        for t, reads in zip(tokens, got, strict=True):
            found = chain.from_iterable(read.floats() for read in reads)
            for i, parts, value in zip(outputs.indices, products, found, strict=True):
                old = before[t * columns + at + i] if data else 0.0
                if t >= valid:
                    told = difference([value], [old])
                else:
                    told = _ending(c, i, parts, old, _FACTORS[t % len(_FACTORS)], value, allowed)
                if told:
                    return f"row {t}: {told}"
        return ""

    return Check(calls, verify)


def _held(c: Mapping[str, float], count: int) -> bytes:
    """What y begins with: known numbers where the epilogue looks at them."""
    return Pattern(_Y).pack(count) if c.get("EPILOGUE") in _READING else b""


def _ending(
    c: Mapping[str, float],
    index: int,
    parts: Sequence[Product],
    old: float,
    factor: float,
    got: float,
    allowed: float,
) -> str:
    """What is wrong with output `index` made of these products, of x times `factor`; y held `old`."""
    bias, offset = Pattern(_BIAS), int(c["BIAS_OFFSET"])
    epilogue, half = c["EPILOGUE"], int(c["N"]) // 2
    activate = _ACTIVATE[int(c["ACTIVATION"])]
    values = []
    for section, part in enumerate(parts):
        add = bias[offset + index + section * half] if c["BIAS"] else 0.0
        values.append(factor * part.value + add)
    error = [allowed * abs(factor) * part.size + _ABSOLUTE for part in parts]
    if epilogue == EPILOGUES["gated"]:
        gate, up = values
        wanted = activate(gate) * up
        # Neither activation is steeper than 1.13; WGSL's tanh and exp are off by 1e-5 of what they are applied to.
        size = (1.13 * error[0] + 2e-5 * abs(gate)) * (abs(up) + error[1])
        size += abs(activate(gate)) * error[1]
    elif epilogue == EPILOGUES["multiply"]:
        wanted = activate(old) * values[0]
        size = error[0] * abs(activate(old)) + 2e-5 * abs(old * values[0])
    else:
        wanted = values[0] + (old if epilogue == EPILOGUES["add"] else 0.0)
        size = error[0]
    told = difference([got], [wanted], 1.0, size)
    return told and f"output {index} {told}"


def _convolved(
    conv: ShortConvolution, channel: int, parts: Sequence[Product], got: float, kept: float
) -> str:
    """What is wrong with a channel of a short convolution made of these products, B, C and X."""
    values, errors = [], []
    for section, part in enumerate(parts):
        values.append(part.value + conv.in_bias(channel + section * conv.channels))
        errors.append(_PRODUCT * part.size + _ABSOLUTE)
    b, c, x = values
    own = abs(b) * errors[2] + (abs(x) + errors[2]) * errors[0]
    [total] = conv.convolved(0, channel, 1, lambda _: [b * x])
    size = abs(c) * (own * abs(conv.last_tap(channel)) + 1e-5) + abs(total) * errors[1]
    told = difference([kept], [b * x], 1.0, own + 1e-6 * abs(b * x)) or difference(
        [got], [c * total], 1.0, size
    )
    return told and f"channel {channel} {told}"


def _chunk(bench: Bench, rows: int, k: int, dtype: Dtype) -> Tensor:
    """One row of x times each of the factors in turn."""
    row = Pattern(_X).part(0, k)
    scaled = [pack([f * v for v in row], dtype) for f in _FACTORS]
    data = b"".join(scaled[t % len(_FACTORS)] for t in range(rows))
    return bench.put("x", data, rows, k, dtype=dtype)


def _known_input(bench: Bench, k: int) -> Input:
    return bench.keep(("x", k), lambda: Input(Pattern(_X).part(0, k)))


def _bias(bench: Bench, c: Mapping[str, float], n: int) -> Tensor:
    return bench.known(Pattern(_BIAS), int(c["BIAS_OFFSET"]) + n) if c["BIAS"] else bench.zeros
