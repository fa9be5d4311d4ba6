"""JSON that came from outside, parsed without trusting how deep it is nested.

Python's parser recurses in C. In CPython too much of it is a RecursionError; in Pyodide it overflows the
JavaScript stack, which ends the interpreter for good ("Maximum call stack size exceeded", fatal; seen in
0.27.7). So nesting is measured first, without recursion.
"""

from __future__ import annotations

import json
import re
from typing import Any

from py_engine.errors import FormatError

MAX_NESTING = 64

# A string that never ends runs to the end of the text: then every text is read once, whatever it holds.
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def nests_safely(data: bytes | str) -> bool:
    """Whether the brackets outside strings close, and nest at most MAX_NESTING deep."""
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    brackets = _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS)
    for _ in range(MAX_NESTING):
        if not brackets:
            break
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return not brackets


def parse_json(data: bytes | str, what: str) -> Any:
    """The value. Raises FormatError, which names `what`, for what is no JSON or nested more than
    MAX_NESTING deep."""
    if not nests_safely(data):
        raise FormatError(
            f"{what} is not valid JSON: its brackets do not close, or nest more than {MAX_NESTING} deep; "
            "the download may be cut: fetch it again"
        )
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"{what} is not valid JSON ({error}): the download may be cut or a page of a web server; "
            "fetch it again"
        ) from error
