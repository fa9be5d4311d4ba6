"""device_storage.py in a Pyodide worker: calls public/device_storage.mjs, which the boot puts at jerboa.storage."""

from __future__ import annotations

from typing import Any

import js

from py_engine.host.json_text import read_json


async def get_storage_status() -> dict[str, Any]:
    """{quotaMB, usageMB, availableMB, persisted, installed, ios}, in 10^6 bytes; None where the browser does not
    say."""
    return _plain(await js.jerboa.storage.getStorageStatus())


async def fits(size_mb: float) -> dict[str, Any]:
    """What `can_cache_model` of device_storage.py gives, for a size that is valid."""
    return _plain(await js.jerboa.storage.canCacheModel(size_mb))


async def request_persistent_storage() -> bool:
    """Whether the browser has promised not to delete what is kept. A worker can only look; a page can ask for it."""
    return bool(await js.jerboa.storage.requestPersistentStorage())


def get_install_guidance() -> dict[str, Any]:
    """{installed, manual, steps}: how to install the page as an app, as a list of sentences."""
    return _plain(js.jerboa.storage.getInstallGuidance())


def is_standalone() -> bool:
    """Whether this runs as an installed app."""
    return bool(js.jerboa.storage.isStandalone())


def is_ios() -> bool:
    """Whether this is an iPhone or iPad, also one that asks for desktop pages."""
    return bool(js.jerboa.storage.isIOS())


def _plain(thing: Any) -> dict[str, Any]:
    plain: dict[str, Any] = read_json(str(js.JSON.stringify(thing)))
    return plain
