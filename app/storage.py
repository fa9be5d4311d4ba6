"""What the page keeps on this device: JSON values in localStorage, one key each.

Where the browser refuses (storage switched off) values last until the page is closed, and `persistent` is False.
"""

import json

import js

PREFIX = "jerboa."


class StoreFull(Exception):
    """The browser keeps no more for this site."""


try:
    _store = js.localStorage
    _store.setItem(PREFIX + "probe", "1")
    _store.removeItem(PREFIX + "probe")
    persistent = True
except Exception:  # SecurityError, or null in some embedded views
    _store = None
    persistent = False
_memory = {}


def read(key, default=None):
    """The value under `key`; `default` where there is none, or none that can be read."""
    text = _store.getItem(PREFIX + key) if persistent else _memory.get(key)
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
    try:
        _store.setItem(PREFIX + key, text)
    except Exception as error:
        raise StoreFull(str(error)) from error


def remove(key):
    """Forget a value."""
    if persistent:
        _store.removeItem(PREFIX + key)
    else:
        _memory.pop(key, None)


def keys(start):
    """The keys that begin with `start`, in no order."""
    if not persistent:
        return [key for key in _memory if key.startswith(start)]
    names = [_store.key(i) for i in range(_store.length)]
    n = len(PREFIX)
    return [name[n:] for name in names if name.startswith(PREFIX + start)]
