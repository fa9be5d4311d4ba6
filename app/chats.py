"""Conversations on this device: made, found, kept, exported.

A chat is {"id", "title", "updated" (ISO 8601), "messages": [{"role", "content", ...}]}. Each lies
under its own key, with its title and date under a second, small one, so that the list is quick and
two tabs do not overwrite each other's.
An answer may also carry "model", "stats" {tps, ttft_s, tokens, finish}, "error"; what was thought
before it as "reasoning" and "thought_s" (seconds), "tool_calls" as OpenAI's API has them, and in
"unread_calls" how many of those stayed text.
"""

import json

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
        text = " ".join(message["content"].split())
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
