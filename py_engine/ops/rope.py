"""Norms of heads and rotary positions, one dispatch for a chunk: with KV append (shaders/rope.wgsl), or in place
(shaders/rotate_rows.wgsl).
"""

from __future__ import annotations

from dataclasses import dataclass

from py_engine.errors import ModelError
from py_engine.graph.trace import NOTHING, Access, Tensor, exact, kernel
from py_engine.ops.norm import Norm, threads_for
from py_engine.ops.step import Pass

MAX_HEAD_DIM = 256  # each of 64 lanes has a quad of elements


def check_head_dim(label: str, head_dim: int) -> None:
    """Raise ModelError for a head size that the attention kernels do not support."""
    if head_dim % 4 or not 4 <= head_dim <= MAX_HEAD_DIM:
        raise ModelError(
            f"{label}: head size {head_dim} is not a multiple of 4 up to {MAX_HEAD_DIM}"
        )


@dataclass(frozen=True, eq=False)
class Heads:
    """How stacked projections qkv [T, (H + 2 Hkv) D] become attention's inputs.

    q and k heads are normed (where given), then their first `width` entries rotated by `table` (the layout of
    blocks/state.py: (cos, sin) pairs [ceil(context / 64) + 64, width / 2]; with `per_row` those of each row of the
    pass, [T, width / 2]); q is multiplied by `scale` at the end.
    `gated`: qkv is [T, (2 H + 2 Hkv) D], each q head followed by an output gate. `neighbours`: entries 2 i and 2 i + 1
    are a pair, instead of i and i + width / 2. `norm_last`: heads are normed after the rotation. `growth` (b, n): q at
    position p is multiplied by 1 + b ln(1 + floor(p / n)) too. Width 0 rotates nothing; its table is not read.
    """

    count: int  # H
    kv_count: int  # Hkv
    dim: int  # D
    table: Tensor
    width: int
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    scale: float = 1.0
    gated: bool = False
    neighbours: bool = False
    norm_last: bool = False
    growth: tuple[float, int] | None = None
    per_row: bool = False

    def check(self, label: str, qkv: Tensor, cache: tuple[Tensor, Tensor]) -> None:
        """Raise ModelError for unsupported head sizes, ValueError for shapes that disagree."""
        self.check_rows(label, qkv)
        k, v = cache
        if k.shape != v.shape or k.shape[::2] != (self.kv_count, self.dim):
            raise ValueError(
                f"{label}: k {k.shape} and v {v.shape} are no cache of {self.kv_count} heads of {self.dim}"
            )

    def check_rows(self, label: str, qkv: Tensor) -> None:
        """As `check`, where there is no cache."""
        d = self.dim
        check_head_dim(label, d)
        columns = ((1 + self.gated) * self.count + 2 * self.kv_count) * d
        if self.count % self.kv_count or qkv.shape[-1] != columns:
            raise ValueError(
                f"{label}: qkv {qkv.shape} for {self.count} heads and {self.kv_count} of keys, of {d} each"
            )
        if self.width % 2 or not 0 <= self.width <= d:
            raise ValueError(f"{label}: cannot rotate {self.width} of {d} entries")
        for norm in (self.q_norm, self.k_norm):
            if norm is not None and norm.weight.shape != (d,):
                raise ValueError(
                    f"{label}: the norm's weight is {norm.weight.shape}, a head has {d} entries"
                )

    @property
    def constants(self) -> dict[str, float]:
        """Constants of shaders/lib/rotary.wgsl, with the size of heads and whether gates lie between them."""
        constants: dict[str, float] = {"D": self.dim, "R": self.width, "SCALE": self.scale}
        flags = {
            "GATED": self.gated,
            "NEIGHBOURS": self.neighbours and self.width > 0,
            "NORM_LAST": self.norm_last,
            "PER_ROW": self.per_row,
        }
        constants |= {name: True for name, flag in flags.items() if flag}
        if self.growth is not None:
            constants["Q_GROWTH"], constants["Q_PERIOD"] = self.growth
        for letter, norm in (("Q", self.q_norm), ("K", self.k_norm)):
            if norm is not None:
                constants |= {
                    f"NORM_{letter}": True,
                    f"EPS_{letter}": norm.eps,
                    f"OFFSET_{letter}": norm.offset,
                }
        return constants

    def inputs(self, trace: Pass, qkv: Tensor) -> list[tuple[Tensor, Access]]:
        """The first bindings of kernels that prepare heads: qkv, table, q_norm, k_norm, step."""
        norms = (n.weight if n else NOTHING for n in (self.q_norm, self.k_norm))
        return [(t, "r") for t in (qkv, exact(self.table), *norms, trace.step)]


