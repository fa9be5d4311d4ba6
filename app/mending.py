"""Repairs chats from the store, so that they can be drawn: an older or newer page wrote them, or they were damaged.

A field of the wrong type is moved to "damaged" of its message and stays there. Anything that is not a message becomes
the text of one. So everything readable is shown, and saving the chat again loses nothing.
"""

import json

ROLES = ("user", "assistant", "system", "tool")
DAMAGED = "damaged"
# Type of the error of a message that holds the raw text of a whole chat.
UNREADABLE = "Damaged"
MOST = 1e12  # larger numbers mean nothing here


def chat(found, raw, is_object):
    """Return a chat from the JSON value `found`; if that is None, from the text `raw`, which is not valid JSON.
    `is_object(text)` tells whether a text is a JSON object."""
    if found is None:
        error = {
            "type": UNREADABLE,
            "text": "This chat is damaged. Above is all that is left of it.",
        }
        return {"messages": [{"role": "assistant", "content": raw, "error": error}]}
    if not isinstance(found, dict):
        found = {"messages": found}
    whole = dict(found)
    messages = whole.get("messages")
    if not isinstance(messages, list):
        messages = [whole] if messages is None else [messages]
        whole = {}
    whole["messages"] = [message(each, is_object) for each in messages]
    return whole


def message(found, is_object):
    """Return a message that can be drawn: it has role and content, and each further field has the type that rows.py
    expects."""
    if not isinstance(found, dict):
        return {"role": "assistant", "content": text_of(found)}
    kept, aside = _sorted(found, FIELDS)
    before = kept.pop(DAMAGED, {})
    before = dict(before) if isinstance(before, dict) else {DAMAGED: before}
    for name, fields in (("stats", STATS), ("error", ERROR)):
        if name in kept:
            kept[name], wrong = _sorted(kept[name], fields)
            if wrong:
                aside[name] = wrong
    if "error" in kept and len([k for k in ERROR if k in kept["error"]]) < len(ERROR):
        aside["error"] = found["error"]
        del kept["error"]
    if "tool_calls" in kept:
        calls = kept["tool_calls"]
        kept["tool_calls"] = [call for call in calls if is_call(call, is_object)]
        if len(kept["tool_calls"]) < len(calls):
            aside["tool_calls"] = [call for call in calls if not is_call(call, is_object)]
    if "pictures" in kept:
        pictures = kept["pictures"]
        kept["pictures"] = [picture for picture in pictures if is_picture(picture)]
        if len(kept["pictures"]) < len(pictures):
            aside["pictures"] = [picture for picture in pictures if not is_picture(picture)]
    if "sources" in kept:
        sources = kept["sources"]
        kept["sources"] = [source for source in sources if is_source(source)]
        if len(kept["sources"]) < len(sources):
            aside["sources"] = [source for source in sources if not is_source(source)]
    if "content" not in kept:
        kept["content"] = text_of(aside.get("content"))
    kept["role"] = kept.get("role", "assistant")
    if aside or before:
        before.update(aside)
        kept[DAMAGED] = before
    return kept


def is_call(call, is_object):
    """Tell whether this is a tool call as OpenAI's API has it."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not _is_text(function.get("name")):
        return False
    return _is_text(function.get("arguments")) and is_object(function["arguments"])


def is_picture(picture):
    """Tell whether this is a picture as attachments.py has it."""
    if not isinstance(picture, dict) or not _is_text(picture.get("id")):
        return False
    sizes = [picture[name] for name in ("width", "height", "nbytes") if name in picture]
    sized = len(sizes) in (0, 3) and all(is_number(size) for size in sizes)
    return sized and _is_text(picture.get("name")) and _is_text(picture.get("alt", ""))


def is_source(source):
    """Tell whether this is a passage as sources.py has it."""
    if not isinstance(source, dict) or not is_number(source.get("number")):
        return False
    places = [source[name] for name in ("page", "line") if name in source]
    heading = source.get("heading", [])
    texts = [source.get("text"), source.get("source", "")]
    texts += heading if isinstance(heading, list) else [None]
    return all([_is_text(text) for text in texts]) and all([is_number(n) for n in places])


def text_of(thing):
    """Return the words of a content that is not a text: those of its parts, else its JSON."""
    if thing is None or _is_text(thing):
        return thing or ""
    parts = thing if isinstance(thing, list) else [thing]
    words = [part.get("text") if isinstance(part, dict) else part for part in parts]
    texts = [word for word in words if isinstance(word, str)]
    if texts and len(texts) == len(words):
        return "\n".join(texts)
    return json.dumps(thing)


def _sorted(found, fields):
    """Return (fields that are right or unknown here, fields of the wrong type)."""
    kept, aside = {}, {}
    for name, value in found.items():
        fits = fields.get(name)
        if fits is None or fits(value):
            kept[name] = value
        else:
            aside[name] = value
    return kept, aside


def _is_text(value):
    return isinstance(value, str)


def is_number(value):
    """Tell whether a value is a number that can be shown: not a bool, not infinite."""
    return not isinstance(value, bool) and isinstance(value, (int, float)) and -MOST < value < MOST


def _is_dict(value):
    return isinstance(value, dict)


FIELDS = {
    "role": lambda value: value in ROLES,
    "content": _is_text,
    "reasoning": _is_text,
    "model": _is_text,
    "thought_s": is_number,
    "forgot": is_number,
    "unread_calls": is_number,
    "tool_calls": lambda value: isinstance(value, list),
    "pictures": lambda value: isinstance(value, list),
    "sources": lambda value: isinstance(value, list),
    "stats": _is_dict,
    "error": _is_dict,
}
STATS = {
    "tps": is_number,
    "ttft_s": lambda value: value is None or is_number(value),
    "tokens": is_number,
    "finish": _is_text,
}
ERROR = {"type": _is_text, "text": _is_text}
