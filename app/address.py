"""The open chat in the page's address, as #chat=ID: it comes back after a reload, and back and forward go between
chats. What follows the # never reaches a server."""

import js
from js import window

MARK = "#chat="


def chat():
    """The id of the chat in the address, None without one."""
    text = window.location.hash
    if not text.startswith(MARK):
        return None
    try:
        return str(js.URLSearchParams.new(text[1:]).get("chat")) or None
    except Exception:
        return None


def is_bare():
    """Whether the address names nothing, so that it stands for a new chat."""
    return window.location.hash in ("", "#")


def show(name, step):
    """Name this chat, None: none. `step`: as one more page of the tab's history, else in place of this one."""
    if name == chat():
        return
    place = window.location.pathname + window.location.search
    if name is not None:
        place += MARK + js.encodeURIComponent(name)
    if step:
        window.history.pushState(None, "", place)
    else:
        window.history.replaceState(None, "", place)
