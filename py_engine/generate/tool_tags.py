"""Reads tool calls written as tags with parameters, as Qwen3.5 and Qwen3-Coder write them:

    <function=f>\\n<parameter=x>\\n1\\n</parameter>\\n</function>

Values are not escaped, so they may hold such tags themselves. Three readings are tried, the surest first:

    balanced    every value holds as many opening tags as closing ones, so an example of a call may be part of it
    plain       a value ends at the first closing tag after which the format continues, with a parameter of the function
    repaired    closing tags are missing: the next tag ends a value, and no value holds a tag

Names of parameters come from the schema. A text that could come from two different values is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from py_engine.generate.tool_literals import SPACE, CallError, put
from py_engine.generate.tool_schema import Schemas, kinds_of, parameters, typed, violations

Call = tuple[str, dict[str, Any]]  # name, arguments

# A `>` may be missing at the end of a line.
_FUNCTION = re.compile(r"\s*<function=\s*+([^<>\n]*[^<>\s])\s*(?:>|(?=\n))\s*")
_PARAMETER = re.compile(r"\s*<parameter=\s*+([^<>\n]*[^<>\s])\s*(?:>|(?=\n))")
_FUNCTION_END = re.compile(r"\s*</function>(?:\s*</function>)*\s*")
_VALUE_END = "</parameter>"
_ENDS_AGAIN = re.compile(r"\s*</parameter>")
_TAG = re.compile(
    r"<(?:function=(?P<function>[^<>\n]+)>?|parameter=(?P<parameter>[^<>\n]+)>?|(?P<plain>parameter|function|tool_call)"
    r"(?:\s[^<>\n]*)?>|/(?P<end>parameter|function|tool_call)>)"
)
_PART_OF_TAG = re.compile(r"</?(?:parameter|function|tool_call)")
# A closing tag as templates write it: the end of the value, or text of the value that looks the same.
_END_ON_OWN_LINE = re.compile(r"\n</parameter>[ \t]*(?=\n|\Z)")

MAX_ENDS = 16  # ends that are tried for one value
MAX_TYPED_CHARS = 1 << 18  # of all texts in one body that are read as values


class _Final(CallError):
    """An error that no other reading can avoid."""


def read_tags(body: str, schemas: Schemas, closed: bool, final: bool) -> list[Call]:
    """The calls. `closed`: something else shows that the text ends here. `final`: also, no value continues after it.
    Raises CallError."""
    error: CallError | None = None
    first: list[Call] | None = None
    values = _Values(schemas)
    for way in (_balanced_end, _plain_end, _repaired_end):
        try:
            calls = _Reading(
                body, schemas, closed, final and way is _repaired_end, way, values
            ).calls()
        except CallError as found:
            if isinstance(found, _Final):
                error = found
                break
            error = error or found
            continue
        if not any(violations(arguments, schemas.get(name)) for name, arguments in calls):
            return calls
        first = first or calls
    if first is not None:
        return first  # another reading would not change how it breaks the schema
    assert error is not None
    raise error


def in_tag_value(body: str) -> bool:
    """Whether the text ends inside a parameter's value."""
    open_tags: list[str] = []
    for match in _TAG.finditer(body):
        kind, ends = _kind(match)
        if not ends:
            open_tags.append(kind)
        elif open_tags and open_tags[-1] == kind:
            open_tags.pop()
    return "parameter" in open_tags


def _kind(tag: re.Match[str]) -> tuple[str, bool]:
    """(function, parameter or tool_call, whether it closes)."""
    if tag["end"]:
        return tag["end"], True
    return (
        "function" if tag["function"] else "parameter" if tag["parameter"] else tag["plain"]
    ), False


def _trimmed(text: str) -> str:
    """The text without the line feeds that the template puts around a value."""
    return text.removeprefix("\n").removesuffix("\n")


class _Values:
    """Reads texts as values of their types, each text once, since several readings of a body may ask for the same."""

    def __init__(self, schemas: Schemas) -> None:
        self._schemas = schemas
        self._found: dict[tuple[str, str, str], Any] = {}
        self._chars = 0

    def get(self, function: str, key: str, schema: Any, text: str) -> Any:
        """The value of a text. Raises _Final when too much was read already."""
        root = self._schemas.get(function)
        if kinds_of(schema, root) == {"string"}:
            return text
        asked = function, key, text
        if asked not in self._found:
            self._chars += len(text)
            if self._chars > MAX_TYPED_CHARS:
                raise _Final(f"it cannot be told where the value of {key[:40]!r} ends")
            self._found[asked] = typed(text, schema, root)
        return self._found[asked]


