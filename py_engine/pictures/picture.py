"""What a picture may be given as: a file's bytes, its path or address, an array, a PIL image, raw pixels."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal, cast

from py_engine.arguments import shown, whole
from py_engine.errors import EngineError, HubError, InputError
from py_engine.host import decode_picture
from py_engine.host.io import Io
from py_engine.host.io import shown as plain_address
from py_engine.host.pictures import Channels, PixelBytes, Pixels
from py_engine.host.profile import profile_of
from py_engine.pictures.headers import read_header, without_exif
from py_engine.pictures.layout import check_size

MAX_BYTES = 128 << 20  # of a file
MAX_SIDE = 65_535  # pixels: what one dispatch takes

_MODES: Mapping[object, Literal[1, 3]] = {"L": 1, "RGB": 3}  # of PIL images, as they are


@dataclass(eq=False)
class Picture:
    """A decoded picture, 8 bits a colour, as it is to be seen. `digest`: 32 bytes that differ between pictures of
    different content. `note`: what a user should know of how it was read ("" for nothing). Close it after use."""

    pixels: Pixels
    digest: bytes
    note: str = ""

    @property
    def width(self) -> int:
        """Pixels across."""
        return self.pixels.width

    @property
    def height(self) -> int:
        """Pixels down."""
        return self.pixels.height

    def close(self) -> None:
        """Free its memory; a second call does nothing."""
        self.pixels.close()


async def read_picture(
    value: Any,
    io: Io,
    *,
    width: int | None = None,
    height: int | None = None,
    allow_urls: bool = False,
    what: str = "the picture",
) -> Picture:
    """The picture that a caller gave.

    value: bytes of a PNG, JPEG, WebP, GIF or BMP file (bytes-like); a path; a data: or, if `allow_urls`, http(s)
    address; an array [h, w], [h, w, 1], [h, w, 3] or [h, w, 4] of uint8 (numpy's or any other with a buffer and a
    shape); a PIL image; with `width` and `height` raw pixels of 1, 3 or 4 bytes; or a Picture. Alpha is dropped. Raises
    InputError, before anything large is allocated, HubError for an address, HostError without a decoder.
    """
    if isinstance(value, (str, PurePath)) and width is None and height is None:
        value = await _loaded(value, io, allow_urls, what)
    found = picture_in_memory(value, io, what, width, height)
    return found if isinstance(found, Picture) else await _of_file(found, io, what)


def picture_in_memory(
    value: Any, io: Io, what: str, width: int | None = None, height: int | None = None
) -> Picture | memoryview:
    """The picture of an array, a PIL image or raw pixels; or the bytes of a file, not decoded. Arguments and errors as
    for read_picture, of which this is the part that waits for nothing."""
    if isinstance(value, Picture):
        return value
    if width is not None or height is not None:
        return _raw(value, width, height, io, what)
    if _is_pil(value):
        return _of_pil(value, io, what)
    view = _view(value, what)
    return _of_array(view, io, what) if view.ndim > 1 else _flat(view)


async def _of_file(data: memoryview, io: Io, what: str) -> Picture:
    if len(data) > MAX_BYTES:
        raise InputError(f"{what} has {len(data):,} bytes: a file may have {MAX_BYTES:,}")
    header = read_header(data, what)
    check_picture(*header.size, io, what)
    file = without_exif(bytes(data), header)
    pixels = await decode_picture(file, header.format, header.orientation)
    if (pixels.width, pixels.height) != header.size:
        found = f"{pixels.width} x {pixels.height}"
        pixels.close()
        raise InputError(
            f"{what} says that it has {header.size[0]} x {header.size[1]} pixels, but it has {found}"
        )
    note = f"{what} is animated: only its first frame is seen" if header.animated else ""
    return Picture(pixels, hashlib.sha256(data).digest(), note)


def check_picture(width: int, height: int, io: Io, what: str) -> None:
    """Raise InputError for sizes that no picture should have, or that this device cannot hold."""
    check_size(width, height, what)
    most = profile_of(io.handheld).decoded_pixels
    if width * height > most or max(width, height) > MAX_SIDE:
        raise InputError(
            f"{what} has {width} x {height} pixels, {width * height:,} in all. This device takes at most {most:,}, and "
            f"{MAX_SIDE:,} on a side: make it smaller first"
        )


def _view(value: Any, what: str) -> memoryview:
    """The buffer of an object. Raises InputError if it has none."""
    try:
        return memoryview(value)
    except (TypeError, ValueError, BufferError):
        raise InputError(
            f"{what} is {shown(value)}: give a file's bytes, a path, a data: address, an array of uint8 [height, "
            "width, 3], a PIL image, or raw pixels with width= and height="
        ) from None


def _flat(view: memoryview) -> memoryview:
    """Its bytes in order; a copy where they are strewn about."""
    plain = view.c_contiguous and view.format == "B"
    return view.cast("B") if plain else memoryview(view.tobytes())


def _of_array(view: memoryview, io: Io, what: str) -> Picture:
    shape = view.shape or ()
    if view.format != "B":
        raise InputError(
            f"{what} is an array of type {view.format!r}: give uint8, 0 to 255 (a float picture times 255)"
        )
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3 or shape[2] not in (1, 3, 4):
        hint = " (colours come last)" if len(shape) == 3 and shape[0] in (1, 3, 4) else ""
        raise InputError(
            f"{what} is an array of shape {list(view.shape or ())}: give [height, width], or [height, width, 3], 4 or "
            f"1{hint}"
        )
    height, width, channels = shape
    check_picture(width, height, io, what)
    return _of_pixels(_flat(view), width, height, cast("Channels", channels))


def _raw(value: Any, width: Any, height: Any, io: Io, what: str) -> Picture:
    if width is None or height is None:
        raise InputError("raw pixels: give both width= and height=")
    width, height = (whole(n, v, 0, 1 << 31) for n, v in (("width", width), ("height", height)))
    check_picture(width, height, io, what)
    view = _view(value, what)
    of_bytes: tuple[Channels, ...] = (3, 4, 1)
    for channels in of_bytes:
        if view.nbytes == width * height * channels and view.itemsize == 1:
            return _of_pixels(_flat(view), width, height, channels)
    raise InputError(
        f"{what} has {view.nbytes:,} bytes; {width} x {height} pixels have {width * height * 3:,} as RGB, "
        f"{width * height * 4:,} as RGBA, {width * height:,} as grey"
    )


def _of_pixels(data: memoryview, width: int, height: int, channels: Channels) -> Picture:
    kept = bytes(data)  # the caller may change his array before the model sees it
    digest = hashlib.sha256(struct.pack("<III", width, height, channels) + kept).digest()
    return Picture(PixelBytes(kept, width, height, channels), digest)


def _is_pil(value: Any) -> bool:
    return all(hasattr(value, name) for name in ("convert", "tobytes", "mode", "size"))


def _of_pil(image: Any, io: Io, what: str) -> Picture:
    """A PIL image as it is: whoever opened it may have turned it already, so its EXIF data is not asked."""
    try:
        width, height = image.size
        check_picture(width, height, io, what)
        channels = _MODES.get(image.mode)
        data = (image if channels else image.convert("RGB")).tobytes()
    except EngineError:
        raise
    except Exception as error:  # whatever a file that was opened and not yet read is broken by
        raise InputError(f"{what}: the PIL image cannot be read: {error!s:.200}") from error
    return _of_pixels(memoryview(data), width, height, channels or 3)


async def _loaded(value: str | PurePath, io: Io, allow_urls: bool, what: str) -> bytes:
    """The bytes behind a path or an address."""
    text = str(value)
    if text[:5].lower() == "data:":
        return data_of_url(text, what)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", text)
    if scheme and scheme[1].lower() in ("http", "https"):
        if not allow_urls:
            raise InputError(
                f"{what} is an address, {plain_address(text)}. Nothing is fetched unless the caller says "
                "allow_urls=True: give the picture's bytes"
            )
        answer = await io.fetch(text, end=MAX_BYTES + 1)
        if answer.status not in (200, 206):
            raise HubError(
                f"{plain_address(text)} answered {answer.status}: no picture came", answer.status
            )
        return io.to_bytes(answer.body)
    if scheme and text[scheme.end() : scheme.end() + 2] == "//":
        raise InputError(f"{what} has an address of the kind {scheme[1]}:, which is not supported")
    try:
        size = await io.file_size(text)
        if size is not None and size <= MAX_BYTES:
            return io.to_bytes(await io.read_file(text))
    except (OSError, ValueError) as error:
        raise InputError(f"{what}: {shown(text)} cannot be read: {error!s:.200}") from error
    if size is None:
        raise InputError(f"{what}: there is no file {shown(text)}")
    raise InputError(f"{what} has {size:,} bytes: a file may have {MAX_BYTES:,}")


def data_of_url(text: str, what: str) -> bytes:
    """The bytes of a data: address (RFC 2397)."""
    head, comma, body = text.partition(",")
    if not comma:
        raise InputError(f"{what} is a data: address without a comma, so without data")
    if len(body) > 2 * MAX_BYTES:
        raise InputError(
            f"{what} has {len(body):,} characters: a file may have {MAX_BYTES:,} bytes"
        )
    try:
        if not head.lower().endswith(";base64"):
            return urllib.parse.unquote_to_bytes(body)
        plain = re.sub(r"[\s=]+", "", urllib.parse.unquote(body))
        plain = plain.replace("-", "+").replace("_", "/")
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{what} is a data: address whose base64 is damaged: {error}") from None
