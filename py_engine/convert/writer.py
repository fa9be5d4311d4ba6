"""A safetensors file written part by part, its header last."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Part:
    """A tensor to be written; `dtype` may still change to one of equal size."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * {"F32": 4, "U32": 4, "F16": 2, "BF16": 2}[self.dtype]


class Writer:
    """A safetensors file whose header is written last (padded with spaces to the length set aside for it)."""

    def __init__(self, path: Path, parts: Sequence[Part]) -> None:
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        self._entries: dict[str, Part] = {}
        self._starts: dict[str, int] = {}
        at = 0
        for part in parts:
            self._entries[part.name] = part
            self._starts[part.name] = at
            at += part.nbytes
        # No dtype is longer than "BF16", offsets do not change: this is the longest that the header can be.
        longest = json.dumps(self._header() | {"": "x" * 2 * len(self._entries)})
        self._header_bytes = -(-len(longest) // 8) * 8
        self._size = at

    def _header(self) -> dict[str, Any]:
        header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
        for name, part in self._entries.items():
            start = self._starts[name]
            header[name] = {
                "dtype": part.dtype,
                "shape": list(part.shape),
                "data_offsets": [start, start + part.nbytes],
            }
        return header

    def __enter__(self) -> Writer:
        self._file = self._partial.open("wb")
        return self

    def change(self, part: Part, dtype: str) -> Part:
        """Give a part another dtype of the same size."""
        made = Part(part.name, dtype, part.shape)
        assert made.nbytes == part.nbytes
        self._entries[part.name] = made
        return made

    def write(self, part: Part, at: int, raw: bytes) -> None:
        """Bytes of a part, `at` bytes into it."""
        self._file.seek(8 + self._header_bytes + self._starts[part.name] + at)
        self._file.write(raw)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            self._file.close()
            self._partial.unlink(missing_ok=True)
            return
        header = json.dumps(self._header()).encode().ljust(self._header_bytes)
        self._file.seek(0)
        self._file.write(len(header).to_bytes(8, "little") + header)
        self._file.close()
        self._partial.replace(self._path)
