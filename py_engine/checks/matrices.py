"""Checks of the kernels around matrices: embedding, products for a token and for a chunk.

The matrix is the model's own, read back where results are compared; inputs, biases and norms are known ones.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from operator import add as plus
from operator import mul
from typing import NamedTuple

from py_engine.checks.inputs import Cycle, Pattern
from py_engine.checks.integers import integer_row
from py_engine.checks.norms import known_weight
from py_engine.checks.products import Input, MatrixRows, Outputs, Product
from py_engine.checks.short_conv import ShortConvolution
from py_engine.checks.workbench import (
    ACTIVATE,
    Bench,
    Check,
    beyond,
    constants,
    difference,
    rms_factor,
    whole,
)
from py_engine.graph.buffers import Dtype
from py_engine.graph.trace import ITEMSIZE, Call, Tensor
from py_engine.ops.gate import ACTIVATIONS, EPILOGUES

# The allowed error, as a share of the sum of all |w x| of a product (for a quantised w: of |scale| q and |bias|). f32
# sums stay within 1e-6 of it; a chunk of 32 that is left out of a row of 8192 is 1e-4 of it.
_PRODUCT = 1e-5
# Tensor units see w rounded to 11 bits. The error is at most 2^-11 of the sum. Errors of either sign cancel, so it is
# about 2^-11 / sqrt(number of terms) of the sum. 16 times that is allowed.
_UNITS = 16 * 2.0**-11

_X, _NORM, _BIAS, _Y = 31, 32, 33, 34  # seeds
_GIVEN = 0x80000001  # an id that means a given row
_MIDDLE = 1.5  # the middle of norm weights
_SEEN = 64  # the first columns of a part that are compared
_FACTORS = (1.0, -0.5, 0.75, -0.25, 0.5)  # the rows of a chunk are one row times these
_ABSOLUTE = 1e-6  # the allowed error of a sum with numbers of size 1, however small the product
_ACTIVATE = {ACTIVATIONS[name]: function for name, function in ACTIVATE.items()}
_READING = (EPILOGUES["add"], EPILOGUES["multiply"])  # these read what y holds


def embed(bench: Bench, calls: Sequence[Call]) -> Check:
    """embed.wgsl: first, middle and last row of this part of the table; an id beyond the table, which means its last
    row; a negative id, which leaves its row of y unchanged."""
    [call] = calls
    c = constants(call)
    [n, k, offset, vocab] = whole(c, "N", "K", "ROW_OFFSET", "VOCAB")
    rows = [0, n // 2, n - 1]
    ids = [offset + row for row in rows]
    if offset + n == vocab:
        ids[-1] = vocab + 7
    ids.append(_GIVEN)
    before = Pattern(_Y)
    y = bench.fill("y", before.period(), len(ids), k)
    tokens = bench.put("ids", struct.pack("<4I", *ids), len(ids), dtype="u32")
    bench.call(call, [tokens, *call.tensors[1:3], y], (call.groups[0], len(ids), 1))
    # A third of each of three rows, so that each column is compared once; and the given row.
    thirds = [(0, k // 3), (k // 3, k // 3), (k // 3 * 2, k - k // 3 * 2)]
    got = bench.read_runs(y, [(t * k + at, n) for t, (at, n) in enumerate(thirds)])
    left = bench.read(y, len(rows) * k, k)
    table = MatrixRows(bench, call, [(row, 1) for row in rows])

    def verify() -> str:
        scale = c["SCALE"]
        wanted: list[float] = []
        for t, (row, (at, n)) in enumerate(zip(rows, thirds, strict=True)):
            values = [scale * w for w in table.values(row)[at : at + n]]
            wanted += map(plus, values, before.part(t * k + at, n)) if c.get("ADD") else values
        return difference(got.floats(), wanted) or difference(
            left.floats(), before.part(len(rows) * k, k)
        )

    return Check(calls, verify)


def matvec(bench: Bench, calls: Sequence[Call]) -> Check:
    """matvec.wgsl over the whole matrix, with what is fused before and after it."""
    [call] = calls
    c = constants(call)
    [n, k, r, outputs_a_group, base, at] = whole(
        c, "N", "K", "R", "OUTPUTS", "ROW_BASE", "Y_OFFSET"
    )
    sections = r // outputs_a_group
    outputs = Outputs.of(bench, call, n // sections, sections, base)
    # If the kernel must find the last valid row of x, that is the row with the numbers.
    rows = 3 if c["LAST_ROW"] else 1
    # After a norm, x is the same as in all other products, but for a factor.
    pattern, weight = (_thin(), known_weight()) if c["NORM"] else (_input(), None)
    x = bench.keep(("x", rows, k, c["NORM"]), lambda: bench.fill("x", pattern.period(), rows, k))
    norm_weight = bench.zeros
    if weight:
        norm_weight = bench.known(Pattern(_NORM, _MIDDLE - c["NORM_OFFSET"]), k)
    adds, size = c.get("EPILOGUE") in _READING, at + n // sections
    y = bench.fill("y", Pattern(_Y).period(), size) if adds else bench.make("y", size)
    values = pattern.part((rows - 1) * k, k)
    conv = ShortConvolution(bench, c, n // 3) if sections == 3 else None
    if conv:
        bias, step, more = conv.weights, bench.step(conv.position, 1), [conv.history]
    else:
        bias, step, more = _bias(bench, c, n), bench.step(6, rows), []
    bench.call(call, [x, *call.tensors[1:3], norm_weight, bias, step, y, *more])
    got = bench.read_runs(y, outputs.at(at))
    kept = conv.read(bench, 0, outputs.runs) if conv else None

    def verify() -> str:
        row = _known_input(bench, k)
        if c["LAST_ROW"]:
            row = Input(list(map(mul, values, weight.part(0, k))) if weight else values)
        factor = rms_factor(values, c["EPS"]) if weight else 1.0
        products = [[part.times(factor) for part in of] for of in outputs.products(row)]
        if conv and kept:
            return _convolved(conv, outputs.indices, products, got.floats(), kept.floats())
        made = _made(c, outputs, products, _PRODUCT)
        wanted = _put(c, made, outputs.of_pattern(Pattern(_Y), at))
        return beyond(
            got.floats(), wanted.values, wanted.errors, lambda i: f"output {outputs.indices[i]} "
        )

    return Check(calls, verify)


def matmul(bench: Bench, calls: Sequence[Call]) -> Check:
    """matmul.wgsl, matmul_units.wgsl and matmul_dot4.wgsl: a tile of rows (of tensor units half a tile) and three more;
    rows after these must not change."""
    [call] = calls
    c = constants(call)
    [n, k, rt, base, columns, at, epilogue] = whole(
        c, "N", "K", "RT", "ROW_BASE", "Y_COLS", "Y_OFFSET", "EPILOGUE"
    )
    units, dot4 = call.kernel.stem == "matmul_units", call.kernel.stem == "matmul_dot4"
    tile = 64 if units or dot4 else 8 * rt
    valid, rows = tile + 3, tile + (16 if units else 4)  # units have whole blocks of rows
    sections = 2 if epilogue == EPILOGUES["gated"] else 1
    outputs = Outputs.of(bench, call, n // sections, sections, base)
    dtype: Dtype = "f16" if units else "u32" if dot4 else "f32"
    # Rows that are not 0: one of each eight, since a thread has one of eight or of 16 (of tensor units: some of an
    # upper and of a lower block); two after the tile; one not valid.
    inside = [3, 12, 53, 62] if units else [i + 3 * i // 8 % 8 for i in range(0, tile, 8)]
    tokens = [*inside, tile, valid - 1, valid]
    x = bench.keep(("chunk", rows, k, dtype), lambda: _chunk(bench, rows, tokens, k, dtype))
    y, adds = bench.make("y", rows, columns), epilogue in _READING
    before = Pattern(_Y).pack(columns)
    for t in tokens if adds else ():
        bench.write(y, t * len(before), before)
    tensors = [x, *call.tensors[1:3], _bias(bench, c, n), bench.step(6, valid), y]
    bench.call(call, tensors, (call.groups[0], -(-rows // tile), 1))
    got = bench.read_runs(y, chain.from_iterable(outputs.at(t * columns + at) for t in tokens))
    known = _known_integers(bench, k) if dot4 else _known_input(bench, k)
    terms = len(known)
    allowed = max(_UNITS / terms**0.5, _PRODUCT) if units else _PRODUCT

    def name(i: int) -> str:
        row, output = divmod(i, len(outputs.indices))
        return f"row {tokens[row]}: output {outputs.indices[output]} "

    def verify() -> str:
        products = outputs.products(known)
        old = outputs.of_pattern(Pattern(_Y), at) if adds else [0.0] * len(products)
        untouched, made = Results(old, [0.0] * len(old)), []
        for factor in _FACTORS:
            scaled = [[part.times(factor) for part in of] for of in products]
            made.append(_put(c, _made(c, outputs, scaled, allowed), old))
        wanted = [made[t % len(made)] if t < valid else untouched for t in tokens]
        return beyond(
            got.floats(),
            list(chain.from_iterable(row.values for row in wanted)),
            list(chain.from_iterable(row.errors for row in wanted)),
            name,
        )

    return Check(calls, verify)


class Results(NamedTuple):
    """The right outputs, and the allowed error of each."""

    values: list[float]
    errors: list[float]


def _made(
    c: Mapping[str, float],
    outputs: Outputs,
    products: Sequence[Sequence[Product]],
    allowed: float,
) -> Results:
    """The outputs for these products, before what y held before is added or multiplied."""
    bias, offset, half = Pattern(_BIAS), int(c["BIAS_OFFSET"]), int(c["N"]) // 2
    found = Results([], [])
    for index, parts in zip(outputs.indices, products, strict=True):
        values, errors = [], []
        for section, part in enumerate(parts):
            add = bias[offset + index + section * half] if c["BIAS"] else 0.0
            values.append(part.value + add)
            errors.append(allowed * part.size + _ABSOLUTE)
        if c["EPILOGUE"] == EPILOGUES["gated"]:
            [gate, up], [gate_error, up_error] = values, errors
            active, active_error = _active(c, gate, gate_error)
            found.values.append(active * up)
            found.errors.append(active_error * (abs(up) + up_error) + abs(active) * up_error)
        else:
            value, error = values[0], errors[0]
            if c.get("ACTIVATE"):
                value, error = _active(c, value, error)
            factor = c.get("SCALE", 1.0)
            if c.get("FACTORS"):
                factor *= bias[int(c["FACTORS_AT"]) + index]
            value, error = value * factor, error * abs(factor)
            if cap := c.get("CAP"):  # its slope is at most 1; WGSL's tanh is off by 1e-5
                value, error = cap * math.tanh(value / cap), error + 1e-5 * cap
            found.values.append(value)
            found.errors.append(error)
    return found


def _active(c: Mapping[str, float], value: float, error: float) -> tuple[float, float]:
    """The activation of a value, and the error that is allowed in it, given the value's own `error`."""
    kind = int(c["ACTIVATION"])
    # WGSL's tanh and exp have errors of 1e-5 of their argument. Apart from relu2, no activation is steeper than 1.13.
    steepest = 2 * abs(value) + error if kind == ACTIVATIONS["relu2"] else 1.13
    return _ACTIVATE[kind](value), steepest * error + 2e-5 * abs(value)


