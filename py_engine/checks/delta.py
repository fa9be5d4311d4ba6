"""Checks of the gated DeltaNet between its projections: the step of a token; the convolution and gates of a chunk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

from py_engine.checks.inputs import Pattern, Types, dot
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

_PROJ, _CONV, _DECAY, _HISTORY, _NORM, _STATE = 51, 52, 53, 54, 55, 58  # seeds
_POSITION = 5


@dataclass(frozen=True)
class Shape:
    """Heads and sizes, from the kernels' constants."""

    hk: int
    hv: int
    dk: int
    dv: int
    taps: int

    @classmethod
    def of(cls, call: Call) -> Shape:
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
        self, bench: Bench, shape: Shape, rows: int, known: Sequence[tuple[int, int]] = ((0, 1),)
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


class State:
    """States of all heads. Those of the sample have a few kinds of columns; the rest is 0, which needs no upload."""

    def __init__(self, bench: Bench, shape: Shape) -> None:
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
    s, eps = Shape.of(call), constants(call)["EPS"]
    layer, state, weight = _Layer(bench, s, 1), State(bench, s), Pattern(_NORM, 1.5)
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
    s = Shape.of(call)
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
