"""What the offered tools allow: names and types of their parameters, from JSON schemas that were not checked.

These keys are read: `type` (also with other names, such as "float"), `enum`, `const`, `anyOf`, `oneOf`, `allOf`, `$ref`
into the schema itself, `properties`, `required`, `additionalProperties`, `items`, and limits of numbers and lengths.
Other keys of a schema forbid nothing here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from py_engine.generate.tool_literals import CallError, load_literal

Schemas = Mapping[str, Mapping[str, Any]]  # function -> JSON schema of the object of its arguments

MAX_STEPS = 20_000  # of one check, since a schema may refer to itself
MAX_PARTS = 256  # of one schema, with those that it refers to
MAX_DEPTH = 128  # of values and the schemas that they refer to
MAX_TOLD = 5  # violations that are reported of one call

_OTHER_NAMES = {
    "str": "string", "text": "string", "int": "integer", "float": "number", "double": "number", "bool": "boolean",
    "list": "array", "tuple": "array", "dict": "object", "map": "object", "none": "null",
}  # fmt: skip
_LEADING_ZEROS = re.compile(r"\A0+(?=\d)")
_KINDS = {"string", "integer", "number", "boolean", "array", "object", "null"}


def parameters(schemas: Schemas, function: str) -> dict[str, Any]:
    """The schemas of a function's parameters by name; empty when they are not known."""
    root = schemas.get(function, {})
    found: dict[str, Any] = {}
    for part in _parts(root, root, choices=True):
        for name, schema in _mapping(part.get("properties")).items():
            found[name] = {"anyOf": [found[name], schema]} if name in found else schema
    return found


def typed(text: str, schema: Any, root: Any = None) -> Any:
    """The text of a parameter as the value that its JSON schema wants. Text that does not fit the schema stays text.

    `root`: the schema that `$ref` refers to. Where a string is wanted, any text stays as it is. Other values are read
    as JSON, else as Python's literals. Without a schema, objects and lists are read; everything else stays text.
    """
    kinds = kinds_of(schema, root)
    if kinds == {"string"}:
        return text
    word = {"true": True, "false": False, "null": None, "none": None}
    stripped = text.strip()
    if kinds and kinds <= {"integer", "number"}:
        stripped = _LEADING_ZEROS.sub("", stripped)
    if stripped.lower() in word:
        value: Any = word[stripped.lower()]
    else:
        try:
            value = load_literal(stripped)
        except CallError:
            return text
    if not kinds:
        return value if isinstance(value, (dict, list)) else text
    if isinstance(value, str):
        # A string between quotes. Where the schema may want a string, the quotes belong to it.
        return text if "string" in kinds else value
    if "integer" in kinds and isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if _is(value, kinds) else text


def kinds_of(schema: Any, root: Any = None) -> set[str]:
    """The types that a schema allows, those of its choices included. Empty when it does not say."""
    kinds: set[str] = set()
    for part in _parts(schema, root, choices=True):
        given = part.get("type")
        for name in given if isinstance(given, list) else [given]:
            if isinstance(name, str):
                kinds.add(_OTHER_NAMES.get(name.lower(), name.lower()))
        values = part.get("enum") if "type" not in part else None
        if "const" in part and "type" not in part:
            values = [part["const"]]
        if isinstance(values, list):
            kinds.update(_kind(value) for value in values)
        if part.get("nullable") is True:
            kinds.add("null")
    return kinds


def violations(arguments: Mapping[str, Any], root: Any) -> list[str]:
    """How the arguments of a call break its schema, in words, at most MAX_TOLD. An empty schema allows everything."""
    check = _Check(root)
    parts = list(_parts(root, root, choices=True))
    names = {name for part in parts for name in _mapping(part.get("properties"))}
    told: list[str] = []
    for message in check.object(arguments, root, ""):
        told.append(message)
        if len(told) == MAX_TOLD:
            return told
    says = any("additionalProperties" in part or "patternProperties" in part for part in parts)
    if names and not says:
        told += [f"it has no parameter {key[:40]!r}" for key in arguments if key not in names]
    return told[:MAX_TOLD]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _parts(schema: Any, root: Any, choices: bool = False) -> Iterator[Mapping[str, Any]]:
    """A schema, the schemas it refers to, and its parts (`allOf`; with `choices` also `anyOf` and `oneOf`)."""
    waiting, seen = [schema], 0
    while waiting and seen < MAX_PARTS:
        part = waiting.pop()
        seen += 1
        if not isinstance(part, Mapping):
            continue
        yield part
        if "$ref" in part:
            waiting.append(_referred(part["$ref"], root))
        for key in ("allOf", "anyOf", "oneOf") if choices else ("allOf",):
            several = part.get(key)
            waiting += several if isinstance(several, list) else []


def _referred(reference: Any, root: Any) -> Any:
    """The schema that `#/...` refers to; None when there is none."""
    if not isinstance(reference, str) or not (reference + "/").startswith("#/"):
        return None
    found = root
    for step in reference[1:].split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


