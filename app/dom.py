"""Finding, making and filling DOM nodes. Text only ever enters the page as text."""

import json

import js
from js import document
from pyscript.ffi import to_js

# Words that get a capital letter at the start of a sentence. Names are left as they are.
PLAIN_WORDS = ("a", "an", "every", "it", "its", "no", "the", "there", "this", "what")


def find(name):
    """Return the element with this id in index.html."""
    return document.getElementById(name)


def stamp(name):
    """Return a fresh copy of a <template>'s one element."""
    return document.getElementById(name).content.cloneNode(True).firstElementChild


def make(tag, text="", kind=""):
    """Create an element with a text and a class."""
    node = document.createElement(tag)
    if text:
        node.textContent = text
    if kind:
        node.className = kind
    return node


def button(text, action, kind="plain"):
    """Create a button; `action` is its name in main.py's table of actions."""
    node = make("button", text, kind)
    node.type = "button"
    node.setAttribute("data-do", action)
    return node


def show(node, visible=True):
    """Show or hide, also for screen readers."""
    if bool(node.hidden) == bool(visible):
        node.hidden = not visible


def sentence(text):
    """Turn the engine's words, which start with a small letter, into a sentence. Ids and addresses stay as they
    are."""
    first = text.split(" ")[0]
    return text[:1].upper() + text[1:] if first in PLAIN_WORDS else text


def clear(node):
    """Remove all children."""
    node.replaceChildren()


def field(thing, name, default=None):
    """Return a property of a JS object; `default` where it is missing, undefined or null."""
    try:
        value = getattr(thing, name)
    except AttributeError:
        return default
    return default if value is None else value


def numbers(thing, *names):
    """Return the named properties as a dict, or a list of dicts if `thing` is an array. Converted as JSON, because
    numbers above 2**31 (sizes, limits) reach MicroPython truncated otherwise."""
    return json.loads(js.JSON.stringify(thing, to_js(list(names))))


def is_enter(event):
    """Tell whether a key is Enter, without Shift, and not part of an input method. Safari ends the composition before
    it reports the key that confirmed it; that key then has the code 229."""
    return (
        event.key == "Enter"
        and not event.shiftKey
        and not event.isComposing
        and event.keyCode != 229
    )


def is_escape(event):
    """Tell whether a key is Escape, and does not just cancel the composition of an input method."""
    return event.key == "Escape" and not event.isComposing and event.keyCode != 229


def unique_name():
    """Return a random name for a chat or a run. The browser's own function exists only at secure addresses."""
    if js.isSecureContext:
        return js.crypto.randomUUID()
    return js.Date.new().toISOString() + str(js.Math.random())[1:]


_announced = find("announce")


def announce(text):
    """Let a screen reader say the text when it is idle."""
    _announced.textContent = text
