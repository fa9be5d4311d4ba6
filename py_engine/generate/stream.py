"""Token ids of an answer to text deltas: stop ids, stop strings across token borders, the token
limit.

What could still become a stop string is held back, nothing more. Thinking (`<think>`) will be told
apart between the decoder and the stop strings; until then it is part of the text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from py_engine.errors import InputError
from py_engine.inputs.detokenizer import StreamDecoder
from py_engine.inputs.tokenizer import require_text

FinishReason = Literal["stop", "length", "abort"]
MAX_STOP_STRINGS = 64
MAX_STOP_CHARS = 4096


@dataclass(frozen=True)
class Delta:
    """A piece of the answer. `tokens` ids were consumed for it; `finish_reason` is set on the last
    one."""

    text: str
    tokens: int
    finish_reason: FinishReason | None = None


class StopStrings:
    """Finds the stop string that ends first (of those that end together the longest), however the
    text is cut."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        if isinstance(stop, str):
            stop = [stop]
        if len(stop) > MAX_STOP_STRINGS:
            raise InputError(f"stop: {len(stop)} strings given, at most {MAX_STOP_STRINGS}")
        for index, text in enumerate(stop):
            if not require_text(text, f"stop[{index}]") or len(text) > MAX_STOP_CHARS:
                raise InputError(f"stop[{index}] must have 1 to {MAX_STOP_CHARS} characters")
        self._stops = sorted(set(stop), key=len, reverse=True)
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """(text that is certain now, the stop string that was found)."""
        text = self._held + text
        found: tuple[int, str] | None = None
        for stop in self._stops:  # longest first, so that an equal end keeps the longer one
            at = text.find(stop)
            if at >= 0 and (found is None or at + len(stop) < found[0]):
                found = at + len(stop), stop
        if found is not None:
            end, stop = found
            self._held = ""
            return text[: end - len(stop)], stop
        keep = self._candidate(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def flush(self) -> str:
        """What was held back, now that no more comes."""
        held, self._held = self._held, ""
        return held

    def _candidate(self, text: str) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            end = text[len(text) - length :]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0


class TextStream:
    """The text of one answer, from ids as they come.

        stream = TextStream(tokenizer.decoder(), stop=["\\n\\n"], stop_ids=tokenizer.stop_ids,
        max_tokens=100)
        delta = stream.push(ids)        # ids beyond the end are not consumed
        delta = stream.finish("abort")  # when the caller ends it

    text          everything shown so far: the deltas joined
    tokens        ids consumed, a stop id and those of a stop string included: what the kept state
                  may hold at most
    finish_reason None while it runs
    stop_string   the stop string that ended it
    """

    def __init__(
        self,
        decoder: StreamDecoder,
        stop: Sequence[str] = (),
        stop_ids: Collection[int] = (),
        max_tokens: int | None = None,
    ) -> None:
        self._decoder = decoder
        self._stops = StopStrings(stop)
        self._stop_ids = frozenset(stop_ids)
        self._max_tokens = max_tokens
        self._shown: list[str] = []
        self.tokens = 0
        self.finish_reason: FinishReason | None = None
        self.stop_string: str | None = None

    @property
    def text(self) -> str:
        """The deltas so far, joined."""
        return "".join(self._shown)

    def push(self, ids: Iterable[int]) -> Delta:
        """Text that these ids made certain. After the end nothing is consumed and the delta is
        empty."""
        before, out = self.tokens, []
        for token_id in ids:
            if self.finish_reason is not None:
                break
            self.tokens += 1
            if token_id in self._stop_ids:
                out.append(self._cut("stop"))
                break
            out.append(self._through(self._decoder.push([token_id])))
            if self.tokens == self._max_tokens:
                out.append(self._cut("length"))
        return self._delta("".join(out), before)

    def finish(self, reason: FinishReason = "abort") -> Delta:
        """End it from outside; a half character at its end is left out."""
        return self._delta(self._cut(reason), self.tokens)

    def _through(self, text: str) -> str:
        if not text or self.finish_reason is not None:
            return ""
        text, self.stop_string = self._stops.push(text)
        if self.stop_string is not None:
            self.finish_reason = "stop"
        return text

    def _cut(self, reason: FinishReason) -> str:
        """What decoder and stop strings held back, less a character that is not whole."""
        if self.finish_reason is not None:
            return ""
        shown = self._through(self._decoder.flush(cut=True))
        if self.finish_reason is None:
            self.finish_reason = reason
            shown += self._stops.flush()
        return shown

    def _delta(self, text: str, before: int) -> Delta:
        if text:
            self._shown.append(text)
        return Delta(text, self.tokens - before, self.finish_reason)
