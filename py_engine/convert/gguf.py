"""Reads a GGUF file's metadata, and where its tensors are. `gguf_blocks.py` reads what their blocks hold.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. Dimensions are
listed fastest first in the file; `shape` here is row-major, [out, in].
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from py_engine.errors import FormatError, ModelError

MAGIC = b"GGUF"
MAX_RANK = 4
MAX_DIMENSION = 1 << 40
MAX_KEY_BYTES = 1 << 16
MAX_ARRAY_DEPTH = 2
DEFAULT_ALIGNMENT = 32

ADVICE = "The file is damaged or was made wrongly: fetch it again."


@dataclass(frozen=True)
class BlockType:
    """A ggml tensor type: `elements` values in `nbytes` bytes."""

    name: str
    elements: int
    nbytes: int


# Types by their numbers in ggml.h. A file with another type is refused.
TYPES: Mapping[int, BlockType] = {
    0: BlockType("F32", 1, 4),
    1: BlockType("F16", 1, 2),
    2: BlockType("Q4_0", 32, 18),
    3: BlockType("Q4_1", 32, 20),
    6: BlockType("Q5_0", 32, 22),
    7: BlockType("Q5_1", 32, 24),
    8: BlockType("Q8_0", 32, 34),
    12: BlockType("Q4_K", 256, 144),
    13: BlockType("Q5_K", 256, 176),
    14: BlockType("Q6_K", 256, 210),
    30: BlockType("BF16", 1, 2),
}
OTHER_TYPES: Mapping[int, str] = {
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
}


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a GGUF file: `nbytes` bytes from `start` on. `shape` is row-major.

    `paired`: entries of a head, where its two halves (i, i + paired/2) stand side by side (2i, 2i + 1) along the first
    axis, as in llama.cpp's files of `llama`; 0: they stand as in Hugging Face's files. Readers undo it.
    """

    name: str
    type: BlockType
    shape: tuple[int, ...]
    start: int
    paired: int = 0

    @property
    def row_nbytes(self) -> int:
        """Bytes of one row (the last axis)."""
        return self.shape[-1] // self.type.elements * self.type.nbytes

    @property
    def rows(self) -> int:
        """Rows of the last axis's length."""
        return math.prod(self.shape[:-1])

    @property
    def nbytes(self) -> int:
        """Its bytes in the file."""
        return self.rows * self.row_nbytes


@dataclass(frozen=True)
class Gguf:
    """What a GGUF file has before its data."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]


class _Reader:
    """A cursor over the file's bytes that never runs past their end."""

    SCALARS: Mapping[int, struct.Struct] = {
        0: struct.Struct("<B"),
        1: struct.Struct("<b"),
        2: struct.Struct("<H"),
        3: struct.Struct("<h"),
        4: struct.Struct("<I"),
        5: struct.Struct("<i"),
        6: struct.Struct("<f"),
        7: struct.Struct("<?"),
        10: struct.Struct("<Q"),
        11: struct.Struct("<q"),
        12: struct.Struct("<d"),
    }
    STRING, ARRAY = 8, 9
    U32, U64 = SCALARS[4], SCALARS[10]

    def __init__(self, data: Any, where: str) -> None:
        self.data = memoryview(data).cast("B")
        self.at = 0
        self.where = where

    def wrong(self, what: str) -> FormatError:
        return FormatError(f"{self.where}: {what}. {ADVICE}")

    def cut(self, what: str) -> FormatError:
        return FormatError(
            f"{self.where} ends at byte {len(self.data)}, within {what}. It was cut short: fetch it again."
        )

    def take(self, count: int, what: str) -> memoryview:
        if count > len(self.data) - self.at:
            raise self.cut(what)
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: struct.Struct, what: str) -> Any:
        return form.unpack(self.take(form.size, what))[0]

    def string(self, what: str, limit: int | None = None) -> str:
        length = self.number(self.U64, what)
        if limit is not None and length > limit:
            raise self.wrong(f"{what} has {length} bytes, more than the {limit} allowed")
        try:
            return str(self.take(length, what), "utf-8")
        except UnicodeDecodeError as error:
            raise self.wrong(f"{what} is not UTF-8") from error

    def value(self, kind: int, what: str, depth: int = 0) -> Any:
        if kind in self.SCALARS:
            return self.number(self.SCALARS[kind], what)
        if kind == self.STRING:
            return self.string(what)
        if kind != self.ARRAY or depth == MAX_ARRAY_DEPTH:
            raise self.wrong(f"{what} has the unknown type {kind}")
        inner = self.number(self.U32, what)
        count = self.number(self.U64, what)
        scalar = self.SCALARS.get(inner)
        least = scalar.size if scalar else 8
        if count * least > len(self.data) - self.at:
            raise self.wrong(f"{what} announces {count} entries, more than the file could hold")
        if scalar is not None:
            form = struct.Struct(f"<{count}{scalar.format[1:]}")
            return list(form.unpack(self.take(form.size, what)))
        if inner == self.STRING:
            return self._strings(count, what)
        return [self.value(inner, what, depth + 1) for _ in range(count)]

    def _strings(self, count: int, what: str) -> list[str]:
        """Read `count` strings, without a call for each: vocabularies have 100,000s."""
        data, size, at, length = self.data, len(self.data), self.at, self.U64.unpack_from
        found: list[str] = []
        for _ in range(count):
            end = at + 8 + (length(data, at)[0] if at + 8 <= size else size)
            if end > size:
                raise self.cut(f"entry {len(found)} of {what}")
            try:
                found.append(str(data[at + 8 : end], "utf-8"))
            except UnicodeDecodeError as error:
                raise self.wrong(f"entry {len(found)} of {what} is not UTF-8") from error
            at = end
        self.at = at
        return found


