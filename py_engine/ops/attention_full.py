"""Attention without a causal mask: within texts, in a window, or over another sequence (shaders/attention_full.wgsl).
On GPUs, many rows that see each other take the kernels of a chunk (ops/attention.py), whose tiles are larger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from py_engine.graph.trace import NOTHING, Tensor, kernel
from py_engine.ops.attention import attend_chunk, takes_units
from py_engine.ops.rope import MAX_FULL_HEAD_DIM, MAX_HEAD_DIM, Heads, check_head_dim, rope_append
from py_engine.ops.step import Pass

_MANY_ROWS = 128  # of a pass; with fewer, another dispatch costs more than the faster kernel saves


@dataclass(frozen=True)
class FullHeads:
    """H query heads of size D that share Hkv key/value heads. Scores are multiplied by `scale`.

    `window` (before, after): row t sees keys t - before .. t + after of its span, where keys are the rows themselves;
    None: its whole span. ModernBERT's |i - j| <= w is (w, w).
    """

    count: int
    kv_count: int
    dim: int
    scale: float
    window: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class HeadRows:
    """Where the heads of a tensor are: [rows, N], with a row's heads side by side from element `at` on, or [Hkv,
    rows, D]."""

    tensor: Tensor
    at: int = 0

    def places(self, label: str, heads: int, dim: int) -> tuple[int, int, int]:
        """Quads from row to row, from head to head, and before the first. Raises ValueError when they do not fit."""
        shape = self.tensor.shape
        if len(shape) == 3:
            fits = shape[::2] == (heads, dim) and self.at == 0
            row, head = dim, shape[1] * dim
        else:
            fits = len(shape) == 2 and self.at + heads * dim <= shape[1]
            row, head = shape[-1], dim
        if not fits or row % 4 or self.at % 4:
            raise ValueError(
                f"{label}: {heads} heads of {dim} from element {self.at} on do not fit {shape} in fours"
            )
        return row // 4, head // 4, self.at // 4


def full_attention(
    trace: Pass,
    heads: FullHeads,
    q: HeadRows,
    k: HeadRows,
    v: HeadRows,
    spans: Tensor,
    y: Tensor,
    *,
    label: str = "attention",
) -> None:
    """y [>= T, H * D] f32: row t of the step.rows valid ones is softmax(scale q k^T) v over keys spans[t, 0] ..
    spans[t, 1] - 1, zeros where there are none. spans u32 [>= T, 2].

    q f32 [T, ..]; k, v f32 or both f16, of any number of rows: those of the pass itself, or of another sequence. The
    position of a pass over its own rows is 0, and its valid rows are finite. Tensor units, where trace.features has
    them, may round q, k and v to f16.
    Raises ModelError for unsupported head sizes, ValueError for shapes that disagree.
    """
    h, d = heads.count, heads.dim
    check_head_dim(label, d, MAX_FULL_HEAD_DIM)
    if h % heads.kv_count or y.shape[-1] != h * d or k.tensor.dtype != v.tensor.dtype:
        raise ValueError(
            f"{label}: {h} heads of {d} over {heads.kv_count}, y {y.shape}, keys {k.tensor.dtype}, values "
            f"{v.tensor.dtype}"
        )
    window: dict[str, float] = {}
    if heads.window is not None:
        before, after = heads.window
        if before < 0 or after < 0:
            raise ValueError(f"{label}: a window of {before} before and {after} after")
        window = {"WINDOWED": True, "BEFORE": before, "AFTER": after}
    q_row, _, q_at = q.places(label, h, d)
    k_row, k_head, k_at = k.places(label, heads.kv_count, d)
    v_row, v_head, v_at = v.places(label, heads.kv_count, d)
    if _as_chunk(trace, heads, q, k, v):
        _attend_as_chunk(trace, heads, q.tensor, spans, y, window, label)
        return
    constants: dict[str, float] = {
        "D": d,
        "H": h,
        "HEADS_PER_KV": h // heads.kv_count,
        "Q_STRIDE": q_row,
        "Q_AT": q_at,
        "K_STRIDE": k_row,
        "K_HEAD": k_head,
        "K_AT": k_at,
        "V_STRIDE": v_row,
        "V_HEAD": v_head,
        "V_AT": v_at,
        "SCALE": heads.scale,
        **_tiles(d),
        **window,
    }
    trace.call(
        label,
        kernel("attention_full", ["step", f"quad_{k.tensor.dtype}", "attention_spans"], constants),
        [
            (q.tensor, "r"),
            (k.tensor, "r"),
            (v.tensor, "r"),
            (spans, "r"),
            (trace.step, "r"),
            (y, "w"),
        ],
        (-(-trace.rows // int(constants["BQ"])), h, 1),
    )


def _as_chunk(trace: Pass, heads: FullHeads, q: HeadRows, k: HeadRows, v: HeadRows) -> bool:
    """Whether the kernels of a chunk can take these rows, and are worth it: stacked projections of one tensor, which
    the first of them reads. Software adapters compile those kernels for long."""
    h, kv, d = heads.count, heads.kv_count, heads.dim
    return (
        q.tensor is k.tensor is v.tensor
        and q.tensor.shape[1:] == ((h + 2 * kv) * d,)
        and (q.at, k.at, v.at) == (0, h * d, (h + kv) * d)
        and d <= MAX_HEAD_DIM
        and trace.rows >= _MANY_ROWS
        and not trace.info.fallback
    )


def _attend_as_chunk(
    trace: Pass,
    heads: FullHeads,
    qkv: Tensor,
    spans: Tensor,
    y: Tensor,
    window: dict[str, float],
    label: str,
) -> None:
    """Attention of stacked projections by way of q [T, H, D] and a cache [Hkv, T, D] of the pass, which rope.wgsl makes
    without turning anything."""
    h, kv, d = heads.count, heads.kv_count, heads.dim
    dtype: Literal["f16", "f32"] = "f16" if takes_units(trace, d, "f16") else "f32"
    parts = Heads(h, kv, d, NOTHING, 0, scale=heads.scale)
    q = trace.tensor("q", trace.rows, h, d, dtype=dtype)
    cache = (
        trace.tensor("k", kv, trace.rows, d, dtype=dtype),
        trace.tensor("v", kv, trace.rows, d, dtype=dtype),
    )
    rope_append(trace, parts, qkv, q, cache, f"{label} heads")
    attend_chunk(trace, parts, q, cache, y, window, label, spans=spans)


def _tiles(head_dim: int) -> dict[str, float]:
    """The shader's constants for a tile: query rows, keys, and quads of K in workgroup memory at a time."""
    # Each of 128 threads holds 4 rows of 4 elements.
    block = next(2048 // d for d in (64, 128, 256, 512) if head_dim <= d)
    tile = 512 // block
    quads = head_dim // 4
    piece = max(n for n in range(1, quads + 1) if quads % n == 0 and n * (tile + 1) <= 528)
    return {"BQ": block, "KT": tile, "PIECE": piece}
