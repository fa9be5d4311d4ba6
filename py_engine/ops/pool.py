"""A vector for each text of a pass (shaders/pool.wgsl)."""

from __future__ import annotations

from typing import Literal

from py_engine.graph.trace import Tensor, Trace, kernel

Pooling = Literal["mean", "first", "last"]

POOLINGS: dict[Pooling, int] = {"mean": 0, "first": 1, "last": 2}


def pool(
    trace: Trace,
    x: Tensor,
    texts: Tensor,
    y: Tensor,
    pooling: Pooling,
    *,
    normalise: bool = True,
    label: str = "pool",
) -> None:
    """y [S, K] f32: the mean, the first or the last of rows texts[s, 0] .. texts[s, 1] - 1 of x [>= T, K] f32, scaled
    to unit length where `normalise`; zeros for a text without rows. texts u32 [S, 2].

    Raises ValueError when shapes differ.
    """
    if x.shape[-1] != y.shape[-1] or texts.shape != (y.shape[0], 2):
        raise ValueError(f"{label}: x {x.shape}, texts {texts.shape}, y {y.shape}")
    constants = {"K": x.shape[-1], "POOLING": POOLINGS[pooling], "NORMALISE": normalise}
    trace.call(
        label,
        kernel("pool", ["tree_sum"], constants),
        [(x, "r"), (texts, "r"), (y, "w")],
        (y.shape[0], 1, 1),
    )