def _put(c: Mapping[str, float], made: Results, old: Sequence[float]) -> Results:
    """What y must hold afterwards, when it held `old` before."""
    if c["EPILOGUE"] == EPILOGUES["add"]:
        return Results(list(map(plus, made.values, old)), made.errors)
    if c["EPILOGUE"] == EPILOGUES["multiply"]:
        gates = list(map(_ACTIVATE[int(c["ACTIVATION"])], old))
        values = list(map(mul, gates, made.values))
        return Results(
            values,
            [
                error * abs(gate) + 2e-5 * abs(before * value)
                for error, gate, before, value in zip(
                    made.errors, gates, old, made.values, strict=True
                )
            ],
        )
    return made


def _convolved(
    conv: ShortConvolution,
    channels: Sequence[int],
    products: Sequence[Sequence[Product]],
    got: Sequence[float],
    kept: Sequence[float],
) -> str:
    """What is wrong with channels of a short convolution, made from these products B, C and X."""
    found = [_channel(conv, *of) for of in zip(channels, products, strict=True)]
    inputs, input_errors, results, errors = map(list, zip(*found, strict=True))

    def name(i: int) -> str:
        return f"channel {channels[i]} "

    return beyond(kept, inputs, input_errors, name) or beyond(got, results, errors, name)


