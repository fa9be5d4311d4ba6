"""narrow against float64 NumPy: with and without the norm, widths that the workgroup does not divide, f16's range."""

from __future__ import annotations

import numpy as np
import pytest

from py_engine.graph.trace import Trace
from py_engine.host.gpu import Gpu
from py_engine.ops.narrow import narrow
from py_engine.ops.norm import Norm
from tests.conftest import Runner
from tests.ops.harness import Bench, nmse
from tests.ops.test_norm import rms_reference


def blocks(rows: np.ndarray) -> np.ndarray:
    """Rows [T, K] as blocks of 16 x 16: the same bytes as the kernel's output. T and K are multiples of 16."""
    t, k = rows.shape
    parts = rows.reshape(t // 16, 16, k // 16, 16).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(parts).reshape(t, k)


@pytest.mark.parametrize("cols, offset", [(16, 0.0), (640, 1.0), (2064, 0.0)])
def test_narrow(gpu: Gpu, run: Runner, cols: int, offset: float) -> None:
    rng = np.random.default_rng(cols)
    bench = Bench(gpu)
    x = (30 * rng.standard_normal((32, cols))).astype(np.float32)
    x[1, :2] = 1e5, -1e6  # beyond f16
    w = rng.standard_normal(cols).astype(np.float32)
    plain, normed = (bench.put(n, np.zeros((32, cols), np.float16)) for n in ("plain", "normed"))
    trace = Trace(32)
    given = bench.put("x", x)
    narrow(trace, given, plain)
    narrow(trace, given, normed, Norm(bench.put("w", w), 1e-6, offset))
    run(bench.run(trace))
    # f16 has 11 bits, so the mean square error of rounding is at most (2^-12)^2 / 3 = 2e-8.
    wanted = np.clip(x, -65504.0, 65504.0)
    assert nmse(run(bench.get(plain)), blocks(wanted)) < 1e-7
    assert nmse(run(bench.get(normed)), blocks(rms_reference(x, w, 1e-6, offset))) < 1e-7
    bench.close()


def test_shapes_that_differ(gpu: Gpu) -> None:
    bench = Bench(gpu)
    odd = bench.put("x", np.zeros((2, 7), np.float32))
    with pytest.raises(ValueError, match="blocks of 16"):
        narrow(Trace(2), odd, odd)
    bench.close()
