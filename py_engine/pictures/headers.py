"""Format, size and orientation of a picture's file, read by own code before any decoder sees it.

Formats: PNG (https://www.w3.org/TR/png-3/), JPEG (ITU-T T.81, Annex B), WebP (RFC 9649), GIF 89a, BMP (Windows DIB).
Files that end early are found here, so that all hosts refuse the same ones. No pixel is looked at.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from py_engine.errors import InputError
from py_engine.pictures.exif import orientation_of


@dataclass(frozen=True)
class Header:
    """What a file says of its picture. width, height: pixels as they are stored, before `orientation` (EXIF, 1 to 8) is
    applied. animated: there are more frames than the one that is used. exif: where EXIF data is, (start, end) of each
    segment of a JPEG or chunk of a PNG, of the chunk's name in a WebP."""

    format: str
    width: int
    height: int
    orientation: int = 1
    animated: bool = False
    exif: tuple[tuple[int, int], ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as the picture is to be seen."""
        turned = self.orientation >= 5
        return (self.height, self.width) if turned else (self.width, self.height)


def without_exif(data: bytes, header: Header) -> bytes:
    """The file without its EXIF data, so that no decoder turns the picture by itself."""
    whole = bytearray(data)
    for start, end in reversed(header.exif):
        # A WebP's chunk becomes an unknown one: without it, sizes before it would be wrong.
        whole[start:end] = b"none" if header.format == "WebP" else b""
    return bytes(whole)


class _Cut(Exception):
    """The file ends before what was to be read."""


def read_header(data: bytes | memoryview, what: str = "the picture") -> Header:
    """The header of a file. Raises InputError for other formats, and for files that end early or contradict
    themselves. `what`: how errors name it."""
    start = bytes(data[:4096])
    if not start:
        raise InputError(f"{what} is empty: 0 bytes")
    for name, (signature, read) in _FORMATS.items():
        if re.match(signature, start, re.DOTALL):
            try:
                return read(memoryview(data))
            except (_Cut, struct.error):
                raise InputError(
                    f"{what} is a {name} file that ends early, after {len(data):,} bytes: fetch it again"
                ) from None
            except ValueError as error:
                raise InputError(f"{what} is a damaged {name} file: {error}") from None
    raise InputError(
        f"{what} is {_other(start)}. Pictures may be {', '.join(_FORMATS)} files: convert it first"
    )


def _other(start: bytes) -> str:
    """What a file is that is no picture, or none that can be read."""
    for signature, name in _OTHERS.items():
        if re.match(signature, start, re.DOTALL | re.IGNORECASE):
            return name
    return f"in no format that is known (it begins with {start[:8].hex(' ')})"


def _need(data: memoryview, end: int) -> None:
    if end > len(data):
        raise _Cut


def _chunks(data: memoryview, at: int, layout: str, even: bool) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, size) of each chunk from `at` on. `layout`: struct's for the head. The body may be cut off."""
    head = struct.calcsize(layout)
    while at + head <= len(data):
        first, second = struct.unpack_from(layout, data, at)
        name, size = (first, second) if isinstance(first, bytes) else (second, first)
        yield name, at + head, size
        at += head + size + (size & 1 if even else 4)  # RIFF pads; PNG has a sum


def _png(data: memoryview) -> Header:
    size, name, width, height = struct.unpack_from(">I4sII", data, 8)
    if name != b"IHDR" or size != 13:
        raise ValueError("it does not begin with its header (IHDR)")
    orientation, animated = 1, False
    exif: list[tuple[int, int]] = []
    for name, start, size in _chunks(data, 8, ">I4s", False):
        _need(data, start + size)
        if name == b"acTL":
            animated = struct.unpack_from(">I", data, start)[0] > 1
        elif name == b"eXIf":
            orientation = orientation_of(data[start : start + size])
            exif.append((start - 8, start + size + 4))
        elif name == b"IEND":
            return Header("PNG", width, height, orientation, animated, tuple(exif))
    raise _Cut


def _jpeg(data: memoryview) -> Header:
    at, orientation, size = 2, 1, (0, 0)
    exif: list[tuple[int, int]] = []
    while True:
        _need(data, at + 4)
        if data[at] != 0xFF:
            raise ValueError(f"there is no marker at byte {at}")
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # without a body
            at += 2
            continue
        length = struct.unpack_from(">H", data, at + 2)[0]
        if length < 2 or marker == 0xD9:
            raise ValueError(f"the segment at byte {at} has no body")
        _need(data, at + 2 + length)
        body = data[at + 4 : at + 2 + length]
        if marker == 0xE1 and bytes(body[:4]) == b"Exif":
            if not exif:
                orientation = orientation_of(body[6:])
            exif.append((at, at + 2 + length))
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            _, height, width = struct.unpack_from(">BHH", body)
            size = width, height
        elif marker == 0xDA:
            if bytes(data[at:]).rfind(b"\xff\xd9") < 0:  # the end of the picture
                raise _Cut
            return Header("JPEG", *size, orientation, exif=tuple(exif))
        at += 2 + length


def _webp(data: memoryview) -> Header:
    _need(data, 8 + struct.unpack_from("<I", data, 4)[0])
    found: Header | None = None
    orientation, animated = 1, False
    exif: list[tuple[int, int]] = []
    for name, start, size in _chunks(data, 12, "<4sI", True):
        _need(data, start + size)
        body = data[start : start + size]
        if name == b"VP8X" and found is None:
            flags, w, w_high, h, h_high = struct.unpack_from("<B3xHBHB", body)
            animated = bool(flags & 2)
            found = Header("WebP", 1 + w + (w_high << 16), 1 + h + (h_high << 16))
        elif name == b"VP8L" and found is None:
            mark, bits = struct.unpack_from("<BI", body)
            if mark != 0x2F:
                raise ValueError("its lossless picture does not begin as one")
            found = Header("WebP", 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
        elif name == b"VP8 " and found is None:
            mark, w, h = struct.unpack_from("<3x3sHH", body)
            if mark != b"\x9d\x01\x2a":
                raise ValueError("its picture does not begin as one")
            found = Header("WebP", w & 0x3FFF, h & 0x3FFF)
        elif name == b"EXIF":
            orientation = orientation_of(body[6:] if bytes(body[:6]) == b"Exif\0\0" else body)
            exif.append((start - 8, start - 4))
    if found is None:
        raise ValueError("there is no picture in it")
    return Header("WebP", found.width, found.height, orientation, animated, tuple(exif))


def _gif(data: memoryview) -> Header:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    frames = 0
    while frames < 2:
        if at >= len(data) and frames:
            break  # many writers leave the end out
        _need(data, at + 1)
        kind = data[at]
        if kind == 0x3B:
            break
        if kind == 0x2C:
            flags = struct.unpack_from("<B8xB", data, at)[1]
            at += 10 + (3 << (flags & 7) + 1 if flags & 0x80 else 0) + 1
            frames += 1
        elif kind == 0x21:
            at += 2
        else:
            raise ValueError(f"there is no block at byte {at}")
        if frames == 2:
            break
        while True:  # parts of a block, up to an empty one
            _need(data, at + 1)
            size = data[at]
            _need(data, at + 1 + size)
            at += 1 + size
            if not size:
                break
    if not frames:
        raise ValueError("there is no picture in it")
    return Header("GIF", width, height, animated=frames > 1)


def _bmp(data: memoryview) -> Header:
    offset, head = struct.unpack_from("<II", data, 10)
    if head == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        packed = 0
    elif 40 <= head <= 256:
        width, height, _, bits, packed = struct.unpack_from("<iiHHI", data, 18)
    else:
        raise ValueError(f"its header has {head} bytes")
    if width < 0 or bits not in (1, 4, 8, 16, 24, 32):
        raise ValueError(f"{width} pixels of {bits} bits a line")
    height = abs(height)  # negative: lines from the top down
    if packed in (0, 3, 6):  # one size for all lines
        _need(data, offset + height * ((width * bits + 31) // 32 * 4))
    return Header("BMP", width, height)


_FORMATS: Mapping[str, tuple[bytes, Callable[[memoryview], Header]]] = {
    "PNG": (rb"\x89PNG\r\n\x1a\n", _png),
    "JPEG": (rb"\xff\xd8\xff", _jpeg),
    "WebP": (rb"RIFF....WEBP", _webp),
    "GIF": (rb"GIF8[79]a", _gif),
    "BMP": (rb"BM.{12}[\x0c\x28-\xff]\0\0\0", _bmp),
}
_OTHERS: Mapping[bytes, str] = {
    rb"....ftyp(avif|avis)": "an AVIF file, which is not supported",
    rb"....ftyp(hei|hev|mif|msf)": "an HEIC file (a photo of an iPhone), which is not supported",
    rb"....ftyp": "a video, not a picture: give its frames",
    rb"%PDF": "a PDF document, not a picture: give a page of it as a picture",
    rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg": "an SVG drawing, which has no pixels",
    rb"\s*<(!doctype|html|\?xml)": "a web page or XML, not a picture",
    rb"II\*\0|MM\0\*": "a TIFF file, which is not supported",
    rb"\xff\x0a|....JXL ": "a JPEG XL file, which is not supported",
    rb"....jP  ": "a JPEG 2000 file, which is not supported",
    rb"\0\0\x01\0": "an icon file, which is not supported",
    rb"PK\x03\x04": "a ZIP archive, not a picture",
    rb"\x1a\x45\xdf\xa3": "a video, not a picture: give its frames",
}
