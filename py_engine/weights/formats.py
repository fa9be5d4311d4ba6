"""How matrices are stored on the GPU, and the jobs that bring the rows of a layer there from the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from py_engine.graph.matrix import Matrix, MatrixFormat, ScaleFormat
from py_engine.sources.jobs import FLOAT_BYTES, Job, RowForm, TensorInfo

# How plain matrices are stored: as in the file; F32 narrowed to f16; quantised while loading.
StorageForm = Literal["stored", "f16", "q4", "q8"]

# Of floats and of scales, by safetensors' dtype.
FORMATS: Mapping[str, Literal["f32", "f16", "bf16"]] = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
SCALES: Mapping[str, ScaleFormat] = FORMATS


@dataclass(frozen=True)
class Quantization:
    """How one layer is packed: MLX affine, `bits` 2, 3, 4, 5, 6 or 8, `group_size` 32, 64 or 128."""

    bits: int
    group_size: int


@dataclass(frozen=True)
class StoredAs:
    """How the rows of a layer are stored. Layers that are stored alike may be stacked in one matrix."""

    format: MatrixFormat
    cols: int
    row_bytes: int
    group_size: int = 0
    scale_format: ScaleFormat = "f16"


def floats(format_: Literal["f32", "f16", "bf16"], cols: int) -> StoredAs:
    """How rows of `cols` numbers are stored."""
    return StoredAs(format_, cols, cols * (4 if format_ == "f32" else 2))


def quantised(
    format_: Literal["q4", "q8"], cols: int, group_size: int, scale_format: ScaleFormat
) -> StoredAs:
    """How rows of `cols` fields are stored."""
    return StoredAs(format_, cols, cols if format_ == "q8" else cols // 2, group_size, scale_format)


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer [rows, cols] in the file, and how its rows will be stored.

    `tensors`: "weight", and where it is packed "scales" and "biases". `packed_bits`: the width of the fields in the
    file, 0: floats. `form`: of rows that a kernel makes (weight norm, channels last), None: they stay as they lie.
    """

    stored: StoredAs
    tensors: Mapping[str, TensorInfo] = field(default_factory=dict)
    packed_bits: int = 0
    form: RowForm | None = None

    def jobs(self, matrix: Matrix, lo: int, hi: int, target_row: int) -> list[Job]:
        """Jobs that put rows lo..hi at row `target_row` of the matrix."""
        if self.packed_bits:
            return self._packed(matrix, lo, hi, target_row)
        info, cols, target = self.tensors["weight"], self.stored.cols, matrix.weight
        size = FLOAT_BYTES[info.dtype] * cols
        start, end, element = lo * size, hi * size, target_row * cols
        if self.form is not None:
            return [Job(info, start, end, "rows", target, element, cols=cols, form=self.form)]
        if self.stored.group_size:
            bits = 8 if self.stored.format == "q8" else 4
            return [
                Job(
                    info, start, end, "quantise", target, element, bits, cols, matrix.scales,
                    self.stored.group_size,
                )
            ]  # fmt: skip
        if info.dtype == "F32" and self.stored.format == "f16":
            return [Job(info, start, end, "f16", target, element)]
        return [Job(info, start, end, "copy", target, target_row * size)]

    def _packed(self, matrix: Matrix, lo: int, hi: int, target_row: int) -> list[Job]:
        """Jobs for packed fields, unchanged or widened, and for their scales and biases."""
        info, bits, cols = self.tensors["weight"], self.packed_bits, self.stored.cols
        size = cols * bits // 8
        start, end = lo * size, hi * size
        if bits in (4, 8):
            found = [Job(info, start, end, "copy", matrix.weight, target_row * size)]
        else:
            found = [Job(info, start, end, "repack", matrix.weight, target_row * cols, bits, cols)]
        assert matrix.scales is not None
        groups = cols // self.stored.group_size
        kinds: Mapping[str, Literal["scale", "bias"]] = {"scales": "scale", "biases": "bias"}
        for part, kind in kinds.items():
            side = self.tensors[part]
            row = groups * FLOAT_BYTES[side.dtype]
            found.append(Job(side, lo * row, hi * row, kind, matrix.scales, target_row * groups))
        return found
