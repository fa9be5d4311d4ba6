"""Which messages of a conversation the model still sees when not all of them fit its context."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Messages = Sequence[Mapping[str, Any]]
LEAST_ANSWER = 256  # tokens kept free for an answer of no given length, in a small context less


@dataclass(frozen=True)
class Dropped:
    """`messages`: places, in the conversation as it was given, of those that the model does not see; they took
    `tokens` of the prompt."""

    messages: tuple[int, ...]
    tokens: int


class Window:
    """The system prompt and the newest whole turns: a turn is a user's message with all that follows it, tool calls and
    their results too, up to the next one's. The newest turn always stays.

    When turns have to go, a quarter of the context is made free, so that the turns that follow extend a prompt that
    already ran; and the next call with the same conversation leaves out the same messages as long as that is enough.
    """

    def __init__(self, context: int) -> None:
        self._context = context
        self._left_out: list[Mapping[str, Any]] = []  # by the last call

    def fit(
        self,
        messages: Messages,
        tokens: int,
        count: Callable[[Messages], int],
        max_tokens: int | None,
    ) -> tuple[Messages, Dropped | None]:
        """The messages that are left when they and the answer must fit, and what is not (None: all are left).

        `tokens`: of the prompt of all messages; `count` gives those of another. `max_tokens`: of the answer, None: no
        given length. The newest turn may be too long by itself: it is not cut.
        """
        need = max_tokens or min(LEAST_ANSWER, self._context // 4)
        first = next(
            (i for i, m in enumerate(messages) if m["role"] not in ("system", "developer")), 0
        )
        starts = [i for i, m in enumerate(messages) if i > first and m["role"] == "user"]
        if tokens + need <= self._context or not starts:
            self._left_out = []
            return messages, None

        def rest(start: int) -> Messages:
            return [*messages[:first], *messages[start:]]

        def leaves(start: int, room: int) -> bool:
            return count(rest(start)) + room <= self._context

        def oldest(room: int) -> int | None:
            at = bisect_left(starts, True, key=lambda start: leaves(start, room))
            return starts[at] if at < len(starts) else None

        start = first + len(self._left_out)
        as_before = start in starts and list(messages[first:start]) == self._left_out
        if not as_before or not leaves(start, need):
            start = oldest(max(need, self._context // 4)) or oldest(need) or starts[-1]
        self._left_out = [dict(m) for m in messages[first:start]]
        kept = rest(start)
        return kept, Dropped(tuple(range(first, start)), tokens - count(kept))
