"""Makes GPU buffers for what a family asks for (linear layers, embeddings, small vectors), and jobs that fill them.

Asking allocates; nothing is read yet. So a family can be traced and its pipelines compiled while the bytes stream in.
This store is in GPU memory; files on the device are in host/store.py and kept/.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from py_engine.errors import ModelError
from py_engine.graph.matrix import Linear, Matrix, MatrixFormat, ScaleFormat
from py_engine.graph.trace import Tensor
from py_engine.host.gpu import Binding, Buffer, Gpu
from py_engine.sources.jobs import FLOAT_BYTES, Job, TensorInfo

# How plain matrices are stored: as in the file; F32 narrowed to f16; quantised while loading.
StorageForm = Literal["stored", "f16", "q4", "q8"]

_FORMAT: dict[str, MatrixFormat] = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
_SCALES: dict[str, ScaleFormat] = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
# Group sizes for quantising while loading: the first that divides a row is taken (64 is mlx_lm's default).
_GROUPS = (64, 32)
# A cut between parts of one layer lies at a multiple of this many rows, so that no workgroup's tile crosses it.
_PART_ROWS = 64


@dataclass(frozen=True)
class Quantization:
    """How one layer is packed: MLX affine, `bits` 2, 3, 4, 5, 6 or 8, `group_size` 32, 64 or 128."""

    bits: int
    group_size: int


@dataclass(frozen=True)
class StoredAs:
    """How one source tensor will be stored. Tensors that are stored alike may be stacked in one matrix; `packed_bits`
    may differ: the width of the fields in the file (0: floats in the file)."""

    format: MatrixFormat
    cols: int
    row_bytes: int
    group_size: int = 0
    scale_format: ScaleFormat = "f16"
    packed_bits: int = 0


def quantised(
    format_: Literal["q4", "q8"],
    cols: int,
    group_size: int,
    scale_format: ScaleFormat,
    packed_bits: int = 0,
) -> StoredAs:
    """How rows of `cols` fields are stored."""
    row_bytes = cols if format_ == "q8" else cols // 2
    return StoredAs(format_, cols, row_bytes, group_size, scale_format, packed_bits)


class WeightStore:
    """GPU buffers of one model's weights. `form`: how plain matrices are stored.

    Raises ModelError, which names the tensor, when a tensor does not fit the config.
    """

    def __init__(
        self,
        gpu: Gpu,
        tensors: Mapping[str, TensorInfo],
        quantization: Callable[[str], Quantization | None],
        *,
        form: StorageForm,
        family: str,
    ) -> None:
        self._gpu = gpu
        self._tensors = tensors
        self._quantization = quantization
        self._form = form
        self._family = family
        self._buffers: list[Buffer] = []
        self._known: set[str] = set()  # tensors that were asked for, or left out on purpose
        self.jobs: list[Job] = []

    @property
    def buffers(self) -> Sequence[Buffer]:
        """All buffers of the weights."""
        return self._buffers

    @property
    def nbytes(self) -> int:
        """GPU bytes of all weights that were asked for so far."""
        return sum(b.nbytes for b in self._buffers)

    def has(self, name: str) -> bool:
        """Whether the checkpoint has a tensor of this full name."""
        return name in self._tensors

    def has_under(self, prefix: str) -> bool:
        """Whether the name of any tensor begins with this."""
        return any(name.startswith(prefix) for name in self._tensors)

    def leave(self, module: str) -> None:
        """Note that the matrix of this module, plain or packed, is left out on purpose."""
        names = {f"{module}.{part}" for part in ("weight", "scales", "biases")}
        self._known |= names & self._tensors.keys()

    def ignore(self, name: str) -> None:
        """Note that the tensor of this full name, if there is one, is left out on purpose."""
        self._known |= {name} & self._tensors.keys()

    def unused(self) -> list[str]:
        """Names of the tensors that were neither asked for nor left out on purpose, sorted."""
        return sorted(self._tensors.keys() - self._known)

    def uses(self, module: str) -> bool:
        """Whether a tensor right under this module (`module`.weight and the like) was asked for."""
        return module in {name.rpartition(".")[0] for name in self._known}

    def vector(self, name: str, n: int) -> Tensor:
        """A small vector [n] as f32 (norm weights, biases)."""
        return self.vectors({name: [(n,)]})

    def vectors(self, shapes: Mapping[str, Sequence[tuple[int, ...]]]) -> Tensor:
        """Small tensors as f32, one after another in one vector. `shapes`: the shapes that each may have in the
        file."""
        sizes = [prod(allowed[0]) for allowed in shapes.values()]
        target = self._tensor(next(iter(shapes)), sum(sizes), "f32")
        at = 0
        for (name, allowed), n in zip(shapes.items(), sizes, strict=True):
            self._vector_job(name, allowed, target, at)
            at += n
        return target

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor of this full name; None when the checkpoint has no such tensor."""
        return tuple(self._tensors[name].shape) if name in self._tensors else None

    def linear(
        self, names: Sequence[str], rows: Sequence[int], cols: int, *, bias: bool = False
    ) -> Linear:
        """Layers `names` ([rows[i], cols] each) that read the same input, stacked.

        Neighbours that are stored alike share a matrix; a matrix above the binding limit is cut into parts.
        `bias`: `<name>.bias` is read too, for every name.
        """
        layouts = [self._layout(n, r, cols) for n, r in zip(names, rows, strict=True)]
        parts: list[Matrix] = []
        at = 0
        offset = 0
        while at < len(names):
            end = at + 1
            while end < len(names) and self._stackable(layouts[at], layouts[end], rows[at:end]):
                end += 1
            parts += self._matrix(names[at:end], rows[at:end], layouts[at:end], offset)
            offset += sum(rows[at:end])
            at = end
        vector = None
        if bias:
            vector = self.vectors(
                {f"{name}.bias": [(n,)] for name, n in zip(names, rows, strict=True)}
            )
        return Linear(sum(rows), cols, tuple(parts), vector)

    def release(self) -> None:
        """Free every buffer."""
        for buffer in self._buffers:
            self._gpu.destroy_buffer(buffer)
        self._buffers.clear()
        self.jobs.clear()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _find(self, name: str) -> TensorInfo:
        info = self._tensors.get(name)
        if info is None:
            raise ModelError(
                f"{self._family}: tensor {name!r} is missing from the checkpoint. config.json and weights "
                "disagree, or the download is not complete: check the repository's revision."
            )
        self._known.add(name)
        return info

    def _shape_error(self, info: TensorInfo, wanted: Sequence[int], why: str) -> ModelError:
        return ModelError(
            f"{self._family}: {info.name} is {list(info.shape)}, expected {list(wanted)} {why}. "
            "config.json and weights disagree: check the revision."
        )

    def _layout(self, name: str, rows: int, cols: int) -> StoredAs:
        info = self._find(f"{name}.weight")
        packing = self._quantization(name)
        if packing is None:
            if info.dtype not in FLOAT_BYTES:
                raise ModelError(
                    f"{self._family}: {info.name} has dtype {info.dtype} and no {name}.scales beside it; "
                    "plain weights are F32, F16 or BF16. Fetch the file again, or convert the model again."
                )
            if tuple(info.shape) != (rows, cols):
                raise self._shape_error(info, (rows, cols), "from config.json")
            return self._plain(info.dtype, cols)
        bits, group = packing.bits, packing.group_size
        if cols % group or cols % 32:
            raise ModelError(
                f"{self._family}: {name} has {cols} columns, not a multiple of its group size {group}"
            )
        if info.dtype != "U32" or tuple(info.shape) != (rows, cols * bits // 32):
            raise self._shape_error(info, (rows, cols * bits // 32), f"of U32 for {bits} bits")
        scales, biases = self._find(f"{name}.scales"), self._find(f"{name}.biases")
        for side in (scales, biases):
            if tuple(side.shape) != (rows, cols // group):
                raise self._shape_error(side, (rows, cols // group), f"for groups of {group}")
            if side.dtype not in FLOAT_BYTES or side.dtype != scales.dtype:
                raise ModelError(
                    f"{self._family}: {side.name} has dtype {side.dtype}, not a float of its pair's"
                )
        return quantised("q8" if bits > 4 else "q4", cols, group, _SCALES[scales.dtype], bits)

    def _plain(self, dtype: str, cols: int) -> StoredAs:
        """How a plain matrix is stored. It stays plain when no group size divides its rows, as in MLX."""
        if self._form in ("q4", "q8"):
            group = next((g for g in _GROUPS if cols % g == 0), 0)
            if group:
                return quantised(self._form, cols, group, _SCALES[dtype])
        format_ = "f16" if self._form == "f16" and dtype == "F32" else _FORMAT[dtype]
        return StoredAs(format_, cols, cols * (4 if format_ == "f32" else 2))

    def _stackable(self, a: StoredAs, b: StoredAs, rows: Sequence[int]) -> bool:
        """Whether rows of b may follow rows of a in one matrix: both are stored alike, and b begins at a whole word."""
        same = (a.format, a.group_size, a.scale_format) == (b.format, b.group_size, b.scale_format)
        total = sum(rows)
        return (
            same
            and total * a.row_bytes % 4 == 0
            and (total + 1) * a.row_bytes <= self._gpu.limits.max_binding_bytes
        )

    def _matrix(
        self,
        names: Sequence[str],
        rows: Sequence[int],
        layouts: Sequence[StoredAs],
        row_offset: int,
    ) -> list[Matrix]:
        """The stacked sources as one matrix, or as several where one binding could not hold it. `layouts`: of each
        source; in the matrix they are alike, in the file they may differ."""
        layout = layouts[0]
        limit = min(self._gpu.limits.max_binding_bytes, self._gpu.limits.max_buffer_bytes)
        total = sum(rows)
        most = limit // layout.row_bytes
        if most < total:
            most = most // _PART_ROWS * _PART_ROWS or most
        if most < 1:
            raise ModelError(
                f"{self._family}: one row of {names[0]} does not fit a binding of {limit:,} bytes"
            )
        parts = []
        for first in range(0, total, most):
            n = min(most, total - first)
            label = names[0] if total == n else f"{names[0]}[{first}:{first + n}]"
            weight = self._tensor(label, (n * layout.row_bytes + 3) // 4, "u32")
            scales = None
            if layout.group_size:
                words = (
                    n
                    * (layout.cols // layout.group_size)
                    * (2 if layout.scale_format == "f32" else 1)
                )
                scales = self._tensor(label + ".scales", words, "u32")
            parts.append(
                Matrix(
                    n, layout.cols, layout.format, weight, row_offset + first, scales, layout.group_size,
                    layout.scale_format,
                )
            )  # fmt: skip
            at = 0
            for name, own, count in zip(names, layouts, rows, strict=True):
                lo, hi = max(at, first), min(at + count, first + n)
                if lo < hi:
                    self._rows_jobs(name, own, parts[-1], lo - at, hi - at, lo - first)
                at += count
        return parts

    def _rows_jobs(
        self, name: str, layout: StoredAs, matrix: Matrix, lo: int, hi: int, target_row: int
    ) -> None:
        """Jobs that put rows lo..hi of tensor `name` at row `target_row` of the matrix."""
        info = self._find(f"{name}.weight")
        if layout.packed_bits:
            self._packed_jobs(info, name, layout, matrix, lo, hi, target_row)
            return
        size = FLOAT_BYTES[info.dtype] * layout.cols
        if layout.group_size:
            job = Job(
                info, lo * size, hi * size, "quantise", matrix.weight, target_row * layout.cols,
                8 if layout.format == "q8" else 4, layout.cols, matrix.scales, layout.group_size,
            )  # fmt: skip
        elif info.dtype == "F32" and layout.format == "f16":
            job = Job(
                info, lo * size, hi * size, "f16", matrix.weight, target_row * layout.cols
            )  # fmt: skip
        else:
            job = Job(info, lo * size, hi * size, "copy", matrix.weight, target_row * size)
        self.jobs.append(job)

    def _packed_jobs(
        self,
        info: TensorInfo,
        name: str,
        layout: StoredAs,
        matrix: Matrix,
        lo: int,
        hi: int,
        target_row: int,
    ) -> None:
        """Jobs for packed fields, unchanged or widened, and for their scales and biases."""
        bits = layout.packed_bits
        size = layout.cols * bits // 8
        if bits in (4, 8):
            job = Job(info, lo * size, hi * size, "copy", matrix.weight, target_row * size)
        else:
            job = Job(
                info, lo * size, hi * size, "repack", matrix.weight, target_row * layout.cols, bits, layout.cols
            )  # fmt: skip
        self.jobs.append(job)
        assert matrix.scales is not None
        groups = layout.cols // layout.group_size
        kinds: Mapping[str, Literal["scale", "bias"]] = {"scales": "scale", "biases": "bias"}
        for part, kind in kinds.items():
            side = self._find(f"{name}.{part}")
            row = groups * FLOAT_BYTES[side.dtype]
            self.jobs.append(
                Job(side, lo * row, hi * row, kind, matrix.scales, target_row * groups)
            )

    def _vector_job(
        self,
        name: str,
        allowed: Sequence[tuple[int, ...]],
        target: Tensor,
        element: int,
    ) -> None:
        info = self._find(name)
        if tuple(info.shape) not in allowed:
            raise self._shape_error(info, allowed[0], "from config.json")
        if info.dtype not in FLOAT_BYTES:
            raise ModelError(
                f"{self._family}: {name} has dtype {info.dtype}, expected F32, F16 or BF16"
            )
        size = prod(info.shape) * FLOAT_BYTES[info.dtype]
        self.jobs.append(Job(info, 0, size, "f32", target, element))

    def _tensor(self, name: str, n: int, dtype: Literal["f32", "u32"]) -> Tensor:
        buffer = self._gpu.create_buffer(name, max(4 * n, 16))
        self._buffers.append(buffer)
        return Tensor(name, (n,), dtype, Binding(buffer))
