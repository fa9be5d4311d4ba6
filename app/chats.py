"""Conversations on this device: made, found, kept, exported.

A chat is {"id", "title", "updated" (ISO 8601), "messages": [{"role", "content", ...}]}. Each lies
under its own key, with its title and date under a second, small one, so that the list is quick and
two tabs do not overwrite each other's.
What was damaged in the store is mended when it is read (mending.py).
An answer may also carry "model", "stats" {tps, ttft_s, tokens, finish}, "error"; what was thought
before it as "reasoning" and "thought_s" (seconds), "tool_calls" as OpenAI's API has them, and in
"unread_calls" how many of those stayed text.
"""

import json

import js

from app import mending, storage
from app.dom import unique_name

BODY = "chat."
HEAD = "title."
TITLE_LENGTH = 60


def now():
    """ISO 8601, UTC. (Date.now() does not fit MicroPython's integers from JavaScript.)"""
    return js.Date.new().toISOString()


def new():
    """An empty chat, not kept until `save`."""
    return {"id": unique_name(), "title": "", "updated": now(), "messages": []}


def listed():
    """[{"id", "title", "updated"}], newest first."""
    keys = storage.keys("")
    names = {key[len(start) :] for start in (HEAD, BODY) for key in keys if key.startswith(start)}
    found = [dict(_head(name), id=name) for name in names]
    return sorted(found, key=lambda chat: chat["updated"], reverse=True)


def _head(name):
    """A chat's title and date; made anew from the chat where they are lost."""
    head = storage.read(HEAD + name)
    if isinstance(head, dict):
        head = {key: head.get(key, "") for key in ("title", "updated")}
        if isinstance(head["title"], str) and isinstance(head["updated"], str):
            return head
    chat = load(name) or new()
    updated = chat.get("updated")
    head = {"title": title(chat), "updated": updated if isinstance(updated, str) else ""}
    try:
        storage.write(HEAD + name, head)
    except storage.StoreFull:
        pass  # it is made again next time
    return head


def load(name):
    """The chat of this id, None when it is gone. Of a damaged one, what can be read."""
    raw = storage.read_text(BODY + name)
    if raw is None:
        return None
    chat = mending.chat(
        storage.read(BODY + name), raw, lambda text: storage.entries(text) is not None
    )
    for message in chat["messages"]:
        _take_thinking_apart(message)
    chat["id"] = name
    return chat


def _take_thinking_apart(message):
    """Chats kept by an older page have it in front of the answer, between its marks."""
    before, mark, answer = message["content"].partition("</think>")
    begun = before.lstrip().startswith("<think>")
    if message["role"] != "assistant" or "reasoning" in message or not (mark or begun):
        return
    message["reasoning"] = (before.lstrip()[len("<think>") :] if begun else before).strip()
    message["content"] = answer.lstrip()


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
        text = " ".join(message["content"][:1000].split())
        if text:
            return text if len(text) <= TITLE_LENGTH else text[:TITLE_LENGTH].rstrip() + "\u2026"
    return "New chat"


def as_markdown(chat):
    """The conversation for people: a heading for each turn."""
    parts = ["# " + title(chat)]
    for message in chat["messages"]:
        who = "You" if message["role"] == "user" else message.get("model") or "Answer"
        parts.append("## " + who)
        if message.get("reasoning"):
            parts.append("> Thought:\n>\n> " + message["reasoning"].replace("\n", "\n> "))
        if message["content"].strip():
            parts.append(message["content"].strip())
        for call in message.get("tool_calls", ()):
            parts.append("```json\n" + call_text(call) + "\n```")
    return "\n\n".join(parts) + "\n"


def call_text(call):
    """A tool call as one JSON object."""
    function = call["function"]
    return (
        '{"name": ' + json.dumps(function["name"]) + ', "arguments": ' + function["arguments"] + "}"
    )


def file_name(chat):
    """A name that every file system takes."""
    kept = "".join(
        c if c.isalpha() or c.isdigit() or c > "\x7f" else "-" for c in title(chat).lower()
    )
    return "-".join([part for part in kept.split("-") if part])[:48] or "chat"
