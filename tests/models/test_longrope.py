"""Longrope: a text longer than the original context uses other rotary frequencies, from its first token on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from py_engine.generate.answer import Answer
from py_engine.serve.engine import Engine
from tests import reference
from tests.conftest import Runner, software_adapter

BORDER = 32


@pytest.fixture(scope="module")
def engine(run: Runner) -> Iterator[Engine]:
    with software_adapter("wgpu"):
        folder = str(reference.folder("phi3"))
        loaded: Engine = run(Engine.load(folder, dtype="f32", host="wgpu", context=256))
    yield loaded
    run(loaded.close())


def answer(run: Runner, engine: Engine, ids: list[int], count: int) -> Answer:
    async def start() -> Answer:
        return await engine.generate(ids, max_tokens=count, temperature=0, ignore_eos=True)

    return run(start())


def logits(run: Runner, engine: Engine, ids: list[int]) -> np.ndarray:
    return np.frombuffer(run(engine.logits(ids)), np.float32).copy()


def test_texts_on_both_sides_in_turn(engine: Engine, run: Runner) -> None:
    """The tables follow the length of the text, whatever text was there before."""
    for length in (65, 7, 65, 7):
        golden = reference.prompt("phi3", length)
        error = reference.nmse(logits(run, engine, golden.ids), golden.logits)
        assert error <= reference.NMSE_F32


def test_an_answer_grows_past_the_border(engine: Engine, run: Runner) -> None:
    """The tokens are those of transformers. Afterwards a longer text reuses the cache, and a short one does not."""
    golden = reference.prompt("phi3", 7)
    made = answer(run, engine, golden.ids, len(golden.greedy))
    reference.assert_same_tokens(made.tokens, golden)
    assert len(golden.ids) + len(made.tokens) > BORDER + 1
    text = golden.ids + made.tokens
    more = answer(run, engine, [*text, 5], 1)
    assert more.cached_tokens >= len(text) - 1
    assert more.tokens == [int(logits(run, engine, [*text, 5]).argmax())]
    short = answer(run, engine, golden.ids, 1)
    assert short.cached_tokens == 0
    reference_first = golden.greedy[:1]
    assert short.tokens == reference_first


def test_the_cache_of_a_short_text_is_not_that_of_a_long_one(engine: Engine, run: Runner) -> None:
    golden = reference.prompt("phi3", 65)
    assert answer(run, engine, golden.ids[:20], 1).finish_reason == "length"
    assert answer(run, engine, golden.ids[: BORDER - 4], 1).cached_tokens == 20
    made = answer(run, engine, golden.ids, 1)
    assert made.cached_tokens == 0
    assert made.tokens == golden.greedy[:1]
