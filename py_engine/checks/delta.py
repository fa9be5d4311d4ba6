"""Checks of the gated DeltaNet between its projections, for a token and for a chunk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

from py_engine.checks.inputs import Pattern, Types, dot, pack
from py_engine.checks.short_conv import Ring
from py_engine.checks.workbench import (
    Bench,
    Check,
    Read,
    constants,
    difference,
    first_of,
    normed,
    sigmoid,
    silu,
    whole,
)
from py_engine.graph.trace import Call, Tensor

_PROJ, _CONV, _DECAY, _HISTORY, _NORM = 51, 52, 53, 54, 55  # seeds
_MIXED, _GATES, _STATE, _Y = 56, 57, 58, 60
_VALUES, _BETA = 61, 63
_POSITION = 5
_TOKENS = 5  # of a scan
_CHUNK = 64  # rows that are taken together, between positions that are multiples of it


@dataclass(frozen=True)
class _Shape:
    """Heads and sizes, from the kernels' constants."""

    hk: int
    hv: int
    dk: int
    dv: int
    taps: int

    @classmethod
    def of(cls, call: Call) -> _Shape:
        return cls(*whole(constants(call), "HK", "HV", "DK", "DV", "TAPS"))

    @property
    def channels(self) -> int:
        return 2 * self.hk * self.dk + self.hv * self.dv

    @property
    def width(self) -> int:
        return self.channels + self.hv * (self.dv + 2)

    @property
    def heads(self) -> list[int]:
        """A sample of value heads."""
        return sorted({0, self.hv - 1})

    @property
    def columns(self) -> list[int]:
        """A sample of a state's columns."""
        return sorted({0, self.dv // 2 + 1, self.dv - 1})

    def parts(self, head: int) -> tuple[int, int, int]:
        """Where q, k and v of a value head begin among the channels."""
        key = head // (self.hv // self.hk)
        return key * self.dk, (self.hk + key) * self.dk, 2 * self.hk * self.dk + head * self.dv


class _Layer:
    """Projections and vectors of a layer, and what the recurrence gets from them."""

    def __init__(
        self, bench: Bench, shape: _Shape, rows: int, known: Sequence[tuple[int, int]] = ((0, 1),)
    ) -> None:
        """`known`: (first, count) of the rows that are used; the others are 0, which needs no upload."""
        self._shape = s = shape
        self._proj, self._conv, self._decay = Pattern(_PROJ), Pattern(_CONV), Pattern(_DECAY, -1.0)
        self._ring = Ring(Pattern(_HISTORY), s.taps, s.channels, _POSITION)
        self.proj = bench.make("proj", rows, s.width)
        for first, count in known:
            at = first * s.width
            bench.write(self.proj, 4 * at, self._proj.period(first=at), 4 * count * s.width)
        self.conv = bench.known(self._conv, s.channels, s.taps)
        self.decay = bench.known(self._decay, 2 * s.hv)
        kept = self._ring.history.period()
        self.history: Tensor = bench.fill("history", kept, s.taps, s.channels)
        # What the history must hold of the last row: its first and its last channels.
        place = self._ring.place(_POSITION + rows - 1)
        self._runs = [(0, min(8, s.dk)), (s.channels - min(8, s.dv), min(8, s.dv))]
        self._kept = [bench.read(self.history, place + at, n) for at, n in self._runs]
        self._last = rows - 1

    def mixed(self, row: int, first: int, count: int) -> list[float]:
        """Channels after the convolution and silu."""
        s = self._shape
        weights = self._conv.part(first * s.taps, count * s.taps)
        taps = [weights[j :: s.taps] for j in range(s.taps)]
        found = self._ring.convolved(
            row, first, taps, lambda at: self._proj.part(at * s.width + first, count)
        )
        return list(map(silu, found))

    def gates(self, row: int, head: int) -> tuple[float, float]:
        """(log alpha, beta) of a value head."""
        s = self._shape
        at = row * s.width + s.channels + s.hv * s.dv + head
        raw = self._proj[at + s.hv] + self._decay[s.hv + head]
        rate = math.exp(self._decay[head]) * math.log1p(math.exp(raw))
        return -rate, sigmoid(self._proj[at])

    def opened(self, row: int, head: int) -> list[float]:
        """silu(z), by which a value head's result is multiplied."""
        s = self._shape
        return list(map(silu, self._proj.part(row * s.width + s.channels + head * s.dv, s.dv)))

    def history_difference(self) -> str:
        """What is wrong with the history."""
        return first_of(
            [
                difference(read.floats(), self._proj.part(self._last * self._shape.width + at, n))
                for read, (at, n) in zip(self._kept, self._runs, strict=True)
            ]
        )


class _State:
    """States of all heads. Those of the sample have a few kinds of columns; the rest is 0, which needs no upload."""

    def __init__(self, bench: Bench, shape: _Shape) -> None:
        self._bench, self._shape = bench, shape
        self.types = Types(_STATE, shape.dk)
        self.tensor = bench.make("state", shape.hv, shape.dv, shape.dk)
        for head in shape.heads:
            data = self.types.pack([head], shape.dv)
            bench.write(self.tensor, head * len(data), data)

    def column(self, head: int, column: int) -> list[float]:
        """A column before the run."""
        return self.types.rows[self.types.kinds(head, column + 1)[column]]

    def read(self, head: int, column: int) -> Read:
        """Ask for columns after the run."""
        s = self._shape
        return self._bench.read(self.tensor, (head * s.dv + column) * s.dk, s.dk)


def _unit(values: Sequence[float]) -> list[float]:
    """x / sqrt(sum x^2 + 1e-6)."""
    factor = (dot(values, values) + 1e-6) ** -0.5
    return [v * factor for v in values]


def delta_step(bench: Bench, calls: Sequence[Call]) -> Check:
    """delta_step.wgsl: every column of a sample of heads; the states of a sample of columns; the history."""
    [call] = calls
    s, eps = _Shape.of(call), constants(call)["EPS"]
    layer, state, weight = _Layer(bench, s, 1), _State(bench, s), Pattern(_NORM, 1.5)
    y = bench.make("y", s.hv * s.dv)
    tensors = [layer.proj, layer.conv, layer.decay, bench.known(weight, s.dv)]
    bench.call(call, [*tensors, bench.step(_POSITION, 1), layer.history, state.tensor, y])
    got = {head: bench.read(y, head * s.dv, s.dv) for head in s.heads}
    after = {(head, c): state.read(head, c) for head in s.heads for c in s.columns}

    def of_head(head: int) -> str:
        at_q, at_k, at_v = s.parts(head)
        q = [v / math.sqrt(s.dk) for v in _unit(layer.mixed(0, at_q, s.dk))]
        k = _unit(layer.mixed(0, at_k, s.dk))
        v = layer.mixed(0, at_v, s.dv)
        log_alpha, beta = layer.gates(0, head)
        alpha = math.exp(log_alpha)
        by_k, by_q, both = state.types.dots(k), state.types.dots(q), dot(k, q)
        kinds = state.types.kinds(head, s.dv)
        steps = [beta * (value - alpha * by_k[kind]) for value, kind in zip(v, kinds, strict=True)]
        raw = [alpha * by_q[kind] + both * d for d, kind in zip(steps, kinds, strict=True)]
        out = normed(raw, weight.part(0, s.dv), eps, 0.0)
        reasons = [difference(got[head].floats(), list(map(mul, out, layer.opened(0, head))))]
        for c in s.columns:
            old = state.column(head, c)
            new = [alpha * a + steps[c] * b for a, b in zip(old, k, strict=True)]
            reasons.append(difference(after[head, c].floats(), new))
        return first_of(reasons)

    return Check(calls, lambda: first_of([*map(of_head, s.heads), layer.history_difference()]))


def delta_conv(bench: Bench, calls: Sequence[Call]) -> Check:
    """delta_conv.wgsl: a block of rows and two more; of a sample of heads q, k, v and gates; the history."""
    [call] = calls
    s = _Shape.of(call)
    [block] = whole(constants(call), "ROWS")
    rows = block + 2
    first = max(0, block + 1 - s.taps)
    layer = _Layer(bench, s, rows, [(0, 1), (first, rows - first)])
    mixed, gates = bench.make("mixed", rows, s.channels), bench.make("gates", rows, s.hv, 2)
    tensors = [layer.proj, layer.conv, layer.decay, bench.step(_POSITION, rows)]
    bench.call(call, [*tensors, layer.history, mixed, gates], (call.groups[0], 2, 1))
    sizes = (s.dk, s.dk, s.dv)
    sample = [(0, s.hv - 1), (block, 0), (rows - 1, s.hv - 1)]
    got = {
        (t, head): [
            bench.read(mixed, t * s.channels + at, n)
            for at, n in zip(s.parts(head), sizes, strict=True)
        ]
        for t, head in sample
    }
    got_gates = {(t, head): bench.read(gates, 2 * (t * s.hv + head), 2) for t, head in got}

    def verify() -> str:
        reasons = []
        for (t, head), reads in got.items():
            parts = [layer.mixed(t, at, n) for at, n in zip(s.parts(head), sizes, strict=True)]
            q, k = _unit(parts[0]), _unit(parts[1])
            wanted = ([v / math.sqrt(s.dk) for v in q], k, parts[2], layer.gates(t, head))
            for read, numbers in zip([*reads, got_gates[t, head]], wanted, strict=True):
                reasons.append(difference(read.floats(), numbers))
        return first_of([*reasons, layer.history_difference()])

    return Check(calls, verify)


def delta_scan(bench: Bench, calls: Sequence[Call]) -> Check:
    """delta_scan.wgsl: five tokens from a known state; a sample of heads and columns."""
    [call] = calls
    s = _Shape.of(call)
    # Keys of about unit length, as they come from delta_conv; gates (log alpha, beta) around -0.5.
    inputs = Pattern(_MIXED, size=2.0 ** -round(math.log2(s.dk) / 2))
    pairs = Pattern(_GATES, -0.5, 0.5)
    state = _State(bench, s)
    y = bench.make("y", _TOKENS, s.hv, s.dv)
    tensors = [bench.known(inputs, _TOKENS, s.channels), bench.known(pairs, _TOKENS, s.hv, 2)]
    bench.call(call, [*tensors, bench.step(_POSITION, _TOKENS), state.tensor, y])
    sample = [(head, c) for head in s.heads for c in s.columns]
    got = {
        (t, head, c): bench.read(y, (t * s.hv + head) * s.dv + c, 1)
        for t in range(_TOKENS)
        for head, c in sample
    }
    after = {(head, c): state.read(head, c) for head, c in sample}

    def of_column(head: int, column: int) -> str:
        at_q, at_k, at_v = s.parts(head)
        values, found = state.column(head, column), []
        for t in range(_TOKENS):
            row, gate = t * s.channels, 2 * (t * s.hv + head)
            q, k = inputs.part(row + at_q, s.dk), inputs.part(row + at_k, s.dk)
            alpha, beta = math.exp(pairs[gate]), pairs[gate + 1]
            values = [alpha * v for v in values]
            d = beta * (inputs[row + at_v + column] - dot(values, k))
            values = [a + d * b for a, b in zip(values, k, strict=True)]
            found.append(dot(values, q))
        # Sums of many small numbers may be near 0, so the error is compared with their terms, which are of size 1.
        own = [got[t, head, column].floats()[0] for t in range(_TOKENS)]
        size = max(1.0, *map(abs, found))
        return difference(own, found, size=size) or difference(after[head, column].floats(), values)

    return Check(calls, lambda: first_of([of_column(head, c) for head, c in sample]))


def delta_chunk(bench: Bench, calls: Sequence[Call]) -> Check:
    """delta_chunk.wgsl, delta_chunk_scan.wgsl and delta_out.wgsl: two rows, a chunk and three more rows, from a known
    state; a sample of heads and rows, all of their columns; the states of a sample of columns.

    A head's columns are of five kinds, by their state and by their v, so that five are computed.
    """
    s, eps = _Shape.of(calls[0]), constants(calls[2])["EPS"]
    [pitch] = whole(constants(calls[0]), "PITCH")
    before, rows = 2, 2 + _CHUNK + 3
    position = 2 * _CHUNK - before
    # Keys of about unit length, as they come from delta_conv; log alpha from -0.4 to 0, beta around 0.5.
    keys = Pattern(_MIXED, size=2.0 ** -round(math.log2(s.dk) / 2))
    values, decays, betas = (
        Types(_VALUES, rows),
        Pattern(_GATES, -0.25, 0.25),
        Pattern(_BETA, 0.5, 0.5),
    )
    proj, weight = Pattern(_PROJ), Pattern(_NORM, 1.5)
    opened = proj.map(silu)
    state = _State(bench, s)
    kinds = {head: state.types.kinds(head, s.dv) for head in s.heads}
    mixed = bench.fill("mixed", keys.period(), rows, s.channels)
    for head in s.heads:
        for t in range(rows):
            v = [values.rows[kind][t] for kind in kinds[head]]
            bench.write(mixed, 4 * (t * s.channels + s.parts(head)[2]), pack(v, "f32"))
    pairs = [gate for at in range(rows * s.hv) for gate in (decays[at], betas[at])]
    gates = bench.put("gates", pack(pairs, "f32"), rows, s.hv, 2)
    sample = [
        (t, head) for t in (0, before, before + 37, before + 63, rows - 1) for head in s.heads
    ]
    step, scratch = bench.step(position, rows), bench.make("scratch", rows, pitch)
    y = bench.make("y", rows, s.hv, s.dv)
    chunk, scan, out = calls
    bench.call(chunk, [mixed, gates, step, scratch], (s.hv, 1, 1))
    bench.call(scan, [mixed, gates, scratch, step, state.tensor, y])
    tensors = [bench.known(proj, rows, s.width), mixed, scratch, bench.known(weight, s.dv), step, y]
    bench.call(out, tensors, (s.hv, -(-rows // 16) + 1, 1))
    got = {(t, head): bench.read(y, (t * s.hv + head) * s.dv, s.dv) for t, head in sample}
    after = {(head, c): state.read(head, c) for head in s.heads for c in s.columns}

    def of_head(head: int) -> str:
        at_q, at_k, _ = s.parts(head)
        columns = [list(row) for row in state.types.rows]
        reasons = []
        for t in range(rows):
            row, at = t * s.channels, t * s.hv + head
            q, k = keys.part(row + at_q, s.dk), keys.part(row + at_k, s.dk)
            alpha, found = math.exp(decays[at]), []
            for kind, column in enumerate(columns):
                d = betas[at] * (values.rows[kind][t] - alpha * dot(column, k))
                columns[kind] = column = [alpha * a + d * b for a, b in zip(column, k, strict=True)]
                found.append(dot(column, q))
            if (t, head) in got:
                wanted = normed(
                    [found[kind] for kind in kinds[head]], weight.part(0, s.dv), eps, 0.0
                )
                gate = opened.part(t * s.width + s.channels + head * s.dv, s.dv)
                reasons.append(difference(got[t, head].floats(), list(map(mul, wanted, gate))))
        for c in s.columns:
            reasons.append(difference(after[head, c].floats(), columns[kinds[head][c]]))
        return first_of(reasons)

    return Check(calls, lambda: first_of(map(of_head, s.heads)))


def delta_norm(bench: Bench, calls: Sequence[Call]) -> Check:
    """delta_norm.wgsl: two rows, a sample of heads."""
    [call] = calls
    c = constants(call)
    [hv, dv, channels] = whole(c, "HV", "DV", "C")
    rows, width = 2, channels + hv * (dv + 2)
    proj, weight, before = Pattern(_PROJ), Pattern(_NORM, 1.5), Pattern(_Y)
    opened = proj.map(silu)
    y = bench.fill("y", before.period(), rows, hv, dv)
    tensors = [bench.known(proj, rows, width), bench.known(weight, dv), bench.step(_POSITION, rows)]
    bench.call(call, [*tensors, y], (hv, rows, 1))
    sample = [(t, head) for t in range(rows) for head in sorted({0, hv - 1})]
    got = {(t, head): bench.read(y, (t * hv + head) * dv, dv) for t, head in sample}

    def of_head(t: int, head: int) -> str:
        values = normed(before.part((t * hv + head) * dv, dv), weight.part(0, dv), c["EPS"], 0.0)
        gates = opened.part(t * width + channels + head * dv, dv)
        return difference(got[t, head].floats(), list(map(mul, values, gates)))

    return Check(calls, lambda: first_of([of_head(t, head) for t, head in sample]))
