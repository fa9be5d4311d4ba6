"""What the page keeps on this device: JSON values in localStorage, one key each.

Where the browser refuses (storage switched off) values last until the page is closed, and
`persistent` is False.
"""

import json

from pyscript.js_modules import store

PREFIX = "jerboa."

persistent = bool(store.works())
_memory = {}  # stands in for localStorage where there is none


class StoreFull(Exception):
    """The browser keeps no more for this site."""


def read(key, default=None):
    """The value under `key`; `default` where there is none, or none that can be read."""
    text = store.read(PREFIX + key) if persistent else _memory.get(key)
    if text is None:
        return default
    try:
        return json.loads(text)
    except ValueError:
        return default


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
