"""RMSNorm and LayerNorm of rows (shaders/norm.wgsl, layer_norm.wgsl), and of parts of rows (norm_parts.wgsl). A
matvec applies RMSNorm itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from py_engine.graph.trace import NOTHING, Tensor, kernel
from py_engine.ops.step import Pass


@dataclass(frozen=True)
class Norm:
    """RMSNorm: x / sqrt(mean(x^2) + eps) * (weight + offset); offset 1 for Gemma, else 0 (Zhang & Sennrich 2019).

    `centred`: LayerNorm, (x - mean(x)) / sqrt(variance(x) + eps) * (weight + offset) + bias (Ba et al. 2016,
    arXiv:1607.06450). weight, bias f32 [K]; a bias, which may be left out, only where centred.
    """

    weight: Tensor
    eps: float
    offset: float = 0.0
    centred: bool = False
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        if self.bias is not None and not self.centred:
            raise ValueError("an RMSNorm has no bias")


@dataclass(frozen=True)
class PartNorms:
    """Norms of the first columns of rows: `first` (count, width) parts, then `second`, each with weights of its own.

    `weight` f32 [columns of all parts], in their order. `centred`: LayerNorm without bias, else RMSNorm.
    """

    weight: Tensor
    first: tuple[int, int]
    second: tuple[int, int]
    eps: float
    centred: bool = False


def threads_for(items: int, most: int) -> int:
    """Threads of a workgroup for `items` items: a power of two from 16 (tree_sum.wgsl) to `most`, so that a narrow row
    has no idle threads."""
    return max(16, min(most, 1 << max(items - 1, 0).bit_length()))


def norm_parts(trace: Pass, y: Tensor, norms: PartNorms, label: str = "part norms") -> None:
    """Norm the parts of y [T, K] f32 in place; columns after them, and rows from step.rows on, are not changed. Raises
    ValueError when the shapes differ."""
    (count, width), (more, width_2) = norms.first, norms.second
    columns = count * width + more * width_2
    if norms.weight.shape != (columns,) or y.shape[-1] < columns:
        raise ValueError(f"{label}: {columns} columns, weight {norms.weight.shape}, y {y.shape}")
    constants = {
        "WG": threads_for(max(width, width_2) // 4, 64),
        "COLS": y.shape[-1],
        "COUNT": count,
        "WIDTH": width,
        "WIDTH_2": width_2,
        "EPS": norms.eps,
        "CENTRED": norms.centred,
    }
    trace.call(
        label,
        kernel("norm_parts", ["step", "tree_sum"], constants),
        [(norms.weight, "r"), (trace.step, "r"), (y, "w")],
        (trace.rows, count + more, 1),
    )


def first_normed(norm: Norm | None) -> tuple[dict[str, float], Tensor]:
    """Constants and weight for a kernel that can apply an RMSNorm to its input first (narrow, quantise)."""
    if norm is None:
        return {}, NOTHING
    return {"NORM": True, "EPS": norm.eps, "OFFSET": norm.offset}, norm.weight


def apply_norm(trace: Pass, x: Tensor, norm: Norm, y: Tensor, label: str = "norm") -> None:
    """y [T, K] = norm(x [T, K]), f32; rows from step.rows on are not changed. Raises ValueError when the shapes
    differ."""
    _call(trace, x, norm, y, label, add=False)


def add_norm(trace: Pass, x: Tensor, norm: Norm, y: Tensor, label: str = "post norm") -> None:
    """y [T, K] += norm(x [T, K]), f32; rows from step.rows on are not changed. Raises ValueError when the shapes
    differ."""
    _call(trace, x, norm, y, label, add=True)


def norm_last_row(trace: Pass, x: Tensor, norm: Norm, y: Tensor, label: str = "norm") -> None:
    """y [1, K] = LayerNorm of row step.rows - 1 of x [>= T, K]. Raises ValueError for an RMSNorm, or when the shapes
    differ."""
    if not norm.centred:
        raise ValueError(f"{label}: of an RMSNorm the products take the last row by themselves")
    _check(x, norm, y, label)
    _layer_norm(trace, x, norm, y, label, {"LAST_ROW": True}, 1)


def _call(trace: Pass, x: Tensor, norm: Norm, y: Tensor, label: str, add: bool) -> None:
    _check(x, norm, y, label)
    if norm.centred:
        _layer_norm(trace, x, norm, y, label, {"ADD": True} if add else {}, trace.rows)
        return
    k = x.shape[-1]
    constants = {"WG": threads_for(k // 4, 256), "K": k, "EPS": norm.eps, "OFFSET": norm.offset}
    constants["ADD"] = add
    trace.call(
        label,
        kernel("norm", ["step", "tree_sum"], constants),
        [(x, "r"), (norm.weight, "r"), (trace.step, "r"), (y, "w")],
        (trace.rows, 1, 1),
    )


def _layer_norm(
    trace: Pass,
    x: Tensor,
    norm: Norm,
    y: Tensor,
    label: str,
    switches: dict[str, float],
    rows: int,
) -> None:
    k = x.shape[-1]
    constants = {
        "WG": threads_for(k // 4, 256),
        "K": k,
        "EPS": norm.eps,
        "OFFSET": norm.offset,
        "BIAS": norm.bias is not None,
        **switches,
    }
    bias = NOTHING if norm.bias is None else norm.bias
    trace.call(
        label,
        kernel("layer_norm", ["step", "tree_sum"], constants),
        [(x, "r"), (norm.weight, "r"), (bias, "r"), (trace.step, "r"), (y, "w")],
        (rows, 1, 1),
    )


def _check(x: Tensor, norm: Norm, y: Tensor, label: str) -> None:
    vectors = [norm.weight, *([norm.bias] if norm.bias is not None else [])]
    k = x.shape[-1]
    if y.shape[-1] != k or any(v.shape != (k,) for v in vectors):
        raise ValueError(
            f"{label}: x {x.shape}, y {y.shape} and weights {[v.shape for v in vectors]} differ in the last axis"
        )
