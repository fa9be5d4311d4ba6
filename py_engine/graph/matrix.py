"""Weights on the GPU, as the kernels read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from py_engine.graph.trace import Tensor

MatrixFormat = Literal["f32", "f16", "bf16", "q4", "q8"]
ScaleFormat = Literal["f16", "bf16", "f32"]


@dataclass(frozen=True, eq=False)
class Matrix:
    """`rows` output rows of a linear layer or embedding, row-major [rows, cols], in one binding.

    f32: a word an element. f16, bf16: two elements a word, element 2i in the low half; bf16 is kept as it lies in the
    file and widened by a shift when read. q4, q8: MLX affine, w = scale * q + bias per `group_size` along a row;
    element i of a row is the field at bits [i*b, i*b+b) of the row's words, lowest first.
    `scales` holds a (scale, bias) pair per group, [rows, cols / group_size]: one word (scale low, bias high half) when
    `scale_format` is f16 or bf16, two words when f32.
    `row_offset`: where row 0 stands in the layer's output (a layer is cut into parts when its tensors' formats
    differ, or when one binding could not hold it).
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
    bias: Tensor | None = None  # f32 [rows], or more, of which the first are meant
    factors_at: int | None = (
        None  # where in `bias` factors begin (layer scale); 0: it holds no bias
    )
