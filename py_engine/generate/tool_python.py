"""Reads tool calls written as Python calls with keyword arguments, as LFM2 and LFM2.5 write them: [f(x=1, y="a"), g()]

They are read by hand, not by `ast`: models use keywords as names (`from=`), and write line feeds and quotes inside
strings. A value without a name is refused, since JSON schemas give parameters no order.
"""

from __future__ import annotations

import re
from typing import Any

from py_engine.generate.tool_literals import MAX_CALLS, CallError, Literals, put
from py_engine.generate.tool_schema import Schemas, kinds_of, parameters

Call = tuple[str, dict[str, Any]]  # name, arguments

# Wider than Python's names: `from=` and `get-time()` count.
_NAME = re.compile(r"[^\s()\[\]{},;='\":]+")
_NEXT_CALL = re.compile(r"[\s,;]*")
_CLOSERS = re.compile(r"[\s\])]*\Z")  # more brackets than were open
_ONLY_SPACE = re.compile(r"\s*\Z")
_PADDED = re.compile(r"\s*(0\d{1,200})\s*(?=[,)])")
_NEXT_ARGUMENT = re.compile(r"\s*,\s*([^\s()\[\]{},;='\":]+)\s*=(?!=)")
_END_OF_CALL = re.compile(r"\s*,?\s*\)\s*(?:[\])\s]*\Z|[,;]\s*[^\s()\[\]{},;='\":]+\()")
_LOOSE_STRING_END = re.compile(r"\s*(?:[,)\]}:]|\Z)")
_ESCAPE_OR_QUOTE = re.compile(r"\\.|'''|\"\"\"|['\"]", re.DOTALL)


def read_python(body: str, schemas: Schemas, closed: bool) -> list[Call]:
    """The calls. Raises CallError."""
    try:
        return _PythonCalls(body, schemas, closed, lenient=False).calls()
    except CallError as error:
        try:
            return _PythonCalls(body, schemas, closed, lenient=True).calls()
        except CallError:
            raise error from None


def in_python_string(body: str) -> bool:
    """Whether the text ends inside a string. A quote ends its string only where the format may continue after it."""
    quote = ""
    for match in _ESCAPE_OR_QUOTE.finditer(body):
        sign = match[0]
        if not quote:
            quote = sign if sign[0] != "\\" else ""
            if len(quote) == 3 and _LOOSE_STRING_END.match(body, match.start() + 2):
                quote = ""  # an empty string beside another quote, or the end of a string
        elif sign[0] == quote[0] and len(sign) >= len(quote):
            if _LOOSE_STRING_END.match(body, match.end()):
                quote = ""
    return bool(quote)


class _PythonCalls(Literals):
    """A list of calls, or calls without the list."""

    def __init__(self, text: str, schemas: Schemas, closed: bool, lenient: bool) -> None:
        super().__init__(text, python=True, lenient=lenient, closed=closed)
        self._schemas = schemas
        self._root: Any = None  # the schema of the function that is being read
        self._parameters: dict[str, Any] = {}

    def calls(self) -> list[Call]:
        """The calls. Raises CallError."""
        listed = self.take("[")
        calls: list[Call] = []
        while not (listed and self.take("]")):
            calls.append(self._call())
            if len(calls) > MAX_CALLS:
                raise CallError(f"it holds more than {MAX_CALLS} calls")
            if listed:
                if not self.take(","):
                    self.want("]")
                    break
            elif not self._another():
                break
        if not _CLOSERS.match(self.text, self.at):
            raise self.error("the end")
        return calls

    def _another(self) -> bool:
        """Whether another call follows: after a comma, a semicolon or a line feed."""
        between = _NEXT_CALL.match(self.text, self.at)
        assert between is not None
        if between.end() == len(self.text) or not between[0].strip(" \t"):
            return False
        if _CLOSERS.match(self.text, between.end()):
            return False
        self.at = between.end()
        return True

    def _call(self) -> Call:
        name = self._name()
        self.want("(", closing=False)
        self._root = self._schemas.get(name)
        self._parameters = parameters(self._schemas, name)
        arguments: dict[str, Any] = {}
        while not self.take(")"):
            key = self._key()
            put(arguments, key, self._argument(key))
            if not self.take(","):
                self.want(")")
                break
        return name, arguments

    def _name(self) -> str:
        self.skip()
        match = _NAME.match(self.text, self.at)
        if match is None:
            raise self.error("a name")
        self.at = match.end()
        return match[0]

    def _key(self) -> str:
        self.skip()
        match = _NAME.match(self.text, self.at)
        if match is not None:
            self.at = match.end()
            if self.take("="):
                return match[0]
        if self.at == len(self.text):
            raise self.error("a value")
        raise CallError("a value has no name: only keyword arguments can be told apart")

    def _argument(self, key: str) -> Any:
        if padded := _PADDED.match(self.text, self.at):  # not a number in Python, perhaps a code
            kinds = kinds_of(self._parameters.get(key), self._root)
            if "string" in kinds or (kinds and kinds <= {"integer", "number"}):
                self.at = padded.end()
                return padded[1] if "string" in kinds else int(padded[1].lstrip("0_") or "0")
        return self.value(1, self._ends_argument, self._parameters)

    def _ends_argument(self, at: int) -> bool:
        """Whether a string that is an argument may end at this place."""
        if match := _NEXT_ARGUMENT.match(self.text, at):
            return not self._parameters or match[1] in self._parameters
        if _END_OF_CALL.match(self.text, at):
            return True
        return self._closed and bool(_ONLY_SPACE.match(self.text, at))
