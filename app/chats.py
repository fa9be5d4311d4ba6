"""Conversations on this device: made, found, kept, exported.

A chat is {"id", "title", "updated" (ISO 8601), "messages": [{"role", "content", ...}]}. Each lies
under its own key, with its title and date under a second, small one, so that the list is quick and
two tabs do not overwrite each other's.
An answer may also carry "model", "stats" {tps, ttft_s, tokens, finish}, "error".
"""

import js

from app import storage

BODY = "chat."
HEAD = "title."
TITLE_LENGTH = 60


def now():
    """ISO 8601, UTC. (Date.now() does not fit MicroPython's integers from JavaScript.)"""
    return js.Date.new().toISOString()


def new():
    """An empty chat, not kept until `save`."""
    name = js.crypto.randomUUID() if js.isSecureContext else now()
    return {"id": name, "title": "", "updated": now(), "messages": []}


def listed():
    """[{"id", "title", "updated"}], newest first."""
    found = []
    for key in storage.keys(HEAD):
        head = storage.read(key)
        if isinstance(head, dict):
            found.append(
                {
                    "id": key[len(HEAD) :],
                    "title": head.get("title", ""),
                    "updated": head.get("updated", ""),
                }
            )
    return sorted(found, key=lambda chat: chat["updated"], reverse=True)


def load(name):
    """The chat of this id, None when it is gone or cannot be read."""
    chat = storage.read(BODY + name)
    if not isinstance(chat, dict) or not isinstance(chat.get("messages"), list):
        return None
    chat["messages"] = [
        m for m in chat["messages"] if isinstance(m, dict) and isinstance(m.get("content"), str)
    ]
    chat["id"] = name
    return chat


def save(chat):
    """Keep it; a chat without messages is not kept. Raises StoreFull."""
    if not chat["messages"]:
        return
    chat["title"] = title(chat)
    chat["updated"] = now()
    storage.write(BODY + chat["id"], chat)
    storage.write(HEAD + chat["id"], {"title": chat["title"], "updated": chat["updated"]})


def delete(name):
    """Forget it."""
    storage.remove(BODY + name)
    storage.remove(HEAD + name)


def title(chat):
    """The first thing that was said, cut to a line."""
    for message in chat["messages"]:
        text = " ".join(message["content"].split())
        if text:
            return text if len(text) <= TITLE_LENGTH else text[:TITLE_LENGTH].rstrip() + "\u2026"
    return "New chat"


def as_markdown(chat):
    """The conversation for people: a heading for each turn."""
    parts = ["# " + title(chat)]
    for message in chat["messages"]:
        who = "You" if message["role"] == "user" else message.get("model") or "Answer"
        parts.append("## " + who + "\n\n" + message["content"].strip())
    return "\n\n".join(parts) + "\n"


def file_name(chat):
    """A name that every file system takes."""
    kept = "".join(
        c if c.isalpha() or c.isdigit() or c > "\x7f" else "-" for c in title(chat).lower()
    )
    return "-".join([part for part in kept.split("-") if part])[:48] or "chat"
