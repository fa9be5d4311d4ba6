"""Conversations of every shape that callers send, and the readings that docs/conversations.md describes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

Talk = list[dict[str, Any]]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Weather & more, <b>today</b>",
            "parameters": {
                "type": "object",
                "properties": {"place": {"type": "string", "description": "größe"}},
                "required": ["place"],
            },
        },
    }
]
SWITCHES: dict[str, dict[str, bool]] = {
    "unset": {},
    "on": {"enable_thinking": True},
    "off": {"enable_thinking": False},
}
CALLS = "@CALLS@"  # stands for calls that are written into the content


def say(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def call(name: str, arguments: Any, identity: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": identity, "type": "function", "function": function}


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


_ASK = say("user", "What about Alpha?")
_MORE = say("user", "And Omega then?")
_SYSTEM = say("system", "Rule one: be terse.")
_BERN = call("look_up", {"place": "Bern <1>", "days": 3}, "call00001")
_THUN = call("look_up", {"place": "Thun 'x'", "deep": {"k": ["v1", True, None]}}, "call00002")
_RESULT = say("tool", "rain & 7°", tool_call_id="call00001")

SHAPES: dict[str, Talk] = {
    "question": [_ASK],
    "system": [_SYSTEM, _ASK],
    "turns": [_SYSTEM, _ASK, say("assistant", "  Alpha is first.\n\n    code"), say("user", " ok? \n")],
    "odd texts": [say("user", '{"a": "b\\n"}\n\n\t«ü» 🐀 </s> \\d+ {{ x }} {% y %}'), say("assistant", "[]"), _MORE],
    "same texts": [say("system", "ok"), say("user", "ok"), say("assistant", "ok"), say("user", "ok")],
    "typed marks": [say("user", "a <|im_end|> <｜User｜> [INST] </think> <think> <end_of_turn>")],
    "developer": [say("developer", "Rule two: rhyme."), _ASK],
    "system and developer": [_SYSTEM, say("developer", "Rule two: rhyme."), _ASK],
    "two systems": [_SYSTEM, say("system", "Rule three: sing."), _ASK],
    "system between": [_ASK, say("assistant", "First."), say("system", "Rule four: hum."), _MORE],
    "assistant first": [say("assistant", "Welcome in."), _ASK],
    "two questions": [_ASK, _MORE],
    "two answers": [_ASK, say("assistant", "First."), say("assistant", "Second."), _MORE],
    "answer last": [_ASK, say("assistant", "It begins with")],
    "empty answer": [_ASK, say("assistant", ""), _MORE],
    "user parts": [_SYSTEM, say("user", parts("Part one, ", "part two."))],
    "system parts": [say("system", parts("Rule five.", "Rule six.")), _ASK],
    "answer parts": [_ASK, say("assistant", parts("Half an ", "answer.")), _MORE],
    "named user": [say("user", "What about Alpha?", name="Zoe")],
    "function role": [_ASK, say("function", "seven", name="look_up"), _MORE],
    "call": [_ASK, say("assistant", None, tool_calls=[_BERN]), _RESULT],
    "call with text": [_ASK, say("assistant", "Let me see.", tool_calls=[_BERN]), _RESULT],
    "call as text": [
        _ASK,
        say("assistant", "", tool_calls=[call("look_up", '{"place": "Basel"}', "call00003")]),
        say("tool", '{"temp": 7}', tool_call_id="call00003", name="look_up"),
    ],
    "two calls": [
        _ASK,
        say("assistant", None, tool_calls=[_BERN, _THUN]),
        _RESULT,
        say("tool", "snow", tool_call_id="call00002"),
        say("assistant", "Rain and snow."),
        _MORE,
    ],
    "result parts": [
        _ASK,
        say("assistant", None, tool_calls=[_BERN]),
        say("tool", parts("rain, ", "wind"), tool_call_id="call00001"),
    ],
    "thinking": [_ASK, say("assistant", "First.", reasoning_content="Old thought."), _MORE],
    "thinking in content": [_ASK, say("assistant", "<think>\nOld thought.\n</think>\n\nFirst."), _MORE],
    "thinking and call": [
        _ASK,
        say("assistant", None, reasoning_content="I must look.", tool_calls=[_BERN]),
        _RESULT,
    ],
    "thinking last": [_ASK, say("assistant", "First.", reasoning_content="New thought.")],
}  # fmt: skip
OLD_THINKING = {"Old thought.", "New thought."}  # in finished turns
WITH_TOOLS = ("question", "system", "call", "two calls")  # also with TOOLS offered


def cases() -> dict[str, tuple[Talk, list[dict[str, Any]] | None]]:
    """Name -> (messages, tools)."""
    bare = {name: (talk, None) for name, talk in SHAPES.items()}
    return {**bare, **{f"{name}, tools": (SHAPES[name], TOOLS) for name in WITH_TOOLS}}


def texts(talk: Talk) -> list[str]:
    """The texts of a conversation that its prompt must contain. Thinking in finished turns is left out."""
    found: list[str] = []
    for message in talk:
        content = message["content"]
        said = [p["text"] for p in content] if isinstance(content, list) else [content or ""]
        if message["role"] == "assistant":
            said = [text.rpartition("</think>")[2] for text in said]
        found += [*said, message.get("name", ""), message.get("reasoning_content", "")]
        for one in message.get("tool_calls", ()):
            given = one["function"]["arguments"]
            found.append(one["function"]["name"])
            found += _leaves(json.loads(given) if isinstance(given, str) else given)
    return [text.strip() for text in found if text.strip() and text not in OLD_THINKING]


def missing(talk: Talk, prompt: str) -> list[str]:
    """The texts that the prompt contains neither unchanged nor as JSON."""

    def escaped(text: str) -> str:
        return json.dumps(text, ensure_ascii=False)[1:-1]

    forms = {text: (text, escaped(text), escaped(escaped(text))) for text in texts(talk)}
    return [text for text, ways in forms.items() if not any(way in prompt for way in ways)]


def _leaves(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in (key, *_leaves(item))]
    if isinstance(value, list):
        return [text for item in value for text in _leaves(item)]
    return [value] if isinstance(value, str) else []


# ---- readings


def _each(talk: Talk, change: Callable[[dict[str, Any]], None]) -> Talk:
    changed = copy.deepcopy(talk)
    for message in changed:
        change(message)
    return changed


def _plain(message: dict[str, Any]) -> None:
    """One spelling for all: "developer" becomes "system", "function" becomes "tool", text parts become one text,
    arguments become objects."""
    role, content = message["role"], message["content"]
    message["role"] = {"developer": "system", "function": "tool"}.get(role, role)
    if isinstance(content, list):
        message["content"] = "".join(part["text"] for part in content)
    for one in message.get("tool_calls", ()):
        given = one["function"]["arguments"]
        one["function"]["arguments"] = json.loads(given) if isinstance(given, str) else given


def _joined(message: dict[str, Any]) -> None:
    role = message["role"]
    _plain(message)
    message["role"] = role


def _renamed(message: dict[str, Any]) -> None:
    content = message["content"]
    _plain(message)
    message["content"] = content


def _as_text(message: dict[str, Any]) -> None:
    _plain(message)
    for one in message.get("tool_calls", ()):
        given = one["function"]["arguments"]
        one["function"]["arguments"] = json.dumps(given, ensure_ascii=False)


def _empty(message: dict[str, Any]) -> None:
    _plain(message)
    message["content"] = message["content"] or ""


def _in_parts(message: dict[str, Any]) -> None:
    _empty(message)
    message["content"] = parts(message["content"])


def _written(message: dict[str, Any]) -> None:
    """Calls are moved into the content, with the thinking before them."""
    _empty(message)
    if message.pop("tool_calls", None):
        thought = message.pop("reasoning_content", "")
        said = f"<think>\n{thought}\n</think>\n" if thought else message["content"]
        message["content"] = f"{said}\n{CALLS}" if said else CALLS


def _thought(message: dict[str, Any]) -> None:
    """Thinking is moved into the content of the turns that call."""
    _empty(message)
    if message.get("tool_calls") and "reasoning_content" in message:
        message["content"] = f"<think>\n{message.pop('reasoning_content')}\n</think>\n"


READINGS: dict[str, Callable[[dict[str, Any]], None]] = {
    "plain": _plain,
    "joined": _joined,
    "renamed": _renamed,
    "arguments as text": _as_text,
    "empty content": _empty,
    "parts": _in_parts,
    "calls in content": _written,
    "thinking in content": _thought,
}


def readings(talk: Talk) -> dict[str, Talk]:
    """The conversation as given, and every other reading that differs from those before it."""
    found = {"given": talk}
    for name, change in READINGS.items():
        changed = _each(talk, change)
        if changed not in found.values():
            found[name] = changed
    return found
