"""Per-layer embeddings: a gate times a normed signal (shaders/per_layer_gate.wgsl), and the end of a layer that has a
factor (shaders/per_layer_end.wgsl). Source: EmbeddingGemma 2, transformers, models/embedding_gemma2.
"""

from __future__ import annotations

from py_engine.graph.trace import Tensor, kernel
from py_engine.ops.norm import Norm, threads_for
from py_engine.ops.step import Pass


def gate_by_signal(trace: Pass, p: Tensor, norm: Norm, y: Tensor, label: str = "gate") -> None:
    """y [T, K] *= norm(p [T, K]), f32; rows from step.rows on are not changed. Raises ValueError when shapes differ, or
    for a norm that is not a plain RMSNorm."""
    _check(label, p, norm, y)
    trace.call(
        label,
        kernel("per_layer_gate", ["step", "tree_sum"], _constants(norm, p)),
        [(p, "r"), (norm.weight, "r"), (trace.step, "r"), (y, "w")],
        (trace.rows, 1, 1),
    )


def end_layer(
    trace: Pass, x: Tensor, norm: Norm, factor: Tensor, y: Tensor, label: str = "layer end"
) -> None:
    """y [T, K] = (y + norm(x [T, K])) * factor [1], f32; rows from step.rows on are not changed. Raises ValueError as
    `gate_by_signal`."""
    _check(label, x, norm, y)
    trace.call(
        label,
        kernel("per_layer_end", ["step", "tree_sum"], _constants(norm, x)),
        [(x, "r"), (norm.weight, "r"), (factor, "r"), (trace.step, "r"), (y, "w")],
        (trace.rows, 1, 1),
    )


def _check(label: str, x: Tensor, norm: Norm, y: Tensor) -> None:
    k = x.shape[-1]
    if y.shape[-1] != k or norm.weight.shape != (k,):
        raise ValueError(
            f"{label}: x {x.shape}, y {y.shape} and weight {norm.weight.shape} differ in the last axis"
        )
    if norm.centred or norm.offset:
        raise ValueError(f"{label}: the norm is an RMSNorm without offset")


def _constants(norm: Norm, x: Tensor) -> dict[str, float]:
    k = x.shape[-1]
    return {"WG": threads_for(k // 4, 256), "K": k, "EPS": norm.eps}
