"""Gated DeltaNet between its projections: shaders/delta_step.wgsl for one token; for a chunk of a prompt delta_conv,
delta_chunk, delta_scan and delta_out.

Yang et al. 2024, Gated Delta Networks, arXiv:2412.06464. Blocks of 64 rows that begin at a multiple of 64 are computed
in the WY form of arXiv:2406.06484; the rows before and after them one by one. So a prompt that is cut at multiples of
64 gives the same bits as in one piece; cut elsewhere, it differs by rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

from py_engine.errors import ModelError
from py_engine.graph.trace import NOTHING, Tensor, kernel
from py_engine.ops.norm import Norm, threads_for
from py_engine.ops.step import Pass

MAX_HEAD_DIM = 256  # each of 8 lanes holds 8 quads of a column
MAX_TAPS = 16
_CONV_ROWS = 16  # rows that a workgroup convolves
_COLUMNS = 16  # columns of a state that a workgroup holds
_CHUNK = 64  # rows of a block in WY form
_SCRATCH = 320  # numbers of a head in a row of scratch
_CHUNK_DIM = 128  # the widest heads for which blocks are used


@dataclass(frozen=True)
class DeltaShape:
    """Heads and sizes; value head n uses key head n // (value_heads / key_heads)."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    taps: int

    def __post_init__(self) -> None:
        """Raises ModelError for sizes that the kernels do not support."""
        for dim in (self.key_dim, self.value_dim):
            if dim % 4 or not 4 <= dim <= MAX_HEAD_DIM:
                raise ModelError(
                    f"linear attention: head size {dim} is not a multiple of 4 up to {MAX_HEAD_DIM}"
                )
        if self.value_heads % self.key_heads:
            raise ModelError(
                f"linear attention: {self.value_heads} value heads cannot share {self.key_heads} key heads evenly"
            )
        if not 2 <= self.taps <= MAX_TAPS:
            raise ModelError(
                f"linear attention: a convolution of {self.taps} taps, supported: 2 to {MAX_TAPS}"
            )

    @property
    def channels(self) -> int:
        """Width of q|k|v."""
        return 2 * self.key_heads * self.key_dim + self.values

    @property
    def values(self) -> int:
        """Width of v, of z, and of the result."""
        return self.value_heads * self.value_dim

    @property
    def projected(self) -> int:
        """Width of q|k|v, z, b, a."""
        return self.channels + self.values + 2 * self.value_heads


def delta_net(
    trace: Pass,
    shape: DeltaShape,
    proj: Tensor,
    conv: Tensor,
    decay: Tensor,
    norm: Norm,
    state: tuple[Tensor, Tensor],
    y: Tensor,
    label: str = "delta",
) -> None:
    """proj [T, q|k|v, z, b, a] -> y [T, value_heads value_dim]: convolution and gates, recurrence, gated norm.

    conv f32 [channels, taps]; decay f32 [2 value_heads]: a_log, then dt_bias; norm over a value head (offset 0).
    state: q|k|v of the last tokens [taps, channels], position p at row p % taps, and S by columns [value_heads,
    value_dim, key_dim], f32. At position 0 it counts as zeros. It is not changed while step.halt is set.
    One row takes one dispatch, fewer than 64 rows three, more rows four; these use q|k|v of proj as scratch memory
    where it is large enough. Rows from step.rows on are not changed.
    Raises ValueError for shapes that disagree.
    """
    s = shape
    history, matrix = state
    fits = (
        proj.shape[-1] == s.projected
        and y.shape[-1] == s.values
        and decay.shape == (2 * s.value_heads,)
        and norm.weight.shape == (s.value_dim,)
        and norm.offset == 0.0
        and history.shape == (s.taps, s.channels)
        and matrix.shape == (s.value_heads, s.value_dim, s.key_dim)
    )
    if not fits:
        raise ValueError(
            f"{label}: proj {proj.shape}, y {y.shape}, decay {decay.shape}, norm {norm.weight.shape}, history "
            f"{history.shape} and state {matrix.shape} do not fit {s}"
        )
    heads = {"HK": s.key_heads, "HV": s.value_heads, "DK": s.key_dim, "DV": s.value_dim}
    if trace.rows == 1:
        quads = -(-s.key_dim // 32)
        columns = min(4, 16 // quads, -(-s.value_dim // 32))
        sizes = {"TAPS": s.taps, "EPS": norm.eps, "QUADS": quads, "COLUMNS": columns}
        trace.call(
            label,
            kernel("delta_step", ["step", "delta_input", "causal_conv"], heads | sizes),
            [
                (proj, "r"),
                (conv, "r"),
                (decay, "r"),
                (norm.weight, "r"),
                (trace.step, "r"),
                (history, "w"),
                (matrix, "w"),
                (y, "w"),
            ],
            (s.value_heads, 1, 1),
        )
        return
    mixed = trace.tensor(f"{label} mixed", trace.rows, s.channels)
    gates = trace.tensor(f"{label} gates", trace.rows, s.value_heads, 2)
    trace.call(
        f"{label} conv",
        kernel(
            "delta_conv",
            ["step", "delta_input", "causal_conv"],
            heads
            | {
                "TAPS": s.taps,
                "ROWS": _CONV_ROWS,
                "WG": threads_for(max(s.key_dim, s.value_dim), 128),
            },
        ),
        [
            (proj, "r"),
            (conv, "r"),
            (decay, "r"),
            (trace.step, "r"),
            (history, "w"),
            (mixed, "w"),
            (gates, "w"),
        ],
        (2 * s.key_heads + s.value_heads, -(-trace.rows // _CONV_ROWS), 1),
    )
    in_chunks = trace.rows >= _CHUNK and max(s.key_dim, s.value_dim) <= _CHUNK_DIM
    pitch, scratch = s.value_heads * _SCRATCH, NOTHING
    if pitch <= s.channels and s.projected % 4 == 0:
        # Nothing reads q|k|v of proj after the convolution.
        pitch, scratch = s.projected, proj
    elif in_chunks:
        scratch = trace.tensor(f"{label} scratch", trace.rows, pitch)
    heads["PITCH"] = pitch
    compact = {"COMPACT": int(trace.info.fallback)}
    if in_chunks:
        trace.call(
            f"{label} chunk",
            kernel("delta_chunk", ["step", "delta_chunks"], heads | compact),
            [(mixed, "w"), (gates, "w"), (trace.step, "r"), (scratch, "w")],
            (s.value_heads, trace.rows // _CHUNK, 1),
        )
    trace.call(
        f"{label} scan",
        kernel(
            "delta_scan",
            ["step", "delta_chunks"],
            heads | compact | {"QUADS": -(-s.key_dim // 64)},
        ),
        [
            (mixed, "w"),
            (gates, "r"),
            (scratch, "r"),
            (trace.step, "r"),
            (matrix, "w"),
            (y, "w"),
        ],
        (-(-s.value_dim // _COLUMNS), s.value_heads, 1),
    )
    across = 32 if s.value_dim <= 128 else 64
    trace.call(
        f"{label} out",
        kernel("delta_out", ["step", "delta_chunks"], heads | {"ACROSS": across, "EPS": norm.eps}),
        [
            (proj, "r"),
            (mixed, "r"),
            (scratch, "r"),
            (norm.weight, "r"),
            (trace.step, "r"),
            (y, "w"),
        ],
        (s.value_heads, -(-trace.rows * across // 512) + 1, 1),
    )
