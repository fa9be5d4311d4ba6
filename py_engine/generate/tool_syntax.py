"""What stands inside a tool call, read without trusting it: JSON, tags with parameters, or Python-like calls.

    {"name": "f", "arguments": {"x": 1}}                                   Qwen2.5, Qwen3 (also a list of them)
    <function=f>\\n<parameter=x>\\n1\\n</parameter>\\n</function>               Qwen3.5
    [f(x=1, y="a"), g()]                                                   LFM2, LFM2.5

`read` tells them apart by how they begin. Everything is bounded: nesting by MAX_NESTING, time by the text's length.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from py_engine.host.json_text import MAX_NESTING, JsonError, read_json

Call = tuple[str, dict[str, Any]]  # name, arguments
Schemas = Mapping[str, Mapping[str, Any]]  # function -> parameter -> its JSON schema

_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*+("|\Z)', re.DOTALL)


class CallError(ValueError):
    """A tool call that cannot be read; the message says why."""


def read(body: str, schemas: Schemas) -> list[Call]:
    """The calls of one block, at least one. Raises CallError."""
    shape = _shape(body)
    if shape == "json":
        calls = _read_json(body)
    elif shape == "tags":
        calls = _read_tags(body, schemas)
    else:
        calls = _PythonCalls(body).read()
    if not calls:
        raise CallError("it holds no call")
    return calls


def inside_value(body: str) -> bool:
    """Whether a mark that follows here would stand inside a string or a parameter's value, and so be part of it."""
    shape = _shape(body)
    if shape == "json":
        ends = [match[1] for match in _JSON_STRING.finditer(body)]
        return bool(ends) and not ends[-1]
    if shape == "tags":
        return body.rfind("<parameter=") > body.rfind("</parameter>")
    return _PythonCalls(body).ends_in_string()


def _shape(body: str) -> str:
    if re.match(r"\s*(\[\s*)?\{", body):
        return "json"
    return "tags" if body.lstrip().startswith("<function=") else "python"


# ---- JSON --------------------------------------------------------------------------------------------------------


def load_json(text: str) -> Any:
    """A value of strict JSON, except that strings may hold line feeds. Raises CallError, also for a key that is given
    twice: nobody knows which one was meant."""
    try:
        return read_json(text, strict=False)
    except JsonError as error:
        raise CallError(f"it is no JSON ({error})") from error


def _put(arguments: dict[str, Any], key: str, value: Any) -> None:
    if key in arguments:
        raise CallError(f"{key!r} is given twice")
    arguments[key] = value


def _read_json(body: str) -> list[Call]:
    value = load_json(body)
    return [_json_call(item) for item in (value if isinstance(value, list) else [value])]


def _json_call(value: Any) -> Call:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        raise CallError("it is no object with a name")
    arguments = value.get("arguments")
    if isinstance(arguments, str):  # JSON in JSON, as OpenAI's API has it
        arguments = load_json(arguments)
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise CallError("its arguments are no object")
    return value["name"], arguments


# ---- tags --------------------------------------------------------------------------------------------------------

_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>\s*")
_FUNCTION_END = re.compile(r"\s*</function>\s*")
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>")
# A value may hold the closing tag itself: the one counts after which the format goes on.
_VALUE_END = re.compile(r"</parameter>(?=\s*(?:<parameter=[^>\n]+>|</function>))")


def _read_tags(body: str, schemas: Schemas) -> list[Call]:
    calls: list[Call] = []
    at = 0
    while match := _FUNCTION.match(body, at):
        name, at = match[1].strip(), match.end()
        arguments: dict[str, Any] = {}
        while match := _PARAMETER.match(body, at):
            end = _VALUE_END.search(body, match.end())
            if end is None:
                raise CallError(f"the parameter {match[1]!r} does not end")
            key, text = match[1].strip(), body[match.end() : end.start()]
            text = text.removeprefix("\n").removesuffix("\n")
            _put(arguments, key, typed(text, schemas.get(name, {}).get(key)))
            at = end.end()
        match = _FUNCTION_END.match(body, at)
        if match is None:
            raise CallError(f"the function {name!r} does not end")
        at = match.end()
        calls.append((name, arguments))
    if at < len(body):
        raise CallError("something stands beside its functions")
    return calls


def typed(text: str, schema: Any) -> Any:
    """A parameter's text as the value that its JSON schema wants; what does not fit it stays text.

    Without a schema, objects and lists are read as JSON and all else is text. Templates print Python's True and None.
    """
    kinds = _kinds(schema)
    if kinds == {"string"}:
        return text
    word = {"true": True, "false": False, "null": None, "none": None}
    stripped = text.strip()
    if stripped.lower() in word:
        value: Any = word[stripped.lower()]
    else:
        try:
            value = load_json(stripped)
        except CallError:
            return text
    if "integer" in kinds and isinstance(value, float) and value.is_integer():
        value = int(value)
    fits = _kind(value) in kinds or ("number" in kinds and _kind(value) == "integer")
    if not kinds:
        fits = isinstance(value, (dict, list))
    return value if fits else text


