"""Decodes pictures with Pillow, an optional extra in CPython."""

from __future__ import annotations

import asyncio
import io
import warnings
from typing import Any

from py_engine.errors import HostError, InputError
from py_engine.host.pictures import PixelBytes

# What Pillow raises for files that it cannot read, whichever of its parts finds it.
_DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    ArithmeticError,
)


async def decode(data: bytes, form: str, orientation: int) -> PixelBytes:
    """The first frame of a file of this format as RGB, alpha dropped, this EXIF orientation applied.

    Raises HostError without Pillow, InputError for a file that it cannot decode.
    """
    return await asyncio.to_thread(_decoded, data, form, orientation)


def _decoded(data: bytes, form: str, orientation: int) -> PixelBytes:
    try:
        from PIL import Image
    except ImportError:
        raise HostError(
            "pictures in files need Pillow, which is not installed: pip install 'jerboa[vision]'. Arrays of pixels "
            "go without it."
        ) from None
    ways: list[Any] = [
        None,
        Image.Transpose.FLIP_LEFT_RIGHT,
        Image.Transpose.ROTATE_180,
        Image.Transpose.FLIP_TOP_BOTTOM,
        Image.Transpose.TRANSPOSE,
        Image.Transpose.ROTATE_270,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_90,
    ]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size was checked already
            with Image.open(io.BytesIO(data), formats=[form.upper()]) as image:
                image.load()
                rgb = _eight_bits(image).convert("RGB")
        way = ways[orientation - 1]
        if way is not None:
            rgb = rgb.transpose(way)
    except (Image.DecompressionBombError, *_DAMAGED) as error:
        raise InputError(
            f"the picture is a damaged {form} file: {error!s:.200}. Fetch it again"
        ) from error
    return PixelBytes(rgb.tobytes(), rgb.width, rgb.height, 3)


def _eight_bits(image: Any) -> Any:
    """A picture of 16 bits of grey by its high bytes, as browsers show it; Pillow would make white of nearly all."""
    if image.mode != "I;16":
        return image
    from PIL import Image

    return Image.frombytes("L", image.size, image.tobytes()[1::2])
