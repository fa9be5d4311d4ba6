"""Per-layer embeddings against float64 NumPy: a gate times a normed signal, and the end of a layer with a factor."""

from __future__ import annotations

import numpy as np
import pytest

from py_engine.graph.trace import Tensor
from py_engine.host.gpu import Gpu
from py_engine.ops.norm import Norm
from py_engine.ops.per_layer import end_layer, gate_by_signal
from py_engine.ops.step import Pass
from tests.conftest import Runner
from tests.ops.harness import Bench, nmse


@pytest.mark.parametrize("rows, cols", [(1, 5), (3, 300), (7, 1024)])
def test_against_reference(gpu: Gpu, run: Runner, rows: int, cols: int) -> None:
    rng = np.random.default_rng(cols)
    bench = Bench(gpu)
    x, before = rng.standard_normal((2, rows + 2, cols)).astype(np.float32)
    w = rng.standard_normal(cols).astype(np.float32)
    factor = np.array([0.7], np.float32)
    norm = Norm(bench.put("w", w), 1e-6)
    gated, ended = bench.put("gated", before), bench.put("ended", before)
    given, scalar = bench.put("x", x), bench.put("factor", factor)
    trace = Pass(rows + 2, step=bench.put_step(3, rows))
    gate_by_signal(trace, given, norm, gated)
    end_layer(trace, given, norm, scalar, ended)
    run(bench.run(trace))
    wide = x.astype(np.float64)
    normed = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6) * w
    for got, wanted in (
        (run(bench.get(gated)), before * normed),
        (run(bench.get(ended)), (before + normed) * np.float64(factor[0])),
    ):
        assert nmse(got[:rows], wanted[:rows]) < 1e-12
        assert np.array_equal(got[rows:], before[rows:])
    bench.close()


def test_refused() -> None:
    x, w = Tensor("x", (1, 8)), Tensor("w", (8,))
    trace = Pass(1, step=x)
    with pytest.raises(ValueError, match="differ in the last axis"):
        gate_by_signal(trace, x, Norm(w, 1e-6), Tensor("y", (1, 9)))
    with pytest.raises(ValueError, match="without offset"):
        end_layer(trace, x, Norm(w, 1e-6, offset=1.0), w, x)