def rope_angles(
    trace: Pass, positions: Tensor, axes: Tensor, table: Tensor, label: str = "rope angles"
) -> Tensor:
    """(cos, sin) f32 [T, pairs, 2] of each row: a pair's frequency times the row's position on its axis.

    positions [>= T, n] u32, axes [pairs] u32 below n, table as of Heads. Rows from step.rows on are not written.
    """
    pairs = axes.shape[0]
    angles = trace.tensor("rope angles", trace.rows, pairs, 2)
    trace.call(
        label,
        kernel("rope_angles", ["step"], {"AXES": positions.shape[1], "PAIRS": pairs}),
        [(positions, "r"), (axes, "r"), (exact(table), "r"), (trace.step, "r"), (angles, "w")],
        (-(-pairs // 64), trace.rows, 1),
    )
    return angles


def rope_append(
    trace: Pass,
    heads: Heads,
    qkv: Tensor,
    q: Tensor,
    cache: tuple[Tensor, Tensor],
    label: str = "rope",
) -> None:
    """qkv -> q [T, H, D] f32 or f16, and k, v at rows step.pos.. of the caches [Hkv, context, D] (f32, f16 or q8), as
    `heads` says.

    Rows from step.rows on are not changed; the caches do not change while step.halt is set.
    Raises ModelError for unsupported head sizes, ValueError for shapes that disagree.
    """
    k, v = cache
    heads.check(label, qkv, cache)
    if q.shape[1:] != (heads.count, heads.dim):
        raise ValueError(f"{label}: q {q.shape} for {heads.count} heads of {heads.dim}")
    trace.call(
        label,
        kernel(
            "rope",
            [
                "step",
                f"kv_{k.dtype}",
                f"kv_append_{k.dtype}",
                f"quad_{q.dtype}",
                "rotary",
                "tree_sum",
            ],
            heads.constants
            | {"H": heads.count, "HKV": heads.kv_count, "WG": threads_for(heads.dim // 4, 64)},
        ),
        [*heads.inputs(trace, qkv), (q, "w"), (exact(k), "w"), (exact(v), "w")],
        (heads.count + 2 * heads.kv_count, trace.rows, 1),
    )


def rotate_rows(
    trace: Pass,
    heads: Heads,
    qkv: Tensor,
    positions: Tensor | None = None,
    *,
    v_eps: float | None = None,
    label: str = "rotate",
) -> None:
    """Make the heads of qkv [T, (H + 2 Hkv) D] f32 ready for attention in place, as `heads` says: q and k normed and
    rotated, q scaled.

    A row turns by the angle of its position (`positions` u32 [>= T]) in the table of `heads`, or where `heads.per_row`
    by its own angles: the table is then (cos, sin) [>= T, width / 2, 2] f32, and `positions` None. `v_eps`: v heads are
    divided by sqrt(mean(v^2) + v_eps); None: they are not changed, as rows from step.rows on.
    Raises ModelError for unsupported head sizes, ValueError for shapes that disagree, and for gates.
    """
    heads.check_rows(label, qkv)
    if heads.gated or heads.growth is not None:
        raise ValueError(f"{label}: gates and growing queries are for heads with a KV cache")
    if heads.per_row == (positions is not None):
        raise ValueError(f"{label}: a row turns by its position or by angles of its own")
    constants = heads.constants | {
        "H": heads.count,
        "HKV": heads.kv_count,
        "WG": threads_for(heads.dim // 4, 64),
    }
    groups = heads.count + heads.kv_count
    if v_eps is not None:
        constants |= {"NORM_V": True, "EPS_V": v_eps}
        groups += heads.kv_count
    norms = (n.weight if n else NOTHING for n in (heads.q_norm, heads.k_norm))
    trace.call(
        label,
        kernel("rotate_rows", ["step", "rotary", "tree_sum"], constants),
        [
            *((t, "r") for t in (exact(heads.table), positions or NOTHING, *norms, trace.step)),
            (qkv, "w"),
        ],
        (groups, trace.rows, 1),
    )
