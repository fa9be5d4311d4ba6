"""linear and gated_linear against float64 NumPy: one row and a chunk, layers in parts of several formats."""

from __future__ import annotations

import numpy as np
import pytest

from py_engine.host.gpu import Gpu
from py_engine.ops.linear import gated_linear, linear
from py_engine.ops.norm import Norm
from tests.conftest import Runner
from tests.ops.harness import Bench, nmse
from tests.ops.matrices import act, random_linear
from tests.ops.test_matvec import output, rms_norm, trace_of

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
