"""Reads values as models write them: a mix of JSON's and Python's literals. They are read by hand, never evaluated.

`Literals` is strict about strings: as in both languages, a quote ends its string unless it is escaped. Some templates
print strings between quotes without escaping them. For such texts there is the `lenient` reading: a quote ends its
string only where the format continues after it. A text that could be cut in two ways is refused.
Everything is bounded: nesting by MAX_NESTING, time by the length of the text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from typing import Any

from py_engine.host.json_text import MAX_NESTING, JsonError, read_json


class CallError(ValueError):
    """A tool call cannot be read. The message says why."""


def load_json(text: str) -> Any:
    """A value of strict JSON, except that strings may hold line feeds. Raises CallError, also for a key that is given
    twice, since it is not known which one is meant."""
    try:
        return read_json(text, strict=False)
    except JsonError as error:
        raise CallError(f"it is no JSON ({error})") from error


def put(arguments: dict[str, Any], key: str, value: Any) -> None:
    """Add an argument. Raises CallError when it is given twice."""
    if key in arguments:
        raise CallError(f"{key[:40]!r} is given twice")
    arguments[key] = value


def load_literal(text: str) -> Any:
    """A value of JSON, of Python, or of a mix of both. Raises CallError."""
    try:
        return load_json(text)
    except CallError:
        reader = Literals(text, python=True)
        value = reader.value(1)
        reader.finish()
        return value


MAX_CALLS = 256  # in one block
MAX_INNER_QUOTES = 10_000  # quotes that are not escaped, in one string

SPACE = re.compile(r"\s*")
_NUMBER = re.compile(
    r"[-+]?(?:0[xX][\da-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?)"
)
_WORD = re.compile(r"\w+")
_WORDS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
_STRING = {
    quote: re.compile(rf"(?:[^{quote}\\]|\\.)*+(?={quote})", re.DOTALL) for quote in ("'", '"')
}
_LONG_STRING = {
    quote: re.compile(rf"(?:(?!{quote})[^\\]|\\.)*+(?={quote})", re.DOTALL)
    for quote in ("'''", '"""')
}
_QUOTE_OR_ESCAPE = {quote: re.compile(rf"\\.|{quote}", re.DOTALL) for quote in ("'", '"')}
_OPENS_A_QUOTE = re.compile(r"[\s(\[{=,:]|\A")

# What may follow a string, for the lenient reading.
_AFTER_ITEM = re.compile(r"\s*(?:,\s*[\"'\d\[({tfnTFN.+-]|\]\s*(?:[,\]})]|\Z)|\)\s*(?:[,\]})]|\Z))")
_AFTER_MEMBER = re.compile(r"\s*(?:,\s*([\"'])((?:(?!\1).)*)\1\s*:|\}\s*(?:[,;\]})]|\Z))")
_MAY_END = re.compile(r"[\"']\s*,\s*[\"']?(\w*)")

Follows = Callable[[int], bool]


