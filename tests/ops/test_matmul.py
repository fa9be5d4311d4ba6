"""matmul against float64 NumPy: every format, tile, epilogue and odd size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from py_engine.graph.matrix import Linear, Matrix
from py_engine.host.gpu import AdapterInfo, Gpu
from py_engine.ops.gate import Finish
from py_engine.ops.linear import linear
from py_engine.ops.matmul import MatmulTuning, fits, matmul, tuning
from tests.conftest import Runner
from tests.ops.harness import Bench, nmse
from tests.ops.matrices import FORMATS, act, random_matrix
from tests.ops.test_matvec import output, trace_of
from tests.ops.test_narrow import blocks
from tests.ops.test_quantise import quantised_rows

BAR = 1e-7


@pytest.fixture(scope="module")
def bench(gpu: Gpu) -> Iterator[Bench]:
    bench = Bench(gpu)
    yield bench
    bench.close()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


@pytest.mark.parametrize(
    "form, cols",
    [*((f, 128) for f in FORMATS), ("f32", 37), ("f16", 33), ("bf16", 1)],
)
def test_formats(bench: Bench, run: Runner, rng: np.random.Generator, form: str, cols: int) -> None:
    """13 of 16 rows are valid, and 45 columns leave a partial tile. Rows behind the valid ones do not change."""
    matrix, w = random_matrix(bench, rng, 45, cols, form)
    x = rng.standard_normal((16, cols)).astype(np.float32)
    x[13:] = np.nan
    y, before = output(bench, rng, 16, 45)
    trace = trace_of(bench, rows=16, valid=13)
    matmul(trace, "test", bench.put("x", x), matrix, y, form=MatmulTuning(1, 32, 1))
    run(bench.run(trace))
    got = run(bench.get(y))
    assert nmse(got[:13], x[:13] @ w.T) < BAR
    assert np.array_equal(got[13:], before[13:].astype(np.float32))


TILES = [
    (MatmulTuning(4, 64, 1), "store"),
    (MatmulTuning(4, 64, 1, unrolled=False), "gated"),
    (MatmulTuning(2, 32, 2, unrolled=False), "add"),
    (MatmulTuning(8, 64, 2), "add"),
    (MatmulTuning(8, 64, 2), "gated"),
    (MatmulTuning(4, 32, 4), "gated"),
    (MatmulTuning(2, 64, 1), "multiply"),
    (MatmulTuning(1, 32, 2), "add"),
    (MatmulTuning(4, 64, 1, f16=True), "gated"),
    (MatmulTuning(2, 32, 1, f16=True), "multiply"),
]


@pytest.mark.parametrize("t, epilogue", TILES, ids=str)
def test_tiles(
    bench: Bench, run: Runner, rng: np.random.Generator, t: MatmulTuning, epilogue: str
) -> None:
    """Every tile, with bias: 70 of 80 rows valid, partial tiles in both directions."""
    if t.f16 and "shader-f16" not in bench.gpu.features:
        pytest.skip("no shader-f16")
    rows, cols = 150, 192
    gated = epilogue == "gated"
    n = rows // 2 if gated else rows
    matrix, w = random_matrix(bench, rng, rows, cols, "q4")
    x = rng.standard_normal((80, cols)).astype(np.float32)
    b = rng.standard_normal(rows).astype(np.float32)
    y, before = output(bench, rng, 80, n + 5)
    trace = trace_of(bench, rows=80, valid=70)
    kind = "gelu_tanh" if t.cols == 32 else "silu"
    matmul(
        trace,
        "test",
        bench.put("x", x),
        matrix,
        y,
        finish=Finish(
            epilogue,  # type: ignore[arg-type]
            kind if gated or epilogue == "multiply" else None,  # type: ignore[arg-type]
            bench.put("bias", b),
        ),
        y_offset=3,
        form=t,
    )
    run(bench.run(trace))
    v = x.astype(np.float64) @ w.T + b
    old = before[:, 3 : 3 + n]
    if epilogue == "add":
        v = old + v
    elif epilogue == "gated":
        v = act(v[:, :n], kind) * v[:, n:]
    elif epilogue == "multiply":
        v = act(old, kind) * v
    got = run(bench.get(y)).copy()
    # f16 tiles round x and W to 11 bits. The NMSE that this causes was measured as 1e-7 to 2e-7.
    assert nmse(got[:70, 3 : 3 + n], v[:70]) < (1e-6 if t.f16 else BAR)
    got[:70, 3 : 3 + n] = before[:70, 3 : 3 + n]
    assert np.array_equal(got, before.astype(np.float32)), "wrote elsewhere"


def test_part_of_the_rows(bench: Bench, run: Runner, rng: np.random.Generator) -> None:
    matrix, w = random_matrix(bench, rng, 40, 64, "q8", row_offset=100)
    assert isinstance(matrix, Matrix)
    x = rng.standard_normal((8, 64)).astype(np.float32)
    y, before = output(bench, rng, 8, 40)
    trace = trace_of(bench, rows=8)
    matmul(trace, "test", bench.put("x", x), matrix, y, rows=(7, 30), y_offset=2)
    run(bench.run(trace))
    got = run(bench.get(y))
    assert nmse(got[:, 2:25], x @ w[7:30].T) < BAR
    assert np.array_equal(np.delete(got, np.s_[2:25], 1), np.delete(before, np.s_[2:25], 1))


@pytest.mark.parametrize("t", [2, 8, 32, 128, 512])
def test_tuning_fits_the_kernel(t: int) -> None:
    for info in (AdapterInfo(), AdapterInfo(fallback=True)):
        form = tuning(t, info)
        assert fits(form) and form.rows in (1, 2, 4, 8)
        assert info.fallback or 8 * form.rows >= min(t, 64)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("epilogue", ["store", "add", "gated", "multiply"])
def test_units(
    bench: Bench, run: Runner, rng: np.random.Generator, form: str, epilogue: str
) -> None:
    """The tensor units of a real GPU (JERBOA_TEST_GPU=1, JERBOA_DAWN_TOGGLES): 70 of 80 rows are valid, and the columns
    leave a partial tile."""
    if "subgroup-matrix" not in bench.gpu.features:
        pytest.skip("no subgroup-matrix: no software adapter has it")
    rows, cols = 150, 192
    gated = epilogue == "gated"
    n = rows // 2 if gated else rows
    matrix, w = random_matrix(bench, rng, rows, cols, form)
    x = rng.standard_normal((80, cols)).astype(np.float16)
    b = rng.standard_normal(rows).astype(np.float32)
    y, before = output(bench, rng, 80, n + 5)
    trace = trace_of(bench, rows=80, valid=70)
    matmul(
        trace, "test", bench.put("x", blocks(x)), matrix, y, y_offset=3,
        finish=Finish(epilogue, None, bench.put("bias", b)),  # type: ignore[arg-type]
    )  # fmt: skip
    run(bench.run(trace))
    v = x.astype(np.float64) @ w.T + b
    old = before[:, 3 : 3 + n]
    if epilogue == "add":
        v = old + v
    elif epilogue == "gated":
        v = act(v[:, :n], "silu") * v[:, n:]
    elif epilogue == "multiply":
        v = act(old, "silu") * v
    got = run(bench.get(y)).copy()
    assert nmse(got[:70, 3 : 3 + n], v[:70]) < 1e-6  # W is rounded to f16
    got[:70, 3 : 3 + n] = before[:70, 3 : 3 + n]
    assert np.array_equal(got, before.astype(np.float32)), "wrote elsewhere"


def test_units_are_for_whole_tiles(bench: Bench, rng: np.random.Generator) -> None:
    """A layer uses the tensor units where its width and the chunk's rows allow it. It narrows its input first."""
    every = frozenset({"subgroup-matrix", "shader-f16", "subgroups"})
    for rows, cols, features, takes in [
        (64, 128, every, True),
        (512, 192, every, True),
        (48, 128, every, False),
        (72, 128, every, False),
        (64, 96, every, False),
        (64, 128, every - {"subgroup-matrix"}, False),
    ]:
        matrix, _ = random_matrix(bench, rng, 32, cols, "f16")
        trace = trace_of(bench, rows=rows)
        trace.features = features
        x = trace.tensor("x", rows, cols)
        layer = Linear(32, cols, (matrix,))
        linear(trace, "test", x, layer, trace.tensor("y", rows, 32))
        assert [c.kernel.stem for c in trace.calls] == (
            ["narrow", "matmul_units"] if takes else ["matmul"]
        )


