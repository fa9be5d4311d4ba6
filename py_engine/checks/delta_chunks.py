"""Checks of the gated DeltaNet's recurrence over the rows of a prompt, and of the norm after it.

Most rows are 0, which needs no upload. Only a few windows of the chunk and the rows before and after it are not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import add, mul

from py_engine.checks.delta import Shape, State
from py_engine.checks.inputs import Pattern, dot, pack
from py_engine.checks.workbench import (
    Bench,
    Check,
    constants,
    difference,
    first_of,
    normed,
    silu,
    whole,
)
from py_engine.graph.trace import Call, Tensor

_PROJ, _NORM, _MIXED, _SCRATCH, _GATES, _Y = 51, 55, 56, 57, 59, 60  # seeds
_CHUNK = 64  # rows of a chunk, which begins at a position that is a multiple of 64
_BEFORE, _BEHIND = 2, 3  # rows before and behind the chunk
_ROWS = _BEFORE + _CHUNK + _BEHIND
_POSITION = 2 * _CHUNK - _BEFORE
_LAST = _BEFORE + _CHUNK - 1  # last row of the chunk
_CHUNK_DIM = 128  # wider heads have no chunks
_HEAD = 320  # numbers of a head in a row of scratch: two channels of 64 rows of W and q, then a row of P


class _Rows:
    """Rows of q|k|v, keys of about unit length, as they come from delta_conv."""

    def __init__(self, bench: Bench, s: Shape, windows: Sequence[tuple[int, int]]) -> None:
        """`windows`: (first, end) of rows that are not 0."""
        self._numbers = Pattern(_MIXED, size=_unit_size(s.dk))
        self._width = s.channels
        self.known = [t for first, end in windows for t in range(first, end)]
        self.tensor: Tensor = bench.make("mixed", _ROWS, s.channels)
        for first, end in windows:
            at, size = first * s.channels, (end - first) * s.channels
            data = self._numbers.period(first=at)
            bench.write(self.tensor, 4 * at, data, 4 * size)

    def part(self, row: int, first: int, count: int) -> list[float]:
        """Numbers first .. first + count - 1 of a known row."""
        return self._numbers.part(row * self._width + first, count)


def _unit_size(dim: int) -> float:
    """The size of `dim` numbers that make a vector of about unit length."""
    return 2.0 ** -round(math.log2(dim) / 2)


class _Gates:
    """log alpha between -1/2 and 0, beta between 0 and 1 of all rows and heads; g of the chunk."""

    def __init__(self, bench: Bench, heads: int, summed: bool) -> None:
        """`summed`: g stands in the place of log alpha, as delta_chunk.wgsl leaves it."""
        self._numbers, self._heads = Pattern(_GATES, 0.5, 0.5), heads
        sums = [0.0] * heads
        self._sums: dict[int, list[float]] = {}
        pairs = []
        for t in range(_ROWS):
            logs = [self.log_alpha(t, head) for head in range(heads)]
            if _BEFORE <= t <= _LAST:
                sums = list(map(add, sums, logs))
                self._sums[t] = sums
                logs = sums if summed else logs
            pairs += [n for head in range(heads) for n in (logs[head], self.beta(t, head))]
        self.tensor = bench.put("gates", pack(pairs, "f32"), _ROWS, heads, 2)

    def log_alpha(self, t: int, head: int) -> float:
        """The logarithm of a row's decay."""
        return -0.5 * self._numbers[2 * (t * self._heads + head)]

    def beta(self, t: int, head: int) -> float:
        """The share of a row's correction that is made."""
        return self._numbers[2 * (t * self._heads + head) + 1]

    def sum(self, t: int, head: int) -> float:
        """g: the sum of log alpha from the chunk's first row to row t."""
        return self._sums[t][head]


def _scratch(bench: Bench, pitch: int) -> Tensor:
    """Scratch of kernels that only read it: zeros, until each check writes what its own kernel reads."""
    return bench.keep(("delta scratch", pitch), lambda: bench.make("scratch", _ROWS, pitch))


