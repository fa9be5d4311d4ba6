"""Checks of the kernels of per-layer embeddings (ops/per_layer.py): two rows, and a row after them, which must not
change."""

from __future__ import annotations

from collections.abc import Sequence
from operator import add, mul

from py_engine.checks.inputs import Pattern
from py_engine.checks.norms import known_weight
from py_engine.checks.workbench import Bench, Check, constants, difference, normed, whole
from py_engine.graph.trace import Call

_X, _Y = Pattern(91), Pattern(92)
_ROWS, _FACTOR = 2, 8


def gate_by_signal(bench: Bench, calls: Sequence[Call]) -> Check:
    """per_layer_gate.wgsl."""
    return _check(bench, calls, None)


def end_layer(bench: Bench, calls: Sequence[Call]) -> Check:
    """per_layer_end.wgsl."""
    return _check(bench, calls, Pattern(93))


def _check(bench: Bench, calls: Sequence[Call], factor: Pattern | None) -> Check:
    """Either kernel: the end of a layer has a `factor`."""
    [call] = calls
    c = constants(call)
    [k] = whole(c, "K")
    y = bench.fill("y", _Y.period(), _ROWS + 1, k)
    factors = [bench.known(factor, _FACTOR)] if factor else []
    inputs = [bench.known(_X, _ROWS, k), bench.known(known_weight(), k), *factors]
    bench.call(call, [*inputs, bench.step(6, _ROWS), y], (_ROWS + 1, 1, 1))
    got = bench.read(y)

    def verify() -> str:
        wanted: list[float] = []
        for t in range(_ROWS):
            before = _Y.part(t * k, k)
            row = normed(_X.part(t * k, k), known_weight().part(0, k), c["EPS"], 0.0)
            if factor is None:
                wanted += map(mul, before, row)
            else:
                wanted += [v * factor.part(0, 1)[0] for v in map(add, before, row)]
        return difference(got.floats(), wanted + _Y.part(_ROWS * k, k))

    return Check(calls, verify)
