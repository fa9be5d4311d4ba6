"""Norms of q and k heads, rotary positions, KV append: one dispatch (shaders/rope.wgsl)."""

from __future__ import annotations

from dataclasses import replace

from py_engine.errors import ModelError
from py_engine.graph.trace import Tensor, Trace, kernel
from py_engine.host.gpu import Binding
from py_engine.ops.norm import Norm

MAX_HEAD_DIM = 256  # a lane of 64 a quad of elements


def exact(tensor: Tensor) -> Tensor:
    """The persistent tensor bound to its own bytes only: kernels read its size from the binding's length."""
    if tensor.binding is None:
        return tensor
    return replace(
        tensor, binding=Binding(tensor.binding.buffer, tensor.binding.offset, tensor.nbytes)
    )


def check_head_dim(label: str, head_dim: int) -> None:
    """Raise ModelError for a head size that the attention kernels cannot take."""
    if head_dim % 4 or not 4 <= head_dim <= MAX_HEAD_DIM:
        raise ModelError(
            f"{label}: head size {head_dim} is not a multiple of 4 up to {MAX_HEAD_DIM}"
        )


def rope_append(
    trace: Trace,
    qkv: Tensor,
    q: Tensor,
    cache: tuple[Tensor, Tensor],
    *,
    kv_heads: int,
    table: Tensor,
    width: int,
    q_norm: Norm | None = None,
    k_norm: Norm | None = None,
    scale: float = 1.0,
    gated: bool = False,
    label: str = "rope",
) -> None:
    """qkv [T, (H + 2 Hkv) D] f32 -> q [T, H, D] f32, and k, v at rows step.pos.. of the caches [Hkv, context, D].

    q and k heads are normed (where given), then their first `width` entries rotated by `table` (the layout of
    models/state.py: (cos, sin) pairs [ceil(context / 64) + 64, width / 2]); q is multiplied by `scale` at the end.
    `gated`: qkv is [T, (2 H + 2 Hkv) D], each q head followed by its output gate, which `attention` reads.
    Rows behind step.rows are left as they are; the caches do not change while step.halt is set.
    Caches f32 or f16. Raises ModelError for unsupported head sizes, ValueError for shapes that disagree.
    """
    k, v = cache
    _, heads, d = q.shape
    check_head_dim(label, d)
    if (
        qkv.shape[-1] != ((1 + gated) * heads + 2 * kv_heads) * d
        or k.shape != v.shape
        or k.shape[::2] != (kv_heads, d)
    ):
        raise ValueError(
            f"{label}: qkv {qkv.shape}, q {q.shape}, k {k.shape} and v {v.shape} do not belong together"
        )
    if width % 2 or not 0 < width <= d:
        raise ValueError(f"{label}: cannot rotate {width} of {d} entries")
    constants: dict[str, float] = {"D": d, "H": heads, "HKV": kv_heads, "R": width, "SCALE": scale}
    if gated:
        constants["GATED"] = True
    for letter, norm in (("Q", q_norm), ("K", k_norm)):
        if norm is not None:
            if norm.weight.shape != (d,):
                raise ValueError(
                    f"{label}: the norm's weight is {norm.weight.shape}, a head has {d} entries"
                )
            constants |= {
                f"NORM_{letter}": True,
                f"EPS_{letter}": norm.eps,
                f"OFFSET_{letter}": norm.offset,
            }
    trace.call(
        label,
        kernel("rope", ["step", f"kv_{k.dtype}"], constants),
        [
            (qkv, "r"),
            (exact(table), "r"),
            (q_norm.weight if q_norm else trace.zeros, "r"),
            (k_norm.weight if k_norm else trace.zeros, "r"),
            (trace.step, "r"),
            (q, "w"),
            (exact(k), "w"),
            (exact(v), "w"),
        ],
        (heads + 2 * kv_heads, trace.rows, 1),
    )
