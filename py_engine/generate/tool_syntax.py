"""Reads the inside of a tool call without trusting it: JSON, tags with parameters, or Python-like calls.

    {"name": "f", "arguments": {"x": 1}}                                   tool_json
    <function=f>\\n<parameter=x>\\n1\\n</parameter>\\n</function>               tool_tags
    [f(x=1, y="a"), g()]                                                   tool_python
    f[ARGS]{"x": 1}                                                        tool_headers

`read` tells them apart by their beginning, whatever syntax the model should use. Everything is bounded: nesting by
MAX_NESTING, time by the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from py_engine.generate.tool_headers import begins_with_header, read_headers
from py_engine.generate.tool_json import (
    ARGUMENT_KEYS,
    META,
    NAME_KEYS,
    WRAPPERS,
    in_json_string,
    read_json,
)
from py_engine.generate.tool_literals import MAX_CALLS, CallError
from py_engine.generate.tool_python import in_python_string, read_python
from py_engine.generate.tool_schema import Schemas
from py_engine.generate.tool_tags import Call, in_tag_value, read_tags

__all__ = ["Call", "CallError", "Schemas", "begins_call", "inside_value", "read"]

# What Phi-4-mini and Firefunction put before their lists.
_FUNCTOOLS = re.compile(r"\A\s*functools\s*(?=\[)")
_FENCED = re.compile(r"\s*```\w*[ \t]*\n(.*)\n[ \t]*```\s*\Z", re.DOTALL)


def read(body: str, schemas: Schemas, closed: bool = False, final: bool = False) -> list[Call]:
    """The calls of one block, at least one. Raises CallError.

    `schemas`: of the offered functions. The names and types of parameters decide how an ambiguous text is cut.
    `closed`: a mark shows that the block ends here, so brackets and closing tags may be missing at its end. `final`:
    also, nothing follows that could belong to a value that was left open.
    """
    if fenced := _FENCED.match(body):
        body = fenced[1]
    body = _FUNCTOOLS.sub("", body, count=1)
    shape = _shape(body)
    if shape == "json":
        calls = read_json(body, schemas, closed)
    elif shape == "headers":
        calls = read_headers(body, schemas, closed)
    elif shape == "tags":
        calls = read_tags(body, schemas, closed, final)
    else:
        calls = read_python(body, schemas, closed)
    if not calls:
        raise CallError("it holds no call")
    if len(calls) > MAX_CALLS:
        raise CallError(f"it holds more than {MAX_CALLS} calls")
    return calls


def inside_value(body: str) -> bool:
    """Whether a mark that follows here would stand inside a string or a parameter's value, and so be part of it."""
    shape = _shape(_FUNCTOOLS.sub("", body, count=1))
    if shape in ("json", "headers"):
        return in_json_string(body)
    return in_tag_value(body) if shape == "tags" else in_python_string(body)


def _shape(body: str) -> str:
    if re.match(r"\s*(\[\s*)?\{", body):
        return "json"
    if begins_with_header(body):
        return "headers"
    return "tags" if body.lstrip().startswith("<function=") else "python"


_FIRST_KEY = re.compile(r"\s*(?:\[\s*)?\{\s*(?:([\"'])((?:(?!\1).)*)(?:\1\s*(:)?\s*)?)?\Z")
_NAMED = re.compile(
    r"\s*(?:\[\s*)?\{\s*([\"'])((?:(?!\1).)*)\1\s*:\s*(?:([\"'])((?:(?!\3).)*)(\3)?)?"
)


def begins_call(text: str, functions: Collection[str]) -> bool | None:
    """Whether a text begins like a call of one of these functions, without a mark. None: not known yet.

    JSON is judged by its first key: a key for the name with one of the functions as value, or another key that a call
    may begin with.
    """
    text = text.lstrip()
    if not text:
        return None
    if text[0] == "<":
        return _begins_with(text, [f"<function={name}" for name in functions], ">\n")
    if re.match(r"(\[\s*)?\{", text):
        return _begins_json(text, functions)
    if text == "[" or "functools[".startswith(text):
        return None
    if text.startswith("functools["):
        return _begins_json(text.removeprefix("functools"), functions)
    line, feed, rest = text.partition("\n")
    if line.rstrip() in functions and feed and not rest.strip():
        return None  # an object may follow, as in GLM-4's calls
    if any(re.match(rf"{re.escape(name)}(?:\s*\n\s*)?\{{", text) for name in functions):
        return True
    return _begins_with(text.removeprefix("[").lstrip(), list(functions), "(")


def _begins_with(text: str, beginnings: list[str], then: str) -> bool | None:
    if any(text.startswith(begin) and text[len(begin) : len(begin) + 1] in then for begin in beginnings
           if len(text) > len(begin)):  # fmt: skip
        return True
    return None if any(begin.startswith(text) for begin in beginnings) else False


def _begins_json(text: str, functions: Collection[str]) -> bool | None:
    keys = {*NAME_KEYS, *ARGUMENT_KEYS, *WRAPPERS, *META}
    if match := _FIRST_KEY.match(text):
        key = match[2]
        if key is None:
            return None
        if text[match.end(2) :].strip():
            return None if key in keys else False
        return None if any(one.startswith(key) for one in keys) else False
    match = _NAMED.match(text)
    if match is None or match[2] not in keys:
        return False
    if match[2] not in NAME_KEYS or match[4] is None:
        return True  # another key comes first, or an object follows the key
    if match[5]:
        return match[4] in functions
    return None if any(name.startswith(match[4]) for name in functions) else False
