"""Activations as integers for dot4I8Packed, normed first if there is a norm (shaders/quantise.wgsl)."""

from __future__ import annotations

from py_engine.graph.trace import Tensor, Trace, kernel
from py_engine.ops.norm import Norm, first_normed


def quantised_words(k: int) -> int:
    """u32 words of a row of k numbers: high and low parts; a sum for each 64 and a scale, filled up to whole vec4s."""
    return k // 2 + -(-(k // 64 + 1) // 4) * 4


def quantise(
    trace: Trace, x: Tensor, y: Tensor, norm: Norm | None = None, label: str = "quantise"
) -> None:
    """y [T, quantised_words(K)] u32 = norm(x [T, K] f32), or x without a norm, as integers of 15 bits, a scale a row.

    K is a multiple of 64. Values are rounded to 1/32512 of the largest of their row. Raises ValueError when the shapes
    differ.
    """
    if norm is not None and norm.centred:
        raise ValueError(f"{label}: no LayerNorm is taken on the way to integers")
    k = x.shape[-1]
    if k % 64 or y.shape[-1] != quantised_words(k) or (norm and norm.weight.shape != (k,)):
        raise ValueError(f"{label}: x {x.shape} and y {y.shape} must be rows of whole 64s")
    normed, weight = first_normed(norm)
    constants = {"K": k, "WORDS": quantised_words(k), **normed}
    trace.call(
        label,
        kernel("quantise", ["tree_sum", "tree_max"], constants),
        [(x, "r"), (weight, "r"), (y, "w")],
        (trace.rows, 1, 1),
    )
