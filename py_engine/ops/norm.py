"""RMSNorm of rows (shaders/norm.wgsl), for prefill and for Gemma's post norms; before a matvec it is fused there."""

from __future__ import annotations

from dataclasses import dataclass

from py_engine.graph.trace import Tensor, Trace, kernel


@dataclass(frozen=True)
class Norm:
    """x / sqrt(mean(x^2) + eps) * (weight + offset): weight f32 [K]; offset 1 for Gemma, else 0."""

    weight: Tensor
    eps: float
    offset: float = 0.0


def rms_norm(trace: Trace, x: Tensor, norm: Norm, y: Tensor, label: str = "norm") -> None:
    """y [T, K] = norm(x [T, K]), f32. Raises ValueError when the shapes differ."""
    _call(trace, x, norm, y, label, add=False)


def add_norm(trace: Trace, x: Tensor, norm: Norm, y: Tensor, label: str = "post norm") -> None:
    """y [T, K] += norm(x [T, K]), f32, for the rows of this trace. Raises ValueError when the shapes differ."""
    _call(trace, x, norm, y, label, add=True)


def _call(trace: Trace, x: Tensor, norm: Norm, y: Tensor, label: str, add: bool) -> None:
    k = x.shape[-1]
    if y.shape[-1] != k or norm.weight.shape != (k,):
        raise ValueError(
            f"{label}: x {x.shape}, y {y.shape} and weight {norm.weight.shape} differ in the last axis"
        )
    constants = {"K": k, "EPS": norm.eps, "OFFSET": norm.offset, "ADD": add}
    trace.call(
        label,
        kernel("norm", ["tree_sum"], constants),
        [(x, "r"), (norm.weight, "r"), (y, "w")],
        (trace.rows, 1, 1),
    )
