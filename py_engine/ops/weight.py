"""Which shader libraries read a Matrix, and the constants that they need. Shared by embed, matvec and matmul."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from py_engine.errors import ModelError
from py_engine.graph.matrix import Matrix
from py_engine.graph.trace import NOTHING, Tensor

CHUNK = 32  # elements of a row that a kernel works on at a time (shaders/lib/chunk.wgsl)
_SCALE_FORMATS = {"f16": 0, "bf16": 1, "f32": 2}


@dataclass(frozen=True)
class WeightLibraries:
    """`uses` and constants for a kernel that reads a matrix; `aligned`: rows are whole chunks."""

    uses: tuple[str, ...]
    constants: Mapping[str, int]
    aligned: bool


def weight_libraries(matrix: Matrix, q4_unpack: int = 0) -> WeightLibraries:
    """The libraries of shaders/lib that define Packed, weight_load, weight_unpack and weight_affine for this matrix.

    Raises ModelError for a quantised matrix whose groups the kernels cannot read.
    """
    aligned = matrix.cols % CHUNK == 0
    if matrix.format not in ("q4", "q8"):
        if aligned:
            return WeightLibraries(("chunk", f"weight_{matrix.format}"), {}, True)
        return WeightLibraries(("chunk", f"weight_{matrix.format}_any", "chunk_any"), {}, False)
    if matrix.group_size not in (32, 64, 128) or matrix.cols % matrix.group_size:
        raise ModelError(
            f"{matrix.weight.name}: {matrix.format} with groups of {matrix.group_size} over "
            f"{matrix.cols} columns; groups of 32, 64 or 128 that divide a row are supported"
        )
    constants = {"GROUP": matrix.group_size, "SCALE_FORMAT": _SCALE_FORMATS[matrix.scale_format]}
    if matrix.format == "q4":
        constants["Q4_UNPACK"] = q4_unpack
    return WeightLibraries(("chunk", "scales", f"weight_{matrix.format}"), constants, True)


def scales_of(matrix: Matrix) -> Tensor:
    """The tensor for the `scales` binding."""
    return NOTHING if matrix.scales is None else matrix.scales
