"""matvec against float64 NumPy: every format, form, epilogue and odd size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from py_engine.graph.trace import Tensor
from py_engine.host.gpu import AdapterInfo, Gpu
from py_engine.ops.gate import Finish
from py_engine.ops.matvec import MatvecTask, MatvecTuning, candidates, matvec, tuning
from py_engine.ops.norm import Norm
from py_engine.ops.step import Pass, pack_step
from tests.conftest import Runner
from tests.ops.harness import Bench, nmse
from tests.ops.matrices import FORMATS, act, random_matrix

BAR = 1e-7  # for sums in f32; the weights are exact in every format


@pytest.fixture(scope="module")
def bench(gpu: Gpu) -> Iterator[Bench]:
    bench = Bench(gpu)
    yield bench
    bench.close()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def trace_of(bench: Bench, rows: int = 1, valid: int | None = None) -> Pass:
    """A trace of `rows` rows, of which the step says that `valid` are valid."""
    step = np.frombuffer(pack_step(pos=0, rows=valid or rows), np.uint32)
    return Pass(rows, bench.gpu.features, bench.gpu.info, step=bench.put("step", step))


def output(bench: Bench, rng: np.random.Generator, *shape: int) -> tuple[Tensor, np.ndarray]:
    """A destination with random contents, and these contents in float64."""
    before = rng.standard_normal(shape).astype(np.float32)
    return bench.put("y", before), before.astype(np.float64)


def rms_norm(x: np.ndarray, w: np.ndarray, offset: float, eps: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * (w + offset)


@pytest.mark.parametrize(
    "form, staged", [*((f, False) for f in FORMATS), ("bf16", True), ("q8", True)]
)
def test_formats(
    bench: Bench, run: Runner, rng: np.random.Generator, form: str, staged: bool
) -> None:
    matrix, w = random_matrix(bench, rng, 37, 192, form)
    x = rng.standard_normal((1, 192)).astype(np.float32)
    y, _ = output(bench, rng, 1, 37)
    trace = trace_of(bench)
    t = MatvecTuning(64, 16, 4, staged=staged)
    matvec(trace, "test", bench.put("x", x), matrix, y, form=t)
    run(bench.run(trace))
    assert nmse(run(bench.get(y)), x @ w.T) < BAR


@pytest.mark.parametrize(
    "form, group, scale_format, unpack",
    [
        ("q4", 32, "f16", 1),
        ("q4", 64, "bf16", 2),
        ("q4", 128, "f32", 0),
        ("q4", 128, "f16", 2),
        ("q8", 32, "bf16", 0),
        ("q8", 128, "f32", 0),
    ],
)
def test_quantised(
    bench: Bench,
    run: Runner,
    rng: np.random.Generator,
    form: str,
    group: int,
    scale_format: str,
    unpack: int,
) -> None:
    matrix, w = random_matrix(bench, rng, 19, 256, form, group, scale_format)
    x = rng.standard_normal((1, 256)).astype(np.float32)
    y, _ = output(bench, rng, 1, 19)
    trace = trace_of(bench)
    t = MatvecTuning(32, 8, 2, q4_unpack=unpack)
    matvec(trace, "test", bench.put("x", x), matrix, y, form=t)
    run(bench.run(trace))
    assert nmse(run(bench.get(y)), x @ w.T) < BAR


@pytest.mark.parametrize("form", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("cols", [1, 37])
def test_rows_of_any_length(
    bench: Bench, run: Runner, rng: np.random.Generator, form: str, cols: int
) -> None:
    matrix, w = random_matrix(bench, rng, 11, cols, form)
    x = rng.standard_normal((1, cols)).astype(np.float32)
    nw = rng.standard_normal(cols).astype(np.float32)
    y, _ = output(bench, rng, 1, 11)
    trace = trace_of(bench)
    norm = Norm(bench.put("norm", nw), 1e-6, 1.0)
    t = MatvecTuning(32, 4, 2, staged=True)
    matvec(trace, "test", bench.put("x", x), matrix, y, norm=norm, form=t)
    run(bench.run(trace))
    ref = rms_norm(x.astype(np.float64), nw.astype(np.float64), 1.0, 1e-6) @ w.T
    assert nmse(run(bench.get(y)), ref) < BAR


FORMS = [
    (MatvecTuning(16, 1, 1), "store"),
    (MatvecTuning(16, 1, 8), "gated"),
    (MatvecTuning(64, 4, 2, subgroups=True), "gated"),  # as wide as SwiftShader's subgroups
    (MatvecTuning(64, 8, 8, subgroups=True), "add"),
    (
        MatvecTuning(128, 32, 4, subgroups=True),
        "multiply",
    ),  # wider than both software adapters' subgroups
    (MatvecTuning(128, 32, 8, subgroups=True, staged=True), "gated"),
    (MatvecTuning(256, 64, 4, staged=True), "store"),
    (MatvecTuning(64, 64, 1, staged=True), "add"),
    (MatvecTuning(256, 32, 1), "multiply"),
    (MatvecTuning(128, 32, 2, staged=True), "gated"),
    (MatvecTuning(64, 4, 1), "multiply"),
]


@pytest.mark.parametrize("t, epilogue", FORMS, ids=str)
def test_forms(
    bench: Bench, run: Runner, rng: np.random.Generator, t: MatvecTuning, epilogue: str
) -> None:
    """Every form, with norm and bias, over more columns than the kernel stages at a time."""
    if t.subgroups and "subgroups" not in bench.gpu.features:
        pytest.skip("no subgroups")
    rows, cols = 54, 2048 + 320
    gated = epilogue == "gated"
    kind = "gelu_tanh" if t.lanes == 4 else "silu"
    n = rows // 2 if gated else rows
    matrix, w = random_matrix(bench, rng, rows, cols, "q4")
    x = rng.standard_normal((1, cols)).astype(np.float32)
    nw = rng.standard_normal(cols).astype(np.float32)
    b = rng.standard_normal(rows).astype(np.float32)
    y, before = output(bench, rng, 1, n + 3)
    trace = trace_of(bench)
    if t.subgroups and bench.gpu.info.device.startswith("llvmpipe"):
        # lavapipe's subgroups are 8 wide, but wgpu does not report it. With it, the path without a barrier is tested.
        trace.info = replace(trace.info, subgroup_min_size=8)
    matvec(
        trace,
        "test",
        bench.put("x", x),
        matrix,
        y,
        norm=Norm(bench.put("norm", nw), 1e-5, 1.0),
        finish=Finish(
            epilogue,  # type: ignore[arg-type]
            kind if gated or epilogue == "multiply" else None,  # type: ignore[arg-type]
            bench.put("bias", b),
        ),
        y_offset=3,
        form=t,
    )
    run(bench.run(trace))
    v = rms_norm(x.astype(np.float64), nw.astype(np.float64), 1.0, 1e-5) @ w.T + b
    old = before[:, 3:]
    if epilogue == "add":
        v = old + v
    elif epilogue == "gated":
        v = act(v[:, :n], kind) * v[:, n:]
    elif epilogue == "multiply":
        v = act(old, kind) * v
    got = run(bench.get(y))
    assert nmse(got[:, 3:], v) < BAR
    assert np.array_equal(got[:, :3], before[:, :3].astype(np.float32)), "wrote before y_offset"


@pytest.mark.parametrize(
    "task",
    [
        MatvecTask(54, 2048 + 320, "q4", 64, "f16", "gated", True),  # more columns than are staged
        MatvecTask(37, 96, "bf16", 0, "f16", "add", False),
        MatvecTask(1 << 15, 64, "q8", 32, "bf16", "store", True),  # the form for output heads
    ],
    ids=str,
)
def test_every_candidate_of_the_autotune(
    bench: Bench, run: Runner, rng: np.random.Generator, task: MatvecTask
) -> None:
    matrix, w = random_matrix(
        bench, rng, task.rows, task.cols, task.format, task.group_size or 64, task.scale_format
    )
    x = rng.standard_normal((1, task.cols)).astype(np.float32)
    nw = rng.standard_normal(task.cols).astype(np.float32)
    norm = Norm(bench.put("norm", nw), 1e-5) if task.norm else None
    v = rms_norm(x.astype(np.float64), nw.astype(np.float64), 0.0, 1e-5) if task.norm else x
    v = v @ w.T
    if task.epilogue == "gated":
        v = act(v[:, : task.rows // 2], "silu") * v[:, task.rows // 2 :]
    info = replace(bench.gpu.info, fallback=False)
    forms = candidates(task, bench.gpu.features, info)
    assert len(forms) >= 4
    for form in forms:
        y, before = output(bench, rng, 1, v.shape[1])
        trace = trace_of(bench)
        trace.forms = {task: form}
        matvec(trace, "test", bench.put("x", x), matrix, y, norm=norm, finish=Finish(task.epilogue))
        assert trace.calls[0].task == task
        assert dict(trace.calls[0].kernel.constants)["LANES"] == form.lanes, "not the form given"
        run(bench.run(trace))
        expected = v + before if task.epilogue == "add" else v
        assert nmse(run(bench.get(y)), expected) < BAR, form


def test_last_row(bench: Bench, run: Runner, rng: np.random.Generator) -> None:
    matrix, w = random_matrix(bench, rng, 40, 64, "bf16")
    x = rng.standard_normal((8, 64)).astype(np.float32)
    y, _ = output(bench, rng, 1, 40)
    trace = trace_of(bench, rows=8, valid=6)
    matvec(trace, "test", bench.put("x", x), matrix, y, last_row=True)
    run(bench.run(trace))
    assert nmse(run(bench.get(y)), x[5:6] @ w.T) < BAR


def test_part_of_the_rows(bench: Bench, run: Runner, rng: np.random.Generator) -> None:
    matrix, w = random_matrix(bench, rng, 40, 64, "q8")
    x = rng.standard_normal((1, 64)).astype(np.float32)
    y, before = output(bench, rng, 1, 40)
    trace = trace_of(bench)
    matvec(trace, "test", bench.put("x", x), matrix, y, rows=(7, 30), y_offset=2)
    run(bench.run(trace))
    got = run(bench.get(y))
    assert nmse(got[:, 2:25], x @ w[7:30].T) < BAR
    assert np.array_equal(np.delete(got, np.s_[2:25], 1), np.delete(before, np.s_[2:25], 1))


def test_more_workgroups_than_one_dimension_holds(
    bench: Bench, run: Runner, rng: np.random.Generator
) -> None:
    rows = 70_001
    matrix, w = random_matrix(bench, rng, rows, 32, "q8", 32)
    x = rng.standard_normal((1, 32)).astype(np.float32)
    y, _ = output(bench, rng, 1, rows)
    trace = trace_of(bench)
    matvec(trace, "test", bench.put("x", x), matrix, y, form=MatvecTuning(1, 1, 1))
    assert trace.calls[0].groups[1] == 2
    run(bench.run(trace))
    assert nmse(run(bench.get(y)), x @ w.T) < BAR


def test_large_activations_stay_finite(bench: Bench, run: Runner, rng: np.random.Generator) -> None:
    """With gates of +-1e4, silu and gelu reach their limits and give no NaN."""
    for kind in ("silu", "gelu_tanh"):
        w = np.array([[1.0], [-1.0], [1.0], [1.0]], np.float32) * np.ones((4, 32), np.float32)
        matrix, _ = random_matrix(bench, rng, 4, 32, "f32")
        matrix = replace(matrix, weight=bench.put("weight", w))
        x = np.full((1, 32), 1e4 / 32, np.float32)
        y, _ = output(bench, rng, 1, 2)
        trace = trace_of(bench)
        matvec(trace, "t", bench.put("x", x), matrix, y, finish=Finish("gated", kind))
        run(bench.run(trace))
        assert run(bench.get(y)).tolist() == [[pytest.approx(1e8), pytest.approx(0.0)]]


@pytest.mark.parametrize(
    "rows, cols", [(1024, 2048), (4096, 1024), (6144, 1024), (151936, 1024), (1, 32)]
)
def test_tuning_fits_the_kernel(rows: int, cols: int) -> None:
    for info in (AdapterInfo(), AdapterInfo(fallback=True), AdapterInfo(subgroup_min_size=32)):
        t = tuning(rows, cols, frozenset({"subgroups"}), info)
        assert t.threads <= 256 and t.threads % t.lanes == 0 and t.threads * (t.rows + 1) <= 1280
        assert t.lanes <= -(-cols // 32)
        assert t.subgroups == (info.subgroup_min_size >= t.lanes and not info.fallback)
