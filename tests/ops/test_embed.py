"""embed against NumPy: every format, tables in parts, ids beyond the table."""

from __future__ import annotations

import numpy as np
import pytest

from py_engine.graph.matrix import Linear
from py_engine.graph.trace import Tensor, Trace
from py_engine.host.gpu import Gpu
from py_engine.ops.embed import embed
from tests.conftest import Runner
from tests.ops.harness import Bench, nmse
from tests.ops.matrices import random_linear

SCALE = 25.5
FORMATS = [
    ("f32", 96),
    ("f16", 96),
    ("bf16", 96),
    ("q4", 128),
    ("q8", 64),
    ("f16", 37),
    ("bf16", 33),
    ("f32", 5),
]


async def embedded(bench: Bench, ids: list[int], table: Linear, *, add: bool = False) -> np.ndarray:
    """The output of embed for `ids`, [len(ids), cols]. Its buffer holds 9 before."""
    trace = Trace(len(ids))
    out: Tensor = bench.put("out", np.full((len(ids), table.cols), 9.0, np.float32))
    embed(trace, bench.put("ids", np.array(ids, np.uint32)), table, out, scale=SCALE, add=add)
    await bench.run(trace)
    return await bench.get(out)


@pytest.mark.parametrize("form, cols", FORMATS)
def test_formats(gpu: Gpu, run: Runner, form: str, cols: int) -> None:
    bench = Bench(gpu)
    table, w, _ = random_linear(bench, np.random.default_rng(3), [(50, form)], cols)
    ids = [0, 49, 7, 7, 31]
    got = run(embedded(bench, ids, table))
    assert nmse(got, w[ids] * SCALE) < 1e-13  # f32 rounds one product and, for q4 and q8, one sum
    bench.close()


@pytest.mark.parametrize("form, cols", FORMATS)
def test_added_to_what_is_there(gpu: Gpu, run: Runner, form: str, cols: int) -> None:
    """Each row is added exactly once, whichever part of the table holds it."""
    bench = Bench(gpu)
    parts = [(20, form), (1, "bf16"), (29, form)]
    table, w, _ = random_linear(bench, np.random.default_rng(7), parts, cols)
    ids = [19, 20, 21, 49, 7, 7, 2**31 - 1]
    wanted = 9.0 + w[np.minimum(ids, 49)].astype(np.float64) * SCALE
    assert nmse(run(embedded(bench, ids, table, add=True)), wanted) < 1e-13
    bench.close()


def test_parts_and_ids_beyond_the_table(gpu: Gpu, run: Runner) -> None:
    bench = Bench(gpu)
    parts = [(20, "q4"), (1, "bf16"), (29, "q8")]
    table, w, _ = random_linear(bench, np.random.default_rng(4), parts, 64)
    ids = [19, 20, 21, 49, 50, 2**31 - 1]
    got = run(embedded(bench, ids, table))
    assert nmse(got, w[np.minimum(ids, 49)] * SCALE) < 1e-13
    bench.close()


def test_rows_that_are_given_stay(gpu: Gpu, run: Runner) -> None:
    """Ids from 2^31 on stand for given rows, which no part of the table overwrites."""
    bench = Bench(gpu)
    table, w, _ = random_linear(bench, np.random.default_rng(6), [(20, "q4"), (30, "bf16")], 64)
    ids = [3, 2**31, 2**32 - 1, 40]
    got = run(embedded(bench, ids, table))
    assert nmse(got[[0, 3]], w[[3, 40]] * SCALE) < 1e-13
    assert (got[1:3] == 9.0).all()
    bench.close()


def test_wide_rows(gpu: Gpu, run: Runner) -> None:
    """A row has more columns than one workgroup handles."""
    bench = Bench(gpu)
    table, w, _ = random_linear(bench, np.random.default_rng(5), [(3, "q4")], 64 * 32 + 64)
    assert nmse(run(embedded(bench, [2, 0], table)), w[[2, 0]] * SCALE) < 1e-13
    bench.close()
