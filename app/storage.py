"""What the page stores on this device: JSON values in localStorage, one key each; and how much it may store.

If the browser refuses (storage switched off), values last until the page is closed, and `persistent` is False. The
helpers at the end are those of public/device_storage.mjs, which py_engine uses too.
"""

import json

import js
from pyscript.js_modules import device_storage, store

PREFIX = "jerboa."

persistent = bool(store.works())
_memory: dict[str, str] = {}  # used instead of localStorage where there is none


class StoreFull(Exception):
    """The browser gives this site no more space."""


def read_text(key):
    """Return the text under `key`; None where there is none."""
    return store.read(PREFIX + key) if persistent else _memory.get(key)


def read(key, default=None):
    """Return the value under `key`; `default` where there is none, or none that can be read."""
    return parse(read_text(key), default)


def parse(text, default=None):
    """Return the value of a JSON text from anywhere; `default` if it is not valid."""
    plain = store.plain(text) if text else ""
    return json.loads(plain) if plain else default


def entries(text):
    """Return [[key, JSON text of its value]] of a JSON object, in the object's order, which MicroPython's dicts do
    not preserve; None if the text is not a JSON object."""
    found = store.entries(text)
    return json.loads(found) if found else None


def write(key, value):
    """Store a value. Raises StoreFull; then the old value stays."""
    text = json.dumps(value)
    if not persistent:
        _memory[key] = text
        return
    refused = store.keep(PREFIX + key, text)
    if refused:
        raise StoreFull(refused)


def remove(key):
    """Delete a value."""
    if persistent:
        store.forget(PREFIX + key)
    else:
        _memory.pop(key, None)


def keys(start):
    """Return the keys that begin with `start`, in no order."""
    if not persistent:
        return [key for key in _memory if key.startswith(start)]
    n = len(PREFIX)
    return [name[n:] for name in store.keys() if name.startswith(PREFIX + start)]


# ---- how much may be stored, and how safely


async def get_storage_status():
    """Return {quotaMB, usageMB, availableMB, persisted, installed, ios}; MB are 10^6 bytes, None where unknown."""
    return _plain(await device_storage.getStorageStatus())


async def can_cache_model(size_mb):
    """Return {fits, availableMB, recommendInstall}, by the browser's estimate. It is only a hint: loads are never
    refused because of it. Raises ValueError when `size_mb` is not a size."""
    if (
        isinstance(size_mb, bool)
        or not isinstance(size_mb, (int, float))
        or not 0 <= size_mb < 1e300
    ):
        # Checked here, because Python's `except` does not catch a JavaScript error.
        raise ValueError(
            f"can_cache_model: {size_mb!r} is no size. Give the model's megabytes (10^6 bytes) as a number from 0 up."
        )
    return _plain(await device_storage.canCacheModel(size_mb))


async def request_persistent_storage():
    """Ask the browser never to delete this page's data by itself; returns whether it agreed."""
    return bool(await device_storage.requestPersistentStorage())


def get_install_guidance():
    """Return {installed, manual, steps}: `manual` is False where prompt_install() opens the browser's install
    prompt."""
    return _plain(device_storage.getInstallGuidance())


async def prompt_install():
    """Open the browser's install prompt; returns whether the user accepted."""
    return bool(await device_storage.promptInstall())


def is_standalone():
    """Tell whether the page runs as an installed app."""
    return bool(device_storage.isStandalone())


def is_ios():
    """Tell whether this is an iPhone or iPad, also one that asks for desktop pages."""
    return bool(device_storage.isIOS())


def is_handheld():
    """Tell whether this is a phone or tablet."""
    return bool(device_storage.isHandheld())


def _plain(thing):
    return json.loads(js.JSON.stringify(thing))
