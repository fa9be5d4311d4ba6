"""Jobs of a load: which bytes of a checkpoint's tensors go into which buffer, and in which form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from py_engine.graph.trace import Tensor

FLOAT_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
# Of a job "rows", in a slice a multiple of it: all slices of a tensor then share a pipeline (layout.rows' windows).
ROWS_AT_ONCE = 64
MAX_ROW = 1 << 16  # numbers in a row of such a job: so many rows fit into any slice


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in a file. `start` and `end` (exclusive) are bytes from the beginning of the file."""

    name: str
    dtype: str  # as safetensors writes it: "F32", "BF16", "U32", ...
    shape: tuple[int, ...]
    file: str
    start: int
    end: int

    def __hash__(self) -> int:  # short, since a load makes tens of thousands of look-ups
        return hash((self.name, self.start))

    @property
    def nbytes(self) -> int:
        """Its size in bytes: the product of `shape` times the size of `dtype`."""
        return self.end - self.start


@dataclass(frozen=True, eq=False)
class RowForm:
    """How a job "rows" makes the rows of a matrix out of a tensor's, both of `Job.cols` numbers.

    `channels`: a row [channels, taps] becomes [taps, channels]; 0: its order stays. `lengths`: the job that brings the
    length which each row is brought to (weight norm), f32 [rows] from its target's first element on, and which is done
    before; None: rows keep theirs.
    """

    to: Literal["f32", "f16", "bf16"]
    channels: int = 0
    lengths: Job | None = None


@dataclass(frozen=True, eq=False)
class Job:
    """Bytes [start, end) of a tensor that go into `target` from element `target_element` on.

    copy: as they are. f32, f16: converted. scale, bias: into the low or the high half of (scale, bias) pairs.
    repack: from `bits`-wide fields, in rows of `cols` elements, to fields of 4 or 8 bits.
    quantise: from floats to fields of `bits`, in groups of `group_size`, with their pairs in `scales`.
    rows: rows of `cols` floats, made as `form` says.
    Elements are bytes for copy, values for the others.
    """

    tensor: TensorInfo
    start: int
    end: int
    kind: Literal["copy", "f32", "f16", "scale", "bias", "repack", "quantise", "rows"]
    target: Tensor
    target_element: int
    bits: int = 0
    cols: int = 0
    scales: Tensor | None = None
    group_size: int = 0
    form: RowForm | None = None

    @property
    def unit(self) -> int:
        """Bytes: a slice of the job ends at a multiple of this, counted from `start`."""
        if self.kind == "repack":
            return self.cols * self.bits // 8
        if self.kind == "quantise":
            # Whole groups, and so many of them that all slices of a tensor share a pipeline (windows of
            # layout.quantise).
            return 64 * self.group_size * FLOAT_BYTES[self.tensor.dtype]
        if self.kind == "rows":
            return ROWS_AT_ONCE * self.cols * FLOAT_BYTES[self.tensor.dtype]
        return 16
