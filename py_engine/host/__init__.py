"""The only folder that tells the browser from CPython. These functions choose the right file; no other code asks.

A method that overrides one of an interface (Gpu, Io, BlobStore, ...) has that one's docstring, unless it adds to it.
"""

from __future__ import annotations

import os
import sys

from py_engine.host.gpu import Gpu
from py_engine.host.io import Io
from py_engine.host.pictures import Pixels
from py_engine.host.tokenizers import TokenizerLibrary

IN_BROWSER = sys.platform == "emscripten"


async def open_gpu(backend: str | None = None) -> Gpu:
    """Open the best GPU of this host. `backend` (CPython only): "dawn" or "wgpu"; None: what JERBOA_HOST says, else the
    first of the two with a hardware GPU (Gpu.warning says when neither has one).

    Raises NoAdapterError when no adapter answers within two seconds.
    """
    if IN_BROWSER:
        from py_engine.host import adapter_browser

        return await adapter_browser.open_gpu()
    from py_engine.host import adapter_native

    backend = backend or os.environ.get("JERBOA_HOST")
    return await (adapter_native.open_gpu(backend) if backend else adapter_native.open_best_gpu())


def open_io() -> Io:
    """Network, files and time of this host."""
    if IN_BROWSER:
        from py_engine.host.io_browser import BrowserIo

        return BrowserIo()
    from py_engine.host.io_native import NativeIo

    return NativeIo()


async def load_tokenizer_library(data: bytes) -> TokenizerLibrary:
    """Load a tokenizer.json into this host's `tokenizers` library. Raises FormatError when it refuses the file."""
    if IN_BROWSER:
        from py_engine.host.tokenizers_browser import load_browser

        return await load_browser(data)
    from py_engine.host.tokenizers_native import load_native

    return load_native(data)


async def decode_picture(data: bytes, form: str, orientation: int) -> Pixels:
    """Decode a file of a picture, from which EXIF data was taken, and apply the orientation that this had. `form`: PNG,
    JPEG, WebP, GIF or BMP. Raises InputError for a file that this host's decoder refuses, HostError without one."""
    if IN_BROWSER:
        from py_engine.host import pictures_browser

        return await pictures_browser.decode(data, form, orientation)
    from py_engine.host import pictures_native

    return await pictures_native.decode(data, form, orientation)
