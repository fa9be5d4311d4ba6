"""The one reader of JSON from outside: what it refuses, how fast it refuses, and that no code bypasses it."""

from __future__ import annotations

import ast
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from py_engine.errors import FormatError
from py_engine.host.json_text import (
    MAX_BYTES,
    MAX_CONTAINERS,
    MAX_NESTING,
    JsonError,
    parse_json,
    read_json,
)
from tests.test_imports import ENGINE, FILES

READER = ENGINE / "host" / "json_text.py"
DEEP = MAX_NESTING * b"[" + MAX_NESTING * b"]"
REFUSED: dict[str, tuple[bytes, str]] = {
    "100,000 lists": (b"[" * 100_000, "nest more than 64"),
    "closed ones": (b"[" * 100_000 + b"]" * 100_000, "nest more than 64"),
    "objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nest more than 64"),
    "one too deep": (b"[" + DEEP + b"]", "nest more than 64"),
    "after closing ones": (b"]" * 100_000 + b"[" * 100_000, "line 1 column 1"),
    "behind a string": (b'["\\"[[", ' + b"[" * 100_000, "nest more than 64"),
    "wide": (b"[" + b"[]," * (2 * MAX_CONTAINERS) + b"1]", "lists and objects"),
    "long": (b'"' + b"x" * MAX_BYTES + b'"', "more than the"),
    "a key twice": (b'{"a": 1, "b": {"c": 1, "c": 2}}', "'c' appears twice"),
    "NaN": (b'{"a": NaN}', "NaN is no JSON value"),
    "Infinity": (b"[-Infinity]", "Infinity is no JSON value"),
    "a huge float": (b"[1e999999]", "too large"),
    "a huge int": (b"1" * 5000, "digits"),
    "an int beyond floats": (b"-1" + b"0" * 310, "digits"),
    "half a pair": (b'"\\ud800"', "U\\+D800, half"),
    "its other half": (b'{"\\uDC00": 1}', "U\\+DC00, half"),
    "halves in the wrong order": (b'"\\udc00\\ud800"', "half"),
    "half behind a backslash": (b'"\\\\\\ud800"', "half"),
    "a surrogate as bytes": (b'"\xed\xa0\x80"', "UTF-8 at byte 1"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "UTF-8 at byte 0"),
    "UTF-16 without a mark": ('{"a": 1}'.encode("utf-16-le"), "line 1"),
    "UTF-32": ('{"a": 1}'.encode("utf-32"), "UTF-8 at byte 0"),
    "nothing": (b"", "line 1"),
    "a rest": (b"{} {}", "Extra data"),
    "NULs": (bytes(9), "line 1"),
    "a web page": (b"<html>", "line 1"),
    "a line feed in a string": (b'"\n"', "control character"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_words_and_soon(case: str) -> None:
    data, reason = REFUSED[case]
    begun = time.monotonic()
    with pytest.raises(FormatError, match=reason) as caught:
        parse_json(data, "tiny: config.json")
    assert time.monotonic() - begun < 5  # each takes less than 0.3 s on an idle machine
    message = str(caught.value)
    assert message.startswith("tiny: config.json is not valid JSON") and len(message) < 400
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "text",
    [
        DEEP.decode(),
        '{"a": [1, -2.5e3, true, false, null, "\\ud83d\\ude00 \\\\ud800 \\" [[[ \\u00e9"], "": {}}',
        '"' + "[" * 1000 + '"',
        "[" + ",".join(["{}"] * 1000) + "]",
        "1" + "0" * 299,
        "1.7976931348623157e308",
    ],
)
def test_reads_what_json_says(text: str) -> None:
    expected = json.loads(text)
    assert parse_json(text, "x") == parse_json(text.encode(), "x") == expected
    assert parse_json(b"\xef\xbb\xbf" + text.encode(), "x") == expected  # with a byte order mark


def test_memory_is_not_spent_on_what_is_refused() -> None:
    for data in (b"[" * (16 << 20), b"[]," * (10 << 20), b'"' + b"\\u0041" * (1 << 20)):
        tracemalloc.start()
        with pytest.raises(FormatError):
            parse_json(data, "x")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 << 20


def test_line_feeds_in_strings_where_they_are_allowed() -> None:
    assert read_json('{"a": "x\ny"}', strict=False) == {"a": "x\ny"}
    with pytest.raises(JsonError, match="control character"):
        read_json('{"a": "x\ny"}')


def test_configs_are_read_as_python_reads_them() -> None:
    text = '{"time_step_limit": [0.0, Infinity], "x": [-Infinity, NaN], "twice": 1, "twice": 2}'
    value = parse_json(text, "config.json", lenient=True)
    assert repr(value) == repr(json.loads(text))
    with pytest.raises(FormatError, match="Infinity is no JSON value"):
        parse_json(text, "config.json")


def readers(source: str) -> list[str]:
    """Every use of Python's own JSON parser in a source."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "json":
            found += [a.name for a in node.names if a.name not in ("dumps", "JSONEncoder")]
        elif isinstance(node, ast.Attribute) and node.attr in ("loads", "load", "JSONDecoder"):
            value: Any = node.value
            if isinstance(value, ast.Name) and "json" in value.id:
                found.append(node.attr)
        elif isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.startswith("json.")]
            found += [
                f"{a.name} as {a.asname}" for a in node.names if a.name == "json" and a.asname
            ]
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ENGINE)))
def test_nobody_else_parses_json(file: Path) -> None:
    assert bool(readers(file.read_text())) == (file == READER)


def test_the_search_finds_them() -> None:
    for source in (
        "import json\njson.loads(x)",
        "import json\nf = json.load",
        "from json import loads",
        "import json.decoder",
        "import json as j\nj.loads(x)",
        "import json\njson.JSONDecoder().decode(x)",
    ):
        assert readers(source)
