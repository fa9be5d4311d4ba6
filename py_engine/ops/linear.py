"""Linear layers as families call them: matvec for one row; norm, or narrowing, and matmul for a chunk."""

from __future__ import annotations

from typing import Literal

from py_engine.graph.matrix import Linear, Matrix
from py_engine.graph.trace import Tensor
from py_engine.ops.gate import Activation
from py_engine.ops.matmul import matmul, takes_units
from py_engine.ops.matvec import matvec
from py_engine.ops.narrow import narrow
from py_engine.ops.norm import Norm, rms_norm
from py_engine.ops.step import Pass


def linear(
    trace: Pass,
    label: str,
    x: Tensor,
    layer: Linear,
    y: Tensor,
    *,
    norm: Norm | None = None,
    residual: bool = False,
    last_row: bool = False,
) -> None:
    """y = W norm(x) + bias; with `residual`, y += that.

    x [>= T, cols] f32, T = trace.rows; y [>= T, rows] f32. `last_row`: only row step.rows - 1 of x, to the first
    row of y (the head). Raises ValueError when shapes differ, ModelError for a format the kernels cannot read.
    """
    _check(label, x, layer, y, layer.rows)
    x, norm = _input(trace, label, x, layer, norm, last_row)
    for part in layer.parts:
        _part(
            trace, label, x, layer, part, (0, part.rows), part.row_offset, y,
            "add" if residual else "store", None, norm, last_row,
        )  # fmt: skip


def gated_linear(
    trace: Pass,
    label: str,
    x: Tensor,
    layer: Linear,
    y: Tensor,
    activation: Activation,
    *,
    norm: Norm | None = None,
) -> None:
    """y = act(gate) * up for a layer whose rows are [gate; up] stacked.

    x [>= T, cols] f32, y [>= T, rows / 2] f32. One dispatch when the layer has one part; else the gate's parts are
    stored and the up's multiplied in. Raises ValueError when shapes differ, ModelError as linear.
    """
    half = layer.rows // 2
    _check(label, x, layer, y, half)
    x, norm = _input(trace, label, x, layer, norm, False)
    if len(layer.parts) == 1:
        part = layer.parts[0]
        _part(trace, label, x, layer, part, (0, part.rows), 0, y, "gated", activation, norm, False)
        return
    for part in layer.parts:
        rows = (0, min(part.rows, half - part.row_offset))
        if rows[1] > 0:
            at = part.row_offset
            _part(trace, label, x, layer, part, rows, at, y, "store", None, norm, False)
    for part in layer.parts:
        rows = (max(0, half - part.row_offset), part.rows)
        if rows[0] < rows[1]:
            at = part.row_offset + rows[0] - half
            _part(trace, label, x, layer, part, rows, at, y, "multiply", activation, norm, False)


def _check(label: str, x: Tensor, layer: Linear, y: Tensor, rows: int) -> None:
    if x.shape[-1] != layer.cols or y.shape[-1] != rows:
        raise ValueError(
            f"{label}: x {x.shape} and y {y.shape} do not fit a layer {layer.rows} x {layer.cols}"
        )


def _input(
    trace: Pass, label: str, x: Tensor, layer: Linear, norm: Norm | None, last_row: bool
) -> tuple[Tensor, Norm | None]:
    """What the parts read: matvec norms by itself, matmul reads rows that were normed, or narrowed, once."""
    if trace.rows == 1 or last_row:
        return x, norm
    if takes_units(trace, layer):
        narrowed = trace.tensor(f"{label} input", trace.rows, x.shape[-1], dtype="f16")
        narrow(trace, x, narrowed, norm, f"{label} input")
        return narrowed, None
    if norm is None:
        return x, None
    normed = trace.tensor(f"{label} input", trace.rows, x.shape[-1])
    rms_norm(trace, x, norm, normed)
    return normed, None


def _part(
    trace: Pass,
    label: str,
    x: Tensor,
    layer: Linear,
    part: Matrix,
    rows: tuple[int, int],
    y_offset: int,
    y: Tensor,
    epilogue: Literal["store", "add", "gated", "multiply"],
    activation: Activation | None,
    norm: Norm | None,
    last_row: bool,
) -> None:
    act = activation or "silu"
    if trace.rows == 1 or last_row:
        matvec(
            trace, label, x, part, y, norm=norm, bias=layer.bias, epilogue=epilogue, activation=act,
            last_row=last_row, rows=rows, y_offset=y_offset,
        )  # fmt: skip
    else:
        matmul(
            trace, label, x, part, y, bias=layer.bias, epilogue=epilogue, activation=act,
            rows=rows, y_offset=y_offset,
        )  # fmt: skip
