"""Parses the regular expressions of a tokenizer.json: Oniguruma's syntax, as far as such files use it.

The result is a tree of `Set`, `Cat`, `Alt`, `Loop` and `Check`. A few hundred samples stand for all
characters: every character that the pattern names, with its neighbours, and some of each general category of
Unicode. A set is a bit mask over the samples. Back-references and recursion do not fit this, so they are refused.

Source of the syntax: Oniguruma's doc/RE (6.9).
"""

from __future__ import annotations

import functools
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from py_engine.errors import ModelError

MAX_PATTERN = 8192  # characters; published patterns have some hundred
MAX_DEPTH = 40
MAX_COUNT = 100_000  # of a quantifier; Oniguruma's own bound

_QUANTIFIER = re.compile(r"[*+?]|\{(\d*)(,?)(\d*)\}")
_CLASSES: dict[str, Callable[[str], bool]] = {
    "d": lambda c: unicodedata.category(c) == "Nd",
    "w": lambda c: unicodedata.category(c)[0] in "LMN" or unicodedata.category(c) == "Pc",
    "s": lambda c: c.isspace(),
    "h": lambda c: c in "0123456789abcdefABCDEF",
}
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "e": "\x1b", "a": "\a"}
_NAMED: dict[str, Callable[[str], bool]] = {
    "alpha": lambda c: unicodedata.category(c)[0] in "LM",
    "digit": _CLASSES["d"],
    "alnum": lambda c: unicodedata.category(c)[0] in "LMN",
    "space": _CLASSES["s"],
    "word": _CLASSES["w"],
    "xdigit": _CLASSES["h"],
    "upper": lambda c: unicodedata.category(c) in ("Lu", "Lt"),
    "lower": lambda c: unicodedata.category(c) == "Ll",
    "punct": lambda c: unicodedata.category(c)[0] in "PS",
    "blank": lambda c: c in " \t" or unicodedata.category(c) == "Zs",
    "cntrl": lambda c: unicodedata.category(c)[0] == "C",
    "ascii": lambda c: c < "\x80",
}


@dataclass(frozen=True)
class Set:
    """Matches one of these characters."""

    mask: int


@dataclass(frozen=True)
class Cat:
    """Matches the parts one after another; without parts the empty text."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Alt:
    """Matches the first alternative that fits."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Loop:
    """Matches the body `low` to `high` times (None: any number)."""

    body: Node
    low: int
    high: int | None


@dataclass(frozen=True)
class Check:
    """Consumes no text: an anchor (no body) or a look-around."""

    body: Node | None = None


Node = Set | Cat | Alt | Loop | Check


class Unsupported(ModelError):
    """A pattern that this parser does not support."""


@functools.cache
def _category_samples() -> str:
    """Up to three characters of each general category, and the kinds of white space."""
    found: dict[str, list[str]] = {}
    for code in [*range(0x3100), *range(0xAC00, 0xAC10), *range(0xFF00, 0xFFF0), 0xE000, 0x1F600]:
        kept = found.setdefault(unicodedata.category(chr(code)), [])
        if len(kept) < 3 or (code in (0x3042, 0x30A2, 0x4E00)):
            kept.append(chr(code))
    return "".join(c for kept in found.values() for c in kept) + "\u4e00\u30a2\uac00aAzZ09_ \t\n\r"