class Literals:
    """Reads values from a text.

    `python`: escapes and joined strings are Python's, else JSON's. `names`: the keys that may follow in the outer two
    objects of a lenient reading; empty when they are not known. `closed`: something else shows that the text ends here,
    so brackets that are open at its very end count as closed.
    """

    def __init__(
        self,
        text: str,
        *,
        python: bool = False,
        lenient: bool = False,
        names: Collection[str] = (),
        closed: bool = False,
    ) -> None:
        self.text = text
        self.at = 0
        self.repaired = False  # whether a bracket was left open at the end
        self._python = python
        self._lenient = lenient
        self._names = names
        self._closed = closed
        self._objects = 0  # number of open objects

    def value(self, depth: int, follows: Follows | None = None, names: Collection[str] = ()) -> Any:
        """The next value. `follows(place)`: whether a string of a lenient reading may end there. `names`: the keys that
        may follow the value, if they are known. Raises CallError."""
        if depth > MAX_NESTING:
            raise CallError(f"it nests more than {MAX_NESTING} deep")
        self.skip()
        if self._at_string():
            return self._string(follows, names)
        if self.take("{"):
            return self._object(depth)
        if self.take("["):
            return self._items("]", depth)[0]
        if self._python and self.take("("):
            items, comma = self._items(")", depth)
            return items[0] if len(items) == 1 and not comma else items
        if number := _NUMBER.match(self.text, self.at):
            self.at = number.end()
            return _number(number[0])
        word = _WORD.match(self.text, self.at)
        if word is None:
            raise self.error("a value")
        if word[0] not in _WORDS:
            raise CallError(f"{word[0][:40]!r} is no value")
        self.at = word.end()
        return _WORDS[word[0]]

    def finish(self) -> None:
        """Raise CallError unless only white space is left."""
        self.skip()
        if self.at < len(self.text):
            raise self.error("the end")

    def _items(self, end: str, depth: int) -> tuple[list[Any], bool]:
        """The items up to `end`, and whether a comma stood after the last one."""
        items: list[Any] = []
        comma = False
        while not self.take(end):
            items.append(self.value(depth + 1, self._after_item))
            comma = self.take(",")
            if not comma:
                self.want(end)
                break
        return items, comma

    def _object(self, depth: int) -> Any:
        """An object; a Python set becomes a list."""
        found: dict[str, Any] = {}
        outer = self._objects < 2
        self._objects += 1
        while not self.take("}"):
            key = self.value(depth + 1)
            if self._python and not found and not self._next(":"):
                return self._set(key, depth)
            if not isinstance(key, str):
                raise CallError("a key is no string")
            self.want(":", closing=False)
            names = self._names if outer else ()
            put(found, key, self.value(depth + 1, lambda at: self._after_member(at, outer), names))
            if not self.take(","):
                self.want("}")
                break
        self._objects -= 1
        return found

    def _set(self, first: Any, depth: int) -> list[Any]:
        self._objects -= 1
        if not self.take(","):
            self.want("}")
            return [first]
        return [first, *self._items("}", depth)[0]]

    def _after_item(self, at: int) -> bool:
        return bool(_AFTER_ITEM.match(self.text, at))

    def _after_member(self, at: int, outer: bool) -> bool:
        match = _AFTER_MEMBER.match(self.text, at)
        if match is None:
            return False
        return match[2] is None or not outer or not self._names or match[2] in self._names

    # -- strings

    def _at_string(self) -> bool:
        begin = self.text[self.at : self.at + 2]
        return begin[:1] in ("'", '"') or (
            self._python and begin[:1] in ("r", "R") and begin[1:] in ("'", '"')
        )

    def _string(self, follows: Follows | None, names: Collection[str]) -> str:
        value = self._one_string(follows, names)
        while self._python and not self._lenient:  # Python joins strings that stand side by side
            self.skip()
            if not self._at_string():
                break
            value += self._one_string(follows, names)
        return value

    def _one_string(self, follows: Follows | None, names: Collection[str]) -> str:
        text = self.text
        raw = text[self.at] in "rR"
        begin = self.at + raw
        quote = text[begin]
        if self._python and text.startswith(quote * 3, begin):
            begin += 3
            match = _LONG_STRING[quote * 3].match(text, begin)
            after = 3
        else:
            begin += 1
            after = 1
            if self._lenient and follows is not None:
                return self._lenient_string(begin, quote, follows, names)
            match = _STRING[quote].match(text, begin)
        if match is None:
            raise CallError("a string does not end")
        self.at = match.end() + after
        return match[0] if raw else self._unescape(match[0])

    def _lenient_string(
        self, begin: int, quote: str, follows: Follows, names: Collection[str]
    ) -> str:
        """A string whose inner quotes are not escaped. Raises CallError where it would end inside an inner quotation,
        or may have ended earlier."""
        text = self.text
        quoted = False  # inside an inner quotation
        # The place after the last quote that neither began nor ended an inner quotation.
        lone = begin
        count = 0
        for match in _QUOTE_OR_ESCAPE[quote].finditer(text, begin):
            at = match.start()
            if text[at] == "\\":
                continue
            count += 1
            if count > MAX_INNER_QUOTES:
                break
            if follows(at + 1):
                if quoted or (lone > begin and not text[lone:at].strip()):
                    raise CallError("it cannot be told which quote ends a string")
                for end in _MAY_END.finditer(text, begin, at):
                    if not names or end[1] in names:
                        raise CallError("it cannot be told which quote ends a string")
                self.at = at + 1
                return self._unescape(text[begin:at])
            in_word = text[at - 1].isalnum() and text[at + 1 : at + 2].isalnum()
            if quoted:
                quoted = in_word
                continue
            quoted = at == begin or bool(_OPENS_A_QUOTE.match(text, at - 1))
            lone = lone if quoted else at + 1
        raise CallError("a string does not end")

    def _unescape(self, text: str) -> str:
        if "\\" not in text:
            return text
        if self._python:
            return _ESCAPE.sub(_escaped, text)
        # JSON writes characters above U+FFFF as two halves.
        return _HALVES.sub(_whole, _JSON_ESCAPE.sub(_escaped, text))

    # -- signs

    def skip(self) -> None:
        """Go past white space."""
        if self.text[self.at : self.at + 1].isspace():
            match = SPACE.match(self.text, self.at)
            assert match is not None
            self.at = match.end()

    def _next(self, sign: str) -> bool:
        self.skip()
        return self.text.startswith(sign, self.at)

    def take(self, sign: str) -> bool:
        """Whether this sign comes next. If so, go past it."""
        taken = self._next(sign)
        self.at += len(sign) * taken
        return taken

    def want(self, sign: str, closing: bool = True) -> None:
        """Go past this sign. Raises CallError when it does not come next."""
        if self.take(sign):
            return
        if not (closing and self._closed and self.at == len(self.text)):
            raise self.error(repr(sign))
        self.repaired = True

    def error(self, wanted: str) -> CallError:
        """The error for something that is missing here."""
        found = self.text[self.at : self.at + 20]
        return CallError(
            f"{wanted} is missing before {found!r}" if found else f"{wanted} is missing"
        )


