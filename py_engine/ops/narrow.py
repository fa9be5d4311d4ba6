"""Activations as f16 for the tensor units, normed first if there is a norm (shaders/narrow.wgsl)."""

from __future__ import annotations

from py_engine.graph.trace import Tensor, Trace, kernel
from py_engine.ops.norm import Norm, first_normed


def narrow(
    trace: Trace, x: Tensor, y: Tensor, norm: Norm | None = None, label: str = "narrow"
) -> None:
    """y [T / 16, K / 16, 16, 16] f16 = norm(x [T, K] f32), or x without a norm, in blocks of 16 rows and 16 columns.

    y's shape is given as [T, K]; T and K are multiples of 16. Values that f16 cannot hold become +-65504.

    Raises ValueError when the shapes differ.
    """
    if norm is not None and norm.centred:
        raise ValueError(f"{label}: no LayerNorm is taken on the way to f16")
    k = x.shape[-1]
    if y.shape[-1] != k or k % 16 or y.shape[0] % 16 or (norm and norm.weight.shape != (k,)):
        raise ValueError(f"{label}: x {x.shape} and y {y.shape} must be blocks of 16 x 16")
    normed, weight = first_normed(norm)
    constants = {"K": k, **normed}
    trace.call(
        label,
        kernel("narrow", ["tree_sum"], constants),
        [(x, "r"), (weight, "r"), (y, "w")],
        (trace.rows, 1, 1),
    )
