"""pool against float64 NumPy: every pooling, and texts of no row, one and many. Rows between the texts are NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from py_engine.graph.trace import Trace
from py_engine.host.gpu import Gpu
from py_engine.ops.pool import pool
from tests.conftest import Runner
from tests.ops.harness import Bench, nmse

TEXTS = [(0, 1), (1, 37), (40, 40), (41, 60), (0, 0), (60, 62)]


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
@pytest.mark.parametrize("cols, unit", [(384, True), (33, True), (700, False)])
def test_pool(gpu: Gpu, run: Runner, pooling: Any, cols: int, unit: bool) -> None:
    bench, rng = Bench(gpu), np.random.default_rng(cols)
    x = (rng.standard_normal((64, cols)) + 0.5).astype(np.float32)
    x[37:41] = x[62:] = np.nan
    texts = bench.put("texts", np.array(TEXTS, np.uint32))
    y = bench.put("y", np.full((len(TEXTS), cols), np.nan, np.float32))
    trace = Trace(64)
    pool(trace, bench.put("x", x), texts, y, pooling, normalise=unit)
    run(bench.run(trace))
    wanted = np.zeros((len(TEXTS), cols))
    for s, (begin, end) in enumerate(TEXTS):
        rows = {"mean": x[begin:end], "first": x[begin:end][:1], "last": x[begin:end][-1:]}[pooling]
        if len(rows):
            v = rows.astype(np.float64).mean(0)
            wanted[s] = v / np.linalg.norm(v) if unit else v
    assert nmse(run(bench.get(y)), wanted) < 1e-12
    bench.close()


def test_shapes_that_differ(gpu: Gpu) -> None:
    bench = Bench(gpu)
    x, texts = (
        bench.put("x", np.zeros((2, 8), np.float32)),
        bench.put("t", np.zeros((3, 2), np.uint32)),
    )
    with pytest.raises(ValueError, match="pool"):
        pool(Trace(2), x, texts, x, "mean")
    bench.close()