def _kind(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return "null" if value is None else names.get(type(value), "object")


def _is(value: Any, kinds: set[str]) -> bool:
    kind = _kind(value)
    if kind == "integer" or (kind == "number" and value.is_integer()):
        return bool(kinds & {"integer", "number"})
    return kind in kinds


def _shown(value: Any) -> str:
    text = json.dumps(
        value, ensure_ascii=False, default=repr
    )  # a schema may hold any Python object
    return text if len(text) <= 40 else text[:37] + "..."


_LIMITS: dict[str, tuple[tuple[type, ...], Callable[[Any, float], bool], str]] = {
    "minimum": ((int, float), lambda value, limit: value >= limit, "at least"),
    "maximum": ((int, float), lambda value, limit: value <= limit, "at most"),
    "exclusiveMinimum": ((int, float), lambda value, limit: value > limit, "more than"),
    "exclusiveMaximum": ((int, float), lambda value, limit: value < limit, "less than"),
    "minLength": ((str,), lambda value, limit: len(value) >= limit, "of a length of at least"),
    "maxLength": ((str,), lambda value, limit: len(value) <= limit, "of a length of at most"),
    "minItems": ((list,), lambda value, limit: len(value) >= limit, "of a length of at least"),
    "maxItems": ((list,), lambda value, limit: len(value) <= limit, "of a length of at most"),
}  # fmt: skip


class _Check:
    """One check of a value. After MAX_STEPS it finds nothing more."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._steps = 0

    def value(self, value: Any, schema: Any, where: str, depth: int = 0) -> Iterator[str]:
        self._steps += 1
        if self._steps > MAX_STEPS or depth > MAX_DEPTH:
            return
        if schema is False:
            yield f"{where} is not allowed"
        if not isinstance(schema, Mapping):
            return
        yield from self._own(value, schema, where)
        if isinstance(value, dict):
            yield from self.object(value, schema, where, depth)
        elif isinstance(value, list) and "items" in schema:
            for index, item in enumerate(value):
                yield from self.value(item, schema["items"], f"{where}[{index}]", depth + 1)
        if "$ref" in schema:
            yield from self.value(value, _referred(schema["$ref"], self._root), where, depth + 1)
        yield from self._combined(value, schema, where, depth)

    def object(
        self, value: Mapping[str, Any], schema: Any, where: str, depth: int = 0
    ) -> Iterator[str]:
        """Check names and values of an object. Where the object is the arguments themselves, also what the schema
        refers to."""
        self._steps += 1
        if not isinstance(schema, Mapping) or self._steps > MAX_STEPS or depth > MAX_DEPTH:
            return
        inner = f"{where}." if where else ""
        required = schema.get("required")
        for key in required if isinstance(required, list) else ():
            if isinstance(key, str) and key not in value:
                yield f"{inner}{key} is missing"
        properties = _mapping(schema.get("properties"))
        others = schema.get("additionalProperties", True)
        if "patternProperties" in schema:
            others = True
        for key, item in value.items():
            if key in properties:
                yield from self.value(item, properties[key], f"{inner}{key}", depth + 1)
            elif others is False:
                yield f"it has no parameter {f'{inner}{key}'[:40]!r}"
            else:
                yield from self.value(item, others, f"{inner}{key}", depth + 1)
        if not where:
            if "$ref" in schema:
                referred = _referred(schema["$ref"], self._root)
                yield from self.object(value, referred, where, depth + 1)
            yield from self._combined(value, schema, where, depth)

    def _own(self, value: Any, schema: Mapping[str, Any], where: str) -> Iterator[str]:
        """Check a value by itself, without its items."""
        if "type" in schema:
            kinds = kinds_of({"type": schema["type"], "nullable": schema.get("nullable")})
            # Unknown types allow everything. 3.0 is an integer in JSON Schema.
            if kinds and kinds <= _KINDS and not _is(value, kinds):
                yield f"{where} is {_shown(value)}, not of type {' or '.join(sorted(kinds))}"
                return
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(values, list) and not any(_same(value, one) for one in values):
            yield f"{where} is {_shown(value)}, none of {_shown(values)}"
        for key, (types, holds, words) in _LIMITS.items():
            limit = schema.get(key)
            if isinstance(limit, bool) or not isinstance(limit, (int, float)):
                continue
            if isinstance(value, types) and not isinstance(value, bool) and not holds(value, limit):
                yield f"{where} is {_shown(value)}, not {words} {limit}"

    def _combined(
        self, value: Any, schema: Mapping[str, Any], where: str, depth: int
    ) -> Iterator[str]:
        def of(choice: Any) -> Iterator[str]:
            if not where and isinstance(value, Mapping):
                return self.object(value, choice, where, depth + 1)
            return self.value(value, choice, where, depth + 1)

        every = schema.get("allOf")
        for choice in every if isinstance(every, list) else ():
            yield from of(choice)
        for key in ("anyOf", "oneOf"):
            choices = schema.get(key)
            if not isinstance(choices, list) or not choices:
                continue
            first = None
            for choice in choices:
                wrong = next(of(choice), None)
                if wrong is None:
                    break
                first = first or wrong
            else:
                what = f"{where} is {_shown(value)}" if where else "it is"
                yield f"{what}, none of the choices of its schema ({first})"


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
