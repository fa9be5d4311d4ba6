"""Conversations longer than the context: which messages are left out, how that is reported, and what is still an error.

tests/test_window.py tests which turns are left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.worker import Host
from py_engine.errors import ContextError
from py_engine.host.gpu import Gpu
from py_engine.serve.engine import Engine
from tests import reference
from tests.conftest import Runner

CONTEXT = 256
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(scope="module")
def engine(open_software_gpu: Callable[..., Gpu], run: Runner) -> Iterator[Engine]:
    """A hybrid model. Its state cannot be shifted, so what stays is run again. Its tokens are bytes."""
    loaded: Engine = run(
        Engine.load(
            str(reference.folder("lfm2-mlx4-g64")),
            gpu=open_software_gpu("wgpu"),
            dtype="f32",
            context=CONTEXT,
        )
    )
    yield loaded
    run(loaded.close())


def chat(engine: Engine, run: Runner, messages: Any, **options: Any) -> Any:
    async def start() -> Any:
        options.setdefault("max_tokens", 8)
        generation = engine.chat(messages, temperature=0.0, ignore_eos=True, **options)
        told = generation.dropped
        answer = await generation
        assert answer.dropped == told, "known before it runs"
        return answer

    return run(start())


def conversation(turns: int) -> list[dict[str, str]]:
    """The system prompt, answered questions with turns of 60 tokens, and a new question."""
    messages = [SYSTEM]
    for i in range(turns):
        messages.append({"role": "user", "content": f"question {i}, longer"})
        messages.append({"role": "assistant", "content": f"answer {i}, shorter"})
    return [*messages, {"role": "user", "content": "and now?"}]


def test_turns_are_left_out_and_said(engine: Engine, run: Runner) -> None:
    messages = conversation(6)
    assert engine.count_tokens(messages) + 8 > CONTEXT
    got = chat(engine, run, messages)
    assert got.dropped.messages == tuple(range(1, 1 + len(got.dropped.messages)))
    left = [SYSTEM, *messages[1 + len(got.dropped.messages) :]]
    assert got.prompt_tokens == engine.count_tokens(left)
    assert got.dropped.tokens == engine.count_tokens(messages) - got.prompt_tokens
    run(engine.logits([1]))
    alone = chat(engine, run, left)
    assert alone.dropped is None
    assert alone.tokens == got.tokens


def test_nothing_is_said_where_all_fits(engine: Engine, run: Runner) -> None:
    assert chat(engine, run, conversation(1)).dropped is None


def test_the_turn_after_goes_on_from_the_cut_one(engine: Engine, run: Runner) -> None:
    """The next turn leaves out the same messages, so its prompt extends the one that ran."""
    messages = conversation(6)
    first = chat(engine, run, messages)
    follow = [
        *messages,
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "So?"},
    ]
    second = chat(engine, run, follow)
    assert second.dropped == first.dropped
    assert second.cached_tokens >= first.prompt_tokens - len("[assistant] ")


def test_an_answer_of_no_given_length_gets_room(engine: Engine, run: Runner) -> None:
    messages = conversation(3)
    room = CONTEXT - engine.count_tokens(messages)
    assert 0 < room < CONTEXT // 4, "it fits, but hardly anything could be answered"
    got = chat(engine, run, messages, max_tokens=None)
    assert got.dropped is not None
    assert len(got.tokens) >= CONTEXT // 4


def test_the_newest_turn_and_plain_texts_are_not_cut(engine: Engine, run: Runner) -> None:
    long = {"role": "user", "content": "x" * 300}
    with pytest.raises(ContextError, match="of 256") as caught:
        chat(engine, run, [*conversation(2), {"role": "assistant", "content": "Yes."}, long])
    assert caught.value.context == CONTEXT
    assert caught.value.prompt_tokens == engine.count_tokens([SYSTEM, long])

    async def complete() -> Any:
        return await engine.complete("x" * 300)

    with pytest.raises(ContextError, match="300 tokens.*256"):
        run(complete())


def test_the_worker_says_it_before_the_first_token(engine: Engine, run: Runner) -> None:
    async def nothing() -> None:
        pass

    async def ask() -> list[dict[str, Any]]:
        heard: list[dict[str, Any]] = []
        host = Host(heard.append, nothing)
        host._models._engines[""] = engine
        host.receive(
            {
                "type": "generate",
                "id": "q",
                "messages": conversation(6),
                "options": {"max_tokens": 8, "temperature": 0},
            }
        )
        await asyncio.gather(*host._tasks)
        return heard

    heard = run(ask())
    assert [m["status"] for m in heard if m["status"] != "token"] == ["dropped", "complete"]
    assert heard[0]["id"] == "q"
    assert heard[0]["messages"] == list(chat(engine, run, conversation(6)).dropped.messages)
    assert heard[0]["tokens"] > 60
