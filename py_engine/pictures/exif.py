"""The orientation in EXIF data (CIPA DC-008): which way up a camera was held."""

from __future__ import annotations

import struct

_ORIENTATION = 0x0112  # the tag
_SHORT = 3
_MOST = 1024  # entries of a directory that are looked at


def orientation_of(data: bytes | memoryview) -> int:
    """1 to 8, from a TIFF structure: 1 as stored; 2 mirrored; 3 upside down; 4 both; 5 to 8 with rows and columns
    exchanged. 1 where there is none, and for damaged data, which spoils no picture."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]), "")
    if not order:
        return 1
    try:
        (at,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, at)
        for i in range(min(count, _MOST)):
            tag, kind, n, value = struct.unpack_from(f"{order}HHIH", data, at + 2 + 12 * i)
            if tag == _ORIENTATION:
                return value if kind == _SHORT and n == 1 and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
