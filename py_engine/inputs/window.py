"""Which messages of a conversation the model still sees when not all of them fit its context."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Messages = Sequence[Mapping[str, Any]]
LEAST_ANSWER = 256  # tokens to keep free when max_tokens is not given; fewer in a small context


@dataclass(frozen=True)
class Dropped:
    """What the model does not see. `messages`: their indices in the conversation as given. `tokens`: how many tokens of
    the prompt they took."""

    messages: tuple[int, ...]
    tokens: int


class Window:
    """Keeps the system prompt and the newest whole turns. A turn is a user's message and all that follows it, with tool
    calls and results, up to the next user's message. The newest turn always stays.

    When turns must go, a quarter of the context is made free. So later turns only extend a prompt that already ran; and
    the next call with the same conversation leaves out the same messages, as long as that is enough.
    """

    def __init__(self, context: int) -> None:
        self._context = context
        self._left_out: list[Mapping[str, Any]] = []  # the messages that the last call left out

    def fit(
        self,
        messages: Messages,
        tokens: int,
        count: Callable[[Messages], int],
        max_tokens: int | None,
    ) -> tuple[Messages, Dropped | None]:
        """The messages that fit together with the answer, and what was dropped (None: nothing).

        `tokens`: of the prompt with all messages. `count`: gives the tokens for other messages. `max_tokens`: of the
        answer; None: not given. A newest turn that is too long by itself is not cut.
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
