"""Decoded pictures as the engine sees them: where the pixels are, and how they come to the GPU."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Literal

from py_engine.host.gpu import Buffer, Gpu

Channels = Literal[1, 3, 4]


@dataclass(frozen=True)
class Band:
    """Where the pixels of a band are in a buffer, in pixels: (0, 0) is at `base`, the next row at + `row`, the next
    column at + `column`."""

    base: int
    row: int
    column: int


class Pixels(abc.ABC):
    """The pixels of a picture of width x height. `channels`: bytes of a pixel: 1 grey, 3 R G B, 4 R G B and one that is
    not read."""

    width: int
    height: int
    channels: Channels

    @abc.abstractmethod
    def band_bytes(self, rows: int) -> int:
        """Bytes of a buffer that holds so many rows."""

    @abc.abstractmethod
    async def load(self, gpu: Gpu, buffer: Buffer, top: int, rows: int) -> Band:
        """Queue the upload of rows top .. top + rows - 1 to the start of `buffer`. Raises HostError."""

    def close(self) -> None:  # noqa: B027  (memory of Python needs no end)
        """Free what the host holds of it."""


class PixelBytes(Pixels):
    """Pixels in Python's memory: rows of `channels` bytes a pixel, one behind another."""

    def __init__(
        self, data: bytes | memoryview, width: int, height: int, channels: Channels
    ) -> None:
        self.data, self.width, self.height, self.channels = data, width, height, channels

    def band_bytes(self, rows: int) -> int:
        """Bytes of a buffer that holds so many rows."""
        return -(-rows * self.width * self.channels // 4) * 4

    async def load(self, gpu: Gpu, buffer: Buffer, top: int, rows: int) -> Band:
        """See Pixels."""
        line = self.width * self.channels
        part = self.data[top * line : (top + rows) * line]
        gpu.write(buffer, 0, bytes(part) + bytes(-len(part) % 4))
        return Band(0, self.width, 1)
