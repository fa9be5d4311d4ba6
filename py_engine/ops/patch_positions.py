"""What vision towers do to rows of patches beside products and attention: add their positions, resampled to the
picture's grid (shaders/patch_positions.wgsl), and put blocks of them side by side (shaders/gather_rows.wgsl)."""

from __future__ import annotations

from math import isqrt

from py_engine.graph.trace import NOTHING, Tensor, kernel
from py_engine.ops.step import Pass

OUTSIDE = 0xFFFFFFFF  # row and column of what is no patch (CLS)


def add_positions(
    trace: Pass,
    x: Tensor,
    places: Tensor,
    taps: Tensor,
    table: Tensor,
    cls: Tensor | None = None,
    label: str = "positions",
) -> None:
    """x [>= T, K] f32 += for each of the step.rows valid rows the position at its place in the picture's grid.

    places u32 [>= T, 2]: the patch's row and column in the grid. taps f32 [2, sides, 2 + n], for rows and for columns:
    the first place on a side of the table, how many count from it on (1 to n), and their weights
    (blocks/position_taps.py). table f32 [side^2, K]. With `cls` f32 [K], table is [1 + side^2, K], and rows at OUTSIDE
    become cls + table[0].
    Raises ValueError when shapes differ.
    """
    k, base = x.shape[-1], cls is not None
    side = isqrt(table.shape[0] - base)
    fits = table.shape == (base + side * side, k) and (cls is None or cls.shape == (k,))
    if not fits or places.shape[1:] != (2,) or len(taps.shape) != 3 or taps.shape[2] < 3:
        raise ValueError(
            f"{label}: x {x.shape}, places {places.shape}, taps {taps.shape}, table {table.shape}"
        )
    constants = {"K": k, "SIDE": side, "SIDES": taps.shape[1], "TAPS": taps.shape[2] - 2}
    if base:
        constants["BASE"] = 1
    trace.call(
        label,
        kernel("patch_positions", ["step"], constants),
        [
            (places, "r"),
            (taps, "r"),
            (table, "r"),
            (cls or NOTHING, "r"),
            (trace.step, "r"),
            (x, "w"),
        ],
        (-(-k // 64), trace.rows, 1),
    )


def gather_rows(trace: Pass, x: Tensor, order: Tensor, y: Tensor, label: str = "merge") -> None:
    """y = rows order[0], order[1], ... of x [rows, K] f32, for the step.rows valid rows of the pass. y [>= T, K], or
    [>= T / n, n K] with n of them side by side. order u32 [>= T]. Raises ValueError when shapes differ."""
    k = x.shape[-1]
    if y.shape[-1] % k or y.shape[0] * (y.shape[-1] // k) < trace.rows:
        raise ValueError(f"{label}: x {x.shape} and y {y.shape} for {trace.rows} rows")
    trace.call(
        label,
        kernel("gather_rows", ["step"], {"K": k}),
        [(x, "r"), (order, "r"), (trace.step, "r"), (y, "w")],
        (-(-k // 64), trace.rows, 1),
    )