class Parser:
    """Parses one pattern. `tree`: the result. `samples`: the characters that the bits of masks stand for."""

    def __init__(self, pattern: str) -> None:
        if len(pattern) > MAX_PATTERN:
            raise Unsupported(f"it has {len(pattern)} characters, more than {MAX_PATTERN}")
        named = {c for c in pattern if c not in "()[]{}|*+?^$.\\"}
        codes = map(_code, _CODE.finditer(pattern))
        named |= {chr(code) for code in codes if code <= 0x10FFFF}
        near = {chr(ord(c) + d) for c in named for d in (-1, 1) if 0 <= ord(c) + d < 0x110000}
        either = {v for c in named for v in (c.lower(), c.upper()) if len(v) == 1}
        wanted = named | near | either | set(_category_samples())
        self.samples = sorted(wanted)
        self._index = {c: i for i, c in enumerate(self.samples)}
        self._known: dict[str, int] = {}  # masks of classes and categories by name
        self.all = (1 << len(self.samples)) - 1
        self._text, self._at, self._depth = pattern, 0, 0
        self._fold = False
        self._vague = False  # the pattern names an unknown property: what is inside and outside it may be anything
        self.tree = self._alternatives()
        if self._at < len(pattern):
            raise Unsupported("a bracket closes that was not opened")

    # -- groups and sequences

    def _alternatives(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unsupported(f"its groups nest more than {MAX_DEPTH} deep")
        fold = self._fold
        parts = [self._sequence()]
        while self._take("|"):
            parts.append(self._sequence())
        self._fold = fold  # (?i) holds to the end of its group
        self._depth -= 1
        return parts[0] if len(parts) == 1 else Alt(tuple(parts))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            parts.append(self._quantified(self._atom()))
        return parts[0] if len(parts) == 1 else Cat(tuple(parts))

    def _quantified(self, node: Node) -> Node:
        depth = 0
        while match := _QUANTIFIER.match(self._text, self._at):
            mark = match[0]
            if mark[0] == "{" and not (match[1] or match[3]):
                break  # a plain brace, no quantifier
            self._at = match.end()
            if mark[0] == "{":
                low = _count(match[1] or "0")
                high = low if not match[2] else _count(match[3]) if match[3] else None
            else:
                low, high = (1, None) if mark == "+" else (0, 1 if mark == "?" else None)
            if high is not None and high < low:
                low, high = high, low
            # "?" behind one is lazy; "+" behind "*", "+" and "?" does not give back. Both match what the plain
            # one matches.
            if self._take("?") or mark[0] != "{" and self._take("+"):
                pass
            node = Loop(node, low, high)
            depth += 1
            if depth > MAX_DEPTH:
                raise Unsupported(f"more than {MAX_DEPTH} quantifiers stand behind one another")
        return node

    def _atom(self) -> Node:
        char = self._next()
        if char == "(":
            return self._group()
        if char == "[":
            return Set(self._class())
        if char == ".":
            return Set(self.all)
        if char in "^$":
            return Check()
        if char == "\\":
            return self._escape()
        if char in "*+?":
            raise Unsupported("a quantifier stands behind nothing")
        return Set(self._literal(char))

    def _group(self) -> Node:
        if not self._take("?"):
            return self._closed(self._alternatives())
        if self._take("#"):
            end = self._text.find(")", self._at)
            self._at = end + 1 if end >= 0 else len(self._text)
            return Cat(())
        for mark, looks in (("<=", 1), ("<!", 1), ("=", 1), ("!", 1), (":", 0), (">", 0)):
            if self._take(mark):
                body = self._closed(self._alternatives())
                return Check(body) if looks else body
        if match := re.compile(r"P?<\w+>").match(self._text, self._at):
            self._at = match.end()
            return self._closed(self._alternatives())
        match = re.compile(r"([ims]*)(?:-([ims]*))?([:)])").match(self._text, self._at)
        if match is None:
            kind = self._text[self._at : self._at + 8]
            raise Unsupported(f"the group (?{kind}... is not supported")
        self._at = match.end()
        before = self._fold
        self._fold = ("i" in match[1] or before) and "i" not in (match[2] or "")
        if match[3] == ")":
            return self._alternatives()  # the rest of the group around, which closes it
        body = self._closed(self._alternatives())
        self._fold = before
        return body

    def _closed(self, node: Node) -> Node:
        if not self._take(")"):
            raise Unsupported("a group is not closed")
        return node

    # -- characters

    def _escape(self) -> Node:
        char = self._next()
        if char in "bBAzZG":
            return Check()
        if char in "RXO" or char == "N":
            return Set(self.all)
        if char in "123456789kgK":
            raise Unsupported(f"\\{char} (a back-reference, call or reset) is not supported")
        return Set(self._escaped(char))

    def _escaped(self, char: str) -> int:
        """The set of a backslash and this character."""
        if char.lower() in _CLASSES:
            found = self._where(char.lower(), _CLASSES[char.lower()])
            return found if char.islower() else self.all & ~found
        if char in "pP":
            return self._property(char == "P")
        if char in _ESCAPED:
            return self._literal(_ESCAPED[char])
        if char in "xu0":
            match = _CODE.match(self._text, self._at - 2)
            if match is None:
                raise Unsupported(f"\\{char} without its digits")
            self._at = match.end()
            code = _code(match)
            if code > 0x10FFFF:
                raise Unsupported(f"\\{char} names no character")
            return self._literal(chr(code))
        return self._literal(char)

    def _property(self, negated: bool) -> int:
        match = re.compile(r"\{(\^?)([^{}]*)\}|([A-Z])").match(self._text, self._at)
        if match is None:
            raise Unsupported("\\p without its name")
        self._at = match.end()
        name = match[2] or match[3] or ""
        found = self._by_name(name)
        if found is None:
            self._vague = True  # a script, for example
            return self.all
        return self.all & ~found if negated != bool(match[1]) else found

    def _by_name(self, name: str) -> int | None:
        short = name.replace("_", "").replace(" ", "").replace("-", "").lower()
        category = _LONG.get(short, short.capitalize())
        if category in _CATEGORIES:
            return self._where(category, lambda c: unicodedata.category(c).startswith(category))
        if short in _NAMED:
            return self._where(short, _NAMED[short])
        return self.all if short == "any" else None

    def _class(self) -> int:
        """Parse a class, from after its opening bracket to after its closing one."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unsupported(f"its classes nest more than {MAX_DEPTH} deep")
        negated = self._take("^")
        vague, self._vague = self._vague, False
        whole, mask, first = self.all, 0, True
        while first or not self._peek("]"):
            if self._take("&&"):
                whole, mask = whole & mask, 0
            else:
                mask |= self._class_item()
            first = False
        self._next()
        self._depth -= 1
        mask &= whole
        if negated:
            mask = self.all if self._vague else self.all & ~mask
        self._vague = self._vague or vague
        return mask

    def _class_item(self) -> int:
        if match := re.compile(r"\[:(\^?)(\w+):\]").match(self._text, self._at):
            self._at = match.end()
            test = _NAMED.get(match[2])
            self._vague = self._vague or test is None
            found = self._where(match[2], test) if test else self.all
            return self.all & ~found if match[1] and test else found
        char = self._next()
        if char == "[":
            return self._class()
        low = self._class_end(char)
        if isinstance(low, int):
            return low
        if not self._peek("-") or self._text[self._at + 1 : self._at + 2] in ("]", ""):
            return self._literal(low)
        self._next()
        high = self._class_end(self._next())
        if isinstance(high, int):
            return self._literal(low) | self._literal("-") | high
        mask = self._range(low, high)
        if self._fold:
            mask |= self._range(low.lower()[:1], high.lower()[:1])
            mask |= self._range(low.upper()[:1], high.upper()[:1])
        return mask

    def _class_end(self, char: str) -> str | int:
        """A character, with which a range may begin or end; else the set that is written there."""
        if char != "\\":
            return char
        char = self._next()
        if char == "b":
            return "\b"
        if char in _ESCAPED:
            return _ESCAPED[char]
        if char in "xu0":
            mask = self._escaped(char)
            return self.samples[mask.bit_length() - 1] if mask.bit_count() == 1 else mask
        return self._escaped(char) if char.isalnum() else char

    def _literal(self, char: str) -> int:
        forms = {char, char.lower(), char.upper()} if self._fold else {char}
        return sum(1 << self._index[form] for form in forms if form in self._index)

    def _range(self, low: str, high: str) -> int:
        start, stop = bisect_left(self.samples, low), bisect_right(self.samples, high)
        return (1 << stop) - (1 << start) if stop > start else 0

    def _where(self, name: str, test: Callable[[str], bool]) -> int:
        if name not in self._known:
            self._known[name] = sum(1 << i for i, c in enumerate(self.samples) if test(c))
        return self._known[name]

    # -- the text

    def _next(self) -> str:
        if self._at >= len(self._text):
            raise Unsupported("it ends in the middle of a class, a group or an escape")
        self._at += 1
        return self._text[self._at - 1]

    def _peek(self, text: str) -> bool:
        if self._at >= len(self._text):
            raise Unsupported("a class is not closed")
        return self._text.startswith(text, self._at)

    def _take(self, text: str) -> bool:
        if self._text.startswith(text, self._at):
            self._at += len(text)
            return True
        return False


_CODE = re.compile(
    r"\\(?:x\{([0-9A-Fa-f]{1,8})\}|x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{4})|0([0-7]{0,2}))"
)
_CATEGORIES = frozenset("L Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So "
                        "Z Zs Zl Zp C Cc Cf Cs Co Cn".split())  # fmt: skip
_LONG = {"letter": "L", "uppercaseletter": "Lu", "lowercaseletter": "Ll", "mark": "M", "number": "N",
         "decimalnumber": "Nd", "punctuation": "P", "symbol": "S", "separator": "Z", "other": "C"}  # fmt: skip


def _code(match: re.Match[str]) -> int:
    """The character's number."""
    if match[4] is not None:
        return int(match[4] or "0", 8)
    return int(match[1] or match[2] or match[3], 16)


def _count(digits: str) -> int:
    value = int(digits[:8])
    if value > MAX_COUNT:
        raise Unsupported(f"a part of it is to be repeated {value} times")
    return value
