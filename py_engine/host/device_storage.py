"""Storage helpers: how much may be kept on this device, and whether it stays. The page has the same ones in JavaScript
(public/device_storage.mjs) and in its own Python (app/storage.py). device_storage_native.py says what each gives.

What browsers estimate is a hint: nothing is refused on it. Whoever writes handles the error.
"""

from __future__ import annotations

from py_engine.host import IN_BROWSER

if IN_BROWSER:
    from py_engine.host.device_storage_browser import (
        can_cache_model,
        get_install_guidance,
        get_storage_status,
        is_ios,
        is_standalone,
        request_persistent_storage,
    )
else:
    from py_engine.host.device_storage_native import (
        can_cache_model,
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
