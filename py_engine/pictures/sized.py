"""Pictures whose size is known and whose pixels are not decoded yet: enough to plan a prompt at once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from py_engine.errors import InputError
from py_engine.host.io import Io
from py_engine.pictures.headers import read_header
from py_engine.pictures.picture import (
    MAX_BYTES,
    Picture,
    check_picture,
    file_of_address,
    picture_of_memory,
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
        """The decoded picture. Whoever called closes it. Raises InputError for a damaged file, HostError without a
        decoder."""
        return await read_picture(self.content, io, what=self.what)


def sized_picture(
    value: Any, io: Io, *, what: str, width: int | None = None, height: int | None = None
) -> SizedPicture:
    """The picture that a caller gave, as read_picture takes it, but for http(s) addresses. Raises InputError, before
    anything large is allocated."""
    if width is None and height is None and isinstance(value, (str, PurePath)):
        value = _read(value, what)
    if not isinstance(value, Picture):
        value = picture_of_memory(value, io, what, width, height)
    if isinstance(value, Picture):
        return SizedPicture(value.width, value.height, value.digest, value, what)
    header = read_header(value, what)
    check_picture(*header.size, io, what)
    data = memoryview(bytes(value))  # the caller may change his buffer before the model sees it
    return SizedPicture(*header.size, hashlib.sha256(data).digest(), data, what)
