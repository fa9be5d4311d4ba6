"""What the page keeps on this device: JSON values in localStorage, one key each; and how much it may keep.

Where the browser refuses (storage switched off) values last until the page is closed, and
`persistent` is False. The helpers at the end are public/device_storage.mjs's, as py_engine has them too.
"""

import json

import js
from pyscript.js_modules import device_storage, store

PREFIX = "jerboa."

persistent = bool(store.works())
_memory: dict[str, str] = {}  # stands in for localStorage where there is none


class StoreFull(Exception):
    """The browser keeps no more for this site."""


def read_text(key):
    """What lies under `key`, as it lies there; None where there is nothing."""
    return store.read(PREFIX + key) if persistent else _memory.get(key)


def read(key, default=None):
    """The value under `key`; `default` where there is none, or none that can be read."""
    return parse(read_text(key), default)


def parse(text, default=None):
    """The value of a JSON text from anywhere; `default` where it is none, or none that can be read."""
    plain = store.plain(text) if text else ""
    return json.loads(plain) if plain else default


def entries(text):
    """[[key, JSON text of its value]] of a JSON object, in the object's order, which MicroPython's dicts do not keep;
    None where the text is none."""
    found = store.entries(text)
    return json.loads(found) if found else None


def write(key, value):
    """Keep a value. Raises StoreFull; then the old value stays."""
    text = json.dumps(value)
    if not persistent:
        _memory[key] = text
        return
    refused = store.keep(PREFIX + key, text)
    if refused:
        raise StoreFull(refused)


def remove(key):
    """Forget a value."""
    if persistent:
        store.forget(PREFIX + key)
    else:
        _memory.pop(key, None)


def keys(start):
    """The keys that begin with `start`, in no order."""
    if not persistent:
        return [key for key in _memory if key.startswith(start)]
    n = len(PREFIX)
    return [name[n:] for name in store.keys() if name.startswith(PREFIX + start)]


# ---- how much may be kept, and how safely


async def get_storage_status():
    """{quotaMB, usageMB, availableMB, persisted, installed, ios}; numbers of 10^6 bytes, None where not told."""
    return _plain(await device_storage.getStorageStatus())


async def can_cache_model(size_mb):
    """{fits, availableMB, recommendInstall}, by the browser's estimate: a hint, nothing is refused on it. Raises
    ValueError when `size_mb` is no size."""
    if (
        isinstance(size_mb, bool)
        or not isinstance(size_mb, (int, float))
        or not 0 <= size_mb < 1e300
    ):
        raise ValueError(  # here: a JavaScript error passes Python's `except` by
            f"can_cache_model: {size_mb!r} is no size. Give the model's megabytes (10^6 bytes) as a number from 0 up."
        )
    return _plain(await device_storage.canCacheModel(size_mb))


async def request_persistent_storage():
    """Ask the browser never to throw away by itself what is kept here; whether it agreed."""
    return bool(await device_storage.requestPersistentStorage())


def get_install_guidance():
    """{installed, manual, steps}: `manual` is False where prompt_install() opens the browser's own prompt."""
    return _plain(device_storage.getInstallGuidance())


async def prompt_install():
    """Open the browser's own prompt; whether the user accepted."""
    return bool(await device_storage.promptInstall())


def is_standalone():
    """Whether the page runs as an installed app."""
    return bool(device_storage.isStandalone())


def is_ios():
    """iPhone or iPad, also one that asks for desktop pages."""
    return bool(device_storage.isIOS())


def is_handheld():
    """A phone or tablet."""
    return bool(device_storage.isHandheld())


def _plain(thing):
    return json.loads(js.JSON.stringify(thing))
