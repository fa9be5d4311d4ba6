"""Attention over the KV cache. A token takes attention_decode and attention_reduce. A chunk takes rope and
attention_prefill, or attention_prefill_units on tensor units. These two serve ops/attention_full.py too."""

from __future__ import annotations

from dataclasses import dataclass

from py_engine.graph.trace import NOTHING, Access, Tensor, exact, kernel
from py_engine.host.gpu import MATRIX_KERNEL, AdapterInfo
from py_engine.ops.rope import Heads, rope_append
from py_engine.ops.step import Pass

_HEADS_A_GROUP = 8  # query heads of a decode workgroup; more do not fit into its memory
_THREADS = 128  # of a decode workgroup
# How many decode workgroups to aim at: about three for each multiprocessor of a large GPU.
_GROUPS = 384
_MAX_SPLITS = 128  # the most that attention_reduce.wgsl can merge
_COLUMNS = 8  # quads of a head that a workgroup of attention_reduce.wgsl merges
_MANY_ROWS = 8192  # prefill rows: two workgroups of 64 rows for each of a GPU's 64 multiprocessors
_MANY_REGISTERS = ("nvidia", "amd", "radv")  # vendors whose GPUs have 255 registers a thread


def attention(
    trace: Pass,
    heads: Heads,
    qkv: Tensor,
    cache: tuple[Tensor, Tensor],
    y: Tensor,
    *,
    window: int | None = None,
    cap: float = 0.0,
    context: int | None = None,
    label: str = "attention",
) -> None:
    """y [T, H * D] = softmax(q k^T, causal) v for the rows at positions step.pos.. (grouped queries, H = n Hkv).

    qkv: the stacked projections, from which q, k and v come as `heads` says; where these hold gates, y is multiplied by
    their sigmoid. k and v are appended to the caches [Hkv, context, D] f32, f16 or q8, unless step.halt is set.
    `window`: key j is visible to query i when i - window < j <= i. `cap`: scores become cap tanh(score / cap); 0: they
    are not changed. `context`: the most keys that the caches will ever have, which decides the number of workgroups;
    None: as many as now. There are two dispatches. For one row: attention in parts of the context, then their merge.
    For more rows: preparing the heads, then attention. Rows from step.rows on are not changed. Raises ModelError for
    unsupported head sizes, ValueError for shapes that disagree.
    """
    heads.check(label, qkv, cache)
    if y.shape[-1] != heads.count * heads.dim:
        raise ValueError(f"{label}: y {y.shape} for {heads.count} heads of {heads.dim}")
    if window is not None and window < 1:
        raise ValueError(f"{label}: a window of {window} keys")
    if cap < 0.0:
        raise ValueError(f"{label}: scores capped at {cap:g}")
    # Constants of the attention kernels besides those of the heads. An absent constant keeps the shader's default.
    scores: dict[str, float] = {"WINDOW": window or 0} | ({"CAP": cap} if cap else {})
    if trace.rows == 1:
        _decode(trace, heads, qkv, cache, y, scores, context or cache[0].shape[1], label)
    else:
        units = takes_units(trace, heads.dim, cache[0].dtype)
        q = trace.tensor("q", trace.rows, heads.count, heads.dim, dtype="f16" if units else "f32")
        rope_append(trace, heads, qkv, q, cache)
        attend_chunk(
            trace, heads, q, cache, y, scores, label, gates=qkv if heads.gated else NOTHING
        )


