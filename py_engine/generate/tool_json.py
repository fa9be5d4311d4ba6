"""Reads tool calls written as JSON objects, or as a mix of JSON and Python in which no value is in doubt.

    {"name": "f", "arguments": {"x": 1}}        the template's own form (Qwen2.5, Qwen3); also several, also in a list
    {"name": "f", "parameters": {"x": 1}}       other keys: NAME_KEYS, ARGUMENT_KEYS; arguments may also be JSON text
    {"type": "function", "function": {...}}     as in OpenAI's API
    {"name": "f", "x": 1}                       keys beside the name, all of which are parameters of f

No key is ignored: one that is neither of these nor in META makes the call unreadable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from py_engine.generate.tool_literals import MAX_CALLS, CallError, Literals, load_json
from py_engine.generate.tool_schema import Schemas, parameters, violations

Call = tuple[str, dict[str, Any]]  # name, arguments

NAME_KEYS = ("name", "function", "tool", "tool_name", "function_name")
ARGUMENT_KEYS = ("arguments", "parameters", "args", "input", "params", "kwargs", "tool_input")
WRAPPERS = ("function", "function_call", "tool_call", "tool_calls")
META = {"id", "call_id", "tool_call_id", "index", "type"}  # keys that a caller does not need
_TYPES = ("function", "function_call", "tool_call", "tool_use")

_BETWEEN = re.compile(r"[\s,;]*")
_CLOSERS = re.compile(r"[\s\]}]*\Z")  # more brackets than were open
_DOUBLE = re.compile(r'"(?:[^"\\]|\\.)*+("|\Z)', re.DOTALL)
_EITHER = re.compile(r"([\"'])(?:(?!\1)[^\\]|\\.)*+(\1|\Z)", re.DOTALL)


def read_json(body: str, schemas: Schemas, closed: bool) -> list[Call]:
    """The calls. Raises CallError."""
    try:
        values, repaired = [load_json(body)], False
    except CallError:
        values, repaired = _values(body, schemas, closed)
    calls = [call for value in values for call in _calls(value, schemas)]
    if repaired and not all(_is_flat(arguments) for _, arguments in calls):
        raise CallError("it does not end")
    return calls


def _is_flat(arguments: Mapping[str, Any]) -> bool:
    """Whether a missing bracket can only be missing at the end: there are values, and none of them has brackets."""
    return bool(arguments) and not any(isinstance(v, (dict, list)) for v in arguments.values())


def in_json_string(body: str) -> bool:
    """Whether the text ends inside a string."""
    single, double = body.find("'"), body.find('"')
    pattern = _EITHER if 0 <= single and (single < double or double < 0) else _DOUBLE
    ended = True
    for match in pattern.finditer(body):
        ended = bool(match[match.lastindex or 0])
    return not ended


def _values(body: str, schemas: Schemas, closed: bool) -> tuple[list[Any], bool]:
    """Values of a text that is not one value of strict JSON, and whether brackets were left open at its end."""
    known = {name for function in schemas for name in parameters(schemas, function)}
    names = known and known | {*NAME_KEYS, *ARGUMENT_KEYS, *META}
    try:
        return _read_all(Literals(body, closed=closed))
    except CallError as error:
        try:
            return _read_all(Literals(body, lenient=True, names=names, closed=closed))
        except CallError:
            raise CallError(f"it is no JSON ({error})") from error


def _read_all(reader: Literals) -> tuple[list[Any], bool]:
    values = [reader.value(1)]
    while not _CLOSERS.match(reader.text, reader.at):
        between = _BETWEEN.match(reader.text, reader.at)
        assert between is not None
        reader.at = between.end()
        if reader.at == len(reader.text):
            break
        values.append(reader.value(1))
        if len(values) > MAX_CALLS:
            raise CallError(f"it holds more than {MAX_CALLS} calls")
    return values, reader.repaired


def _calls(value: Any, schemas: Schemas, wrapped: int = 0) -> list[Call]:
    if wrapped > 4:
        raise CallError("it is wrapped too often")
    if isinstance(value, list):
        return [call for item in value for call in _calls(item, schemas, wrapped + 1)]
    if not isinstance(value, Mapping):
        raise CallError("it is no object with a name")
    for key in WRAPPERS:
        inner = value.get(key)
        if isinstance(inner, (dict, list)) and _only_meta(value, (key,)):
            return _calls(inner, schemas, wrapped + 1)
    return [_call(value, schemas)]


def _only_meta(value: Mapping[str, Any], known: Iterable[str]) -> bool:
    return all(
        key in known or (key in META and (key != "type" or value[key] in _TYPES)) for key in value
    )


def _call(value: Mapping[str, Any], schemas: Schemas) -> Call:
    name_key = _name_key(value, schemas)
    name = value[name_key]
    names = parameters(schemas, name)
    rest = {key: item for key, item in value.items() if key != name_key}
    # All ways to read the call. The function's schema decides between them.
    ways = [
        found
        for key in ARGUMENT_KEYS
        if key in rest
        and _only_meta(rest, (key,))
        and (found := _as_arguments(rest[key])) is not None
    ]
    if rest and all(key in names for key in rest):
        ways.append(rest)
    elif _only_meta(rest, ()):
        ways.append({})
    if len(ways) > 1:
        allowed = [way for way in ways if not violations(way, schemas.get(name))]
        ways = allowed if len(allowed) == 1 else ways
    if len(ways) == 1:
        return name, ways[0]
    if ways:
        raise CallError(f"its keys can be read in {len(ways)} ways")
    raise CallError(_why_not(name, rest))


def _name_key(value: Mapping[str, Any], schemas: Schemas) -> str:
    """The key that holds the function's name. Where there are several, the one whose value is an offered function."""
    keys = [key for key in NAME_KEYS if isinstance(value.get(key), str) and value[key]]
    offered = [key for key in keys if value[key] in schemas]
    if not keys:
        raise CallError("it is no object with a name")
    if len(offered) > 1 and len({value[key] for key in offered}) > 1:
        raise CallError("it names two functions")
    return (offered or keys)[0]


def _as_arguments(given: Any) -> dict[str, Any] | None:
    """The arguments under a key; None when the value is neither an object nor the text of one."""
    if isinstance(given, str):
        if not given.strip():
            return {}
        try:
            reader = Literals(given)
            given = reader.value(1)
            reader.finish()
        except CallError:
            return None
    if given is None:
        return {}
    return given if isinstance(given, dict) else None


def _why_not(name: str, rest: Mapping[str, Any]) -> str:
    given = [key for key in ARGUMENT_KEYS if key in rest]
    if len(given) == 1 and _only_meta(rest, given):
        return "its arguments are no object"
    if len(given) > 1:
        return f"its arguments are given twice: {' and '.join(given)}"
    others = [key for key in rest if key not in META and key not in given]
    shown = ", ".join(repr(key[:40]) for key in others[:5])
    return f"nobody knows what these keys of the call of {name[:40]!r} mean: {shown or 'type'}"