def parse_gguf(data: Any, where: str, file_size: int | None = None) -> Gguf:
    """Metadata and tensor places of a GGUF file.

    `data`: the file (bytes, mmap), or at least all before the tensor data; then `file_size` is the whole size. Raises
    FormatError when it breaks the format, ModelError for a version or type that is not supported.
    """
    reader = _Reader(data, where)
    size = len(reader.data) if file_size is None else file_size
    if bytes(reader.data[:4]) != MAGIC:
        raise FormatError(f"{where} does not begin with GGUF; it is not a GGUF file.")
    reader.at = 4
    version = reader.number(reader.U32, "its version")
    if version not in (2, 3):
        byte_swapped = version and version % 65536 == 0
        raise ModelError(
            f"{where} is {'big-endian' if byte_swapped else f'of GGUF version {version}'}; versions 2 and 3,"
            " little-endian, are supported. Convert it with a current llama.cpp."
        )
    tensor_count = reader.number(reader.U64, "its tensor count")
    entry_count = reader.number(reader.U64, "its metadata count")
    left = len(reader.data) - reader.at
    if tensor_count > left // 24 or entry_count > left // 13:  # each takes at least so many bytes
        raise reader.wrong(
            f"{tensor_count} tensors and {entry_count} metadata entries are announced, more than fit"
        )
    metadata: dict[str, Any] = {}
    for index in range(entry_count):
        key = reader.string(f"the name of metadata entry {index}", MAX_KEY_BYTES)
        if key in metadata:
            raise reader.wrong(f"metadata key {key!r} appears twice")
        metadata[key] = reader.value(reader.number(reader.U32, repr(key)), repr(key))
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise reader.wrong(f"general.alignment is {alignment!r}, not a power of two")

    found: list[GgufTensor] = []
    for index in range(tensor_count):
        found.append(_tensor(reader, index, alignment))
    begin = -(-reader.at // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    end = begin
    for tensor in sorted(found, key=lambda t: (t.start, t.nbytes)):
        placed = GgufTensor(tensor.name, tensor.type, tensor.shape, begin + tensor.start)
        if placed.name in tensors:
            raise reader.wrong(f"tensor {placed.name!r} appears twice")
        if placed.start < end:
            raise reader.wrong(f"tensor {placed.name!r} overlaps the one before it")
        end = placed.start + placed.nbytes
        if end > size:
            raise FormatError(
                f"{where} has {size} bytes, but tensor {placed.name!r} ends at byte {end}. "
                "It was cut short: fetch it again."
            )
        tensors[placed.name] = placed
    return Gguf(metadata, {t.name: tensors[t.name] for t in found})


def _tensor(reader: _Reader, index: int, alignment: int) -> GgufTensor:
    """Read the entry of one tensor. Its `start` is still relative to the data."""
    name = reader.string(f"the name of tensor {index}", MAX_KEY_BYTES)
    what = f"tensor {name!r}"
    rank = reader.number(reader.U32, what)
    if not 1 <= rank <= MAX_RANK:
        raise reader.wrong(f"{what} has {rank} dimensions")
    dimensions = [reader.number(reader.U64, what) for _ in range(rank)]
    kind = reader.number(reader.U32, what)
    offset = reader.number(reader.U64, what)
    if kind in OTHER_TYPES:
        raise ModelError(
            f"{reader.where}: {what} is {OTHER_TYPES[kind]}; supported:"
            f" {', '.join(t.name for t in TYPES.values())}. Take another quantisation of the model, such as Q4_K_M."
        )
    if kind not in TYPES:
        raise reader.wrong(f"{what} has the unknown type {kind}")
    block = TYPES[kind]
    if not all(1 <= n <= MAX_DIMENSION for n in dimensions):
        raise reader.wrong(f"{what} has the absurd dimensions {dimensions}")
    if dimensions[0] % block.elements:
        raise reader.wrong(
            f"{what} has rows of {dimensions[0]}, not a multiple of {block.name}'s {block.elements}"
        )
    if offset % alignment:
        raise reader.wrong(
            f"{what} lies at offset {offset}, not a multiple of the alignment {alignment}"
        )
    return GgufTensor(name, block, tuple(reversed(dimensions)), offset)
