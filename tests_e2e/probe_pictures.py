"""Functions for probe.py: pictures, from a file's bytes to pixels and patches."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from py_engine.graph.kernels import kernels_of
from py_engine.graph.submit import GroupedSubmit, SingleSubmit
from py_engine.host import open_io
from py_engine.pictures import resizer
from py_engine.pictures.picture import read_picture
from py_engine.pictures.plan import Piece
from py_engine.pictures.reader import PictureReader
from py_engine.pictures.rules import rules_of
from tests_e2e.probe_gpu import open_any

QWEN = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "patch_size": 16,
    "size": {"shortest_edge": 4096, "longest_edge": 20000},
}


async def decoded_pictures(files: list[str], band: int | None = None) -> list[Any]:
    """For each file (base64) its size, its pixels as they are (base64, R G B and 255), the note."""
    gpu, io = await open_any(), open_io()
    kept = resizer.BAND_BYTES
    resizer.BAND_BYTES = band or kept
    try:
        reader = PictureReader(gpu, kernels_of(gpu), rules_of(QWEN, {}), SingleSubmit())
        found = []
        for file in files:
            picture = await read_picture(base64.b64decode(file), io)
            size = picture.width, picture.height
            raw = await reader.pixels(picture, Piece(size, (0, 0, *size), (1, 1, 1), 1))
            found.append([*size, base64.b64encode(raw).decode(), picture.note])
            picture.close()
        return found
    finally:
        resizer.BAND_BYTES = kept
        gpu.close()


async def picture_patches(file: str) -> list[Any]:
    """The grid and the sha256 of the patches of a file (base64), submitted at once and one command buffer at a time."""
    gpu, found = await open_any(), []
    try:
        for strategy in (SingleSubmit(), GroupedSubmit(1)):
            reader = PictureReader(gpu, kernels_of(gpu), rules_of(QWEN, {}), strategy)
            picture = await read_picture(base64.b64decode(file), open_io())
            piece = reader.plan(picture.width, picture.height).pieces[0]
            tensor = await reader.patches(picture, piece)
            raw = await gpu.read(tensor.buffer, 0, tensor.nbytes)
            found.append([list(piece.grid), hashlib.sha256(raw).hexdigest()])
        return found
    finally:
        gpu.close()


async def refused_picture(file: str) -> str:
    """Read a file (base64) that is refused."""
    await read_picture(base64.b64decode(file), open_io())
    return "it was taken"
