"""Pictures whose size is known and whose pixels are not decoded yet: enough to plan a prompt at once."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from py_engine.arguments import shown
from py_engine.errors import InputError
from py_engine.host.io import Io
from py_engine.pictures.headers import read_header
from py_engine.pictures.picture import (
    MAX_BYTES,
    Picture,
    check_picture,
    data_of_url,
    picture_in_memory,
    read_picture,
)


@dataclass(frozen=True, eq=False)
class SizedPicture:
    """A picture as it is to be seen: width, height in pixels. `digest` differs between pictures of different content.
    `content`: a Picture, or the bytes of a file whose header was read. `what`: how errors name it."""

    width: int
    height: int
    digest: bytes
    content: Picture | memoryview
    what: str

    async def open(self, io: Io) -> Picture:
        """The decoded picture. Whoever called closes it, unless it is `content`. Raises InputError for a damaged file,
        HostError without a decoder."""
        try:
            return await read_picture(self.content, io, what=self.what)
        except InputError as error:  # a decoder does not know whose picture it is
            if str(error).startswith(self.what):
                raise
            raise InputError(f"{self.what}: {error}") from error


def sized_picture(
    value: Any, io: Io, *, what: str, width: int | None = None, height: int | None = None
) -> SizedPicture:
    """The picture that a caller gave, as read_picture takes it, but for http(s) addresses. Raises InputError, before
    anything large is allocated."""
    if width is None and height is None and isinstance(value, (str, PurePath)):
        value = _read(value, what)
    found = picture_in_memory(value, io, what, width, height)
    if isinstance(found, Picture):
        return SizedPicture(found.width, found.height, found.digest, found, what)
    if len(found) > MAX_BYTES:
        raise InputError(f"{what} has {len(found):,} bytes: a file may have {MAX_BYTES:,}")
    header = read_header(found, what)
    check_picture(*header.size, io, what)
    data = memoryview(bytes(found))  # the caller may change his buffer before the model sees it
    return SizedPicture(*header.size, hashlib.sha256(data).digest(), data, what)


def _read(value: str | PurePath, what: str) -> bytes:
    """The bytes of a file at a path, or of a data: address."""
    text = str(value)
    if text[:5].lower() == "data:":
        return data_of_url(text, what)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise InputError(
            f"{what} is an address, {shown(text)}. A chat fetches nothing from the network: give the picture's bytes,"
            " or what the engine's read_picture(address, allow_urls=True) gives"
        )
    try:
        path = Path(text)
        if path.stat().st_size <= MAX_BYTES:
            return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{what}: there is no file {shown(text)}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{what}: {shown(text)} cannot be read: {error!s:.200}") from error
    raise InputError(f"{what}: {shown(text)} has more than {MAX_BYTES:,} bytes")
