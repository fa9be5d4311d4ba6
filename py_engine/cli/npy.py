"""Files of NumPy's format .npy, read and written without NumPy (numpy.lib.format, versions 1.0 to 3.0)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from math import prod
from pathlib import Path

from py_engine.errors import InputError

_MAGIC = b"\x93NUMPY"
_MOST_BYTES = 1 << 30
_MOST_HEADER = 1 << 16
_KINDS = {"<f4": ("float32", 4), "|u1": ("uint8", 1)}


@dataclass(frozen=True)
class Array:
    """An array of a file, row-major. `dtype`: "float32" (little-endian) or "uint8"."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def read_npy(path: str, option: str) -> Array:
    """The array in a file. `option`: what errors call it. Raises InputError for what is no such file, or of another
    type or order."""
    where = f"{option} {path}"
    try:
        size = os.path.getsize(path)
        if size > _MOST_BYTES:
            raise InputError(f"{where}: has {size:,} bytes, more than {_MOST_BYTES:,}")
        raw = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror or error})") from error
    if raw[:6] != _MAGIC or len(raw) < 12:
        raise InputError(f"{where}: is no .npy file; write one with numpy.save")
    wide = 4 if raw[6] > 1 else 2
    begin = 8 + wide
    end = begin + int.from_bytes(raw[8:begin], "little")
    header = _header(raw[begin:end], where) if end - begin <= _MOST_HEADER else {}
    kind, shape, fortran = (header.get(key) for key in ("descr", "shape", "fortran_order"))
    if not isinstance(kind, str) or kind not in _KINDS:
        raise InputError(f"{where}: holds {kind!r:.40}; supported are float32 and uint8")
    whole = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not whole or not isinstance(shape, tuple):
        raise InputError(f"{where}: its header has no shape")
    if fortran and sum(n > 1 for n in shape) > 1:
        raise InputError(f"{where}: is column-major; save numpy.ascontiguousarray of it")
    dtype, item = _KINDS[kind]
    if len(raw) - end != item * prod(shape):
        raise InputError(
            f"{where}: has {len(raw) - end:,} bytes of numbers, and its shape {shape} has {item * prod(shape):,}"
        )
    return Array(dtype, shape, memoryview(raw)[end:])


def _header(text: bytes, where: str) -> dict[str, object]:
    """What the header says: a Python dictionary, of which no other values are read than those of such files."""
    words = text.decode("latin-1")
    found: dict[str, object] = {}
    if kind := re.search(r"'descr'\s*:\s*('[^']{1,40}'|\[)", words):
        found["descr"] = kind[1].strip("'")
    if order := re.search(r"'fortran_order'\s*:\s*(True|False)", words):
        found["fortran_order"] = order[1] == "True"
    if shape := re.search(r"'shape'\s*:\s*\(([0-9L, ]{0,200})\)", words):
        found["shape"] = tuple(int(n) for n in re.findall(r"[0-9]+", shape[1]))
    if len(found) < 3:
        raise InputError(f"{where}: its header cannot be read")
    return found


def place_for(path: str, option: str) -> Path:
    """The path of a file to write. Raises InputError where it cannot be written, before its content is computed."""
    out = Path(path)
    folder = out.parent
    if out.is_dir():
        raise InputError(f"{option} {path}: is a folder; name a file")
    if not folder.is_dir():
        raise InputError(f"{option} {path}: there is no folder {folder}")
    if not os.access(out if out.exists() else folder, os.W_OK):
        raise InputError(f"{option} {path}: cannot be written here")
    return out


def write_npy(path: Path, values: memoryview[float], shape: tuple[int, ...]) -> None:
    """Write float32 numbers as an array of this shape, row-major."""
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    path.write_bytes(
        _MAGIC + b"\x01\x00" + len(head).to_bytes(2, "little") + head + values.tobytes()
    )
