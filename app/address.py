"""The open chat in the page's address, as #chat=ID. It is opened again after a reload, and back and forward move
between chats. The part after the # never reaches a server."""

import js
from js import window

MARK = "#chat="


def chat():
    """Return the id of the chat in the address, None without one."""
    text = window.location.hash
    if not text.startswith(MARK):
        return None
    try:
        return str(js.URLSearchParams.new(text[1:]).get("chat")) or None
    except Exception:
        return None


def is_bare():
    """Tell whether the address names no chat, which means a new chat."""
    return window.location.hash in ("", "#")


def show(name, step):
    """Put this chat into the address; None removes it. `step`: add an entry to the tab's history, else replace the
    current one."""
    if name == chat():
        return
    place = window.location.pathname + window.location.search
    if name is not None:
        place += MARK + js.encodeURIComponent(name)
    if step:
        window.history.pushState(None, "", place)
    else:
        window.history.replaceState(None, "", place)
