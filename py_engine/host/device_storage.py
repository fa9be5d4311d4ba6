"""Storage helpers: how much room this device has for models, and whether they stay. The page has the same helpers in
JavaScript (public/device_storage.mjs) and in its own Python (app/storage.py).

A browser's estimate is only a hint, so nothing is refused because of it: code that writes must handle a full disk.
"""

from __future__ import annotations

from typing import Any

from py_engine.arguments import real
from py_engine.host import IN_BROWSER

if IN_BROWSER:
    from py_engine.host.device_storage_browser import (
        fits,
        get_install_guidance,
        get_storage_status,
        is_ios,
        is_standalone,
        request_persistent_storage,
    )
else:
    from py_engine.host.device_storage_native import (
        fits,
        get_install_guidance,
        get_storage_status,
        is_ios,
        is_standalone,
        request_persistent_storage,
    )

__all__ = [
    "can_cache_model",
    "get_install_guidance",
    "get_storage_status",
    "is_ios",
    "is_standalone",
    "request_persistent_storage",
]


async def can_cache_model(size_mb: float) -> dict[str, Any]:
    """{fits, availableMB, recommendInstall} for a model of `size_mb` (10^6 bytes). Unknown space counts as enough.
    `recommendInstall`: the page should be installed first, because this is a phone or tablet, or the model does not
    fit. Raises InputError when `size_mb` is no size."""
    return await fits(real("size_mb", size_mb, 0, 1e15))
