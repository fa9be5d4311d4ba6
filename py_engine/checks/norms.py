"""Checks of the kernels that norm rows, or make them f16 or integers, on known inputs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from operator import add as plus

from py_engine.checks.inputs import Pattern
from py_engine.checks.integers import unpacked
from py_engine.checks.workbench import (
    TOLERANCE_F16,
    Bench,
    Check,
    beyond,
    constants,
    difference,
    layer_normed,
    normed,
    whole,
)
from py_engine.graph.trace import Call

_X, _NORM, _BIAS, _Y = 31, 32, 33, 34  # seeds
_MIDDLE = 1.5  # the middle of norm weights
_BLOCKS = 8  # the blocks of 16 columns that are compared
_SEEN = 64  # the first columns of a part that are compared


def norm(bench: Bench, calls: Sequence[Call]) -> Check:
    """norm.wgsl: halves of two rows, and of a row after them, which must not change."""
    [call] = calls
    c = constants(call)
    [k, add] = whole(c, "K", "ADD")
    rows, x, weight, before = 2, Pattern(_X), known_weight(), Pattern(_Y)
    y = bench.fill("y", before.period(), rows + 1, k)
    given = bench.known(x, rows + 1, k)
    bench.call(call, [given, bench.known(weight, k), bench.step(6, rows), y], (rows + 1, 1, 1))
    halves = halves_of(k)
    behind = (rows * k, k // 2)
    got = bench.read_runs(y, [*((t * k + at, n) for t, (at, n) in enumerate(halves)), behind])

    def verify() -> str:
        wanted: list[float] = []
        for t, (at, n) in enumerate(halves):
            row = normed(x.part(t * k, k), weight.part(0, k), c["EPS"], c["OFFSET"])[at : at + n]
            wanted += map(plus, row, before.part(t * k + at, n)) if add else row
        return difference(got.floats(), wanted + before.part(*behind))

    return Check(calls, verify)


def layer_norm(bench: Bench, calls: Sequence[Call]) -> Check:
    """layer_norm.wgsl: halves of two rows, or of the last row twice, of numbers whose mean is not 0."""
    [call] = calls
    c = constants(call)
    [k, biased, add, last] = whole(c, "K", "BIAS", "ADD", "LAST_ROW")
    rows, x, weight, before = 2, Pattern(_X, _MIDDLE), known_weight(), Pattern(_Y)
    y = bench.fill("y", before.period(), rows, k)
    bias = bench.known(Pattern(_BIAS), k) if biased else bench.zeros
    bench.call(
        call,
        [bench.known(x, rows, k), bench.known(weight, k), bias, bench.step(6, rows), y],
        (1 if last else rows, 1, 1),
    )
    halves = halves_of(k)
    places = [(0 if last else t, *half) for t, half in enumerate(halves)]
    got = bench.read_runs(y, [(t * k + at, n) for t, at, n in places])

    def verify() -> str:
        wanted: list[float] = []
        for t, at, n in places:
            row = x.part((rows - 1 if last else t) * k, k)
            more = Pattern(_BIAS).part(0, k) if biased else [0.0] * k
            done = layer_normed(row, weight.part(0, k), more, c["EPS"], c["OFFSET"])[at : at + n]
            wanted += map(plus, done, before.part(t * k + at, n)) if add else done
        return difference(got.floats(), wanted)

    return Check(calls, verify)


def norm_parts(bench: Bench, calls: Sequence[Call]) -> Check:
    """norm_parts.wgsl: two rows, at the borders of all parts and of the columns after them."""
    [call] = calls
    c = constants(call)
    [cols, count, width, width_2, centred] = whole(
        c, "COLS", "COUNT", "WIDTH", "WIDTH_2", "CENTRED"
    )
    parts = call.groups[1]
    begins = [min(p, count) * width + max(p - count, 0) * width_2 for p in range(parts + 1)]
    rows, x, weight = 2, Pattern(_X, _MIDDLE), known_weight()
    y = bench.fill("y", x.period(), rows, cols)
    bench.call(call, [bench.known(weight, begins[-1]), bench.step(6, rows), y], (rows, parts, 1))
    ranges = [(a, b - a) for a, b in pairwise(begins)]
    left = cols - begins[-1]
    seen = [
        (t * cols + at, min(n, _SEEN))
        for t in range(rows)
        for at, n in [*ranges, (begins[-1], left)]
    ]
    got = bench.read_runs(y, [run for run in seen if run[1]])

    def verify() -> str:
        wanted: list[float] = []
        for t in range(rows):
            for at, n in ranges:
                row, w = x.part(t * cols + at, n), weight.part(at, n)
                if centred:
                    row = layer_normed(row, w, [0.0] * n, c["EPS"], 0.0)
                else:
                    row = normed(row, w, c["EPS"], 0.0)
                wanted += row[:_SEEN]
            wanted += x.part(t * cols + begins[-1], min(left, _SEEN))
        return difference(got.floats(), wanted)

    return Check(calls, verify)


def narrow(bench: Bench, calls: Sequence[Call]) -> Check:
    """narrow.wgsl: some blocks of two rows, and what f16 cannot hold."""
    [call] = calls
    c = constants(call)
    [k, norms] = whole(c, "K", "NORM")
    rows, x, weight = 2, Pattern(_X, size=1.0 if norms else 131072.0), known_weight()
    y = bench.make("y", 16, k, dtype="f16")
    weights = bench.known(weight, k) if norms else bench.zeros
    bench.call(call, [bench.known(x, rows, k), weights, y], (rows, 1, 1))
    count = k // 16
    seen = sorted({count * i // _BLOCKS for i in range(_BLOCKS)} | {count - 1})
    got = bench.read_runs(y, [(256 * block, 32) for block in seen])

    def verify() -> str:
        held = x if norms else x.map(lambda v: max(-65504.0, min(v, 65504.0)))
        made = [held.part(t * k, k) for t in range(rows)]
        if norms:
            weights = weight.part(0, k)
            made = [normed(row, weights, c["EPS"], c.get("OFFSET", 0.0)) for row in made]
        wanted = [v for block in seen for row in made for v in row[16 * block : 16 * block + 16]]
        return difference(got.floats("f16"), wanted, TOLERANCE_F16)

    return Check(calls, verify)


def quantise(bench: Bench, calls: Sequence[Call]) -> Check:
    """quantise.wgsl: two rows."""
    [call] = calls
    c = constants(call)
    [k, norms] = whole(c, "K", "NORM")
    rows, x, weight, words = 2, Pattern(_X), known_weight(), call.tensors[2].shape[-1]
    y = bench.make("y", rows, words, dtype="u32")
    weights = bench.known(weight, k) if norms else bench.zeros
    bench.call(call, [bench.known(x, rows, k), weights, y], (rows, 1, 1))
    got = bench.read(y)

    def verify() -> str:
        for t in range(rows):
            row, sums = unpacked(got.bytes[4 * words * t :], k)
            wanted = x.part(t * k, k)
            if norms:
                wanted = normed(wanted, weight.part(0, k), c["EPS"], c.get("OFFSET", 0.0))
            step = (
                max(map(abs, wanted)) / 16256
            )  # f32 may round the middle of two integers to the other
            wrong = beyond(row.values, wanted, [0.51 * step] * k) or difference(sums, row.sums)
            if wrong:
                return f"row {t}: {wrong}"
        return ""

    return Check(calls, verify)


def halves_of(k: int) -> list[tuple[int, int]]:
    """The first half of one row and the second half of another, as (first, count): each column is compared once."""
    half = k // 4 * 2  # whole words of f16
    return [(0, half), (half, k - half)]


def known_weight() -> Pattern:
    """The known weights of a norm."""
    return Pattern(_NORM, _MIDDLE)
