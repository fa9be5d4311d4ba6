"""Conversations on this device: listed, loaded, saved, and imported from where older pages saved them. The store
itself is public/chat_store.mjs; a conversation is tree.py's Chat.

Damaged data in the store is repaired when it is read (mending.py).
"""

import json

import js
from pyscript.js_modules import chat_store

from app import mending, storage
from app.dom import unique_name
from app.tree import Chat

# Keys in localStorage under which older pages saved chats.
BODY, HEAD = "chat.", "title."
# Prefix of the keys under which chat_fallback.mjs saves chats there.
FALLBACK = "kept."

_heads: dict[str, dict] = {}  # id -> {"id", "title", "updated"}, for the list
_stranded: dict[str, Chat] = {}  # id -> Chat: chats of older pages that the store refused


class NotKept(Exception):
    """The store refused or does not answer. `full`: the browser gives this site no more space."""

    def __init__(self, error):
        super().__init__(error["message"])
        self.full = error["name"] == "QuotaExceededError"
        self.is_file = error["name"] == "NotChats"  # the store works; the file holds no chats


class Gone(Exception):
    """The chat was deleted in another tab."""


def now():
    """Return the time in ISO 8601, UTC. (Date.now() from JavaScript does not fit into MicroPython's integers.)"""
    return js.Date.new().toISOString()


def _told(text):
    """Decode an answer of the store. Raises NotKept."""
    value = json.loads(text)
    if isinstance(value, dict) and "error" in value:
        raise NotKept(value["error"])
    return value


# ---- the list


def listed():
    """Return [{"id", "title", "updated"}], newest first."""
    return sorted(_heads.values(), key=lambda chat: chat["updated"], reverse=True)


def head(name):
    """Return the entry of this chat in the list, None without one."""
    return _heads.get(name)


async def refresh():
    """Read the list from the store again. Raises NotKept."""
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
    """Return where chats are stored ("indexed-db", "local-storage" or "memory") and why not in IndexedDB."""
    told = _told(await chat_store.opened())
    return told["kind"], told["reason"]


# ---- one chat


def new():
    """Return an empty chat. It is stored when its first message is sent."""
    return Chat({"id": unique_name(), "title": "", "updated": now(), "chosen": {}})


def message(role, parent, **fields):
    """Return a new message that follows the one with the id `parent`."""
    fields.update({"id": unique_name(), "parent": parent, "made": now(), "role": role})
    return fields


async def load(name):
    """Return (the chat of this id, its unsent draft), None if there is no such chat. A draft is as drafts.py has it.
    Raises NotKept."""
    found = _told(await chat_store.load(name))
    if found["chat"] is None and not found["messages"]:
        return (_stranded[name], found["draft"]) if name in _stranded else None
    messages = [_mended(message) for message in found["messages"]]
    chat = Chat(_record(name, found["chat"]), messages)
    chat.kept = len(messages)
    chat.stored = True
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
    """Tell whether a text is a JSON object."""
    return storage.entries(text) is not None


async def some(chat, names):
    """Read messages of a chat from the store. Raises NotKept."""
    return [_mended(found) for found in _told(await chat_store.some(chat.id, json.dumps(names)))]


