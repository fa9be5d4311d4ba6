"""Taking things away from the page: copies to the clipboard, chats as files."""

import asyncio
import json

import js
from pyscript.ffi import to_js

from app import chats
from app.dom import announce

DONE_MS = 1500  # how long a button says so
KEEP_MS = 10000  # the browser may still be writing a file


async def copy(button, text):
    """To the clipboard; the button says so for a moment."""
    try:
        await js.navigator.clipboard.writeText(text)
    except Exception:  # refused, or no clipboard at an insecure address
        announce("Copying was refused by the browser")
        return
    announce("Copied")
    words = button.classList.contains("plain")
    button.classList.add("done")
    if words:
        button.textContent = "Copied"
    await asyncio.sleep_ms(DONE_MS)
    button.classList.remove("done")
    if words:
        button.textContent = "Copy"


def as_markdown(chat):
    """A chat, for people."""
    _download(chats.as_markdown(chat), chats.file_name(chat) + ".md", "text/markdown")


def as_json(chat):
    """A chat, for programs."""
    _download(json.dumps(chat), chats.file_name(chat) + ".json", "application/json")


def everything():
    """Every chat in one file."""
    found = [chats.load(chat["id"]) for chat in chats.listed()]
    text = json.dumps({"chats": [chat for chat in found if chat]})
    _download(text, "jerboa-chats.json", "application/json")


def _download(text, name, kind):
    blob = js.Blob.new(to_js([text]), to_js({"type": kind + ";charset=utf-8"}))
    url = js.URL.createObjectURL(blob)
    link = js.document.createElement("a")
    link.href = url
    link.download = name
    link.click()
    js.setTimeout(lambda: js.URL.revokeObjectURL(url), KEEP_MS)
