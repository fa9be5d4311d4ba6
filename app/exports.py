"""Exports: copies to the clipboard, chats as files."""

import json

import js
from pyscript.ffi import to_js

from app import chats
from app.clock import sleep_ms
from app.dom import announce
from app.tree import SPEAKERS

DONE_MS = 1500  # how long a button confirms the copy
KEEP_MS = 10000  # how long a download's URL stays valid: the browser may still be writing the file


async def copy(button, text):
    """Copy a text to the clipboard; the button confirms it for a moment."""
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
    await sleep_ms(DONE_MS)
    button.classList.remove("done")
    if words:
        button.textContent = "Copy"


async def as_markdown(chat):
    """Download a chat as Markdown: the versions that are shown."""
    _download(markdown(chat), file_name(chat) + ".md", "text/markdown")


async def as_json(chat):
    """Download a chat as JSON, with all its versions and pictures. Raises chats.NotKept."""
    _save(await chats.file_of(chat), file_name(chat) + ".json")


async def everything(held):
    """Download every chat in one file. `held`: chats in memory that may be newer than the store. Raises
    chats.NotKept."""
    _save(await chats.everything(held), "jerboa-chats.json")


def markdown(chat):
    """Return the conversation with a heading for each turn."""
    parts = ["# " + chat.title()]
    for message in chat.messages:
        model = message.get("model") if message["role"] == "assistant" else ""
        who = model or SPEAKERS[message["role"]]
        parts.append("## " + who)
        if message.get("reasoning"):
            parts.append("> Thought:\n>\n> " + message["reasoning"].replace("\n", "\n> "))
        for picture in message.get("pictures", ()):
            parts.append(f"[Picture: {picture.get('alt') or picture['name']}]")
        if message["content"].strip():
            parts.append(message["content"].strip())
        for call in message.get("tool_calls", ()):
            parts.append("```json\n" + call_text(call) + "\n```")
    return "\n\n".join(parts) + "\n"


def call_text(call):
    """Return a tool call as one JSON object."""
    function = call["function"]
    return (
        '{"name": ' + json.dumps(function["name"]) + ', "arguments": ' + function["arguments"] + "}"
    )


def file_name(chat):
    """Return a file name that is valid on every file system."""
    kept = "".join(
        c if c.isalpha() or c.isdigit() or c > "\x7f" else "-" for c in chat.title().lower()
    )
    return "-".join([part for part in kept.split("-") if part])[:48] or "chat"


def _download(text, name, kind):
    blob = js.Blob.new(to_js([text]), to_js({"type": kind + ";charset=utf-8"}))
    _save(js.URL.createObjectURL(blob), name)


def _save(url, name):
    link = js.document.createElement("a")
    link.href = url
    link.download = name
    link.click()
    js.setTimeout(lambda: js.URL.revokeObjectURL(url), KEEP_MS)
