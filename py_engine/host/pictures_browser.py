"""Decodes pictures with the browser's own decoder, and brings their bytes to the GPU as they are.

A canvas would multiply colours by alpha, and so lose those of transparent pixels. An ImageBitmap made without that is
copied to a texture instead, and from there to the buffer, band by band: nothing passes through Python's heap.
"""

from __future__ import annotations

from typing import Any

import js  # type: ignore[import-not-found,unused-ignore]
from pyodide.ffi import (  # type: ignore[import-not-found,unused-ignore]
    JsException,
    to_js,
)

from py_engine.errors import InputError
from py_engine.host.gpu import Buffer, Gpu
from py_engine.host.gpu_browser import BrowserGpu, js_object
from py_engine.host.pictures import Band, Pixels

_ALIGNED = 64  # pixels of 4 bytes: lines of a buffer that a texture is copied to are multiples of 256 bytes
_SIDE = 8192  # the most pixels on a side of a texture that every device has


async def decode(data: bytes, form: str, orientation: int) -> BitmapPixels:
    """The first frame of a file without EXIF data, so not yet turned: `orientation` is applied by how its pixels are
    read. (Chromium 150 turns JPEG and PNG, not WebP, whatever imageOrientation says.) Raises InputError for a file that
    the browser cannot decode."""
    options = js_object({"colorSpaceConversion": "none", "premultiplyAlpha": "none"})
    blob = js.Blob.new(to_js([to_js(data)]), js_object({"type": f"image/{form.lower()}"}))
    try:
        bitmap = await js.createImageBitmap(blob, options)
    except JsException as error:
        raise InputError(
            f"the picture is a {form} file that this browser cannot decode: {error!s:.200}. Fetch it again, or save it"
            " as PNG"
        ) from error
    return BitmapPixels(bitmap, orientation)


class BitmapPixels(Pixels):
    """An ImageBitmap, whose pixels are to be seen in another orientation (EXIF, 1 to 8)."""

    def __init__(self, bitmap: Any, orientation: int) -> None:
        self._bitmap, self.channels = bitmap, 4
        self._stored = int(bitmap.width), int(bitmap.height)
        self._turned = orientation >= 5
        # Whether the stored columns (rows) run against the direction in which they are to be seen.
        self._columns_back = orientation in (2, 3, 7, 8)
        self._rows_back = orientation in (3, 4, 6, 7)
        self.width, self.height = self._stored[::-1] if self._turned else self._stored

    def _part(self, top: int, rows: int) -> tuple[int, int, int, int]:
        """Where rows of the picture as it is seen are stored: left, top, width, height."""
        width, height = self._stored
        if self._turned:
            return (width - top - rows if self._columns_back else top), 0, rows, height
        return 0, (height - top - rows if self._rows_back else top), width, rows

    def band_bytes(self, rows: int) -> int:
        """Bytes of a buffer that holds so many rows."""
        _, _, width, height = self._part(0, rows)
        return 4 * _stride(width) * height

    async def load(self, gpu: Gpu, buffer: Buffer, top: int, rows: int) -> Band:
        """See Pixels."""
        assert isinstance(gpu, BrowserGpu)
        left, first, width, height = self._part(top, rows)
        stride = _stride(width)
        for x in range(0, width, _SIDE):
            for y in range(0, height, _SIDE):
                part = left + x, first + y, min(_SIDE, width - x), min(_SIDE, height - y)
                place = 4 * (y * stride + x), 4 * stride
                await gpu.copy_bitmap(self._bitmap, part, buffer, place)
        column, row = (-1 if self._columns_back else 1), (-stride if self._rows_back else stride)
        base = (width - 1 if self._columns_back else 0) + (
            stride * (height - 1) if self._rows_back else 0
        )
        if self._turned:
            column, row = row, column
        return Band(base, row, column)

    def close(self) -> None:
        """Free the browser's memory of it."""
        self._bitmap.close()


def _stride(width: int) -> int:
    """Pixels from one line of a buffer to the next."""
    return -(-width // _ALIGNED) * _ALIGNED
