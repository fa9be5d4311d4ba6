"""LFM2's gated short convolution and the projection before it. For one token the convolution is part of the
projection's matvec (shaders/lib/matvec_conv.wgsl). For a chunk it runs after the matmul (shaders/short_conv.wgsl).
"""

from __future__ import annotations

from py_engine.errors import ModelError
from py_engine.graph.matrix import Linear
from py_engine.graph.trace import Tensor, kernel
from py_engine.ops.linear import linear
from py_engine.ops.matvec import Convolution, matvec
from py_engine.ops.norm import Norm
from py_engine.ops.step import Pass

MAX_TAPS = 16
_ROWS = 16  # rows of a thread
_CHANNELS = 64  # channels of a workgroup


def short_conv(
    trace: Pass,
    x: Tensor,
    in_proj: Linear,
    conv: Convolution,
    y: Tensor,
    norm: Norm | None = None,
    label: str = "conv in",
) -> None:
    """y [T, h] = C * (causal depthwise convolution of B * X + bias), where B, C, X [T, 3 h] = in_proj(norm(x)), f32.

    Positions before 0 count as zeros. The history is not changed while step.halt is set.
    One dispatch for one row, if in_proj has one part. Rows from step.rows on are not changed.
    Raises ModelError for more than 16 taps, ValueError for shapes that disagree.
    """
    h, taps = conv.channels, conv.taps
    if not 2 <= taps <= MAX_TAPS:
        raise ModelError(f"{label}: a convolution of {taps} taps, supported: 2 to {MAX_TAPS}")
    if (
        in_proj.rows != 3 * h
        or y.shape[-1] != h
        or conv.weights.shape != (h * (taps + 4 * conv.biased),)
        or (in_proj.bias is not None) != conv.biased
    ):
        raise ValueError(
            f"{label}: in_proj {in_proj.rows} x {in_proj.cols}, weights {conv.weights.shape}, history "
            f"{conv.history.shape} and y {y.shape} do not belong together"
        )
    if trace.rows == 1 and len(in_proj.parts) == 1:
        matvec(trace, label, x, in_proj.parts[0], y, norm=norm, conv=conv)
        return
    proj = trace.tensor(label, trace.rows, 3 * h)
    linear(trace, label, x, in_proj, proj, norm=norm)
    constants = {"CHANNELS": h, "ROWS": _ROWS, "BIAS": conv.biased}
    trace.call(
        "short conv",
        kernel("short_conv", ["step", "causal_conv"], constants | conv.constants),
        [(proj, "r"), (conv.weights, "r"), (trace.step, "r"), (conv.history, "w"), (y, "w")],
        (-(-h // _CHANNELS), -(-trace.rows // _ROWS), 1),
    )
