"""Positions of patches and rows in another order, against float64 NumPy; taps against torch's."""

from __future__ import annotations

import numpy as np
import pytest

from py_engine.blocks.position_taps import Resampling, axis_taps, most_taps, packed
from py_engine.host.gpu import Gpu
from py_engine.ops.patch_positions import OUTSIDE, add_positions, gather_rows
from py_engine.ops.step import Pass
from tests.conftest import Runner
from tests.ops.harness import Bench, nmse

ROWS, VALID = 40, 37


@pytest.mark.parametrize("kind, cls", [("corners", False), ("triangle", False), ("bicubic", True)])
def test_positions(gpu: Gpu, run: Runner, kind: Resampling, cls: bool) -> None:
    """A grid of 4 x 9 patches over a table of 7 x 7, with every kind of taps; rows beyond the valid ones stay."""
    bench, rng, side, k, (h, w) = Bench(gpu), np.random.default_rng(3), 7, 70, (4, 9)
    x = rng.standard_normal((ROWS, k)).astype(np.float32)
    table = rng.standard_normal((cls + side * side, k)).astype(np.float32)
    first = rng.standard_normal(k).astype(np.float32)
    places = np.zeros((ROWS, 2), np.uint32)
    places[cls : cls + h * w] = np.indices((h, w)).reshape(2, -1).T
    if cls:
        places[0] = OUTSIDE
    else:
        places[36] = (3, 0)
    taps = np.zeros((2, 12, 2 + most_taps(kind, side)), np.float32)
    for axis, count in enumerate((h, w)):
        data = np.frombuffer(packed(kind, side, count), np.float32)
        taps[axis, :count] = data.reshape(count, -1)
    y = bench.put("x", x)
    trace = Pass(ROWS, step=bench.put_step(0, VALID))
    add_positions(
        trace, y, bench.put("places", places), bench.put("taps", taps), bench.put("table", table),
        bench.put("cls", first) if cls else None,
    )  # fmt: skip
    run(bench.run(trace))
    square = table[cls:].astype(np.float64).reshape(side, side, k)
    rows, columns = (dense(kind, side, count) for count in (h, w))
    grid = np.einsum("yi,xj,ijk->yxk", rows, columns, square)
    wanted = x.astype(np.float64)
    for t, (row, column) in enumerate(places[:VALID]):
        if row == OUTSIDE:
            wanted[t] = first.astype(np.float64) + table[0]
        else:
            wanted[t] += grid[row, column]
    assert nmse(run(bench.get(y)), wanted) < 1e-12
    bench.close()


def dense(kind: Resampling, side: int, count: int) -> np.ndarray:
    """The taps of an axis as a matrix [count, side]."""
    found = np.zeros((count, side))
    for i, (first, weights) in enumerate(axis_taps(kind, side, count)):
        found[i, first : first + len(weights)] = weights
    return found


# torch.nn.functional.interpolate (2.14) of an identity matrix along one axis: mode bicubic; bilinear with antialias;
# bilinear with align_corners.
@pytest.mark.parametrize(
    "kind, side, count, wanted",
    [
        ("bicubic", 5, 3, [[0.685185, 0.37037, -0.055556], [0, 0, 1], [0, 0, -0.055556, 0.37037, 0.685185]]),
        ("bicubic", 3, 5, [[1.096, -0.096], [0.612, 0.46, -0.072], [0, 1], [-0.072, 0.46, 0.612], [0, -0.096, 1.096]]),
        ("triangle", 5, 2, [[0.318182, 0.409091, 0.227273, 0.045455], [0, 0.045455, 0.227273, 0.409091, 0.318182]]),
        ("triangle", 3, 5, [[1], [0.6, 0.4], [0, 1], [0, 0.4, 0.6], [0, 0, 1]]),
        ("corners", 5, 3, [[1], [0, 0, 1], [0, 0, 0, 0, 1]]),
        ("corners", 3, 4, [[1], [0.333333, 0.666667], [0, 0.666667, 0.333333], [0, 0, 1]]),
        ("corners", 5, 1, [[1]]),
        ("corners", 1, 3, [[1], [1], [1]]),
    ],
)  # fmt: skip
def test_taps_are_torchs(
    kind: Resampling, side: int, count: int, wanted: list[list[float]]
) -> None:
    full = [row + [0] * (side - len(row)) for row in wanted]
    assert np.abs(dense(kind, side, count) - full).max() < 1e-6
    assert max(len(weights) for _, weights in axis_taps(kind, side, count)) <= most_taps(kind, side)


def test_rows_in_another_order(gpu: Gpu, run: Runner) -> None:
    """Blocks of four rows side by side; what comes after the valid rows stays."""
    bench, rng, k = Bench(gpu), np.random.default_rng(4), 33
    x = rng.standard_normal((ROWS, k)).astype(np.float32)
    order = rng.permutation(ROWS).astype(np.uint32)
    y = bench.put("y", np.full((ROWS // 4, 4 * k), 7, np.float32))
    trace = Pass(ROWS, step=bench.put_step(0, 36))
    gather_rows(trace, bench.put("x", x), bench.put("order", order), y)
    run(bench.run(trace))
    got = run(bench.get(y))
    assert (got[:9] == x[order[:36]].reshape(9, -1)).all() and (got[9:] == 7).all()
    bench.close()


def test_shapes_that_differ(gpu: Gpu) -> None:
    bench = Bench(gpu)
    x, places = (
        bench.put("x", np.zeros((2, 8), np.float32)),
        bench.put("p", np.zeros((2, 2), np.uint32)),
    )
    taps, table = (bench.put("t", np.zeros(shape, np.float32)) for shape in ((2, 2, 4), (5, 8)))
    trace = Pass(2, step=bench.put_step(0, 2))
    with pytest.raises(ValueError, match="positions"):
        add_positions(trace, x, places, taps, table)
    with pytest.raises(ValueError, match="merge"):
        gather_rows(trace, x, places, taps)
    bench.close()