def decode_splits(context: int, tile: int, kv_heads: int, window: int | None) -> int:
    """How many workgroups share the keys of one KV head. The context fixes the number, at most one for each tile of
    keys. Workgroups without keys do nothing."""
    tiles = -(-min(context, window or context) // tile)
    return max(1, min(tiles, max(16, _GROUPS // kv_heads), _MAX_SPLITS))


def _decode(
    trace: Pass,
    heads: Heads,
    qkv: Tensor,
    cache: tuple[Tensor, Tensor],
    y: Tensor,
    scores: dict[str, float],
    context: int,
    label: str,
) -> None:
    k, v = map(exact, cache)
    d, kv_heads = heads.dim, heads.kv_count
    per_kv = heads.count // kv_heads
    parts = -(-per_kv // _HEADS_A_GROUP)
    a_group = -(-per_kv // parts)
    members, quads = _team(d, a_group)
    tile = 2 * _THREADS // members
    seen: dict[str, float] = {"TILE": tile, "WINDOW": scores["WINDOW"]}
    splits = decode_splits(context, tile, kv_heads, int(scores["WINDOW"]) or None)
    fits = trace.info.subgroup_min_size >= members  # a team lies in one subgroup
    features = trace.features & frozenset({"subgroups"} if fits else ())
    partial = trace.tensor("attention partial", heads.count, splits, d + 4)
    lanes = 32
    while lanes * (a_group + 1) > _THREADS:
        lanes //= 2
    group = {
        "HKV": kv_heads,
        "HEADS_PER_KV": per_kv,
        "G": a_group,
        "PARTS": parts,
        "HEAD_LANES": lanes,
        "HEAD_QUADS": -(-members * quads // lanes),
        "LANES": members,
        "QUADS": quads,
        "HEAD": members * quads,
        "TEAMS": _THREADS // members,
    }
    trace.call(
        label,
        kernel(
            "attention_decode",
            [
                "step",
                *_cache_by_pairs(k.dtype, d),
                "attention_span",
                "rotary",
                "score_cap",
                "team_subgroup" if features else "team_workgroup",
            ],
            {**heads.constants, **scores, **seen, **group},
            features,
        ),
        [*heads.inputs(trace, qkv), (k, "w"), (v, "w"), (partial, "w")],
        (splits, kv_heads * parts, 1),
    )
    trace.call(
        f"{label} reduce",
        kernel(
            "attention_reduce",
            ["step", "attention_span", "attention_gate"],
            {"D": d, "H": heads.count, "COLUMNS": _COLUMNS, **seen, **_gate(heads)},
        ),
        [(partial, "r"), (trace.step, "r"), (y, "w"), _gates(trace, heads, qkv)],
        (-(-d // (4 * _COLUMNS)), heads.count, 1),
    )


def _cache_by_pairs(dtype: str, dim: int) -> list[str]:
    """The libraries that read a cache two quads at a time, and append to it."""
    if dtype == "f16" and dim % 8 == 0:
        return ["kv_f16_wide", "kv_append_f16_wide"]
    return [f"kv_{dtype}", "kv_pairs", f"kv_append_{dtype}"]


def _team(dim: int, heads: int) -> tuple[int, int]:
    """(threads of a decode workgroup that share a key, quads of the key that each of them has) for `heads` query heads.
    A thread then holds at most 16 quads of queries in registers, and 16 of results."""
    quads = 2 if heads > 4 else 4
    lanes = 4
    while lanes * quads * 4 < dim:
        lanes *= 2
    return lanes, quads


def attend_chunk(
    trace: Pass,
    heads: Heads,
    q: Tensor,
    cache: tuple[Tensor, Tensor],
    y: Tensor,
    scores: dict[str, float],
    label: str,
    *,
    gates: Tensor = NOTHING,
    spans: Tensor | None = None,
) -> None:
    """Attention of a chunk whose heads are prepared. If q is f16, it runs on the tensor units. `scores`: constants of
    the library that says what a row sees: attention_spans where there are `spans` u32 [>= T, 2], else
    attention_causal."""
    k, v = map(exact, cache)
    sizes = {"D": heads.dim, "H": heads.count, "HKV": heads.kv_count}
    constants = {**sizes, **scores, **_gate(heads)}
    seen = "attention_causal" if spans is None else "attention_spans"
    ending = [seen, "attention_gate", "score_cap"]
    if q.dtype == "f16":
        block = unit_rows(heads.dim)
        uses = ["step", f"attention_rows_{block}", *ending]
        kind = kernel("attention_prefill_units", uses, constants, MATRIX_KERNEL)
        groups = (heads.count, -(-trace.rows // block), 1)
    else:
        tiles = prefill_tiles(heads.dim, trace.rows * heads.count, trace.info)
        uses = ["step", f"kv_{k.dtype}", *ending]
        kind = kernel("attention_prefill", uses, constants | tiles.constants(heads.dim))
        per_kv = heads.count // heads.kv_count
        groups = (heads.kv_count, -(-trace.rows * per_kv // tiles.rows), 1)
    tensors: list[tuple[Tensor, Access]] = [
        (q, "r"), (k, "r"), (v, "r"), (trace.step, "r"), (y, "w"), (gates, "r"),
    ]  # fmt: skip
    if spans is not None:
        tensors.append((spans, "r"))
    trace.call(label, kind, tensors, groups)


def takes_units(trace: Pass, head_dim: int, dtype: str) -> bool:
    """Whether a chunk's attention over a cache of this dtype goes through the tensor units."""
    return (
        MATRIX_KERNEL <= trace.features
        and trace.rows % 16 == 0
        and dtype == "f16"
        and head_dim % (32 if head_dim <= 128 else 64) == 0
    )


def unit_rows(head_dim: int) -> int:
    """Query rows of a workgroup of attention_prefill_units."""
    return 128 if head_dim <= 128 else 64


@dataclass(frozen=True)
class PrefillTiles:
    """The form of attention_prefill.wgsl: `row_threads` x `threads` threads, each with 8 rows and 4 * `key_blocks` keys
    of a tile; `piece` quads of D and `slice` quads of keys are in workgroup memory at a time. A thread loads `at_once`
    quads before it stores them there: 4 on GPUs, where loads overlap."""

    row_threads: int
    threads: int
    key_blocks: int
    piece: int
    slice: int
    at_once: int = 4

    @property
    def rows(self) -> int:
        """Rows (a token with a head) of a workgroup."""
        return 8 * self.row_threads

    def constants(self, head_dim: int) -> dict[str, float]:
        """The shader's override constants."""
        return {
            "TR": self.row_threads,
            "TC": self.threads,
            "WG": self.row_threads * self.threads,
            "KEY_BLOCKS": self.key_blocks,
            "VALUE_BLOCKS": -(-head_dim // (4 * self.threads)),
            "PIECE": self.piece,
            "SLICE": self.slice,
            "AT_ONCE": self.at_once,
        }


def prefill_tiles(head_dim: int, rows: int, info: AdapterInfo) -> PrefillTiles:
    """The form for a head size and a number of rows (tokens times heads) on this adapter.

    The large form is for GPUs with 255 registers a thread; SwiftShader takes minutes to compile it. With few rows and
    wide heads it has too few workgroups for a large GPU.
    """
    large = any(name in info.vendor.lower() for name in _MANY_REGISTERS) and not info.fallback
    if head_dim <= 128 and large:
        return PrefillTiles(8, 16, 2, 4, 4)
    if rows >= _MANY_ROWS and large:
        return PrefillTiles(8, 16, 1, 4, 2)
    at_once = 1 if info.fallback else 4  # 1: less code to compile
    if head_dim <= 64:
        return PrefillTiles(4, 16, 1, 4, 2, at_once)
    return PrefillTiles(4, 32, 1, 2, 2, at_once)


def _gate(heads: Heads) -> dict[str, float]:
    """Where lib/attention_gate.wgsl finds the gates."""
    return {"GATE": 2 * (heads.count + heads.kv_count)} if heads.gated else {}


def _gates(trace: Pass, heads: Heads, qkv: Tensor) -> tuple[Tensor, Access]:
    return (qkv if heads.gated else NOTHING), "r"
