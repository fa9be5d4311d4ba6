"""Keeps people's text apart from a template's own words, so that it can never become a control token.

Before rendering, each character of people's texts that could begin a control token is replaced by a
private-use character that occurs nowhere else. After rendering, the control tokens are cut out of the
result, and only then the characters are put back. Lengths, strip(), split() and JSON work as before, and
texts that are joined cannot form a control token either. In an assistant's messages, which the model wrote,
the marks of its calls and of thinking at the beginning are not replaced: templates look for them. Marks of
thinking further on are plain text, since a template would cut out what is between them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from py_engine.errors import InputError

from .messages import OWN
from .tokenizer import Tokenizer

_PLANES = [range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE)]  # private use planes A and B
PRIVATE = re.compile("[\U000f0000-\U0010ffff]")
_OPEN = r"(?:<(?:seed:)?think(?:ing)?>|<thought>|<reasoning>|\[THINK\]|<\|channel>|<\|START_THINKING\|>)"
_CLOSE = r"(?:</(?:seed:)?think(?:ing)?>|</thought>|</reasoning>|\[/THINK\]|<channel\|>|<\|END_THINKING\|>)"
# Thinking at the beginning of an answer. Its opening mark may have been in the generation prompt.
THOUGHT = re.compile(rf"\s*{_OPEN}.*?{_CLOSE}|(?:(?!{_OPEN}).)*?{_CLOSE}", re.DOTALL)
_OPENED = re.compile(rf"\s*{_OPEN}")
_THINKING_MARK = re.compile(rf"{_OPEN}|{_CLOSE}")
_MARK = re.compile(r"</?\|?[\w=.:-]+\|?>|\[/?[A-Z_]+\]")  # as most families write them
# Marks that an assistant's own text may hold. Marks of what comes from outside (results of tools) are not among them.
_OWN_MARK = re.compile(r"think|thought|reason|channel|tool.?call|function|arg_", re.IGNORECASE)
_FROM_OUTSIDE = re.compile(r"response|result|output", re.IGNORECASE)
# A private character, as JSON escapes it and as Python prints it inside a list or dict.
_ESCAPED = re.compile(
    r"\\u(?P<high>db[89a-f][0-9a-f])\\u(?P<low>d[c-f][0-9a-f]{2})|\\U(?P<whole>00(0f|10)[0-9a-f]{4})",
    re.IGNORECASE,
)


class Marks:
    """What matters here of a tokenizer; made once for each model."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        control = tokenizer.control
        # Thinking is searched by its letters, since its marks may not be tokens.
        self.starts = sorted({text[0] for text in control} | {"<"})
        self.chars = {char for text in control for char in text}


class Shield:
    """Replaces characters of people's texts by private ones, and back. `texts`: all texts that are given; private-use
    characters that they hold are not used."""

    def __init__(self, marks: Marks, texts: Sequence[str]) -> None:
        used = {char for text in texts for char in PRIVATE.findall(text)}
        used |= {_of_escape(found) for text in texts for found in _ESCAPED.finditer(text)}
        used |= marks.chars
        self._free = (chr(n) for plane in _PLANES for n in plane if chr(n) not in used)
        try:
            self._private = {start: next(self._free) for start in marks.starts}
        except StopIteration:
            raise InputError("the messages use up all private-use characters") from None
        # A letter or a space is replaced only where a whole control token is: templates trim and
        # compare texts.
        loose = [start for start in marks.starts if not (start.isalnum() or start.isspace())]
        self._hide = {start: self._private[start] for start in loose}
        self._show = {private: start for start, private in self._private.items()}
        self._marks = marks

    @property
    def free(self) -> Iterator[str]:
        """Private-use characters that are not used yet."""
        return self._free

    def hide(self, value: Any) -> Any:
        """A value with all texts in it hidden, also in keys."""
        if isinstance(value, str):
            # Whole tokens matter only if some begin with a letter, which is not replaced
            # elsewhere.
            loose = len(self._hide) == len(self._private)
            text = value if loose else self._whole(value)
            for start, private in self._hide.items():
                text = text.replace(start, private)
            return text
        if isinstance(value, Mapping):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.hide(item) for item in value]
        return value

    def hide_message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A message with its texts hidden; not its role, nor the types of parts and calls, which are the format's
        words."""
        own = message["role"] in OWN
        hidden: dict[str, Any] = {}
        for key, value in message.items():
            if key == "role":
                hidden[key] = value
            elif key == "content":
                hidden[key] = self._content(value, self._own if own else self.hide)
            elif key == "tool_calls":
                hidden[key] = self._content(value, self.hide)
            else:
                hidden[self.hide(key)] = self.hide(value)
        return hidden

    def show(self, text: str) -> str:
        """The text as people wrote it."""
        text = self.unescape(text)
        for start, private in self._private.items():  # there are few, and often
            text = text.replace(private, start)
        return PRIVATE.sub(lambda found: self._show.get(found[0], found[0]), text)

    def unescape(self, text: str) -> str:
        """A rendered text in which escaped private characters are unescaped."""
        return _ESCAPED.sub(self._unescaped, text) if "\\" in text else text

    def stands_for(self, private: str, char: str) -> None:
        """A new private character that is shown as `char`, which may be a hidden one itself."""
        self._show[private] = self._show.get(char, char)

    def _unescaped(self, escape: re.Match[str]) -> str:
        char = _of_escape(escape)
        return char if char in self._show else escape[0]

    def _content(self, value: Any, hide: Callable[[Any], Any]) -> Any:
        """A content with its texts hidden: a text, or a list of parts or calls, whose types stay."""
        if not isinstance(value, list):
            return value if value is None else hide(value)
        return [
            {self.hide(k): v if k == "type" else hide(v) for k, v in item.items()} for item in value
        ]

    def _own(self, text: str) -> str:
        """A text that the model wrote, hidden except for the marks that templates look for."""
        thought = THOUGHT.match(text)
        end = thought.end() if thought else len(text) if _OPENED.match(text) else 0
        places = [*self._marks.tokenizer.find_control(text)]
        places += [found.span() for found in _MARK.finditer(text)]
        hidden: list[str] = []
        done = 0
        for start, stop in sorted(places):
            mark = text[start:stop]
            own = _OWN_MARK.search(mark) and not _FROM_OUTSIDE.search(mark)
            late = start >= end and _THINKING_MARK.fullmatch(mark)
            if start >= done and own and not late:
                hidden += [self.hide(text[done:start]), mark]
                done = stop
        return "".join([*hidden, self.hide(text[done:])])

    def _whole(self, text: str) -> str:
        """The text with the first character of each whole control token replaced."""
        chars = list(text)
        for start, _ in self._marks.tokenizer.find_control(text):
            chars[start] = self._private[chars[start]]
        return "".join(chars)


def _of_escape(escape: re.Match[str]) -> str:
    if escape["whole"]:
        return chr(int(escape["whole"], 16))
    high, low = int(escape["high"], 16), int(escape["low"], 16)
    return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))