async def save(chat, messages=(), follow=False, sent=None, fresh=False, touch=True, strict=False):
    """Store these messages, the chat's unsaved ones, and the record of the chat.

    `follow`: if another tab has continued the chat, the first message goes after that tab's messages. These are added
    to `chat`, and True is returned. `sent`: the draft (DRAFT_OF_NEW or a chat's id) that has become a message. `fresh`:
    other tabs may show the messages. `touch`: the chat becomes the newest. `strict`: wait until the data is on the
    disk. Raises Gone, NotKept.
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
    """Update the chat and the list after the store has saved them."""
    chat.stored = True
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
    """Add messages that another tab has written. `outdated`: ids of the messages that they replace."""
    chat.add(messages, stay)
    if outdated:
        chat.remove(outdated)
    chat.kept = len(chat) - len(chat.unsaved)


def revive(chat):
    """Mark all messages as unsaved: the store has lost this chat and must get all of it again."""
    chat.kept = 0
    chat.unsaved = [message["id"] for message in chat.all()]


async def delete(name):
    """Delete a chat. Raises NotKept."""
    _told(await chat_store.drop(name))
    _forget_old(name)
    _stranded.pop(name, None)
    _heads.pop(name, None)


async def delete_all():
    """Delete every chat and draft. Raises NotKept."""
    _told(await chat_store.dropAll())
    for key in storage.keys(BODY):
        _forget_old(key[len(BODY) :])
    _stranded.clear()
    _heads.clear()


# ---- chats of older pages


async def carry_over():
    """Move chats from localStorage into the store. Each is written as a whole and read back before the old copy is
    deleted. An older page that is still open in another tab may go on writing there. Returns (the changes, which were
    announced to other tabs; why some chats could not be moved, or "")."""
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
        # If it differs, another tab has changed it meanwhile, and the next visit tries again.
        if storage.read_text(key) == raw:
            _forget_old(name)
    return changes, refused


def _old(name, raw):
    """Read and repair a chat that an older page saved."""
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
    """Return a Chat that is shown although the store does not have it."""
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
    """Split the thinking from the answer: older pages stored it in front, between its tags."""
    before, mark, answer = message["content"].partition("</think>")
    begun = before.lstrip().startswith("<think>")
    if message["role"] != "assistant" or "reasoning" in message or not (mark or begun):
        return
    message["reasoning"] = (before.lstrip()[len("<think>") :] if begun else before).strip()
    message["content"] = answer.lstrip()


# ---- files


async def everything(held):
    """Return the URL of a file with every chat. `held`: chats in memory that may be newer than the store. Raises
    NotKept."""
    ours = [chat.as_file() for chat in held + list(_stranded.values())]
    return _told(await chat_store.everything(json.dumps(ours)))["url"]


async def file_of(chat):
    """Return the URL of a file with this chat, all its versions and pictures. Raises NotKept."""
    return _told(await chat_store.file(json.dumps(chat.as_file())))["url"]


async def pictures_size():
    """Return (how many pictures are stored, their bytes). Raises NotKept."""
    told = _told(await chat_store.picturesSize())
    return told["count"], told["nbytes"]


async def take_file(file):
    """Import a file. Returns {"chats", "messages", "there", "first", "changes"}: how many chats and messages were
    imported, how many messages were here already, the id of the file's first chat, and the changes, which were
    announced to other tabs. Raises NotKept, with `is_file` when the file holds no chats."""
    return _told(await chat_store.takeFile(file))


# ---- drafts


DRAFT_OF_NEW = ""  # the draft of a chat that does not exist yet


async def save_draft(name, draft):
    """Store what is in the message box of this chat; an empty draft is deleted. Raises NotKept."""
    _told(await chat_store.draft(name, draft["text"], json.dumps(draft["pictures"])))


async def draft_of_new():
    """Return the draft of a new chat, written in this tab or in one that is closed. Raises NotKept."""
    return _told(await chat_store.load(DRAFT_OF_NEW))["draft"]


def save_last(draft, unsaved):
    """Save what is unsaved before the page closes. `draft`: (id of a chat, draft) or None; `unsaved`: [(chat, messages,
    id of the chat whose draft became one of them, or None)]."""
    writes = [
        {"chat": chat.id, "record": _new_record(chat), "messages": messages, "sent": sent}
        for chat, messages, sent in unsaved
    ]
    last = dict(draft[1], chat=draft[0]) if draft else None
    asked = {"draft": last, "writes": writes}
    chat_store.last(json.dumps(asked))


def _new_record(chat):
    """Return the record of a chat that is not in the store yet; None for other chats, because another tab may have
    deleted them."""
    if chat.kept:
        return None
    record = dict(chat.record)
    record["title"] = chat.title()
    return record
