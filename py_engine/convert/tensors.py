"""Writes each tensor of a GGUF file as a vector, a matrix of floats, or a matrix in MLX's affine form.

Only one tensor is in memory at a time, in runs of rows. Needs numpy; only for `convert`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from py_engine.convert.family import Family
from py_engine.convert.gguf import GgufTensor
from py_engine.convert.gguf_blocks import affine, dequantise, group_fields
from py_engine.convert.packing import (
    MIN_SCALE_EPS,
    Floats,
    Words,
    affine_groups,
    narrow,
    pack,
    quantise,
    widen,
)
from py_engine.convert.writer import Part, Writer
from py_engine.errors import FormatError
from py_engine.weights.mlx_quant import packed_words

RUN_ELEMENTS = 4 << 20  # values that are dequantised at a time
PLAIN_BITS = (16, 32)


class Item:
    """A source tensor and the parts that it becomes."""

    tensor: GgufTensor
    parts: list[Part]

    def write(self, writer: Writer) -> Iterator[int]:
        """Write all parts. Yields how many values each step has done."""
        raise NotImplementedError


class Vector(Item):
    """A norm weight or bias, in the smallest float type that holds it exactly."""

    def __init__(self, name: str, tensor: GgufTensor, data: Any, offset: float) -> None:
        self.tensor = tensor
        stored = dequantise(tensor, data).reshape(-1)
        values = stored - np.float32(offset)
        self.dtype, self.raw = "F32", values.astype("<f4").tobytes()
        for dtype in ("BF16", "F16"):
            raw = narrow(values, dtype)
            # With an offset, it is the stored sum that must be exact, since the difference is rounded.
            if np.array_equal(widen(raw, dtype) + np.float32(offset), stored):
                self.dtype, self.raw = dtype, raw.tobytes()
                break
        self.parts = [Part(name, self.dtype, tensor.shape)]

    def write(self, writer: Writer) -> Iterator[int]:
        writer.write(self.parts[0], 0, self.raw)
        yield math.prod(self.tensor.shape)


class Plain(Item):
    """A matrix that stays as floats."""

    def __init__(self, name: str, tensor: GgufTensor, data: Any, bits: int) -> None:
        self.tensor, self.data = tensor, data
        self.parts = [Part(name, "F32" if bits == 32 else "F16", tensor.shape)]

    def write(self, writer: Writer) -> Iterator[int]:
        part, at = self.parts[0], 0
        if part.dtype == "F16":
            worst = max(float(np.abs(run).max()) for _, run in _runs(self.tensor, self.data))
            if worst > float(np.finfo(np.float16).max):
                part = writer.change(part, "BF16")
        for _, run in _runs(self.tensor, self.data):
            raw = narrow(run, part.dtype).tobytes()
            writer.write(part, at, raw)
            at += len(raw)
            yield run.size


class Packed(Item):
    """A matrix in MLX's affine form. With groups of 32, types whose fields fit are taken over as they are: their own
    fields, and their scales and biases rounded to f16 (exact for Q8_0, Q5_0, Q4_0, whose scales are f16 already)."""

    def __init__(self, name: str, tensor: GgufTensor, data: Any, bits: int, group: int) -> None:
        self.tensor, self.data, self.bits, self.group = tensor, data, bits, group
        stem = name.removesuffix(".weight")
        rows, cols = tensor.shape
        levels = group_fields(tensor.type.name)
        self.exact = group == 32 and levels is not None and levels <= 2**bits
        self.parts = [
            Part(name, "U32", (rows, packed_words(cols, bits))),
            Part(f"{stem}.scales", "F16", (rows, cols // group)),
            Part(f"{stem}.biases", "F16", (rows, cols // group)),
        ]

    def write(self, writer: Writer) -> Iterator[int]:
        weight, scales, biases = self.parts
        dtype = self._scale_dtype()
        if dtype != scales.dtype:
            scales, biases = writer.change(scales, dtype), writer.change(biases, dtype)
        at = [0, 0, 0]
        for first, run in _runs(self.tensor, self.data):
            if self.exact:
                made = self._take_over(first, run, dtype)
            else:
                made = quantise(run, self.bits, self.group, dtype)
            for i, (part, array) in enumerate(zip((weight, scales, biases), made, strict=True)):
                raw = array.tobytes()
                writer.write(part, at[i], raw)
                at[i] += len(raw)
            yield run.size

    def _take_over(
        self, first: int, run: Floats, dtype: str
    ) -> tuple[Words, NDArray[Any], NDArray[Any]]:
        """The same as `quantise`, but with the fields of the file."""
        rows = run.shape[0]
        own = affine(self.tensor, self.data, first, first + rows)
        fields = own.fields.reshape(rows, -1)
        scales, biases = own.scale.reshape(rows, -1), own.bias.reshape(rows, -1)
        return pack(fields, self.bits), narrow(scales, dtype), narrow(biases, dtype)

    def _scale_dtype(self) -> str:
        """f16 has three more bits than bf16 and so is closer, unless scales overflow it or many fall below 2^-16,
        where it has fewer."""
        small = count = 0
        for first, run in _runs(self.tensor, self.data):
            if self.exact:
                own = affine(self.tensor, self.data, first, first + run.shape[0])
                scales, biases = own.scale, own.bias
            else:
                scales, biases = affine_groups(run, self.bits, self.group)
            largest = max(float(np.abs(scales).max()), float(np.abs(biases).max()))
            if largest > float(np.finfo(np.float16).max):
                return "BF16"
            used = np.abs(scales) > 2 * MIN_SCALE_EPS  # groups that are not constant
            small += int(np.count_nonzero(used & (np.abs(scales) < 2.0**-16)))
            count += int(np.count_nonzero(used))
        return "BF16" if small * 1000 > count else "F16"


def plan(
    names: Mapping[str, GgufTensor],
    family: Family,
    data: Any,
    bits: int,
    group: int,
    widths: Mapping[str, int],
) -> list[Item]:
    """`widths`: of the modules that do not get `bits`."""
    items: list[Item] = []
    for name, tensor in names.items():
        if len(tensor.shape) == 1:
            offset = family.norm_offset if name.endswith("norm.weight") else 0.0
            items.append(Vector(name, tensor, data, offset))
        elif bits in PLAIN_BITS or tensor.shape[-1] % group:
            items.append(Plain(name, tensor, data, bits))
        else:
            width = widths.get(name.removesuffix(".weight"), bits)
            items.append(Packed(name, tensor, data, width, group))
    return items


def _runs(tensor: GgufTensor, data: Any) -> Iterator[tuple[int, Floats]]:
    """A matrix as float32, some rows at a time, with the first row's number. Raises FormatError for NaN, infinity."""
    step = max(1, RUN_ELEMENTS // tensor.shape[-1])
    for first in range(0, tensor.rows, step):
        run = dequantise(tensor, data, first, min(first + step, tensor.rows))
        if not np.isfinite(run).all():
            raise FormatError(f"{tensor.name} holds NaN or infinity. The file is damaged.")
        yield first, run
