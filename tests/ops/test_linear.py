"""linear and gated_linear against float64 NumPy: one row and a chunk, and layers in parts of several formats."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from py_engine.graph.matrix import Linear, Matrix
from py_engine.host.gpu import Gpu
from py_engine.ops.gate import EPILOGUES, Finish
from py_engine.ops.linear import gated_linear, linear
from py_engine.ops.norm import Norm
from tests.conftest import Runner
from tests.ops.harness import Bench, nmse
from tests.ops.matrices import act, random_linear
from tests.ops.test_matvec import output, rms_norm, trace_of
from tests.ops.test_norm import layer_reference

BAR = 1e-7


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("residual", [False, True])
def test_linear(gpu: Gpu, run: Runner, rows: int, residual: bool) -> None:
    bench, rng = Bench(gpu), np.random.default_rng(1)
    layer, w, b = random_linear(bench, rng, [(33, "q4"), (7, "bf16")], 64, bias=True)
    x = rng.standard_normal((16, 64)).astype(np.float32)
    nw = rng.standard_normal(64).astype(np.float32)
    y, before = output(bench, rng, 16, 40)
    trace = trace_of(bench, rows)
    linear(
        trace,
        "t",
        bench.put("x", x),
        layer,
        y,
        norm=Norm(bench.put("n", nw), 1e-6),
        residual=residual,
    )
    assert len(trace.calls) == (2 if rows == 1 else 3)
    run(bench.run(trace))
    ref = (
        rms_norm(x.astype(np.float64), nw.astype(np.float64), 0.0, 1e-6) @ w.T
        + b
        + before * residual
    )
    got = run(bench.get(y))
    assert nmse(got[:rows], ref[:rows]) < BAR
    assert np.array_equal(got[rows:], before[rows:].astype(np.float32))
    bench.close()


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize(
    "parts, dispatches",
    [
        ([(46, "q8")], 1),
        ([(23, "q4"), (23, "q8")], 2),
        (
            [(10, "q4"), (20, "f16"), (16, "q8")],
            4,
        ),  # the second part holds the last gates and the first ups
    ],
)
def test_gated_linear(
    gpu: Gpu, run: Runner, rows: int, parts: list[tuple[int, str]], dispatches: int
) -> None:
    bench, rng = Bench(gpu), np.random.default_rng(2)
    layer, w, b = random_linear(bench, rng, parts, 64, bias=True)
    x = rng.standard_normal((rows, 64)).astype(np.float32)
    y, _ = output(bench, rng, rows, 23)
    trace = trace_of(bench, rows)
    gated_linear(trace, "t", bench.put("x", x), layer, y, "gelu_tanh")
    assert len(trace.calls) == dispatches
    run(bench.run(trace))
    v = x @ w.T + b
    assert nmse(run(bench.get(y)), act(v[:, :23], "gelu_tanh") * v[:, 23:]) < BAR
    bench.close()


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize(
    "kind, residual, scale, factors, biased",
    [
        ("gelu", False, 1.0, False, True),
        ("gelu_tanh", True, 0.22, False, True),
        ("silu", False, 1.0, True, False),
        ("relu", True, 1.0, True, True),
        ("relu2", False, 1.0, False, False),
        (None, True, 0.25, True, True),
        (None, True, 16.0, False, False),
    ],
)
def test_what_becomes_of_a_product(
    gpu: Gpu,
    run: Runner,
    rows: int,
    kind: Any,
    residual: bool,
    scale: float,
    factors: bool,
    biased: bool,
) -> None:
    """Activations, factors of the outputs and scales, with bias and residual, in a layer of two parts."""
    bench, rng = Bench(gpu), np.random.default_rng(5)
    layer, w, b = random_linear(bench, rng, [(33, "q4"), (8, "bf16")], 64, bias=biased)
    vectors, f = b * biased, np.ones(41)
    if factors:
        f = rng.standard_normal(41)
        stored = np.concatenate([b, f] if biased else [f]).astype(np.float32)
        layer = replace(layer, bias=bench.put("vectors", stored), factors_at=41 * biased)
    x = (3 * rng.standard_normal((16, 64))).astype(np.float32)
    x[:, ::2] *= 0.1  # some products are small
    y, before = output(bench, rng, 16, 41)
    trace = trace_of(bench, rows)
    linear(trace, "t", bench.put("x", x), layer, y, activation=kind, scale=scale, residual=residual)
    assert len(trace.calls) == 2
    run(bench.run(trace))
    p = x @ w.T + vectors
    ref = (act(p, kind) if kind else p) * f * scale + before * residual
    got = run(bench.get(y))
    assert nmse(got[:rows], ref[:rows]) < BAR
    assert np.array_equal(got[rows:], before[rows:].astype(np.float32))
    bench.close()


@pytest.mark.parametrize("kind", ["gelu", "relu", "relu2"])
def test_gates_of_other_activations(gpu: Gpu, run: Runner, kind: Any) -> None:
    for rows, parts in ((1, [(46, "f32")]), (9, [(23, "f32"), (23, "f16")])):
        bench, rng = Bench(gpu), np.random.default_rng(2)
        layer, w, b = random_linear(bench, rng, parts, 64, bias=True)
        x = rng.standard_normal((rows, 64)).astype(np.float32)
        y, _ = output(bench, rng, rows, 23)
        trace = trace_of(bench, rows)
        gated_linear(trace, "t", bench.put("x", x), layer, y, kind)
        run(bench.run(trace))
        v = x @ w.T + b
        assert nmse(run(bench.get(y)), act(v[:, :23], kind) * v[:, 23:]) < BAR
        bench.close()


def test_gelu_is_exact_far_from_zero_and_near_it(gpu: Gpu, run: Runner) -> None:
    """The error is at most 3e-7 max(1, |gelu(x)|), the bound of the erf that the kernel uses. Where exp would overflow,
    the result is finite."""
    bench = Bench(gpu)
    x = np.concatenate([np.linspace(-8, 8, 997), [-1e30, 1e30, 0.0]]).astype(np.float32)[:, None]
    one = Matrix(1, 1, "f32", bench.put("w", np.ones((1, 1), np.float32)))
    y = bench.put("y", np.zeros((1000, 1), np.float32))
    trace = trace_of(bench, 1000)
    linear(trace, "t", bench.put("x", x), Linear(1, 1, (one,)), y, activation="gelu")
    run(bench.run(trace))
    wanted = act(x.astype(np.float64), "gelu")
    error = np.abs(run(bench.get(y)) - wanted) / np.maximum(1, np.abs(wanted))
    assert error.max() < 3e-7
    bench.close()


@pytest.mark.parametrize("rows, last", [(1, False), (9, False), (9, True)])
def test_layer_norm_before_a_layer(gpu: Gpu, run: Runner, rows: int, last: bool) -> None:
    """The norm is a dispatch of its own before matvec and matmul. For a head it takes only the last valid row."""
    bench, rng = Bench(gpu), np.random.default_rng(6)
    layer, w, _ = random_linear(bench, rng, [(33, "q8")], 64)
    x = 5 + rng.standard_normal((16, 64)).astype(np.float32)
    nw, nb = rng.standard_normal((2, 64)).astype(np.float32)
    y, before = output(bench, rng, 16, 33)
    trace = trace_of(bench, rows, valid=min(rows, 7))
    norm = Norm(bench.put("n", nw), 1e-5, centred=True, bias=bench.put("b", nb))
    linear(trace, "t", bench.put("x", x), layer, y, norm=norm, last_row=last)
    assert [c.kernel.stem for c in trace.calls] == [
        "layer_norm",
        "matvec" if rows == 1 or last else "matmul",
    ]
    run(bench.run(trace))
    ref = layer_reference(x, nw, nb, 1e-5, 0.0) @ w.T
    got = run(bench.get(y))
    first, n = (6, 1) if last else (0, min(rows, 7))
    assert nmse(got[:n], ref[first : first + n]) < BAR
    assert np.array_equal(got[n:], before[n:].astype(np.float32))
    bench.close()


def test_gates_have_no_scale() -> None:
    with pytest.raises(ValueError, match="neither factors nor a scale"):
        Finish("gated", "silu", scale=2.0).constants(0)


def test_kernels_without_extras_are_what_they_were() -> None:
    """Extras that a layer does not use are no constants of its kernel, so layers without extras share a pipeline."""
    for epilogue in EPILOGUES:
        assert Finish(epilogue).constants(3).keys() == {
            "BIAS", "BIAS_OFFSET", "EPILOGUE", "ACTIVATION",
        }  # fmt: skip


def test_head_reads_the_last_valid_row(gpu: Gpu, run: Runner) -> None:
    bench, rng = Bench(gpu), np.random.default_rng(3)
    layer, w, _ = random_linear(bench, rng, [(60, "q4"), (41, "q4")], 64)
    x = rng.standard_normal((8, 64)).astype(np.float32)
    nw = np.ones(64, np.float32)
    y, _ = output(bench, rng, 101)
    trace = trace_of(bench, 8, valid=5)
    norm = Norm(bench.put("n", nw), 1e-6)
    linear(trace, "t", bench.put("x", x), layer, y, norm=norm, last_row=True)
    run(bench.run(trace))
    ref = rms_norm(x[4:5].astype(np.float64), nw.astype(np.float64), 0.0, 1e-6) @ w.T
    assert nmse(run(bench.get(y)), ref[0]) < BAR
    bench.close()


def test_shapes_that_do_not_fit(gpu: Gpu) -> None:
    bench, rng = Bench(gpu), np.random.default_rng(4)
    layer, _, _ = random_linear(bench, rng, [(40, "f32")], 64)
    x, y = (
        bench.put("x", np.zeros((1, 32), np.float32)),
        bench.put("y", np.zeros((1, 40), np.float32)),
    )
    with pytest.raises(ValueError, match="do not fit a layer 40 x 64"):
        linear(trace_of(bench), "t", x, layer, y)
    bench.close()
