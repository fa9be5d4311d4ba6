"""Finds calls without an opening mark in the text of an answer that is still coming.

Small models leave marks out, and some families have none (Llama 3: the answer itself is {"name": ..., "parameters":
...}). When a line begins like a call of an offered function, its text is held back until it is clear what it is:

    a closing mark follows          it is read as a call
    it is the whole answer          it is read as a call
    other text follows, or stands before it and no closing mark comes      it is text, and an error says so
"""

from __future__ import annotations

import re

from py_engine.generate.tool_schema import Schemas
from py_engine.generate.tool_syntax import CallError, begins_call, read

MAX_UNDECIDED_CHARS = 1024


class BareCalls:
    """Holds back text that may be such a call. `whole`: whether the answer so far holds nothing but calls."""

    def __init__(self, schemas: Schemas, max_chars: int) -> None:
        self._schemas = schemas
        self._max_chars = max_chars
        self._undecided = ""  # the beginning of a line that may become the beginning of a call
        self._held: list[str] = []
        self._held_chars = 0
        self._tail = ""  # the last character of what is held, white space left out
        self._looked = 0  # characters that were read to see whether the held call is complete
        self._line_begins = True
        self.whole = True

    @property
    def holds(self) -> bool:
        """Whether text is held that begins like a call."""
        return bool(self._held)

    def names_one(self, text: str) -> bool:
        """Whether a text holds the name of an offered function."""
        return any(name in text for name in self._schemas)

    def feed(self, text: str) -> tuple[str, bool]:
        """Add text. Returns the text that is certain now, and whether it holds a call without marks."""
        if not self._held:
            return self._sort(text), False
        self._held.append(text)
        self._held_chars += len(text)
        if self._held_chars <= self._max_chars and not self._is_over(text):
            return "", False
        return self._shown(self.take()), True

    def take(self) -> str:
        """Give back all text that is held."""
        held = "".join(self._held) + self._undecided
        self._held, self._held_chars, self._undecided = [], 0, ""
        return held

    def passed(self, text: str) -> None:
        """Note text of the answer in which no call is looked for."""
        self._shown(text)

    def _shown(self, text: str) -> str:
        """Note text that is part of the answer, and return it."""
        if text:
            self._line_begins = not text[text.rfind("\n") + 1 :].strip() and (
                "\n" in text or self._line_begins
            )
            self.whole = self.whole and not text.strip()
        return text

    def _sort(self, text: str) -> str:
        text, self._undecided = self._undecided + text, ""
        shown: list[str] = []
        while text:
            if self._line_begins:
                stripped = text.lstrip()
                shown.append(self._shown(text[: len(text) - len(stripped)]))
                text = stripped
                begins = begins_call(text, self._schemas) if text else False
                if (
                    begins
                    and not self.whole
                    and not (re.match(r"[<\[{]", text) and self.names_one(text))
                ):
                    begins = False  # `f(x)` in the middle of an answer more likely mentions f than calls it
                if begins:
                    self._held, self._held_chars = [text], len(text)
                    self._tail = text.rstrip()[-1:]
                    break
                if begins is None and len(text) <= MAX_UNDECIDED_CHARS:
                    self._undecided = text
                    break
            at = text.find("\n") + 1 or len(text)
            shown.append(self._shown(text[:at]))
            text = text[at:]
        return "".join(shown)

    def _is_over(self, text: str) -> bool:
        """Whether a complete call is held, and other text begins after it."""
        tail, begin = self._tail, text.lstrip()[:1]
        self._tail = text.rstrip()[-1:] or tail
        if not begin or begin in "{[<,;]})" or tail not in "}])>":
            return False
        before = "".join(self._held[:-1])
        self._looked += len(before)
        if self._looked > self._max_chars:
            return False
        try:
            read(before, self._schemas)
        except CallError:
            return False
        return True
