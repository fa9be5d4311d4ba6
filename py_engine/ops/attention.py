"""Attention over the KV cache: attention_decode + attention_reduce for one token, attention_prefill for a chunk."""

from __future__ import annotations

from py_engine.graph.trace import Tensor, Trace, kernel
from py_engine.ops.rope import check_head_dim, exact

_TILE = 32  # keys a decode workgroup takes at a time (lib/attention_span.wgsl)
_HEADS_A_GROUP = 8  # query heads of a decode workgroup: what its memory holds
_GROUPS = 256  # decode workgroups aimed at: two for each multiprocessor of a large GPU
_MAX_SPLITS = 128  # attention_reduce.wgsl


def attention(
    trace: Trace,
    q: Tensor,
    cache: tuple[Tensor, Tensor],
    y: Tensor,
    *,
    window: int | None = None,
    gates: Tensor | None = None,
    label: str = "attention",
) -> None:
    """y [T, H * D] = softmax(q k^T, causal) v for the rows at positions step.pos.. (grouped queries, H = n Hkv).

    q [T, H, D] f32, already scaled; caches [Hkv, context, D] f32 or f16, the rows of this pass appended.
    `window`: key j is visible to query i when i - window < j <= i. `gates`: y is multiplied by their sigmoid; they
    stand in the stacked projections [T, (2 H + 2 Hkv) D] behind each q head. One row takes two dispatches (split over
    the context, merged), more take one; rows behind step.rows are left as they are.
    Raises ModelError for unsupported head sizes, ValueError for shapes that disagree.
    """
    k, v = cache
    rows, heads, d = q.shape
    kv_heads, context, _ = k.shape
    check_head_dim(label, d)
    if k.shape != v.shape or k.shape[2] != d or heads % kv_heads or y.shape[-1] != heads * d:
        raise ValueError(
            f"{label}: q {q.shape}, k {k.shape}, v {v.shape} and y {y.shape} do not belong together"
        )
    if gates is not None and gates.shape[-1] != 2 * (heads + kv_heads) * d:
        raise ValueError(f"{label}: gates {gates.shape} for {heads} + 2 * {kv_heads} heads of {d}")
    if window is not None and window < 1:
        raise ValueError(f"{label}: a window of {window} keys")
    if rows == 1:
        _decode(trace, q, exact(k), exact(v), y, window, gates, label)
    else:
        _prefill(trace, q, exact(k), exact(v), y, window, gates, label)


def decode_splits(context: int, kv_heads: int, window: int | None) -> int:
    """Workgroups that share the keys of one kv head; fixed for a context, used as far as there are keys."""
    tiles = -(-min(context, window or context) // _TILE)
    return max(1, min(tiles, max(16, _GROUPS // kv_heads), _MAX_SPLITS))


def _gate(heads: int, kv_heads: int, gates: Tensor | None) -> dict[str, float]:
    return {} if gates is None else {"GATE": 2 * (heads + kv_heads)}


def _decode(
    trace: Trace,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    y: Tensor,
    window: int | None,
    gates: Tensor | None,
    label: str,
) -> None:
    _, heads, d = q.shape
    kv_heads, context, _ = k.shape
    per_kv = heads // kv_heads
    parts = -(-per_kv // _HEADS_A_GROUP)
    splits = decode_splits(context, kv_heads, window)
    stats = trace.tensor("attention stats", heads, splits, 2)
    partial = trace.tensor("attention partial", heads, splits, d)
    uses = ["step", f"kv_{k.dtype}", "attention_span"]
    span = {"D": d, "HKV": kv_heads, "WINDOW": window or 0}
    group = {"HEADS_PER_KV": per_kv, "G": -(-per_kv // parts), "PARTS": parts}
    trace.call(
        label,
        kernel("attention_decode", uses, span | group),
        [(q, "r"), (k, "r"), (v, "r"), (trace.step, "r"), (stats, "w"), (partial, "w")],
        (splits, kv_heads * parts, 1),
    )
    trace.call(
        f"{label} reduce",
        kernel(
            "attention_reduce",
            [*uses, "attention_gate"],
            span | {"H": heads} | _gate(heads, kv_heads, gates),
        ),
        [
            (stats, "r"),
            (partial, "r"),
            (trace.step, "r"),
            (k, "r"),
            (y, "w"),
            (gates or trace.zeros, "r"),
        ],
        (heads, 1, 1),
    )


def _prefill(
    trace: Trace,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    y: Tensor,
    window: int | None,
    gates: Tensor | None,
    label: str,
) -> None:
    rows, heads, d = q.shape
    block = 32 if d <= 64 else 16 if d <= 128 else 8  # 128 threads hold 4 rows x 4 elements each
    tile = 512 // block
    quads = d // 4
    piece = max(n for n in range(1, quads + 1) if quads % n == 0 and n * (tile + 1) <= 528)
    constants = {
        "D": d,
        "H": heads,
        "HEADS_PER_KV": heads // k.shape[0],
        "WINDOW": window or 0,
        "BQ": block,
        "KT": tile,
        "PIECE": piece,
        **_gate(heads, k.shape[0], gates),
    }
    trace.call(
        label,
        kernel("attention_prefill", ["step", f"kv_{k.dtype}", "attention_gate"], constants),
        [(q, "r"), (k, "r"), (v, "r"), (trace.step, "r"), (y, "w"), (gates or trace.zeros, "r")],
        (-(-rows // block), heads, 1),
    )
