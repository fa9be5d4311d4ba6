"""Makes GPU buffers for what a family asks for (linear layers, embeddings, small vectors), and jobs that fill them.

Asking allocates; nothing is read yet. So a family can be traced and its pipelines compiled while the bytes stream in.
This store is in GPU memory; files on the device are in host/store.py and kept/.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

from py_engine.errors import ModelError
from py_engine.graph.matrix import Linear, Matrix
from py_engine.graph.trace import Tensor
from py_engine.host.gpu import Binding, Buffer, Gpu
from py_engine.sources.jobs import FLOAT_BYTES, MAX_ROW, Job, RowForm, TensorInfo
from py_engine.weights.formats import (
    FORMATS,
    SCALES,
    Layer,
    Quantization,
    StorageForm,
    StoredAs,
    floats,
    quantised,
)
from py_engine.weights.named_tensors import WEIGHT_NORM, NamedTensors

# Group sizes for quantising while loading: the first that divides a row is taken (64 is mlx_lm's default).
_GROUPS = (64, 32)
# A cut between parts of one layer lies at a multiple of this many rows, so that no workgroup's tile crosses it.
_PART_ROWS = 64


@dataclass(frozen=True)
class Rows:
    """How a family asks for the rows of a layer: see WeightStore.linear. `axes`: (cols,) for vectors."""

    axes: tuple[int, ...]
    plain: bool = False
    channels_last: bool = False
    channels_first: bool = False

    @property
    def channels(self) -> int:
        """The first of two axes that change places, as RowForm has it; 0: they stay."""
        if self.channels_first:
            return self.cols // self.axes[-1]
        return self.axes[0] if self.channels_last else 0

    @property
    def cols(self) -> int:
        """Numbers of a row."""
        return prod(self.axes)


class WeightStore(NamedTensors):
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
        super().__init__(tensors, family)
        self._gpu = gpu
        self._quantization = quantization
        self._form = form
        self._buffers: list[Buffer] = []
        # Parts of layers, vectors and tables, by what was asked for: whoever asks again gets the same.
        self._parts: dict[object, tuple[Matrix, ...]] = {}
        self._made: dict[object, Tensor] = {}
        self.jobs: list[Job] = []

    @property
    def buffers(self) -> Sequence[Buffer]:
        """All buffers of the weights."""
        return self._buffers

    @property
    def nbytes(self) -> int:
        """GPU bytes of all weights that were asked for so far."""
        return sum(b.nbytes for b in self._buffers)

    def vector(self, name: str, n: int) -> Tensor:
        """A small vector [n] as f32 (norm weights, biases)."""
        return self.vectors({name: [(n,)]})

    def vectors(self, shapes: Mapping[str, Sequence[tuple[int, ...]]]) -> Tensor:
        """Small tensors as f32, one after another in one vector. `shapes`: the shapes that each may have in the
        file."""
        key = tuple((name, *allowed) for name, allowed in shapes.items())
        if key not in self._made:
            sizes = [prod(allowed[0]) for allowed in shapes.values()]
            target = self._tensor(next(iter(shapes)), sum(sizes), "f32")
            at = 0
            for (name, allowed), n in zip(shapes.items(), sizes, strict=True):
                self._vector_job(name, allowed, target, at)
                at += n
            self._made[key] = target
        return self._made[key]

    def table(
        self, name: str, shape: Sequence[int], dtype: Literal["f32", "f16", "stored"] = "f32"
    ) -> Tensor:
        """A tensor of any rank, row-major, for kernels that read it as it is. It is never quantised. `dtype` "stored":
        that of the file, f32, f16 or bf16."""
        shape = tuple(shape)
        if dtype == "stored":
            dtype = "f32" if self._find(name).dtype == "F32" else dtype
        if dtype == "f32":
            return replace(self.vectors({name: [shape]}), shape=shape)
        info = self._floats(name, [shape])
        kind = FORMATS[info.dtype] if dtype == "stored" else dtype
        key = (name, kind)
        if key not in self._made:
            words = self._tensor(name, (prod(shape) + 1) // 2, "u32")
            as_it_is = FORMATS[info.dtype] == kind
            self.jobs.append(Job(info, 0, info.nbytes, "copy" if as_it_is else "f16", words, 0))
            self._made[key] = Tensor(name, shape, kind, words.binding)
        return self._made[key]

    def linear(
        self,
        names: Sequence[str],
        rows: Sequence[int],
        cols: int,
        *,
        bias: bool = False,
        plain: bool = False,
        axes: Sequence[int] = (),
        channels_last: bool = False,
        channels_first: bool = False,
    ) -> Linear:
        """Layers `names` ([rows[i], cols] each) that read the same input, stacked.

        Neighbours that are stored alike share a matrix; a matrix above the binding limit is cut into parts. Layers that
        were asked for before are not loaded again. Weight norm is folded: row by row, weight_g and weight_v become
        g v / |v|; a row of zeros stays zeros (torch makes NaN of it). Such rows are not quantised.
        `bias`: `<name>.bias` is read too, for every name. `plain`: the load does not quantise these rows. `axes`: the
        axes of a row in the file, where it has several: (channels, taps) for a convolution of shape
        [rows[i], channels, taps]. `channels_last`: the first of these axes becomes the last; `channels_first`: the last
        becomes the first; such rows are not quantised.
        """
        wanted = Rows(tuple(axes) or (cols,), plain, channels_last, channels_first)
        if wanted.cols != cols:
            raise ValueError(f"{names[0]}: axes {wanted.axes} of a row are not {cols} columns")
        key = (tuple(names), tuple(rows), wanted)
        if key not in self._parts:
            self._parts[key] = tuple(self._stack(names, rows, wanted))
        vector = None
        if bias:
            vector = self.vectors(
                {f"{name}.bias": [(n,)] for name, n in zip(names, rows, strict=True)}
            )
        return Linear(sum(rows), cols, self._parts[key], vector)

    def slices(self, name: str, count: int, rows: int, cols: int) -> list[Linear]:
        """A layer [count * rows, cols] of the file as `count` layers of `rows` each, so that kernels of one kind take
        each of them."""
        layer = self._layer(name, count * rows, Rows((cols,)))
        found = []
        for i in range(count):
            key = (name, count, i)
            if key not in self._parts:
                self._parts[key] = tuple(self._matrix([name], [rows], [layer], 0, i * rows))
            found.append(Linear(rows, cols, self._parts[key]))
        return found

    def release(self) -> None:
        """Free every buffer."""
        for buffer in self._buffers:
            self._gpu.destroy_buffer(buffer)
        self._buffers.clear()
        self._parts.clear()
        self._made.clear()
        self.jobs.clear()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _stack(self, names: Sequence[str], rows: Sequence[int], wanted: Rows) -> list[Matrix]:
        layers = [self._layer(n, r, wanted) for n, r in zip(names, rows, strict=True)]
        parts: list[Matrix] = []
        at = 0
        offset = 0
        while at < len(names):
            end = at + 1
            while end < len(names) and self._stackable(
                layers[at].stored, layers[end].stored, rows[at:end]
            ):
                end += 1
            parts += self._matrix(names[at:end], rows[at:end], layers[at:end], offset)
            offset += sum(rows[at:end])
            at = end
        return parts

    def _layer(self, name: str, rows: int, wanted: Rows) -> Layer:
        if f"{name}.weight" not in self._tensors:
            for lengths, directions in WEIGHT_NORM:
                if f"{name}.{directions}" in self._tensors:
                    pair = f"{name}.{lengths}", f"{name}.{directions}"
                    return self._normed(pair, rows, wanted)
        info = self._find(f"{name}.weight")
        packing = self._quantization(name)
        if packing is not None:
            if wanted.channels:
                raise ModelError(
                    f"{self._family}: {name} is quantised, but the order of its axes must be changed, which takes "
                    "plain weights. Take a conversion that leaves it plain."
                )
            return self._packed(info, name, rows, wanted.cols, packing)
        if info.dtype not in FLOAT_BYTES:
            raise ModelError(
                f"{self._family}: {info.name} has dtype {info.dtype} and no {name}.scales beside it; "
                "plain weights are F32, F16 or BF16. Fetch the file again, or convert the model again."
            )
        self._floats(info.name, [(rows, *wanted.axes)])
        if wanted.channels:
            return self._made_of(info, wanted)
        return Layer(self._plain(info.dtype, wanted.cols, wanted.plain), {"weight": info})

    def _normed(self, pair: tuple[str, str], rows: int, wanted: Rows) -> Layer:
        """A layer whose rows are made of lengths g and directions v: g v / |v|."""
        directions = self._floats(pair[1], [(rows, *wanted.axes)])
        one_a_row = (rows, *(1 for _ in wanted.axes))
        if tuple(self._find(pair[0]).shape) != one_a_row:
            raise self._shape_error(
                self._find(pair[0]), one_a_row, "(weight norm over all axes but the first, dim=0)"
            )
        lengths = self._floats(pair[0], [one_a_row])
        target = self._tensor(lengths.name, rows, "f32")
        self.jobs.append(Job(lengths, 0, lengths.nbytes, "f32", target, 0))
        return self._made_of(directions, wanted, self.jobs[-1])

    def _made_of(self, info: TensorInfo, wanted: Rows, lengths: Job | None = None) -> Layer:
        """A layer whose rows are made by a kernel, which writes whole words: an odd number of halves becomes f32."""
        if wanted.cols > MAX_ROW:
            raise ModelError(
                f"{self._family}: a row of {info.name} has {wanted.cols} numbers, more than {MAX_ROW}"
            )
        to = "f32" if wanted.cols % 2 else self._narrowed(info.dtype)
        form = RowForm(to, wanted.channels, lengths)
        return Layer(floats(to, wanted.cols), {"weight": info}, form=form)

    def _packed(
        self, info: TensorInfo, name: str, rows: int, cols: int, packing: Quantization
    ) -> Layer:
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
        stored = quantised("q8" if bits > 4 else "q4", cols, group, SCALES[scales.dtype])
        return Layer(stored, {"weight": info, "scales": scales, "biases": biases}, bits)

    def _plain(self, dtype: str, cols: int, plain: bool = False) -> StoredAs:
        """How a plain matrix is stored. It stays plain when no group size divides its rows, as in MLX."""
        if self._form in ("q4", "q8") and not plain:
            group = next((g for g in _GROUPS if cols % g == 0), 0)
            if group:
                return quantised(self._form, cols, group, SCALES[dtype])
        return floats(self._narrowed(dtype), cols)

    def _narrowed(self, dtype: str) -> Literal["f32", "f16", "bf16"]:
        """The format in which floats of a dtype are stored when they are not quantised."""
        return "f16" if self._form == "f16" and dtype == "F32" else FORMATS[dtype]

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
        layers: Sequence[Layer],
        row_offset: int,
        skip: int = 0,
    ) -> list[Matrix]:
        """The stacked layers as one matrix, or as several where one binding could not hold it. In the matrix they are
        alike, in the file they may differ. `skip`: rows of each layer in the file that are left out before its own."""
        layout = layers[0].stored
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
            for layer, count in zip(layers, rows, strict=True):
                lo, hi = max(at, first), min(at + count, first + n)
                if lo < hi:
                    self._rows_jobs(layer, parts[-1], skip + lo - at, skip + hi - at, lo - first)
                at += count
        return parts

    def _rows_jobs(self, layer: Layer, matrix: Matrix, lo: int, hi: int, target_row: int) -> None:
        """Add the jobs that put rows lo..hi of a layer at row `target_row` of the matrix."""
        self.jobs += layer.jobs(matrix, lo, hi, target_row)

    def _vector_job(
        self,
        name: str,
        allowed: Sequence[tuple[int, ...]],
        target: Tensor,
        element: int,
    ) -> None:
        info = self._floats(name, allowed)
        self.jobs.append(Job(info, 0, info.nbytes, "f32", target, element))

    def _tensor(self, name: str, n: int, dtype: Literal["f32", "u32"]) -> Tensor:
        buffer = self._gpu.create_buffer(name, max(4 * n, 16))
        self._buffers.append(buffer)
        return Tensor(name, (n,), dtype, Binding(buffer))
