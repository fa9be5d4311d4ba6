"""Calls that come without their opening mark, in the text of an answer that is still coming.

Small models leave marks out, and some families have none (Llama 3: the answer itself is {"name": ..., "parameters":
...}). What begins a line as a call of an offered function does is held back, until it is known what it is:

    a closing mark follows          it is read as a call
    it is the whole answer          it is read as a call
    other text follows, or precedes without a closing mark      it is text, and that is told
"""

from __future__ import annotations

import re

from py_engine.generate.tool_schema import Schemas
from py_engine.generate.tool_syntax import CallError, begins_call, read

MAX_UNDECIDED_CHARS = 1024


class BareCalls:
    """Holds back what may be such a call. `whole`: whether nothing but calls came before it."""

    def __init__(self, schemas: Schemas, max_chars: int) -> None:
        self._schemas = schemas
        self._max_chars = max_chars
        self._undecided = ""  # at the beginning of a line
        self._held: list[str] = []
        self._held_chars = 0
        self._tail = ""  # the last sign of it
        self._looked = 0  # characters read to see whether what is held is over
        self._line_begins = True
        self.whole = True

    @property
    def holds(self) -> bool:
        """Whether something is held that begins as a call."""
        return bool(self._held)

    def names_one(self, text: str) -> bool:
        """Whether the name of a function that was offered stands in a text."""
        return any(name in text for name in self._schemas)

    def feed(self, text: str) -> tuple[str, bool]:
        """(text that is certain now, whether a call without marks is in it)."""
        if not self._held:
            return self._sort(text), False
        self._held.append(text)
        self._held_chars += len(text)
        if self._held_chars <= self._max_chars and not self._is_over(text):
            return "", False
        return self._shown(self.take()), True

    def take(self) -> str:
        """All that is held, given back."""
        held = "".join(self._held) + self._undecided
        self._held, self._held_chars, self._undecided = [], 0, ""
        return held

    def passed(self, text: str) -> None:
        """This text went by without being looked at."""
        self._shown(text)

    def _shown(self, text: str) -> str:
        """Text that is part of the answer."""
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
                    begins = False  # `f(x)` in the middle of an answer is rather talked about
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
        """Whether what was held is a whole call, behind which other text begins."""
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