class _Reading:
    """One way to read a body. `end` finds the end of a value: (the end, the place where the format continues)."""

    def __init__(
        self, body: str, schemas: Schemas, closed: bool, final: bool, end: Any, values: _Values
    ) -> None:
        self.body = body
        self._values = values
        self.schemas = schemas
        self.closed = closed
        self.final = final
        self._end = end
        self.name = ""
        self.names: dict[str, Any] = {}
        self.given: dict[str, Any] = {}

    def calls(self) -> list[Call]:
        found: list[Call] = []
        at = 0
        while match := _FUNCTION.match(self.body, at):
            self.name, self.given = match[1], {}
            self.names = parameters(self.schemas, self.name)
            at = self._parameters(match.end())
            end = _FUNCTION_END.match(self.body, at)
            if end is not None:
                at = end.end()
            elif not (self.closed and self.given and self._only_space(at)):
                raise CallError(f"the function {self.name[:40]!r} does not end")
            else:
                at = len(self.body)
            found.append((self.name, self.given))
        if not self._only_space(at):
            raise CallError("something stands beside its functions")
        return found

    def _parameters(self, at: int) -> int:
        while match := _PARAMETER.match(self.body, at):
            key = match[1]
            if not match[0].endswith(">") and key not in self.names:
                raise CallError(f"the tag of the parameter {key[:40]!r} does not end")
            end, at = self._end(self, key, match.end())
            value = self._value(key, _trimmed(self.body[match.end() : end]))
            try:
                put(self.given, key, value)
            except CallError as error:
                raise _Final(str(error)) from error
        return at

    def _only_space(self, at: int) -> bool:
        match = SPACE.match(self.body, at)
        assert match is not None
        return match.end() == len(self.body)

    def goes_on(self, at: int, used: Collection[str]) -> bool:
        """Whether the format continues here: with another parameter, the end of the function, or the end of all."""
        if match := _PARAMETER.match(self.body, at):
            return match[1] not in used and (not self.names or match[1] in self.names)
        if match := _FUNCTION_END.match(self.body, at):
            return self._ends_or_another(match.end())
        return self.closed and self._only_space(at)

    def _ends_or_another(self, at: int) -> bool:
        following = _FUNCTION.match(self.body, at)
        return at == len(self.body) or bool(
            following and (not self.schemas or following[1] in self.schemas)
        )

    def fits(self, key: str, text: str) -> bool:
        """Whether this text can be a value of the type that the schema wants for the parameter."""
        if not self.by_type(key):
            return True
        return not isinstance(self._value(key, _trimmed(text)), str)

    def _value(self, key: str, text: str) -> Any:
        return self._values.get(self.name, key, self.names.get(key), text)

    def by_type(self, key: str) -> bool:
        """Whether the type of this parameter tells its values from other text: it is known, and no string."""
        kinds = kinds_of(self.names.get(key), self.schemas.get(self.name))
        return bool(kinds) and "string" not in kinds

    def unclear(self, key: str) -> CallError:
        return CallError(f"it cannot be told where the value of {key[:40]!r} ends")

    def unended(self, key: str) -> CallError:
        return CallError(f"the parameter {key[:40]!r} does not end")


def _balanced_end(reading: _Reading, key: str, at: int) -> tuple[int, int]:
    open_tags: list[str] = []
    for match in _TAG.finditer(reading.body, at):
        kind, ends = _kind(match)
        if not ends:
            open_tags.append(kind)
        elif open_tags:
            if open_tags.pop() != kind:
                break
        elif kind == "parameter":
            return match.start(), match.end()
        else:
            break
    raise reading.unended(key)


def _plain_end(reading: _Reading, key: str, at: int) -> tuple[int, int]:
    body = reading.body
    used = {*reading.given, key}
    ends: list[int] = []  # possible ends, until one where the value fits its type
    end = body.find(_VALUE_END, at)
    while end >= 0 and len(ends) < MAX_ENDS:
        if reading.goes_on(end + len(_VALUE_END), used):
            ends.append(end)
            if reading.fits(key, body[at:end]):
                break
        end = body.find(_VALUE_END, end + 1)
    else:
        end = ends[0] if ends else -1
    if end < 0:
        raise reading.unended(key)
    if reading.by_type(key) and reading.fits(key, body[at:end]):
        return end, end + len(_VALUE_END)
    tags = list(_TAG.finditer(body, at, end))
    functions = sum(1 if tag["function"] else -(tag["end"] == "function") for tag in tags)
    known = any(tag["parameter"] and tag["parameter"].strip() in reading.names for tag in tags)
    if functions > 0 or known:
        raise reading.unclear(key)
    return _not_doubled(reading, key, at, end), end + len(_VALUE_END)


def _not_doubled(reading: _Reading, key: str, at: int, end: int) -> int:
    """The end of a value whose closing tag may be there twice. Raises CallError where the first may belong to the
    value."""
    body = reading.body
    first = body.rfind(_VALUE_END, at, end)
    if first < 0:
        return end
    doubled = not body[first + len(_VALUE_END) : end].strip()
    if body.startswith("\n", at) and body.endswith("\n", at, end):
        # The last tag stands on its own line, as in the format. Earlier ones belong to the value unless they do, too.
        if not _END_ON_OWN_LINE.search(body, at, end - 1):
            return end
    elif not doubled:
        return end
    if not doubled or not reading.by_type(key):
        raise _Final(str(reading.unclear(key)))
    return body.find(_VALUE_END, at)


def _repaired_end(reading: _Reading, key: str, at: int) -> tuple[int, int]:
    body = reading.body
    tag = _TAG.search(body, at)
    if not reading.names:
        raise reading.unended(key)  # without names, other text may be a parameter
    if _PART_OF_TAG.search(body, at, tag.start() if tag else len(body)):
        raise reading.unended(key)
    if tag is None:
        if not reading.final:
            raise reading.unended(key)
        return len(body), len(body)
    if tag["end"] == "parameter":
        return tag.start(), tag.end()
    ends = tag["end"] == "function" or tag["parameter"]
    if not ends or not reading.goes_on(tag.start(), {*reading.given, key}):
        raise reading.unended(key)
    end = len(body[: tag.start()].rstrip(" \t"))
    if body.endswith("\n\n", at, end):
        raise reading.unclear(key)  # it is not known which line feeds belong to the value
    return end, tag.start()
