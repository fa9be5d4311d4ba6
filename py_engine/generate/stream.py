"""From the token ids of an answer to deltas: tells text, thinking and tool calls apart, and ends the answer at stop
ids, stop strings and the token limit.

Only text that may still become a mark or a stop string is held back. Stop strings are looked for in the answer itself,
also across tokens and in its control tokens, which are not shown; but not in thinking or calls.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

from py_engine.errors import InputError
from py_engine.generate.loose_calls import Part
from py_engine.generate.markup import Splitter, beginning_of
from py_engine.generate.tools import ToolCall
from py_engine.inputs.detokenizer import StreamDecoder
from py_engine.inputs.tokenizer import require_text

FinishReason = Literal["stop", "length", "tool_calls", "abort"]
MAX_STOP_STRINGS = 64
MAX_STOP_CHARS = 4096
_MAX_MARKS = 1024
_MARK = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, repr=False)
class Delta:
    """A piece of the answer, from so many `tokens`. The last one has a `finish_reason`. All `reasoning` comes before
    all `text`; a tool call comes whole.

    `num_tokens`: tokens of the answer so far. `tps`: tokens per second since the first ones came (0 before that).
    """

    text: str
    tokens: int
    finish_reason: FinishReason | None = None
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    num_tokens: int = field(default=0, compare=False)
    tps: float = field(default=0.0, compare=False)

    def __repr__(self) -> str:
        """Only the fields that hold something."""
        held = {f.name: getattr(self, f.name) for f in fields(self) if f.compare}
        shown = ", ".join(f"{k}={v!r}" for k, v in held.items() if v or k in ("text", "tokens"))
        return f"Delta({shown})"


class StopStrings:
    """Finds the stop string that ends first, and of those that end together the longest, however the text is cut.

    `control`: ids of control tokens by their text. A control token in a stop string matches its letters, and also the
    token itself, for which the caller puts its `mark` into the text.
    """

    def __init__(self, stop: Sequence[str] = (), control: Mapping[str, int] | None = None) -> None:
        if isinstance(stop, str):
            stop = [stop]
        if len(stop) > MAX_STOP_STRINGS:
            raise InputError(f"stop: {len(stop)} strings given, at most {MAX_STOP_STRINGS}")
        for index, text in enumerate(stop):
            if not require_text(text, f"stop[{index}]") or len(text) > MAX_STOP_CHARS:
                raise InputError(f"stop[{index}] must have 1 to {MAX_STOP_CHARS} characters")
        named = [text for text in control or () if any(text in one for one in stop)]
        named.sort(key=len, reverse=True)
        # A lone surrogate stands for each control token, since no text holds one.
        marks = {text: chr(0xD800 + n) for n, text in enumerate(named[:_MAX_MARKS])}
        self._marks = {(control or {})[text]: mark for text, mark in marks.items()}
        tokens = re.compile("|".join(map(re.escape, marks)) or r"(?!)")
        self._given = {tokens.sub(lambda found: marks[found[0]], one): one for one in stop}
        self._given.update((one, one) for one in stop)
        self._stops = sorted(self._given, key=len, reverse=True)
        self._held = ""

    def mark(self, token_id: int) -> str:
        """The character that stands for a control token in the text; "" where no stop string holds the token."""
        return self._marks.get(token_id, "")

    def push(self, text: str) -> tuple[str, str | None]:
        """Add text. Returns the text that is certain now, and the stop string if one was found."""
        text = self._held + text
        found: tuple[int, str] | None = None
        for stop in self._stops:  # longest first, so that an equal end keeps the longer one
            at = text.find(stop)
            if at >= 0 and (found is None or at + len(stop) < found[0]):
                found = at + len(stop), stop
        if found is not None:
            end, stop = found
            self._held = ""
            return text[: end - len(stop)], self._given[stop]
        keep = beginning_of(text, self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def flush(self) -> str:
        """The text that was held back, when no more comes."""
        held, self._held = self._held, ""
        return held


class TextStream:
    """The text of one answer, from ids as they come.

        stream = TextStream(tokenizer.decoder(), stop=["\\n\\n"], stop_ids=tokenizer.stop_ids, max_tokens=100)
        delta = stream.push(ids)        # ids beyond the end are not consumed
        delta = stream.finish("abort")  # when the caller ends it

    text          the answer so far: the texts of all deltas
    reasoning     the thinking so far, without its marks
    tool_calls    the calls that came whole
    errors        why other calls stayed text, and how these break their schemas
    tokens        ids consumed, a stop id and those of a stop string included
    reasoning_tokens   ids of the thinking, its marks included
    kept_tokens   ids whose whole text came before the stop string: the state may keep these
    finish_reason None while it runs
    stop_string   the stop string that ended it

    `splitter` knows the model's marks; without one everything is text. The decoder must not skip its `ids`.
    `control`: ids of control tokens by their text, for stop strings that hold some.
    """

    def __init__(
        self,
        decoder: StreamDecoder,
        stop: Sequence[str] = (),
        stop_ids: Collection[int] = (),
        max_tokens: int | None = None,
        splitter: Splitter | None = None,
        control: Mapping[str, int] | None = None,
    ) -> None:
        self._decoder = decoder
        self._stops = StopStrings(stop, control)
        self._stop_ids = frozenset(stop_ids)
        self._max_tokens = max_tokens
        self._splitter = splitter or Splitter()
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._space = ""  # white space that is not shown if a call follows
        self._searched = 0  # characters given to the stop strings
        self._certain = 0  # characters that they gave back
        self._ends: list[int] = []  # self._searched after each token
        self.tool_calls: list[ToolCall] = []
        self.tokens = 0
        self.reasoning_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.stop_string: str | None = None

    @property
    def text(self) -> str:
        """The texts of all deltas so far."""
        return "".join(self._text)

    @property
    def reasoning(self) -> str:
        """The thinking of all deltas so far."""
        return "".join(self._reasoning)

    @property
    def errors(self) -> list[str]:
        """Why tool calls stayed text, and how others break their schemas."""
        return self._splitter.errors

    @property
    def kept_tokens(self) -> int:
        """Number of ids whose whole text came before the stop string; all of them where there was none."""
        if self.stop_string is None:
            return self.tokens
        return bisect_right(self._ends, self._certain)

    def push(self, ids: Iterable[int]) -> Delta:
        """What is certain after these ids. After the end of the answer no id is consumed, and the delta is empty."""
        before = self._mark()
        for token_id in ids:
            if self.finish_reason is not None:
                break
            self.tokens += 1
            mark = self._stops.mark(token_id) if self._splitter.answering else ""
            if token_id in self._stop_ids:
                self._cut("stop", mark)
                break
            if mark and self._stops_at(token_id, mark):
                break
            was_thinking = self._splitter.thinking
            self._take(self._splitter.feed(self._decoder.push([token_id]), token_id))
            self.reasoning_tokens += was_thinking or self._splitter.thinking
            self._ends.append(self._searched)
            if self.tokens == self._max_tokens:
                self._cut("length")
        return self._delta(before)

    def finish(self, reason: FinishReason = "abort") -> Delta:
        """End the answer from outside. Half a character at its end is left out."""
        before = self._mark()
        self._cut(reason)
        return self._delta(before)

    def _cut(self, reason: FinishReason, mark: str = "") -> None:
        """Show what was held back, but not half a character. `mark`: of the token that ended the answer."""
        if self.finish_reason is not None:
            return
        self._take(self._splitter.feed(self._decoder.flush(cut=True)))
        self._take(self._splitter.end(stopped=reason == "stop"))
        if mark and self.finish_reason is None:
            self._search(mark)
            if self.finish_reason is not None and self.tool_calls:
                self.finish_reason = "tool_calls"
        if self.finish_reason is None:
            self._show(self._stops.flush())
            self._end("tool_calls" if reason == "stop" and self.tool_calls else reason)

    def _end(self, reason: FinishReason) -> None:
        self.finish_reason = reason
        if self._space and not self.tool_calls:
            self._text.append(self._space)

    def _take(self, parts: Iterable[Part]) -> None:
        for part in parts:
            if self.finish_reason is not None:
                return
            if part[0] == "reasoning":
                self._reasoning.append(part[1])
            elif part[0] == "content":
                self._search(part[1])
            else:
                self._show(self._stops.flush())
                self.tool_calls.append(part[1])
                if not self._text:
                    self._space = ""

    def _search(self, text: str) -> None:
        """Look for stop strings in text, and show what comes before them."""
        self._searched += len(text)
        text, self.stop_string = self._stops.push(text)
        self._show(text)
        if self.stop_string is not None:
            self._end("stop")

    def _stops_at(self, token_id: int, mark: str) -> bool:
        """Whether a stop string ends with this token, which must be one that is not shown."""
        if token_id not in self._splitter.ids and not self._decoder.skips(token_id):
            return False
        self._take(self._splitter.release())
        if self.finish_reason is None:
            self._search(mark)
        if self.finish_reason is None:
            return False
        for part in self._splitter.end(stopped=True):  # what it still holds came before the token
            if part[0] == "call":
                self.tool_calls.append(part[1])
            elif part[0] == "content":
                self._show(part[1])
        if self.tool_calls:
            self.finish_reason = "tool_calls"
        return True

    def _show(self, text: str) -> None:
        self._certain += len(text)
        text = _MARK.sub("", text)
        if not self._splitter.calls:
            shown = text
        else:
            text = self._space + text
            shown = text.rstrip()
            self._space = text[len(shown) :]
        if shown:
            self._text.append(shown)

    def _mark(self) -> tuple[int, int, int, int]:
        return self.tokens, len(self._text), len(self._reasoning), len(self.tool_calls)

    def _delta(self, before: tuple[int, int, int, int]) -> Delta:
        tokens, texts, thoughts, calls = before
        return Delta(
            "".join(self._text[texts:]),
            self.tokens - tokens,
            self.finish_reason,
            "".join(self._reasoning[thoughts:]),
            tuple(self.tool_calls[calls:]),
        )
