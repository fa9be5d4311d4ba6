"""64-bit checksums of what was uploaded (shaders/checksum.wgsl), to find damage in the store of weights."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from py_engine.graph.trace import Tensor, Trace, kernel

PART_BYTES = 16
_WORDS = 16384  # words that a workgroup sums, as in the shader


@dataclass(frozen=True)
class Part:
    """`words` words of `data`, from word `first` on. In their tensor they start at word `index`. They are added to
    the two sums of `slot`."""

    first: int
    words: int
    index: int
    slot: int


def pack(parts: Sequence[Part]) -> bytes:
    """The table that the kernel reads, PART_BYTES for each part."""
    return b"".join(struct.pack("<4I", p.first, p.words, p.index, p.slot) for p in parts)


def unpack(sums: bytes) -> list[int]:
    """The 64-bit sum of each slot, from the bytes of `sums`."""
    return [low | high << 32 for low, high in struct.iter_unpack("<2I", sums)]


def checksum(
    trace: Trace, data: Tensor, table: Tensor, sums: Tensor, parts: Sequence[Part]
) -> None:
    """Add every part's words to its slot. `table` holds `pack(parts)`; `sums` [slots, 2] u32 must begin as zeros."""
    most = max(part.words for part in parts)
    trace.call(
        f"checksum {data.name}",
        kernel("checksum", ["hash"]),
        [(data, "r"), (table, "r"), (sums, "w")],
        (max(1, -(-most // _WORDS)), len(parts), 1),
    )