@pytest.mark.parametrize(
    "form, group, scale_format, epilogue",
    [
        ("q4", 64, "f16", "store"),
        ("q4", 64, "bf16", "gated"),
        ("q4", 128, "f32", "multiply"),
        ("q8", 64, "bf16", "add"),
        ("q8", 128, "f16", "gated"),
    ],
)
def test_dot4(
    bench: Bench,
    run: Runner,
    rng: np.random.Generator,
    form: str,
    group: int,
    scale_format: str,
    epilogue: str,
) -> None:
    """Integer products: the input is quantised beforehand, and its quantised values are multiplied exactly. 70 of 80
    rows are valid, with partial tiles in both directions."""
    rows, cols = 150, 384
    gated = epilogue == "gated"
    n = rows // 2 if gated else rows
    matrix, w = random_matrix(bench, rng, rows, cols, form, group, scale_format)
    words, x = quantised_rows(rng.standard_normal((80, cols)))
    b = rng.standard_normal(rows).astype(np.float32)
    y, before = output(bench, rng, 80, n + 5)
    trace = trace_of(bench, rows=80, valid=70)
    matmul(
        trace, "test", bench.put("x", words), matrix, y, y_offset=3,
        finish=Finish(epilogue, None, bench.put("bias", b)),  # type: ignore[arg-type]
    )  # fmt: skip
    run(bench.run(trace))
    v = x @ w.T + b
    old = before[:, 3 : 3 + n]
    if epilogue == "add":
        v = old + v
    elif epilogue == "gated":
        v = act(v[:, :n], "silu") * v[:, n:]
    elif epilogue == "multiply":
        v = act(old, "silu") * v
    got = run(bench.get(y)).copy()
    assert nmse(got[:70, 3 : 3 + n], v[:70]) < BAR
    got[:70, 3 : 3 + n] = before[:70, 3 : 3 + n]
    assert np.array_equal(got, before.astype(np.float32)), "wrote elsewhere"


