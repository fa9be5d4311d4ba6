"""Finding, making and filling DOM nodes. Text only ever enters the page as text."""

import json

import js
from js import document
from pyscript.ffi import to_js

# With which sentences begin that do not begin with a name.
PLAIN_WORDS = ("a", "an", "every", "it", "its", "no", "the", "there", "this", "what")


def find(name):
    """The element with this id; index.html holds it."""
    return document.getElementById(name)


def stamp(name):
    """A fresh copy of a <template>'s one element."""
    return document.getElementById(name).content.cloneNode(True).firstElementChild


def make(tag, text="", kind=""):
    """An element with a text and a class."""
    node = document.createElement(tag)
    if text:
        node.textContent = text
    if kind:
        node.className = kind
    return node


def button(text, action, kind="plain"):
    """A button; `action` is what main.py's table of actions calls it."""
    node = make("button", text, kind)
    node.type = "button"
    node.setAttribute("data-do", action)
    return node


def show(node, visible=True):
    """Show or hide, for eyes and for screen readers."""
    if bool(node.hidden) == bool(visible):
        node.hidden = not visible


def sentence(text):
    """What the engine says, which begins small, as a sentence of its own. Ids and addresses stay as they are."""
    first = text.split(" ")[0]
    return text[:1].upper() + text[1:] if first in PLAIN_WORDS else text


def clear(node):
    """Remove all children."""
    node.replaceChildren()


def field(thing, name, default=None):
    """A property of a JS object; `default` where it is missing, undefined or null."""
    try:
        value = getattr(thing, name)
    except AttributeError:
        return default
    return default if value is None else value


def numbers(thing, *names):
    """The named properties as a dict, of each element if `thing` is an array. By way of JSON, since
    numbers above 2**31 (sizes, limits) reach MicroPython cut off."""
    return json.loads(js.JSON.stringify(thing, to_js(list(names))))


def is_enter(event):
    """Whether a key is Enter, without Shift, and not an input method's: Safari ends the composition before it tells of
    the key that confirmed it, which then has the code 229."""
    return (
        event.key == "Enter"
        and not event.shiftKey
        and not event.isComposing
        and event.keyCode != 229
    )


def is_escape(event):
    """Whether a key is Escape, and not one that only takes back what an input method has composed so far."""
    return event.key == "Escape" and not event.isComposing and event.keyCode != 229


def unique_name():
    """Of a chat, of a run. The browser's own are for secure addresses only."""
    if js.isSecureContext:
        return js.crypto.randomUUID()
    return js.Date.new().toISOString() + str(js.Math.random())[1:]


_announced = find("announce")


def announce(text):
    """Have a screen reader say it when it has time."""
    _announced.textContent = text
