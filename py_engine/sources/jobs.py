"""What is to be brought where: bytes of a checkpoint's tensors, and the form that they take in a buffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from py_engine.graph.trace import Tensor

FLOAT_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in a file. `start` and `end` (exclusive) are bytes from the beginning of the file."""

    name: str
    dtype: str  # as safetensors writes it: "F32", "BF16", "U32", ...
    shape: tuple[int, ...]
    file: str
    start: int
    end: int

    def __hash__(self) -> int:  # of tens of thousands of look-ups in a load
        return hash((self.name, self.start))

    @property
    def nbytes(self) -> int:
        """Its size in bytes: the product of `shape` times the size of `dtype`."""
        return self.end - self.start


@dataclass(frozen=True, eq=False)
class Job:
    """Bytes [start, end) of a tensor, to be put into `target` from element `target_element` on.

    copy: as they lie. f32, f16: converted to that. scale, bias: into the low or high half of (scale, bias) pairs.
    repack: `bits`-wide fields of rows of `cols` elements into 4- or 8-bit fields.
    quantise: floats into fields of `bits`, with pairs in `scales`, by groups of `group_size`.
    Elements are bytes for copy, values for the rest. `unit`: bytes, a slice ends at a multiple of it from `start`.
    """

    tensor: TensorInfo
    start: int
    end: int
    kind: Literal["copy", "f32", "f16", "scale", "bias", "repack", "quantise"]
    target: Tensor
    target_element: int
    bits: int = 0
    cols: int = 0
    scales: Tensor | None = None
    group_size: int = 0

    @property
    def unit(self) -> int:
        if self.kind == "repack":
            return self.cols * self.bits // 8
        if self.kind == "quantise":
            # Whole groups, and so many that all slices of a tensor share a pipeline (layout.quantise's windows).
            return 64 * self.group_size * FLOAT_BYTES[self.tensor.dtype]
        return 16
