"""Linear layers as families call them: matvec for one row; norm, or narrowing, and matmul for a chunk."""

from __future__ import annotations

from dataclasses import dataclass

from py_engine.graph.matrix import Linear, Matrix
from py_engine.graph.trace import Tensor
from py_engine.ops.gate import Activation, Epilogue, Finish
from py_engine.ops.matmul import matmul, takes_dot4, takes_units
from py_engine.ops.matvec import matvec
from py_engine.ops.narrow import narrow
from py_engine.ops.norm import Norm, apply_norm, norm_last_row
from py_engine.ops.quantise import quantise, quantised_words
from py_engine.ops.step import Pass


def linear(
    trace: Pass,
    label: str,
    x: Tensor,
    layer: Linear,
    y: Tensor,
    *,
    norm: Norm | None = None,
    activation: Activation | None = None,
    scale: float = 1.0,
    cap: float = 0.0,
    residual: bool = False,
    last_row: bool = False,
) -> None:
    """y = act(W norm(x) + bias) * factors * scale; with `residual`, y += that. Factors are the layer's own. `cap`: the
    values v become cap * tanh(v / cap) before they are stored or added.

    x [>= T, cols] f32, T = trace.rows; y [>= T, rows] f32. `last_row`: only row step.rows - 1 of x, to the first
    row of y (the head). Raises ValueError when shapes differ, ModelError for a format the kernels cannot read.
    """
    _check(label, x, layer, y, layer.rows)
    given = _input(trace, label, x, layer, norm, last_row)
    epilogue: Epilogue = "add" if residual else "store"
    finish = Finish(epilogue, activation, layer.bias, layer.factors_at, scale, cap)
    for part in layer.parts:
        _part(trace, label, given, part, (0, part.rows), part.row_offset, y, finish)


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
    given = _input(trace, label, x, layer, norm, False)

    def finish(epilogue: Epilogue) -> Finish:
        act = None if epilogue == "store" else activation
        return Finish(epilogue, act, layer.bias, layer.factors_at)

    if len(layer.parts) == 1:
        part = layer.parts[0]
        _part(trace, label, given, part, (0, part.rows), 0, y, finish("gated"))
        return
    for part in layer.parts:
        rows = (0, min(part.rows, half - part.row_offset))
        if rows[1] > 0:
            _part(trace, label, given, part, rows, part.row_offset, y, finish("store"))
    for part in layer.parts:
        rows = (max(0, half - part.row_offset), part.rows)
        if rows[0] < rows[1]:
            at = part.row_offset + rows[0] - half
            _part(trace, label, given, part, rows, at, y, finish("multiply"))


def _check(label: str, x: Tensor, layer: Linear, y: Tensor, rows: int) -> None:
    if x.shape[-1] != layer.cols or y.shape[-1] != rows:
        raise ValueError(
            f"{label}: x {x.shape} and y {y.shape} do not fit a layer {layer.rows} x {layer.cols}"
        )


@dataclass(frozen=True)
class _Input:
    """What the parts of a layer read: one row of it (row step.rows - 1 where `last`), through `norm`, or all rows."""

    x: Tensor
    one: bool
    norm: Norm | None = None
    last: bool = False


def _input(
    trace: Pass, label: str, x: Tensor, layer: Linear, norm: Norm | None, last_row: bool
) -> _Input:
    """Prepare x for all parts of the layer. A matvec applies an RMSNorm itself. A LayerNorm runs here, once; so does
    what a matmul needs: its norm, narrowing or quantising."""
    one, k = trace.rows == 1 or last_row, x.shape[-1]
    if one and (norm is None or not norm.centred):
        return _Input(x, True, norm, last_row)
    if norm is not None and last_row:
        row = trace.tensor(f"{label} input", 1, k)
        norm_last_row(trace, x, norm, row)
        return _Input(row, True)
    narrows = not one and takes_units(trace, layer)
    quantises = not one and not narrows and takes_dot4(trace, layer)
    name = f"{label} input"
    if norm is not None and (norm.centred or not (narrows or quantises)):
        normed = trace.tensor(name, trace.rows, k)
        apply_norm(trace, x, norm, normed)
        x, norm = normed, None
    if narrows:
        narrowed = trace.tensor(name, trace.rows, k, dtype="f16")
        narrow(trace, x, narrowed, norm, name)
        return _Input(narrowed, one)
    if quantises:
        quantised = trace.tensor(name, trace.rows, quantised_words(k), dtype="u32")
        quantise(trace, x, quantised, norm, name)
        return _Input(quantised, one)
    return _Input(x, one)


def _part(
    trace: Pass,
    label: str,
    given: _Input,
    part: Matrix,
    rows: tuple[int, int],
    y_offset: int,
    y: Tensor,
    finish: Finish,
) -> None:
    if given.one:
        matvec(
            trace, label, given.x, part, y, norm=given.norm, finish=finish, last_row=given.last,
            rows=rows, y_offset=y_offset,
        )  # fmt: skip
    else:
        matmul(trace, label, given.x, part, y, finish=finish, rows=rows, y_offset=y_offset)
