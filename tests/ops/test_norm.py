"""RMSNorm and LayerNorm against float64 NumPy: widths that the workgroup does not divide, large and tiny values."""

from __future__ import annotations

import numpy as np
import pytest

from py_engine.graph.trace import Trace
from py_engine.host.gpu import Gpu
from py_engine.ops.norm import Norm, add_norm, apply_norm, norm_last_row
from py_engine.ops.step import Pass, pack_step
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
    apply_norm(trace, given, norm, stored)
    add_norm(trace, given, norm, summed)
    run(bench.run(trace))
    wanted = rms_reference(x, w, 1e-6, offset)
    assert nmse(run(bench.get(stored)), wanted) < 1e-12  # f32 sums of squares: seen 1e-14
    assert nmse(run(bench.get(summed)), before + wanted) < 1e-12
    bench.close()


def layer_reference(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, eps: float, offset: float
) -> np.ndarray:
    x = x.astype(np.float64)
    d = x - x.mean(-1, keepdims=True)
    y = d / np.sqrt((d**2).mean(-1, keepdims=True) + eps) * (w.astype(np.float64) + offset)
    return y if b is None else y + b


@pytest.mark.parametrize(
    "rows, cols, biased, offset, size, mean",
    [
        (1, 384, True, 0.0, 1.0, 0.0),
        (3, 5, False, 0.0, 1.0, 0.3),
        (7, 300, True, 1.0, 1.0, 1000.0),  # what a one-pass variance would lose
        (33, 768, False, 0.0, 1e-4, 0.0),
        (2, 2047, True, 0.0, 1e4, -1e4),
    ],
)
def test_layer_norm(
    gpu: Gpu,
    run: Runner,
    rows: int,
    cols: int,
    biased: bool,
    offset: float,
    size: float,
    mean: float,
) -> None:
    """Stored, added, and of the last valid row alone."""
    rng = np.random.default_rng(cols)
    bench = Bench(gpu)
    x = (mean + size * rng.standard_normal((rows + 2, cols))).astype(np.float32)
    x[rows:] = np.nan
    w, b = rng.standard_normal((2, cols)).astype(np.float32)
    before = rng.standard_normal((rows + 2, cols)).astype(np.float32)
    bias = bench.put("b", b) if biased else None
    norm = Norm(bench.put("w", w), 1e-5, offset, centred=True, bias=bias)
    stored, summed = bench.put("stored", before), bench.put("summed", before)
    last, given = bench.put("last", before), bench.put("x", x)
    step = bench.put("step", np.frombuffer(pack_step(pos=3, rows=rows), np.uint32))
    trace = Pass(rows, step=step)
    apply_norm(trace, given, norm, stored)
    add_norm(trace, given, norm, summed)
    norm_last_row(trace, given, norm, last)
    run(bench.run(trace))
    wanted = layer_reference(x[:rows], w, b if biased else None, 1e-5, offset)
    # f32 rounds what is left when the mean is taken away: relative to it, 6e-8 * mean / size. Seen: a tenth of this.
    bar = max(1e-12, (6e-8 * mean / size) ** 2)
    for got, expected in (
        (stored, wanted),
        (summed, before[:rows] + wanted),
        (last, wanted[rows - 1 :]),
    ):
        found, n = run(bench.get(got)), len(expected)
        assert nmse(found[:n], expected) < bar
        assert np.array_equal(found[n:], before[n:])
    bench.close()


def test_what_norms_cannot_be(gpu: Gpu) -> None:
    bench = Bench(gpu)
    w = bench.put("w", np.zeros(8, np.float32))
    with pytest.raises(ValueError, match="no bias"):
        Norm(w, 1e-6, bias=w)
    with pytest.raises(ValueError, match="by themselves"):
        norm_last_row(Pass(2, step=w), w, Norm(w, 1e-6), w)
    bench.close()


def test_shapes_that_differ(gpu: Gpu) -> None:
    bench = Bench(gpu)
    x = bench.put("x", np.zeros((2, 8), np.float32))
    w = bench.put("w", np.zeros(7, np.float32))
    with pytest.raises(ValueError, match="differ"):
        apply_norm(Trace(2), x, Norm(w, 1e-6), x)
    bench.close()