def _number(text: str) -> int | float:
    if re.match(
        r"[-+]?0[\d_]", text
    ):  # no number in either language, perhaps a code whose zeros count
        raise CallError(f"{text[:40]} begins with 0")
    try:
        if re.match(r"[-+]?0[xXoObB]", text):
            value: int | float = int(text, 0)
        else:
            value = float(text) if re.search(r"[.eE]", text) else int(text)
        finite = math.isfinite(value)
    except OverflowError:
        finite = False
    except ValueError as error:
        raise CallError(f"{text[:40]} is no number ({str(error)[:80]})") from error
    if not finite:
        raise CallError(f"{text[:40]} is too large")
    return value


_ESCAPE = re.compile(
    r"\\(\n|[\\'\"abfnrtv]|[0-7]{1,3}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})"
)
# JSON's escapes, and those that `repr` writes for signs that cannot be printed. Others, such as `\1` or `\d`, stay.
_JSON_ESCAPE = re.compile(r"\\(\n|[\\'\"/bfnrt]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})")
_ESCAPED = {"\n": "", "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_HALVES = re.compile("([\ud800-\udbff])([\udc00-\udfff])")


def _escaped(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] in "xuU":
        number = int(code[1:], 16)
    elif code[0] in "01234567":
        number = int(code, 8)
    else:
        return _ESCAPED.get(code, code)
    return chr(number) if number <= 0x10FFFF else match[0]


def _whole(match: re.Match[str]) -> str:
    return (match[0]).encode("utf-16", "surrogatepass").decode("utf-16")
