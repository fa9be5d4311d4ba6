"""Tool calls written as a name with a JSON object of arguments behind it, one after another:

f[ARGS]{"x": 1}                     Mistral Small 3.2, Devstral, Ministral 3; with an id: f[CALL_ID]aB3xY9zK1[ARGS]{...}
f\\n{"x": 1}                         GLM-4
<function=f>{"x": 1}</function>     Llama 3.1's own tags, Functionary 3.1
"""

from __future__ import annotations

import re
from typing import Any

from py_engine.generate.tool_literals import MAX_CALLS, CallError, Literals
from py_engine.generate.tool_schema import Schemas, parameters

Call = tuple[str, dict[str, Any]]  # name, arguments

_HEADER = re.compile(
    r"[\s,;]*(?:<function=([^\s<>{}=]+)>|([^\s()\[\]{}<>,;:='\"`]+)(?:\[CALL_ID\][\w-]*)?(?:\[ARGS\])?)\s*(?=\{)"
)
_END = re.compile(r"\s*</function>")
_OVER = re.compile(r"[\s,;]*\Z")


def begins_with_header(body: str) -> bool:
    """Whether a text begins as such calls do."""
    return _HEADER.match(body) is not None


def read_headers(body: str, schemas: Schemas, closed: bool) -> list[Call]:
    """The calls. Raises CallError."""
    try:
        return _read(Literals(body, closed=closed))
    except CallError as error:
        names = {name for function in schemas for name in parameters(schemas, function)}
        try:
            return _read(Literals(body, lenient=True, names=names, closed=closed))
        except CallError:
            raise CallError(f"it is no JSON ({error})") from error


def _read(reader: Literals) -> list[Call]:
    calls: list[Call] = []
    while header := _HEADER.match(reader.text, reader.at):
        reader.at = header.end()
        arguments = reader.value(1)
        if end := _END.match(reader.text, reader.at) if header[1] else None:
            reader.at = end.end()
        calls.append((header[1] or header[2], arguments))
        if len(calls) > MAX_CALLS:
            raise CallError(f"it holds more than {MAX_CALLS} calls")
    if not _OVER.match(reader.text, reader.at):
        raise CallError("something stands beside its calls")
    return calls
