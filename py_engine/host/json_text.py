"""The one reader of JSON that comes from outside. It trusts neither the depth nor the size of a text.

Python's parser recurses in C. In CPython too much of it is a RecursionError; in Pyodide it overflows the
JavaScript stack, which ends the interpreter for good ("Maximum call stack size exceeded", fatal; seen in
0.27.7 and 314.0.7). So nesting is measured first, without recursion. Code that walks a value from
here may recurse: the value is at most MAX_NESTING deep.

Where RFC 8259 leaves something open, only texts with one clear meaning are read: no key given twice, no NaN or
Infinity, no number that a float cannot hold, no half of a surrogate pair, and UTF-8 only (with or without a byte order
mark). Configs of models are read as leniently as Python's own reader, and so transformers, reads them.
"""

from __future__ import annotations

import json
import math
import re
from itertools import accumulate
from typing import Any

from py_engine.errors import FormatError

MAX_NESTING = 64
MAX_BYTES = 32 << 20  # the largest indexes of sharded models have about 10 MB
MAX_DIGITS = 300  # of a whole number, so that a float can hold it
MAX_CONTAINERS = 2 << 20  # objects and lists in one text: 64 bytes of memory or more each

# An unfinished string matches up to the end of the text, so any text is scanned only once.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = bytes(1 if byte in b"[{" else 255 if byte in b"]}" else 0 for byte in range(256))
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_HALVES = re.compile(
    r"\\u(d[89ab][0-9a-f]{2})\\u(?:d[c-f][0-9a-f]{2})|\\u(d[89a-f][0-9a-f]{2})|\\.",
    re.DOTALL | re.IGNORECASE,
)


class JsonError(ValueError):
    """A text is no JSON, or beyond the limits here. The message says only why; it does not name the text."""


def parse_json(
    data: bytes | str, what: str, limit: int = MAX_BYTES, *, lenient: bool = False
) -> Any:
    """As `read_json`, but raises FormatError, which names `what`."""
    try:
        return read_json(data, limit=limit, lenient=lenient)
    except JsonError as error:
        raise FormatError(
            f"{what} is not valid JSON ({error}): the download may be cut or a page of a web server; "
            "fetch it again"
        ) from None


def read_json(
    data: bytes | str, *, limit: int = MAX_BYTES, strict: bool = True, lenient: bool = False
) -> Any:
    """The value of a JSON text of at most `limit` bytes.

    `strict=False`: strings may hold line feeds and other control characters. `lenient`: as Python's reader, accept NaN
    and Infinity, and of a key that is given twice take the last; the caller must check such values. Raises JsonError.
    """
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if len(raw) > limit:
        raise JsonError(f"it has {len(raw)} bytes, more than the {limit} that such a text may have")
    _check_nesting(raw)
    try:
        text = raw.decode("utf-8-sig")
        if _SURROGATE.search(raw):
            _check_surrogates(text)
        return json.loads(
            text,
            strict=strict,
            object_pairs_hook=None if lenient else _unique,
            parse_int=_bounded,
            parse_float=_finite,
            parse_constant=float if lenient else _no_constant,
        )
    except UnicodeDecodeError as error:
        raise JsonError(f"it is not UTF-8 at byte {error.start}") from None
    except JsonError:
        raise
    except (ValueError, RecursionError) as error:
        raise JsonError(str(error)) from None


def _check_nesting(raw: bytes) -> None:
    brackets = _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS)
    if len(brackets) > 2 * MAX_CONTAINERS:
        raise JsonError(f"it has more than {MAX_CONTAINERS} lists and objects")
    steps = memoryview(brackets.translate(_STEPS)).cast("b")
    if max(accumulate(steps), default=0) > MAX_NESTING:
        raise JsonError(f"its brackets nest more than {MAX_NESTING} deep")


def _check_surrogates(text: str) -> None:
    for match in _HALVES.finditer(text):
        if match[2]:
            raise JsonError(f"it holds U+{match[2].upper()}, half of a surrogate pair")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise JsonError(f"{_short(key)} appears twice in one object")
            seen.add(key)
    return made


def _bounded(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise JsonError(f"the number {_short(text)} has more than {MAX_DIGITS} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise JsonError(f"the number {_short(text)} is too large")
    return value


def _no_constant(text: str) -> Any:
    raise JsonError(f"{text} is no JSON value")


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
