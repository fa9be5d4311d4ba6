"""Norms of q and k heads, rotary positions, KV append: one dispatch for a chunk (shaders/rope.wgsl)."""

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
        k, v = cache
        d = self.dim
        check_head_dim(label, d)
        if (
            self.count % self.kv_count
            or qkv.shape[-1] != ((1 + self.gated) * self.count + 2 * self.kv_count) * d
            or k.shape != v.shape
            or k.shape[::2] != (self.kv_count, d)
        ):
            raise ValueError(
                f"{label}: qkv {qkv.shape}, k {k.shape} and v {v.shape} do not belong together for {self.count} heads "
                f"of {d}"
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
