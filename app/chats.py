"""Conversations on this device: found, kept, carried over from where an older page kept them. The store itself is
public/chat_store.mjs, a conversation is tree.py's Chat.

What was damaged in the store is mended when it is read (mending.py).
"""

import json

import js
from pyscript.js_modules import chat_store

from app import mending, storage
from app.dom import unique_name
from app.tree import Chat

BODY, HEAD = "chat.", "title."  # of chats as older pages kept them, in localStorage
FALLBACK = "kept."  # of those that chat_fallback.mjs keeps there

_heads: dict[str, dict] = {}  # id -> {"id", "title", "updated"}: what the list shows
_stranded: dict[str, Chat] = {}  # id -> Chat: those of older pages that the store had no room for


class NotKept(Exception):
    """The store refused, or does not answer. `full`: the browser keeps no more for this site."""

    def __init__(self, error):
        super().__init__(error["message"])
        self.full = error["name"] == "QuotaExceededError"
        self.is_file = error["name"] == "NotChats"  # no fault of the store: a file holds no chats


class Gone(Exception):
    """The chat was deleted in another tab."""


def now():
    """ISO 8601, UTC. (Date.now() does not fit MicroPython's integers from JavaScript.)"""
    return js.Date.new().toISOString()


def _told(text):
    """What the store answered. Raises NotKept."""
    value = json.loads(text)
    if isinstance(value, dict) and "error" in value:
        raise NotKept(value["error"])
    return value


# ---- the list


def listed():
    """[{"id", "title", "updated"}], newest first."""
    return sorted(_heads.values(), key=lambda chat: chat["updated"], reverse=True)


def head(name):
    """The entry of this chat in the list, None without one."""
    return _heads.get(name)


async def refresh():
    """Look anew what is there. Raises NotKept."""
    found = {}
    for entry in _told(await chat_store.list()):
        for key in ("title", "updated"):
            if not isinstance(entry.get(key), str):
                entry[key] = ""
        entry["title"] = entry["title"] or "New chat"
        found[entry["id"]] = entry
    for chat in _stranded.values():
        found.setdefault(chat.id, _head(chat))
    _heads.clear()
    _heads.update(found)


def _head(chat):
    updated = chat.record.get("updated")
    return {
        "id": chat.id,
        "title": chat.title(),
        "updated": updated if isinstance(updated, str) else "",
    }


async def opened():
    """Where chats are kept: ("indexed-db", "local-storage" or "memory", why not in the first of these)."""
    told = _told(await chat_store.opened())
    return told["kind"], told["reason"]


# ---- one chat


def new():
    """An empty chat, not kept until something is sent."""
    return Chat({"id": unique_name(), "title": "", "updated": now(), "chosen": {}})


def message(role, parent, **fields):
    """A new message behind the one with the id `parent`."""
    fields.update({"id": unique_name(), "parent": parent, "made": now(), "role": role})
    return fields


async def load(name):
    """(the chat of this id, the unsent draft in it), None where there is none. Raises NotKept."""
    found = _told(await chat_store.load(name))
    if found["chat"] is None and not found["messages"]:
        return (_stranded[name], found["draft"]) if name in _stranded else None
    messages = [_mended(message) for message in found["messages"]]
    chat = Chat(_record(name, found["chat"]), messages)
    chat.kept = len(messages)
    return chat, found["draft"]


def _record(name, found):
    record = found or {"title": "", "updated": now()}
    record["id"] = name
    return record


def _mended(found):
    place = {key: found.pop(key) for key in ("id", "parent", "made")}
    whole = mending.message(found, is_object)
    whole.update(place)
    return whole


def is_object(text):
    """Whether a text is a JSON object."""
    return storage.entries(text) is not None


async def some(chat, names):
    """Messages of a chat as the store has them. Raises NotKept."""
    return [_mended(found) for found in _told(await chat_store.some(chat.id, json.dumps(names)))]


async def save(chat, messages=(), follow=False, sent=None, fresh=False, touch=True, strict=False):
    """Keep these messages, those that the store does not have yet, and what is said of the whole chat.

    `follow`: what another tab has put behind the parent of the first message stays before it; it is taken in then, and
    True returned. `sent`: whose draft (DRAFT_OF_NEW, a chat's id) has become a message; `fresh`: other tabs may show
    the messages; `touch`: the chat is now the newest; `strict`: wait until it is on the medium. Raises Gone, NotKept.
    """
    for message in messages:
        if message["id"] not in chat.unsaved:
            chat.unsaved.append(message["id"])
    wanted = list(messages)
    names = [message["id"] for message in wanted]
    wanted += [chat.find(name) for name in chat.unsaved if name not in names and chat.find(name)]
    chat.record["title"] = chat.title()
    if touch:
        chat.record["updated"] = now()
    _heads[chat.id] = _head(chat)
    asked = {
        "chat": chat.record,
        "messages": wanted,
        "seen": chat.kept,
        "follow": follow,
        "sent": sent,
        "fresh": fresh,
        "strict": strict,
    }
    told = _told(await chat_store.write(json.dumps(asked)))
    if told.get("gone"):
        _heads.pop(chat.id, None)
        raise Gone
    return _settle(chat, wanted, told)


