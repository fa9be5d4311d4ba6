"""device_storage.py in a Pyodide worker: public/device_storage.mjs, handed over by the boot as jerboa.storage."""

from __future__ import annotations

from typing import Any

import js

from py_engine.host.json_text import read_json


async def get_storage_status() -> dict[str, Any]:
    """See device_storage_native.py."""
    return _plain(await js.jerboa.storage.getStorageStatus())


async def fits(size_mb: float) -> dict[str, Any]:
    """`can_cache_model` of device_storage.py, for a size that was checked."""
    return _plain(await js.jerboa.storage.canCacheModel(size_mb))


async def request_persistent_storage() -> bool:
    """See device_storage_native.py."""
    return bool(await js.jerboa.storage.requestPersistentStorage())


def get_install_guidance() -> dict[str, Any]:
    """See device_storage_native.py."""
    return _plain(js.jerboa.storage.getInstallGuidance())


def is_standalone() -> bool:
    """See device_storage_native.py."""
    return bool(js.jerboa.storage.isStandalone())


def is_ios() -> bool:
    """See device_storage_native.py."""
    return bool(js.jerboa.storage.isIOS())


def _plain(thing: Any) -> dict[str, Any]:
    plain: dict[str, Any] = read_json(str(js.JSON.stringify(thing)))
    return plain