def test_integers_are_for_quantised_weights(bench: Bench, rng: np.random.Generator) -> None:
    """A layer uses integer products on GPUs that have an instruction for them. It quantises its input first."""
    nvidia = AdapterInfo("nvidia", "ampere")
    for rows, cols, form, group, info, takes in [
        (64, 192, "q4", 64, nvidia, True),
        (512, 128, "q8", 128, nvidia, True),
        (512, 128, "q4", 64, AdapterInfo("NVIDIA"), True),
        (48, 128, "q4", 64, nvidia, False),
        (64, 96, "q4", 32, nvidia, False),
        (64, 128, "q4", 32, nvidia, False),
        (64, 128, "f16", 0, nvidia, False),
        (64, 128, "q4", 64, AdapterInfo("nvidia", "maxwell"), False),
        (64, 128, "q4", 64, AdapterInfo("apple"), False),
        (64, 128, "q4", 64, AdapterInfo("nvidia", fallback=True), False),
    ]:
        matrix, _ = random_matrix(bench, rng, 32, cols, form, group)
        trace = trace_of(bench, rows=rows)
        trace.features, trace.info = frozenset({"dot4"}), info
        x = trace.tensor("x", rows, cols)
        layer = Linear(32, cols, (matrix,))
        linear(trace, "test", x, layer, trace.tensor("y", rows, 32))
        assert [c.kernel.stem for c in trace.calls] == (
            ["quantise", "matmul_dot4"] if takes else ["matmul"]
        )
