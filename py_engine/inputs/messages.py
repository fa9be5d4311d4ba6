"""Checks messages as callers give them (OpenAI's API, Hugging Face's templates), and brings them into one shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from py_engine.arguments import shown
from py_engine.errors import InputError
from py_engine.host.json_text import JsonError, read_json

from .tokenizer import require_text

OWN = ("assistant", "model")  # roles whose text the model wrote
RESULTS = (
    "tool",
    "function",
    "ipython",
    "observation",
)  # roles for results of calls, as templates name them
ROLES = ("system", "developer", "user", *OWN, *RESULTS, "context", "document")
# Templates have several names for thinking; the last is Command A's.
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking", "tool_plan")
MAX_DEPTH = 64  # the deepest nesting in tools, arguments and variables
_TEXT_PARTS = ("text", "input_text", "output_text")  # as the APIs name them
_SEEN_PARTS = ("image_url", "input_image", "image", "video")
_MEDIA_PARTS = (
    "image",
    "video",
)  # as take_media (media.py) leaves them, with a number in the place of their content
# These identify a message or call, or tell servers how to treat it. They are nothing for the model.
_REFERENCES = ("tool_call_id", "id", "type", "index", "status", "cache_control")

Message = Mapping[str, Any]
Visit = Callable[[str, str], str]  # (text, where it is) -> the text to put in its place


def check_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Copies of the messages, in one shape. Raises InputError.

    Keys without a value are left out. `content` is a str, or a list of parts {"type": "text", "text"} and {"type":
    "image" or "video"} (media.py has taken their content), or absent when an assistant only called or thought. Thinking
    is under each of REASONING_KEYS, or under none. `tool_calls` is absent, or a list of {id, type, function: {name,
    arguments}} with a dict of arguments. A tool's result has the `name` of its call."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise InputError("messages must be a list of {'role': ..., 'content': ...}")
    if not messages:
        raise InputError("messages is empty: give at least one")
    checked: list[dict[str, Any]] = []
    called: dict[str, str] = {}  # names of the called functions, by the ids of the calls
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, Mapping):
            raise InputError(f"{where} must be a dict with role and content")
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise InputError(f"{where}: role {shown(role)} is not one of {', '.join(ROLES)}")
        kept = {key: value for key, value in message.items() if value is not None}
        if role in OWN:
            kept = _assistant(kept, where)
            called.update({c["id"]: c["function"]["name"] for c in kept.get("tool_calls", ())})
        elif kept.pop("tool_calls", None):
            raise InputError(f"{where}.tool_calls: only an assistant calls tools, not {role!r}")
        elif role == "tool" and "name" not in kept:  # some templates print it
            name = called.get(str(kept.get("tool_call_id")))
            kept = {**kept, "name": name} if name else kept
        content = kept.get("content")
        if isinstance(content, (list, tuple)):
            kept["content"] = [_part(p, f"{where}.content[{n}]") for n, p in enumerate(content)]
        elif content is None:
            if role not in OWN or not (kept.get("tool_calls") or kept.get("reasoning")):
                raise InputError(f"{where}: content is missing")
        elif not isinstance(content, str):
            raise InputError(
                f"{where}: content must be a str or a list of parts, not {type(content).__name__}"
            )
        checked.append(kept)
    return checked


def joined(content: Any) -> str:
    """The text of a content: its parts joined, with nothing between them. Pictures have none."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or ())


def has_media(content: Any) -> bool:
    """Whether a checked content holds a picture or a video."""
    return isinstance(content, list) and any("text" not in part for part in content)


def asked_last(messages: Sequence[Message]) -> int:
    """Index of the last message of a person; -1 without one. Turns before it are finished."""
    return max((i for i, message in enumerate(messages) if message["role"] == "user"), default=-1)


def each_text(message: Message, where: str, visit: Visit) -> dict[str, Any]:
    """The message with every text for the model replaced by what `visit` gives. Not replaced: the role, an assistant's
    thinking, and keys that only identify a message or call."""
    seen: dict[str, Any] = {}
    left = ("role", *_REFERENCES, *(REASONING_KEYS if message["role"] in OWN else ()))
    for key, value in message.items():
        at = f"{where}.{key}"
        if key in left:
            seen[key] = value
        elif key == "content" and isinstance(value, list):
            seen[key] = [
                {**part, "text": visit(part["text"], f"{at}[{n}]")} if "text" in part else part
                for n, part in enumerate(value)
            ]
        elif key == "tool_calls":
            seen[key] = [_each_of_call(call, f"{at}[{n}]", visit) for n, call in enumerate(value)]
        else:
            seen[key] = _each(value, at, visit)
    return seen


