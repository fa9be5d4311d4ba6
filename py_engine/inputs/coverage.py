"""Checks that every text of a conversation is in the rendered prompt.

The conversation is rendered a second time, with the first and last character of each text replaced by
private-use characters of its own. If the prompt is otherwise the same, these characters show which texts
are there, and the characters between them whether they are whole; so a short text is not mistaken for part
of another. If the template depends on the texts and gives another prompt, they are searched by their letters.
A word that is in the template's own source, such as SmolLM3's /no_think, may be missing: it is a switch.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .messages import OWN, RESULTS
from .shield import PRIVATE, THOUGHT, Shield

_WORDS = re.compile(r"[^\W_](?:.*[^\W_])?", re.DOTALL)
_SWITCH = re.compile(r"""(['"])([^\w\s'"]\w[^'"\n]{,40})\1""")  # a literal such as '/no_think'


@dataclass(frozen=True)
class _Tag:
    """A text, its part from the first to the last letter, and the characters that replace these two."""

    where: str
    text: str
    core: str
    first: str
    last: str


class Coverage:
    """Checks one conversation, hidden by `shield`, for a template with this source."""

    def __init__(self, shield: Shield, source: str) -> None:
        self._shield = shield
        self._source = source
        self._tags: list[_Tag] = []
        self._texts: list[
            tuple[str, str]
        ] = []  # (where, text): these are searched by their letters

    def tag(self, text: str, where: str, role: str) -> str:
        """The text with its ends replaced. An assistant's thinking keeps its ends, since a template may drop it; so
        does a tool's name, since it only says which call is answered."""
        if role in RESULTS and where.endswith("].name"):
            self.expect(self._shield.show(text), where)
            return text
        thought = THOUGHT.match(text) if role in OWN else None
        start = thought.end() if thought else 0
        core = _ends(text[start:])
        if not core:
            return text
        whole, shown = (self._shield.show(part) for part in (text[start:].strip(), core))
        begin = text.index(core, start)
        first = self._swap(core[0])
        last = self._swap(core[-1]) if len(core) > 1 else first
        if first is None or last is None:
            self.expect(whole, where)
            return text
        self._tags.append(_Tag(where, whole, shown, first, last))
        tagged = first + core[1:-1] + last if len(core) > 1 else first
        return text[:begin] + tagged + text[begin + len(core) :]

    def expect(self, text: str, where: str) -> None:
        """Note a text that must be somewhere in the prompt."""
        self._texts.append((where, text))

    def missing(self, rendered: str, tagged: str | None) -> str | None:
        """Where the first text is, in the conversation, that is not in the prompt. `rendered`: the prompt without tags.
        `tagged`: with tags; None when the template failed on it."""
        shown = self._shield.show(rendered)
        plain = self._texts
        if tagged is not None and self._shield.show(tagged).casefold() == shown.casefold():
            tagged = self._shield.unescape(tagged)
            places: dict[str, list[int]] = {}
            for found in PRIVATE.finditer(tagged):
                places.setdefault(found[0], []).append(found.start())
            lost = [tag.where for tag in self._tags if not self._stands(tag, tagged, places)]
        else:
            plain = [*plain, *((tag.where, tag.text) for tag in self._tags)]
            lost = []
        lost += [where for where, text in plain if not self._found(text, shown)]
        return lost[0] if lost else None

    @functools.cached_property
    def _switches(self) -> re.Pattern[str]:
        words = {word for _, word in _SWITCH.findall(self._source)}
        return re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))) or "(?!)")

    def _swap(self, char: str) -> str | None:
        private = next(self._shield.free, None)
        if private is not None:
            self._shield.stands_for(private, char)
        return private

    def _stands(self, tag: _Tag, rendered: str, places: Mapping[str, Sequence[int]]) -> bool:
        ends = places.get(tag.last, ())
        for start in places.get(tag.first, ()):
            end = next((end for end in ends if end >= start), None)
            if end is None:
                return False
            between = self._shield.show(rendered[start : end + 1])
            if between == tag.core or _in_order(tag.core, between) or between in _json(tag.core):
                return True
            if _in_order(self._switches.sub("", tag.core), between):
                return True
        return False

    def _found(self, text: str, shown: str) -> bool:
        if text in shown or any(form in shown for form in _json(text)):
            return True
        squeezed = " ".join(shown.split())
        if " ".join(text.split()) in squeezed:
            return True
        rest = [" ".join(part.split()) for part in self._switches.split(text)]
        return any(rest) and all(part in squeezed for part in rest)


def _ends(text: str) -> str:
    """The text from its first to its last letter or digit. If it has none: the text without white space around it."""
    found = _WORDS.search(text)
    return found[0] if found else text.strip()


def _json(text: str) -> list[str]:
    return [json.dumps(text, ensure_ascii=ascii)[1:-1] for ascii in (False, True)]


def _in_order(text: str, between: str) -> bool:
    """Whether another text has the letters and digits of this one in the same order, ignoring case."""
    letters = iter(between.casefold())
    return all(char in letters for char in text.casefold() if char.isalnum())