def _kinds(schema: Any) -> set[str]:
    """The `type`s that a schema allows, those of anyOf and oneOf among them; empty when it does not say."""
    if not isinstance(schema, Mapping):
        return set()
    given = schema.get("type")
    kinds = {given} if isinstance(given, str) else set()
    if isinstance(given, list):
        kinds = {kind for kind in given if isinstance(kind, str)}
    for key in ("anyOf", "oneOf"):
        choices = schema.get(key)
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, Mapping) and isinstance(choice.get("type"), str):
                kinds.add(choice["type"])
    return kinds


def _kind(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return "null" if value is None else names.get(type(value), "object")


# ---- Python-like calls -------------------------------------------------------------------------------------------

_NAME = re.compile(
    r"[^\s()\[\]{},='\":]+"
)  # wider than Python's: `from=` and `get-time()` are meant as names
_NUMBER = re.compile(r"[-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_WORDS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
_SPACE = re.compile(r"\s*")
_STRING_ENDS = re.compile(r"\s*(?:[,)\]}:]|\Z)")
_ESCAPE = re.compile(
    r"\\(\n|[\\'\"abfnrtv]|[0-7]{1,3}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})"
)
_ESCAPED = {"\n": "", "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class _PythonCalls:
    """A list of calls with keyword arguments, or one call without the list. Values are Python's or JSON's literals.

    Read by hand, not by `ast`: models use keywords as names (`from=`), and templates print strings between quotes
    without escaping what is in them. So a quote ends its string only where the list can go on after it, and a string
    may hold line feeds.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def read(self) -> list[Call]:
        """The calls. Raises CallError."""
        listed = self._take("[")
        calls: list[Call] = []
        while not (listed and self._take("]")):
            calls.append(self._call())
            if not self._take(","):
                if listed:
                    self._want("]")
                break
        self._skip()
        if self._at < len(self._text):
            raise self._error("the end")
        return calls

    def ends_in_string(self) -> bool:
        """Whether the text ends inside a string."""
        while self._at < len(self._text):
            if self._text[self._at] in "'\"":
                if self._string() is None:
                    return True
            else:
                self._at += 1
        return False

    def _call(self) -> Call:
        name = self._name()
        self._want("(")
        arguments: dict[str, Any] = {}
        while not self._take(")"):
            key = self._name()
            self._want("=")
            _put(arguments, key, self._value(1))
            if not self._take(","):
                self._want(")")
                break
        return name, arguments

    def _value(self, depth: int) -> Any:
        if depth > MAX_NESTING:
            raise CallError(f"it nests more than {MAX_NESTING} deep")
        self._skip()
        if self._text[self._at : self._at + 1] in ("'", '"'):
            text = self._string()
            if text is None:
                raise CallError("a string does not end")
            return text
        if self._take("{"):
            return self._object(depth)
        for begin, end in ("[]", "()"):
            if self._take(begin):
                return self._items(end, depth)
        if number := _NUMBER.match(self._text, self._at):
            self._at = number.end()
            return _number(number[0])
        word = self._name()
        if word not in _WORDS:
            raise CallError(f"{word[:40]!r} is no value")
        return _WORDS[word]

    def _items(self, end: str, depth: int) -> list[Any]:
        items: list[Any] = []
        while not self._take(end):
            items.append(self._value(depth + 1))
            if not self._take(","):
                self._want(end)
                break
        return items

    def _object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not self._take("}"):
            key = self._value(depth + 1)
            if not isinstance(key, str):
                raise CallError("a key is no string")
            self._want(":")
            _put(found, key, self._value(depth + 1))
            if not self._take(","):
                self._want("}")
                break
        return found

    def _string(self) -> str | None:
        """The string that begins here; None when it does not end."""
        text, quote = self._text, self._text[self._at]
        if text.startswith(quote * 3, self._at):
            quote *= 3
        begin = at = self._at + len(quote)
        while at < len(text):
            if text[at] == "\\":
                at += 2
            elif text.startswith(quote, at) and _STRING_ENDS.match(text, at + len(quote)):
                self._at = at + len(quote)
                return _ESCAPE.sub(_unescaped, text[begin:at])
            else:
                at += 1
        self._at = len(text)
        return None

    def _name(self) -> str:
        self._skip()
        match = _NAME.match(self._text, self._at)
        if match is None:
            raise self._error("a name")
        self._at = match.end()
        return match[0]

    def _skip(self) -> None:
        match = _SPACE.match(self._text, self._at)
        assert match is not None
        self._at = match.end()

    def _take(self, sign: str) -> bool:
        self._skip()
        taken = self._text.startswith(sign, self._at)
        self._at += len(sign) * taken
        return taken

    def _want(self, sign: str) -> None:
        if not self._take(sign):
            raise self._error(repr(sign))

    def _error(self, wanted: str) -> CallError:
        found = self._text[self._at : self._at + 20]
        return CallError(
            f"{wanted} is missing before {found!r}" if found else f"{wanted} is missing"
        )


def _number(text: str) -> int | float:
    try:
        value: int | float = float(text) if re.search(r"[.eE]", text) else int(text)
    except ValueError as error:
        raise CallError(f"{text[:40]} is no number ({error})") from error
    if not math.isfinite(value):
        raise CallError(f"{text[:40]} is too large")
    return value


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] in "xuU":
        number = int(code[1:], 16)
    elif code[0] in "01234567":
        number = int(code, 8)
    else:
        return _ESCAPED.get(code, code)
    return chr(number) if number <= 0x10FFFF else match[0]