def _channel(
    conv: ShortConvolution, channel: int, parts: Sequence[Product]
) -> tuple[float, float, float, float]:
    """The gated input that is remembered, its allowed error, the result, and its allowed error."""
    values, errors = [], []
    for section, part in enumerate(parts):
        values.append(part.value + conv.in_bias(channel + section * conv.channels))
        errors.append(_PRODUCT * part.size + _ABSOLUTE)
    b, c, x = values
    own = abs(b) * errors[2] + (abs(x) + errors[2]) * errors[0]
    [total] = conv.convolved(0, channel, 1, lambda _: [b * x])
    error = abs(c) * (own * abs(conv.last_tap(channel)) + 1e-5) + abs(total) * errors[1]
    return b * x, own + 1e-6 * abs(b * x), c * total, error


def _chunk(bench: Bench, rows: int, tokens: Sequence[int], k: int, dtype: Dtype) -> Tensor:
    """A row of x times one of the factors in turn, for each of these tokens: f32; f16 in blocks of 16 x 16; or integers
    (u32)."""
    x = _input()
    if dtype == "u32":
        row = integer_row(x.part(0, k))
        scaled = [row.pack(factor) for factor in _FACTORS]
    else:
        scaled = [x.map(factor.__mul__).pack(k, dtype) for factor in _FACTORS]
    tensor = bench.make("x", rows, len(scaled[0]) // ITEMSIZE[dtype], dtype=dtype)
    if dtype != "f16":
        for t in tokens:
            bench.write(tensor, t * len(scaled[0]), scaled[t % len(scaled)])
        return tensor
    for first in range(0, rows, 16):
        inside = [t for t in tokens if t // 16 == first // 16]
        if not inside:
            continue
        blocks = array("Q", bytes(32 * k))  # a row of a block is four words of 64 bits
        for t in inside:
            words = array("Q", scaled[t % len(scaled)])
            for i in range(4):
                blocks[t % 16 * 4 + i :: 64] = words[i::4]
        bench.write(tensor, first * 2 * k, blocks.tobytes())
    return tensor


def _thin() -> Pattern:
    """The input before a norm."""
    return Pattern(_X, thin=True)


@cache
def _input() -> Cycle:
    """The input of a product. It has ten bits, so f16 holds it exactly, also times any of the factors."""
    return _thin().times(known_weight())


def _known_input(bench: Bench, k: int) -> Input:
    return bench.keep(("x", k), lambda: Input(_input().part(0, k)))


def _known_integers(bench: Bench, k: int) -> Input:
    return bench.keep(("integers", k), lambda: Input(integer_row(_input().part(0, k)).values))


def _bias(bench: Bench, c: Mapping[str, float], n: int) -> Tensor:
    """The biases of n rows, and their factors."""
    begins = [c["BIAS_OFFSET"]] if c["BIAS"] else []
    if c.get("FACTORS"):
        begins.append(c["FACTORS_AT"])
    return bench.known(Pattern(_BIAS), int(max(begins)) + n) if begins else bench.zeros
