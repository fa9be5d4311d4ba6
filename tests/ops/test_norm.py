"""RMSNorm against float64 NumPy: widths that the workgroup does not divide, both forms, large and tiny values."""

from __future__ import annotations

import numpy as np
import pytest

from py_engine.graph.trace import Trace
from py_engine.host.gpu import Gpu
from py_engine.ops.norm import Norm, add_norm, rms_norm
from tests.conftest import Runner
from tests.ops.harness import Bench, nmse


def rms_reference(x: np.ndarray, w: np.ndarray, eps: float, offset: float) -> np.ndarray:
    x = x.astype(np.float64)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * (w.astype(np.float64) + offset)


@pytest.mark.parametrize(
    "rows, cols, offset, size",
    [
        (1, 640, 1.0, 1.0),
        (3, 5, 0.0, 1.0),
        (7, 300, 0.0, 1e4),
        (33, 1024, 1.0, 1e-4),
        (2, 2047, 0.0, 1.0),
    ],
)
def test_norm_and_sum(
    gpu: Gpu, run: Runner, rows: int, cols: int, offset: float, size: float
) -> None:
    rng = np.random.default_rng(cols)
    bench = Bench(gpu)
    x = (size * rng.standard_normal((rows, cols))).astype(np.float32)
    w = rng.standard_normal(cols).astype(np.float32)
    before = rng.standard_normal((rows, cols)).astype(np.float32)
    norm = Norm(bench.put("w", w), 1e-6, offset)
    stored, summed = bench.put("stored", before), bench.put("summed", before)
    trace = Trace(rows)
    given = bench.put("x", x)
    rms_norm(trace, given, norm, stored)
    add_norm(trace, given, norm, summed)
    run(bench.run(trace))
    wanted = rms_reference(x, w, 1e-6, offset)
    assert nmse(run(bench.get(stored)), wanted) < 1e-12  # f32 sums of squares: seen 1e-14
    assert nmse(run(bench.get(summed)), before + wanted) < 1e-12
    bench.close()


def test_shapes_that_differ(gpu: Gpu) -> None:
    bench = Bench(gpu)
    x = bench.put("x", np.zeros((2, 8), np.float32))
    w = bench.put("w", np.zeros(7, np.float32))
    with pytest.raises(ValueError, match="differ"):
        rms_norm(Trace(2), x, Norm(w, 1e-6), x)
    bench.close()
