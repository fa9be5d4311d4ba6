"""The only folder that knows browser from native. `open_gpu` and `open_io` pick once; nobody else asks."""

from __future__ import annotations

import os
import sys

from py_engine.host.gpu import Gpu
from py_engine.host.io import Io

IN_BROWSER = sys.platform == "emscripten"


async def open_gpu(backend: str | None = None) -> Gpu:
    """The best GPU of this host. `backend` (CPython only): "dawn" (default, or JERBOA_HOST) or "wgpu".

    Raises NoAdapterError when no adapter answers within two seconds.
    """
    if IN_BROWSER:
        from py_engine.host import gpu_browser

        return await gpu_browser.open_gpu()
    from py_engine.host import gpu_native

    return await gpu_native.open_gpu(backend or os.environ.get("JERBOA_HOST") or "dawn")


def open_io() -> Io:
    """Network, files and time of this host."""
    if IN_BROWSER:
        from py_engine.host.io_browser import BrowserIo

        return BrowserIo()
    from py_engine.host.io_native import NativeIo

    return NativeIo()
