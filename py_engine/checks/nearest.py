"""Checks of the kernels that search a memory: products of stored vectors with a query, and the best of them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from py_engine.checks.inputs import Pattern, dot
from py_engine.checks.workbench import Bench, Check, constants, difference, exact_difference, whole
from py_engine.graph.trace import Call
from py_engine.ops.nearest import score_of

_ROWS, _QUERY = 91, 92  # seeds


def nearest_scores(bench: Bench, calls: Sequence[Call]) -> Check:
    """nearest_scores.wgsl: 48 rows, of which some may not be found."""
    [call] = calls
    [k8] = whole(constants(call), "K8")
    n, k = 48, 8 * k8
    rows, query = Pattern(_ROWS), Pattern(_QUERY)
    gone = {0, 17, 31, 32, 47}
    words = [sum(1 << bit for bit in range(32) if at + bit not in gone) for at in (0, 32)]
    keys = bench.make("keys", n, dtype="u32")
    bench.call(
        call,
        [
            bench.known(rows, n, k, dtype="f16"),
            bench.known(query, k),
            bench.put("live", struct.pack("<2I", *words), 2, dtype="u32"),
            keys,
        ],
        (n // 16, 1, 1),
    )
    got = bench.read(keys)

    def verify() -> str:
        found, there = got.words(), [row for row in range(n) if row not in gone]
        if any(found[row] for row in gone):
            return "finds a row that is gone"
        wanted = [dot(rows.part(row * k, k), query.part(0, k)) for row in there]
        return difference([score_of(found[row]) for row in there], wanted, size=k**0.5)

    return Check(calls, verify)


def nearest_best(bench: Bench, calls: Sequence[Call]) -> Check:
    """nearest_best.wgsl: two runs of candidates, the second not full; many of them are equal."""
    [call] = calls
    [best, pairs] = whole(constants(call), "BEST", "PAIRS")
    count = 1024 + 300
    keys = [(i * 0x9E3779B1 & 0xFFFFFFFF) >> 24 << 24 | 1 for i in range(count)]
    # Pairs name their places by themselves: not in order, so that ties are seen to go by them.
    places = [i ^ 7 if pairs else i for i in range(count)]
    words = [word for pair in zip(keys, places, strict=True) for word in pair] if pairs else keys
    data = struct.pack(f"<{len(words)}I", *words)
    # A buffer of these words only: the kernel reads how many there are.
    source = bench.put("candidates", data, len(words), dtype="u32")
    target = bench.make("best", 2 * best, 2, dtype="u32")
    bench.call(call, [source, target], (2, 1, 1))
    got = bench.read(target)

    def verify() -> str:
        wanted: list[int] = []
        for run in (slice(0, 1024), slice(1024, count)):
            order = sorted(zip(keys[run], places[run], strict=True), key=lambda p: (-p[0], p[1]))
            wanted += [word for pair in order[:best] for word in pair]
        return exact_difference(got.words(), wanted, "candidates") and "sorts wrongly"

    return Check(calls, verify)
