"""nearest against float64 NumPy: sizes, ties, rows that are gone, several parts, more rounds of the sorter than one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from py_engine.graph.trace import Trace
from py_engine.host.gpu import Gpu
from py_engine.ops.nearest import ROWS, best_size, max_rows, nearest, padded, unpack
from tests.conftest import Runner
from tests.ops.harness import Bench


@dataclass(frozen=True)
class Case:
    """`rows` vectors of `width` numbers, in parts of `part` rows; the best `count` are asked for."""

    rows: int
    width: int
    count: int
    part: int = ROWS


CASES = [
    Case(1, 384, 8),
    Case(1000, 33, 16),
    Case(3 * ROWS, 100, 64),
    Case(ROWS + 5, 1024, 256),
    pytest.param(Case(70_000, 96, 200, 32 * ROWS), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nearest(gpu: Gpu, run: Runner, case: Case) -> None:
    """Products within f32's rounding of float64's, and exactly the best of them: the rows given are those with the
    largest products that the kernel gave, of equal ones the oldest."""
    rng = np.random.default_rng(case.rows + case.width)
    n, k = case.rows, padded(case.width)
    capacity = -(-n // case.part) * case.part
    rows = np.zeros((capacity, k), np.float16)
    rows[:n, : case.width] = rng.standard_normal((n, case.width)) / np.sqrt(case.width)
    rows[n // 2 :: 7] = rows[n // 3]  # ties
    rows[n:] = 9.0  # no vectors: they may not be found
    query = np.zeros(k, np.float32)
    query[: case.width] = rng.standard_normal(case.width) / np.sqrt(case.width)
    alive = np.zeros(capacity, bool)
    alive[:n] = rng.random(n) < 0.9
    alive[0] = True
    bench, most = Bench(gpu), best_size(case.count)
    parts = [bench.put("rows", rows[i : i + case.part]) for i in range(0, capacity, case.part)]
    live = bench.put("live", np.packbits(alive, bitorder="little").view(np.uint32))
    keys = bench.put("keys", np.zeros(capacity, np.uint32))
    best = bench.put("best", np.zeros((most, 2), np.uint32))
    trace = Trace(1)
    nearest(trace, parts, bench.put("query", query), live, keys, best)
    run(bench.run(trace))
    found = unpack(run(bench.get(best)).tobytes())
    every = run(bench.get(keys))
    bench.close()

    exact = rows.astype(np.float64) @ query.astype(np.float64)
    got = unpack(np.stack([every, np.arange(capacity, dtype=np.uint32)], 1).tobytes())
    assert [row for row, _ in got] == np.flatnonzero(alive).tolist()
    for row, score in got:
        assert abs(score - exact[row]) < 2e-6 * max(1, np.abs(rows[row]).sum())
    assert found == sorted(got, key=lambda pair: (-pair[1], pair[0]))[:most]


def test_shapes_that_differ(gpu: Gpu) -> None:
    bench = Bench(gpu)
    rows = bench.put("rows", np.zeros((ROWS, 8), np.float16))
    words = bench.put("words", np.zeros(ROWS, np.uint32))
    query = bench.put("query", np.zeros(8, np.float32))
    best = bench.put("best", np.zeros((16, 2), np.uint32))
    with pytest.raises(ValueError, match="nearest"):
        nearest(Trace(1), [rows], query, words, words, best)
    bench.close()


def test_a_part_keeps_to_its_bytes_and_to_the_workgroups_of_a_dispatch() -> None:
    assert max_rows(768, 128 << 20) * 768 * 2 <= 128 << 20
    assert max_rows(1, 128 << 20) // 16 <= 65535
    assert max_rows(5000, 1 << 20) == ROWS
