"""Which turns stay when a conversation is too long. These tests count words as tokens, because any count works."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from py_engine.inputs.window import Window

CONTEXT = 100
SYSTEM = {"role": "system", "content": "be brief"}


def count(messages: Sequence[Any]) -> int:
    return sum(len(str(m.get("content", "")).split()) for m in messages)


def fit(messages: Sequence[Any], max_tokens: int | None, window: Window | None = None) -> Any:
    return (window or Window(CONTEXT)).fit(messages, count(messages), count, max_tokens)


def turn(name: str, words: int, *, answered: bool = True) -> list[dict[str, str]]:
    """A question and its answer, each with this many words."""
    question = {"role": "user", "content": " ".join([name] * words)}
    return [question, {"role": "assistant", "content": question["content"]}][: 1 + answered]


def names(messages: Sequence[Any]) -> list[str]:
    return [m["content"].split()[0] for m in messages]


def test_what_fits_stays() -> None:
    messages = [SYSTEM, *turn("a", 10), *turn("b", 9, answered=False)]
    assert fit(messages, 50) == (messages, None)
    assert fit(messages, None) == (messages, None)


def test_the_oldest_turns_go_and_the_system_prompt_stays() -> None:
    messages = [
        SYSTEM,
        *turn("a", 20),
        *turn("b", 15),
        *turn("c", 15),
        *turn("d", 9, answered=False),
    ]
    kept, dropped = fit(messages, 10)
    # 2 + 40 + 30 + 30 + 9 words. Without a there are 71, which leaves a quarter free.
    assert names(kept) == ["be", "b", "b", "c", "c", "d"]
    assert dropped is not None
    assert (dropped.messages, dropped.tokens) == ((1, 2), 40)
    assert messages[0] is kept[0]


@pytest.mark.parametrize(
    "max_tokens, left",
    [
        (10, ["b", "b", "c"]),
        (45, ["b", "b", "c"]),
        (50, ["c"]),
        (99, ["c"]),
        (None, ["b", "b", "c"]),
    ],
)
def test_room_for_the_answer(max_tokens: int | None, left: list[str]) -> None:
    messages = [*turn("a", 20), *turn("b", 20), *turn("c", 12, answered=False)]
    kept, dropped = fit(messages, max_tokens)
    assert names(kept) == left
    assert dropped is not None
    assert dropped.messages == tuple(range(5 - len(left)))


def test_a_newest_turn_that_is_too_long_is_not_cut() -> None:
    long = turn("b", 200, answered=False)
    kept, dropped = fit([SYSTEM, *turn("a", 5), *long], 10)
    assert kept == [SYSTEM, *long]
    assert dropped is not None
    assert dropped.messages == (1, 2)
    assert fit([SYSTEM, *long], 10) == ([SYSTEM, *long], None)


def test_tool_results_go_with_their_turn() -> None:
    """A result is never kept without its call, nor a call without its question."""
    calls = [
        {"role": "user", "content": "weather " * 20},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look"}}]},
        {"role": "tool", "content": "rain " * 30},
        {"role": "assistant", "content": "wet " * 5},
    ]
    newest = [
        {"role": "user", "content": "and now " * 10},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look"}}]},
        {"role": "tool", "content": "sun " * 20},
    ]
    kept, dropped = fit([SYSTEM, *calls, *newest], 20)
    assert kept == [SYSTEM, *newest]
    assert dropped is not None
    assert dropped.messages == (1, 2, 3, 4)


def test_the_cut_moves_seldom() -> None:
    """In a long conversation most turns leave out what the turn before left out, so that the prompt only grows."""
    window = Window(CONTEXT)
    messages, cuts = [SYSTEM], []
    for i in range(40):
        messages += turn(f"t{i}", 4, answered=False)
        kept, dropped = fit(messages, 8, window)
        assert count(kept) + 8 <= CONTEXT
        assert kept[-1] is messages[-1]
        cuts.append(len(dropped.messages) if dropped else 0)
        messages += turn(f"t{i}", 4)[1:]
    assert cuts == sorted(cuts)
    moves = sum(a != b for a, b in zip(cuts, cuts[1:], strict=False))
    assert 5 <= moves <= 12, "a quarter of the context holds three of these turns"


def test_another_conversation_is_cut_for_itself() -> None:
    window = Window(CONTEXT)
    old = [*turn("a", 20), *turn("b", 20), *turn("c", 12, answered=False)]
    assert fit(old, 10, window)[1] is not None
    edited = [*turn("x", 20), *old[2:]]
    kept, dropped = fit(edited, 10, window)
    assert names(kept) == ["b", "b", "c"]
    assert dropped is not None
    short = [*turn("a", 2), *turn("c", 3, answered=False)]
    assert fit(short, 10, window) == (short, None)
