"""Weights on the GPU, in the forms that kernels read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from py_engine.graph.trace import Tensor

MatrixFormat = Literal["f32", "f16", "bf16", "q4", "q8"]
ScaleFormat = Literal["f16", "bf16", "f32"]


@dataclass(frozen=True, eq=False)
class Matrix:
    """`rows` output rows of a linear layer or embedding, row-major [rows, cols], in one binding.

    f32: one element in a word. f16, bf16: two elements in a word, element 2i in the low half; bf16 stays as in the
    file, and kernels widen it by a shift. q4, q8: MLX affine, w = scale * q + bias per `group_size` along a row;
    element i of a row is the field at bits [i*b, i*b+b) of the row's words, lowest first. `scales` holds a (scale,
    bias) pair per group, [rows, cols / group_size]: one word (scale low, bias high half) when `scale_format` is f16 or
    bf16, two words when f32. `row_offset`: the place of row 0 in the layer's output. (A layer has several parts when
    its tensors have different formats, or when one binding cannot hold it.)
    """

    rows: int
    cols: int
    format: MatrixFormat
    weight: Tensor  # u32 words
    row_offset: int = 0
    scales: Tensor | None = None  # u32 words
    group_size: int = 0
    scale_format: ScaleFormat = "f16"


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear layer (or several that read the same input, stacked): y[rows] = (W x + bias) * factors."""

    rows: int
    cols: int
    parts: tuple[Matrix, ...]  # in row order, together all rows
    bias: Tensor | None = None  # f32 [rows], or longer: the first `rows` count
    # Where the factors (layer scale) begin in `bias`; 0: it holds factors only. None: there are no factors.
    factors_at: int | None = None