def all_texts(value: Any, where: str = "", depth: int = 0) -> list[str]:
    """All strings inside a value. Raises InputError for lone surrogates, and for nesting deeper than MAX_DEPTH."""
    if depth > MAX_DEPTH:
        raise InputError(f"{where} is nested more than {MAX_DEPTH} deep")
    if isinstance(value, str):
        return [require_text(value, where)]
    if isinstance(value, (bytes, bytearray)):
        raise InputError(f"{where} must be a str, not {type(value).__name__}")
    if isinstance(value, Mapping):
        found = []
        for key, item in value.items():
            if not isinstance(key, str):
                raise InputError(f"{where}: key {shown(key)} must be a str")
            name = f"{where}.{key}" if where else key
            found += [
                require_text(key, f"a key of {where}"),
                *all_texts(item, name, depth + 1),
            ]
        return found
    if isinstance(value, (list, tuple)):
        return [
            text
            for index, item in enumerate(value)
            for text in all_texts(item, f"{where}[{index}]", depth + 1)
        ]
    return []


def _each_of_call(call: Message, where: str, visit: Visit) -> dict[str, Any]:
    function = call["function"]
    at = f"{where}.function"
    return {
        **call,
        "function": {
            **function,
            "name": visit(function["name"], f"{at}.name"),
            "arguments": _each(function["arguments"], f"{at}.arguments", visit, keys=True),
        },
    }


def _each(value: Any, where: str, visit: Visit, keys: bool = False) -> Any:
    if isinstance(value, str):
        return visit(value, where)
    if isinstance(value, Mapping):
        return {
            visit(key, where) if keys else key: _each(item, f"{where}.{key}", visit, keys)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_each(item, f"{where}[{n}]", visit, keys) for n, item in enumerate(value)]
    return value


def _assistant(message: Message, where: str) -> dict[str, Any]:
    kept = {k: v for k, v in message.items() if k not in (*REASONING_KEYS, "tool_calls")}
    for key in REASONING_KEYS:
        reasoning = message.get(key)
        if reasoning is None or reasoning == "":
            continue
        if not isinstance(reasoning, str):
            raise InputError(f"{where}.{key} must be a str, not {type(reasoning).__name__}")
        if kept.get("reasoning", reasoning) != reasoning:
            raise InputError(
                f"{where}.{key} differs from the thinking under another of its names "
                f"({', '.join(REASONING_KEYS)}): give one"
            )
        kept.update(dict.fromkeys(REASONING_KEYS, reasoning))
    calls = message.get("tool_calls")
    if calls is not None and not isinstance(calls, (list, tuple)):
        raise InputError(f"{where}.tool_calls must be a list, not {type(calls).__name__}")
    if calls:
        kept["tool_calls"] = [
            _call(call, f"{where}.tool_calls[{number}]") for number, call in enumerate(calls)
        ]
    return kept


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InputError(f"{where} must be {{'function': {{'name': ..., 'arguments': ...}}}}")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = read_json(arguments) if arguments.strip() else {}
        except JsonError as error:
            raise InputError(f"{where}.function.arguments is not valid JSON ({error})") from error
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise InputError(f"{where}.function.arguments must be an object, or its JSON text")
    _no_more_text(call, where, ("function", "name", "arguments"))
    _no_more_text(function, f"{where}.function", ("name", "arguments"))
    identity = call.get("id")
    return {
        **{k: v for k, v in call.items() if k not in ("name", "arguments")},
        "id": str(identity) if isinstance(identity, (str, int)) else "",
        "type": "function",
        "function": {"name": function["name"], "arguments": dict(arguments)},
    }


def _part(part: Any, where: str) -> dict[str, Any]:
    if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
        raise InputError(f"{where} must be a dict with a type, as 'text'")
    if part["type"] in _MEDIA_PARTS and part.keys() == {"type", "medium"}:
        return {"type": part["type"]}
    if part["type"] not in _TEXT_PARTS:
        taken = "text only" if part["type"] in _SEEN_PARTS else "text, pictures and videos"
        raise InputError(f"{where}: models are given {taken}, not {shown(part['type'])}")
    if not isinstance(part.get("text"), str):
        raise InputError(f"{where}: a text part needs its text, a str")
    _no_more_text(part, where, ("text",))
    return {"type": "text", "text": part["text"]}


def _no_more_text(given: Message, where: str, known: Sequence[str]) -> None:
    """Raise InputError for a text under other keys than these, since it would not be in the prompt."""
    for key, value in given.items():
        if key in known or key in _REFERENCES:
            continue
        if any(all_texts(value, f"{where}.{key}")):
            raise InputError(f"{where}.{key}: only {' and '.join(known)} can be in the prompt")
