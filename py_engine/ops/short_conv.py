"""LFM2's gated short convolution between its projections (shaders/short_conv.wgsl)."""

from __future__ import annotations

from py_engine.errors import ModelError
from py_engine.graph.trace import Tensor, Trace, kernel

MAX_TAPS = 16
_ROWS = 16  # rows a thread takes
_CHANNELS = 64  # channels a workgroup takes


def short_conv(
    trace: Trace,
    proj: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    history: Tensor,
    y: Tensor,
    label: str = "short conv",
) -> None:
    """proj [T, 3 h] (B, C, X) -> y [T, h] = C * (causal depthwise convolution of B * X + bias), f32.

    weight f32 [h taps], history f32 [taps - 1, h]: the last rows of B * X, taken as zero when step.pos is 0, unchanged
    while step.halt is set. Rows behind step.rows are left as they are. Raises ModelError for more than 16 taps,
    ValueError for shapes that disagree.
    """
    before, channels = history.shape
    taps = before + 1
    if not 2 <= taps <= MAX_TAPS:
        raise ModelError(f"{label}: a convolution of {taps} taps, supported: 2 to {MAX_TAPS}")
    if (
        proj.shape[-1] != 3 * channels
        or y.shape[-1] != channels
        or weight.shape != (channels * taps,)
    ):
        raise ValueError(
            f"{label}: proj {proj.shape}, weight {weight.shape}, history {history.shape} and y {y.shape} do not belong "
            "together"
        )
    constants = {"CHANNELS": channels, "TAPS": taps, "ROWS": _ROWS, "BIAS": bias is not None}
    trace.call(
        label,
        kernel("short_conv", ["step"], constants),
        [
            (proj, "r"),
            (weight, "r"),
            (bias or trace.zeros, "r"),
            (trace.step, "r"),
            (history, "w"),
            (y, "w"),
        ],
        (-(-channels // _CHANNELS), -(-trace.rows // _ROWS), 1),
    )