def _channel(head: int, c: int, pitch: int) -> int:
    """Where scratch has a channel of a chunk: 64 rows of W, then of q times its decay."""
    return (_BEFORE + c // 2) * pitch + head * _HEAD + c % 2 * 2 * _CHUNK


def delta_chunk(bench: Bench, calls: Sequence[Call]) -> Check:
    """delta_chunk.wgsl: a chunk after two rows; a row of U, W, P and gates for the first and the last head."""
    [call] = calls
    s = Shape.of(call)
    [pitch] = whole(constants(call), "PITCH")
    middle = _BEFORE + _CHUNK // 2
    windows = [(_BEFORE, _BEFORE + 4), (middle - 2, middle + 2), (_LAST - 3, _LAST + 1)]
    mixed, gates = _Rows(bench, s, windows), _Gates(bench, s.hv, summed=False)
    scratch = bench.make("scratch", _ROWS, pitch)
    step = bench.step(_POSITION, _ROWS)
    bench.call(call, [mixed.tensor, gates.tensor, step, scratch], (s.hv, 1, 1))
    got = {}
    for head, t in ((0, middle + 1), (s.hv - 1, _LAST)):
        c = min(t, s.dk - 1)  # a channel
        got[head, t] = (
            bench.read(mixed.tensor, t * s.channels + s.parts(head)[2], s.dv),
            bench.read(scratch, _channel(head, c, pitch), 2 * _CHUNK),
            bench.read(scratch, t * pitch + head * _HEAD + 4 * _CHUNK, t - _BEFORE + 1),
            bench.read(gates.tensor, 2 * (t * s.hv + head), 2),
        )

    def of_row(head: int, last: int) -> str:
        at_q, at_k, at_v = s.parts(head)
        rows, c = mixed.known, min(last, s.dk - 1)
        keys = [mixed.part(t, at_k, s.dk) for t in rows]
        queries = [mixed.part(t, at_q + c, 1)[0] for t in rows]
        g = [gates.sum(t, head) for t in rows]
        betas = [gates.beta(t, head) for t in rows]
        u, p = [[0.0]] * len(rows), [0.0] * (last - _BEFORE + 1)
        w, q = [0.0] * _CHUNK, [0.0] * _CHUNK  # of a channel
        for i, t in enumerate(rows):
            u[i] = [betas[i] * v for v in mixed.part(t, at_v, s.dv)]
            w[t - _BEFORE] = betas[i] * math.exp(g[i]) * keys[i][c]
            q[t - _BEFORE] = math.exp(g[i]) * queries[i]
            for j in range(i):
                product = betas[i] * dot(keys[i], keys[j]) * math.exp(g[i] - g[j])
                u[i] = [a - product * b for a, b in zip(u[i], u[j], strict=True)]
                w[t - _BEFORE] -= product * w[rows[j] - _BEFORE]
        query, at = mixed.part(last, at_q, s.dk), rows.index(last)
        for i in range(at + 1):
            p[rows[i] - _BEFORE] = dot(query, keys[i]) * math.exp(g[at] - g[i])
        wanted = (u[at], [*w, *q], p, [g[at], betas[at]])
        pairs = zip(got[head, last], wanted, strict=True)
        return first_of([difference(read.floats(), numbers) for read, numbers in pairs])

    return Check(calls, lambda: first_of(of_row(*place) for place in got))


def delta_scan(bench: Bench, calls: Sequence[Call]) -> Check:
    """delta_scan.wgsl: two rows, a chunk (where heads are not too wide) and three more rows, from a known state; a
    sample of heads and columns."""
    [call] = calls
    s = Shape.of(call)
    [pitch] = whole(constants(call), "PITCH")
    in_chunks = max(s.dk, s.dv) <= _CHUNK_DIM
    middle = _BEFORE + _CHUNK // 2
    windows = [(0, _BEFORE + 2), (middle - 1, middle + 1), (_LAST - 1, _ROWS)]
    rows = _ROWS if in_chunks else _BEFORE + 2
    mixed, gates = _Rows(bench, s, windows), _Gates(bench, s.hv, in_chunks)
    scratch, state = _scratch(bench, pitch), State(bench, s)
    w = Pattern(_SCRATCH)
    channels = sorted({0, 1, s.dk // 2, s.dk - 1})  # those of W and q that are not 0
    for c in channels:
        for head in s.heads:
            at = _channel(head, c, pitch)
            bench.write(scratch, 4 * at, pack(w.part(at, 2 * _CHUNK), "f32"))
    y = bench.make("y", _ROWS, s.hv, s.dv)
    tensors = [mixed.tensor, gates.tensor, scratch, bench.step(_POSITION, rows)]
    bench.call(call, [*tensors, state.tensor, y])
    sample = [(head, c) for head in s.heads for c in s.columns]
    seen = (_BEFORE - 1, middle, _LAST + _BEHIND) if in_chunks else (0, rows - 1)
    got = {
        (t, head, c): bench.read(y, (t * s.hv + head) * s.dv + c, 1)
        for t in seen
        for head, c in sample
    }
    after = {(head, c): state.read(head, c) for head, c in sample}
    corrected = bench.read(mixed.tensor, _LAST * s.channels + s.parts(s.hv - 1)[2] + s.dv - 1, 1)

    def of_column(head: int, column: int) -> str:
        at_q, at_k, at_v = s.parts(head)
        values, found, reasons = state.column(head, column), {}, []
        before = values  # of the chunk
        for t in mixed.known:
            if t >= rows:
                break
            q, k = mixed.part(t, at_q, s.dk), mixed.part(t, at_k, s.dk)
            v = mixed.part(t, at_v + column, 1)[0]
            if in_chunks and _BEFORE <= t <= _LAST:
                g, whole_g = gates.sum(t, head), gates.sum(_LAST, head)
                if t == _BEFORE:
                    before = values
                    values = [math.exp(whole_g) * value for value in values]
                row = t - _BEFORE
                places = [_channel(head, c, pitch) + row for c in channels]
                found[t] = sum(
                    w[at + _CHUNK] * before[c] for at, c in zip(places, channels, strict=True)
                )
                v -= sum(w[at] * before[c] for at, c in zip(places, channels, strict=True))
                share = math.exp(whole_g - g) * v
                values = [a + share * b for a, b in zip(values, k, strict=True)]
                if (t, head, column) == (_LAST, s.hv - 1, s.dv - 1):
                    reasons.append(difference(corrected.floats(), [v], size=1.0))
                continue
            alpha = math.exp(gates.log_alpha(t, head))
            values = [alpha * value for value in values]
            d = gates.beta(t, head) * (v - dot(values, k))
            values = [a + d * b for a, b in zip(values, k, strict=True)]
            found[t] = dot(values, q)
        # Sums of many small numbers may be near 0, so the error is compared with their terms, which are of size 1.
        size = max(1.0, *map(abs, found.values()))
        for t in seen:
            reasons.append(difference(got[t, head, column].floats(), [found[t]], size=size))
        return first_of([*reasons, difference(after[head, column].floats(), values)])

    return Check(calls, lambda: first_of([of_column(head, c) for head, c in sample]))


def delta_out(bench: Bench, calls: Sequence[Call]) -> Check:
    """delta_out.wgsl: a row before a chunk, two in it (with P D, where heads are not too wide), one after it."""
    [call] = calls
    s, eps = Shape.of(call), constants(call)["EPS"]
    [pitch, across] = whole(constants(call), "PITCH", "ACROSS")
    height = 512 // across  # rows of a workgroup
    in_chunks = max(s.dk, s.dv) <= _CHUNK_DIM
    numbers, weight, before = Pattern(_PROJ), Pattern(_NORM, 1.5), Pattern(_Y)
    mixed, scratch = bench.make("mixed", _ROWS, s.channels), _scratch(bench, pitch)
    proj = scratch if pitch == s.width else bench.make("proj", _ROWS, s.width)  # as in models
    y = bench.make("y", _ROWS, s.hv, s.dv)
    tensors = [proj, mixed, scratch, bench.known(weight, s.dv), bench.step(_POSITION, _ROWS)]
    bench.call(call, [*tensors, y], (s.hv, -(-_ROWS // height) + 1, 1))
    sample = [(1, 0), (_BEFORE + 21, s.hv - 1), (_LAST, 0), (_ROWS - 1, s.hv - 1)]
    got = {}
    corrections = (_BEFORE, _BEFORE + 18, _LAST)  # rows of D that are not 0
    for t, head in sample:
        for tensor, at, count in (
            (proj, t * s.width + s.channels + head * s.dv, s.dv),
            (scratch, t * pitch + head * _HEAD + 4 * _CHUNK, _CHUNK),
        ):
            bench.write(tensor, 4 * at, pack(numbers.part(at, count), "f32"))
        at = (t * s.hv + head) * s.dv
        bench.write(y, 4 * at, pack(before.part(at, s.dv), "f32"))
        got[t, head] = bench.read(y, at, s.dv)
    for t in corrections:
        for head in s.heads:
            at = t * s.channels + s.parts(head)[2]
            bench.write(mixed, 4 * at, pack(numbers.part(at, s.dv), "f32"))

    def of_row(t: int, head: int) -> str:
        values = before.part((t * s.hv + head) * s.dv, s.dv)
        if in_chunks and _BEFORE <= t <= _LAST:
            end = (
                _BEFORE + ((t - _BEFORE) // height + 1) * height
            )  # the kernel reads to a block's end, where a model's P is 0 and this one is not
            for j in corrections:
                if j < end:
                    at = t * pitch + head * _HEAD + 4 * _CHUNK + j - _BEFORE
                    d = numbers.part(j * s.channels + s.parts(head)[2], s.dv)
                    values = list(map(add, values, [numbers[at] * v for v in d]))
        wanted = normed(values, weight.part(0, s.dv), eps, 0.0)
        opened = map(silu, numbers.part(t * s.width + s.channels + head * s.dv, s.dv))
        return difference(got[t, head].floats(), list(map(mul, wanted, opened)))

    return Check(calls, lambda: first_of([of_row(t, head) for t, head in sample]))
