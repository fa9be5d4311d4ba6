"""Checks of the kernels that only vision towers have: positions of patches, and rows in another order."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from operator import add

from py_engine.checks.inputs import Pattern
from py_engine.checks.workbench import Bench, Check, constants, difference, whole
from py_engine.graph.trace import Call
from py_engine.ops.patch_positions import OUTSIDE

_X, _TABLE, _CLS = 91, 92, 93  # seeds


def patch_positions(bench: Bench, calls: Sequence[Call]) -> Check:
    """patch_positions.wgsl: three patches with one tap, with as many as there may be, and with both; where there is CLS
    its row too; and a row after the valid ones. The weights are no sums of 1."""
    [call] = calls
    [k, side, sides, taps, base] = whole(constants(call), "K", "SIDE", "SIDES", "TAPS", "BASE")
    x, table, cls = Pattern(_X), Pattern(_TABLE), Pattern(_CLS)
    many = min(taps, 4)
    entries = [(side - 1, [0.5]), (0, [(i + 1) / 8 for i in range(many)])]
    words = [
        struct.pack(f"<{2 + many}f", at, len(w), *w, *[0.0] * (many - len(w))) for at, w in entries
    ]
    size = 4 * (2 + taps)
    kinds = bench.make("taps", 2, sides, 2 + taps)
    for axis in range(2):
        for i in range(2):  # columns in the other order than rows
            bench.write(kinds, (axis * sides + i) * size, words[i ^ axis])
    places = [(0, 1), (1, 0), (0, 0), *([(OUTSIDE, OUTSIDE)] if base else [])]
    rows = len(places)
    given = struct.pack(f"<{2 * rows + 2}I", *(n for place in [*places, (0, 0)] for n in place))
    y = bench.fill("x", x.period(), rows + 1, k)
    bench.call(
        call,
        [
            bench.put("places", given, rows + 1, 2, dtype="u32"),
            kinds,
            bench.known(table, base + side * side, k),
            bench.known(cls, k) if base else bench.zeros,
            bench.step(0, rows),
            y,
        ],
        (call.groups[0], rows + 1, 1),
    )
    got = bench.read(y)

    def position(row: int, column: int) -> list[float]:
        found = [0.0] * k
        (top, lines), (left, columns) = entries[row], entries[column ^ 1]
        for i, line in enumerate(lines):
            for j, weight in enumerate(columns):
                at = base + (top + i) * side + left + j
                part = table.part(at * k, k)
                found = list(map(add, found, map((line * weight).__mul__, part)))
        return found

    def verify() -> str:
        wanted: list[float] = []
        for t, (row, column) in enumerate(places):
            if row == OUTSIDE:
                wanted += map(add, cls.part(0, k), table.part(0, k))
            else:
                wanted += map(add, x.part(t * k, k), position(row, column))
        return difference(got.floats(), wanted + x.part(rows * k, k))

    return Check(calls, verify)


def gather_rows(bench: Bench, calls: Sequence[Call]) -> Check:
    """gather_rows.wgsl: four of five rows, one of them twice, and one after the valid ones."""
    [call] = calls
    [k] = whole(constants(call), "K")
    x, order = Pattern(_X), [3, 0, 4, 3]
    y = bench.make("y", len(order) + 1, k)
    words = struct.pack("<5I", *order, 1)
    bench.call(
        call,
        [bench.known(x, 5, k), bench.put("order", words, 5, dtype="u32"), bench.step(0, 4), y],
        (call.groups[0], 5, 1),
    )
    got = bench.read(y)

    def verify() -> str:
        wanted = [v for row in order for v in x.part(row * k, k)]
        return difference(got.floats(), wanted + [0.0] * k)

    return Check(calls, verify)