def _settle(chat, written, told):
    """What is kept now, in step with the store."""
    if _stranded.pop(chat.id, None):
        _forget_old(chat.id)
    others = [_mended(other) for other in told["others"] if chat.find(other["id"]) is None]
    if others:
        chat.add(others, stay=True)
    if written and written[0]["parent"] != told["parent"]:
        chat.move(written[0], told["parent"])
    chat.unsaved = [
        name for name in chat.unsaved if name not in {message["id"] for message in written}
    ]
    chat.kept = len(chat) - len(chat.unsaved)
    return bool(others)


def take(chat, messages, outdated, stay):
    """Take in what another tab has written; `outdated`: ids of what that stands for."""
    chat.add(messages, stay)
    if outdated:
        chat.remove(outdated)
    chat.kept = len(chat) - len(chat.unsaved)


def revive(chat):
    """The store has nothing of this chat any more, and is to have all of it."""
    chat.kept = 0
    chat.unsaved = [message["id"] for message in chat.all()]


async def delete(name):
    """Forget it. Raises NotKept."""
    _told(await chat_store.drop(name))
    _forget_old(name)
    _stranded.pop(name, None)
    _heads.pop(name, None)


async def delete_all():
    """Forget every chat and draft. Raises NotKept."""
    _told(await chat_store.dropAll())
    for key in storage.keys(BODY):
        _forget_old(key[len(BODY) :])
    _stranded.clear()
    _heads.clear()


# ---- what an older page kept


async def carry_over():
    """Bring chats from localStorage into the store: each as a whole, read back before the old one goes. An older page
    that is still open in another tab may go on writing there. (what changed, as other tabs hear it; why the others did
    not come, or "")"""
    changes, refused = [], ""
    for key in storage.keys(BODY):
        name = key[len(BODY) :]
        raw = storage.read_text(key)
        chat = _old(name, raw) if raw else None
        if not chat or not chat["messages"]:
            continue
        try:
            changes += _told(await chat_store.takeIn(json.dumps(chat)))["changes"]
        except NotKept as error:
            refused = str(error)
            _stranded[name] = _in_memory(chat)
            continue
        if storage.read_text(key) == raw:  # else it was written meanwhile: the next time
            _forget_old(name)
    return changes, refused


def _old(name, raw):
    """A chat as older pages kept it, mended."""
    value = storage.read(BODY + name)
    chat = mending.chat(value, raw, is_object)
    for message in chat["messages"]:
        _take_thinking_apart(message)
    whole = isinstance(value, dict) and isinstance(value.get("messages"), list)
    if not whole or [message for message in chat["messages"] if mending.DAMAGED in message]:
        chat["original"] = raw
    chat["id"] = name
    chat["title"] = ""
    updated = chat.get("updated")
    kept = storage.read(HEAD + name)
    if not isinstance(updated, str) and isinstance(kept, dict):
        updated = kept.get("updated")
    chat["updated"] = updated if isinstance(updated, str) else ""
    return chat


def _in_memory(chat):
    """The same as a Chat that is shown although the store has it not."""
    parent = ""
    messages = chat.pop("messages")
    for number, message in enumerate(messages):
        message.update({"id": str(number), "parent": parent, "made": f"{number:08}"})
        parent = message["id"]
    found = Chat(chat, messages)
    found.record["title"] = found.title()
    found.unsaved = [message["id"] for message in messages]
    return found


def _forget_old(name):
    storage.remove(BODY + name)
    storage.remove(HEAD + name)


def _take_thinking_apart(message):
    """Chats kept by an older page have it in front of the answer, between its marks."""
    before, mark, answer = message["content"].partition("</think>")
    begun = before.lstrip().startswith("<think>")
    if message["role"] != "assistant" or "reasoning" in message or not (mark or begun):
        return
    message["reasoning"] = (before.lstrip()[len("<think>") :] if begun else before).strip()
    message["content"] = answer.lstrip()


# ---- files


async def everything(held):
    """The address of a file with every chat. `held`: chats that may be ahead of the store. Raises NotKept."""
    ours = [chat.as_file() for chat in held + list(_stranded.values())]
    return _told(await chat_store.everything(json.dumps(ours)))["url"]


async def take_file(file):
    """{"chats", "messages", "there", "first", "changes"}: how many chats and messages came in, how many messages were
    here already, the file's first chat, and what changed, as other tabs hear it. Raises NotKept, with `is_file` where
    the file holds no chats."""
    return _told(await chat_store.takeFile(file))


# ---- drafts


DRAFT_OF_NEW = ""  # stands for the chat that is not there yet


async def save_draft(name, text):
    """What stands in the message box of this chat; "" forgets it. Raises NotKept."""
    _told(await chat_store.draft(name, text))


async def draft_of_new():
    """What was written for a new chat, in this tab or in one that is gone. Raises NotKept."""
    return _told(await chat_store.load(DRAFT_OF_NEW))["draft"]


def save_last(draft, messages):
    """The page is about to go. `draft`: (id of a chat, text) or None; `messages`: [(chat, message)]."""
    asked = {
        "draft": draft and {"chat": draft[0], "text": draft[1]},
        "messages": [{"chat": chat.id, "message": message} for chat, message in messages],
    }
    chat_store.last(json.dumps(asked))
