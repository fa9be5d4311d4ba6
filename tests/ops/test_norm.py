"""RMSNorm and LayerNorm against float64 NumPy: widths that the workgroup does not divide, large and tiny values."""

from __future__ import annotations

import numpy as np
import pytest

from py_engine.host.gpu import Gpu
from py_engine.ops.norm import (
    Norm,
    PartNorms,
    add_norm,
    apply_norm,
    norm_last_row,
    norm_parts,
)
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
    x = (size * rng.standard_normal((rows + 2, cols))).astype(np.float32)
    w = rng.standard_normal(cols).astype(np.float32)
    before = rng.standard_normal((rows + 2, cols)).astype(np.float32)
    norm = Norm(bench.put("w", w), 1e-6, offset)
    stored, summed = bench.put("stored", before), bench.put("summed", before)
    step = bench.put("step", np.frombuffer(pack_step(pos=3, rows=rows), np.uint32))
    trace = Pass(rows + 2, step=step)
    given = bench.put("x", x)
    apply_norm(trace, given, norm, stored)
    add_norm(trace, given, norm, summed)
    run(bench.run(trace))
    wanted = rms_reference(x, w, 1e-6, offset)[:rows]
    for got, valid in (
        (run(bench.get(stored)), wanted),
        (run(bench.get(summed)), before[:rows] + wanted),
    ):
        assert nmse(got[:rows], valid) < 1e-12  # rounding of f32 sums of squares; measured: 1e-14
        assert np.array_equal(got[rows:], before[rows:])
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
        (7, 300, True, 1.0, 1.0, 1000.0),  # a one-pass variance would be too inexact here
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
    """The norm is stored, added to what is there, and computed for the last valid row only."""
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
    trace = Pass(rows + 1, step=step)
    apply_norm(trace, given, norm, stored)
    add_norm(trace, given, norm, summed)
    norm_last_row(trace, given, norm, last)
    run(bench.run(trace))
    wanted = layer_reference(x[:rows], w, b if biased else None, 1e-5, offset)
    # Subtracting the mean in f32 leaves a relative error of up to 6e-8 * mean / size. Measured: a tenth of it.
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


@pytest.mark.parametrize(
    "rows, first, second, behind, centred",
    [
        (1, (1, 640), (1, 160), 160, False),  # q and k normed over their whole width, v behind them
        (3, (1, 36), (1, 12), 12, False),
        (7, (5, 20), (1, 20), 20, True),  # each head has weights of its own
        (2, (2, 100), (2, 68), 136, True),
        (2, (3, 5), (2, 77), 0, False),  # odd widths, nothing behind
    ],
)
def test_norms_of_parts(
    gpu: Gpu,
    run: Runner,
    rows: int,
    first: tuple[int, int],
    second: tuple[int, int],
    behind: int,
    centred: bool,
) -> None:
    """Parts are normed in place. Columns behind the parts and rows that are not valid do not change."""
    rng = np.random.default_rng(rows + first[1])
    bench = Bench(gpu)
    widths = [first[1]] * first[0] + [second[1]] * second[0]
    x = (0.5 + rng.standard_normal((rows + 2, sum(widths) + behind))).astype(np.float32)
    x[rows:] = np.nan
    w = rng.standard_normal(sum(widths)).astype(np.float32)
    y = bench.put("y", x)
    step = bench.put("step", np.frombuffer(pack_step(pos=3, rows=rows), np.uint32))
    trace = Pass(rows + 2, step=step)
    norm_parts(trace, y, PartNorms(bench.put("w", w), first, second, 1e-5, centred))
    run(bench.run(trace))
    got, at = run(bench.get(y)), 0
    for n in widths:
        part, weight = x[:rows, at : at + n], w[at : at + n]
        if centred:
            wanted = layer_reference(part, weight, None, 1e-5, 0.0)
        else:
            wanted = rms_reference(part, weight, 1e-5, 0.0)
        assert nmse(got[:rows, at : at + n], wanted) < 1e-12
        at += n
    assert np.array_equal(got[:rows, at:], x[:rows, at:])
    assert np.isnan(got[rows:]).all()
    bench.close()


def test_parts_that_do_not_fit(gpu: Gpu) -> None:
    bench = Bench(gpu)
    y, w = bench.put("y", np.zeros((2, 8), np.float32)), bench.put("w", np.zeros(12, np.float32))
    with pytest.raises(ValueError, match="12 columns"):
        norm_parts(Pass(2, step=y), y, PartNorms(w, (1, 8), (1, 4), 1e-6))
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
        apply_norm(Pass(2, step=x), x, Norm(w, 1e-6), x)
    bench.close()
