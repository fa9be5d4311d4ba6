"""The first token of an answer is read while the next steps already run. These tests check the state that a stop, an
end and an early close leave at this point, and how many chunks of a prompt are in flight at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from py_engine.abort import Abort
from py_engine.errors import AbortError
from py_engine.generate.decoder import STEPS_IN_FLIGHT, Decoder
from py_engine.host.gpu import Gpu
from py_engine.serve.engine import Engine
from tests import reference
from tests.answers import answer, fresh
from tests.conftest import Runner

CONTEXT = 128
PROMPT = [40 + 7 * i % 150 for i in range(37)]
CHUNK = 16


@pytest.fixture(scope="module")
def gpu(wgpu: Gpu) -> Gpu:
    """One host is enough: this tests the engine's bookkeeping."""
    return wgpu


@pytest.fixture(scope="module", params=["qwen2-mlx4-g64", "qwen3.5-mlx4-g64"])
def engine(request: pytest.FixtureRequest, gpu: Gpu, run: Runner) -> Iterator[Engine]:
    """A model with a KV cache only, and a hybrid. Chunks are small, so that a prompt has several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("py_engine.generate.passes.PREFILL_ROWS", (CHUNK,))
        loaded = run(
            Engine.load(str(reference.folder(request.param)), gpu=gpu, dtype="f32", context=CONTEXT)
        )
    yield loaded
    run(loaded.close())


@pytest.fixture
def decoder(engine: Engine, run: Runner) -> Decoder:
    """The engine's decoder, with nothing of PROMPT cached."""
    run(engine.logits([1]))
    return engine._loaded.decoder


def start(
    engine: Engine,
    ids: list[int] = PROMPT,
    abort: Abort | None = None,
    count: int = 20,
    stop_ids: Sequence[int] = (),
) -> Any:
    """The batches of tokens that the decoder itself gives."""
    settings = engine._loaded.text.sampling_defaults
    sampling = settings.make(settings, {"temperature": 0.0}, list(stop_ids))
    return engine._loaded.decoder.generate(ids, sampling, count, abort or Abort())


def goes_on(engine: Engine, run: Runner, ids: list[int], cached: int) -> None:
    """Check that `ids` finds `cached` tokens in the cache, and gets the same answer as with nothing cached."""
    got = answer(engine, run, ids, 5)
    assert got.cached_tokens == cached
    assert got.tokens == fresh(engine, run, ids, 5)


def test_steps_are_submitted_before_the_first_token_is_read(
    engine: Engine, decoder: Decoder, gpu: Gpu, run: Runner
) -> None:
    """Before the first token is read, these are submitted: the passes of the prompt, a copy of the recurrent state, a
    copy of the token, and the steps that the ring has room for. The first token comes in a batch of its own."""
    first = answer(engine, run, PROMPT, 1)
    run(engine.logits([1]))

    async def begun() -> int:
        before = gpu.counters.submits
        async with aclosing(start(engine)) as batches:
            async for batch in batches:
                assert [sampled.token for sampled in batch] == first.tokens
                return gpu.counters.submits - before
        raise AssertionError

    submits = run(begun())
    snapshot = decoder.prefix.recurrent
    *chunks, last = [CHUNK] * (len(PROMPT) // CHUNK) + [len(PROMPT) % CHUNK or CHUNK]
    plans = [p for rows in chunks for p in decoder.chunk_plans(rows, None)]
    plans += decoder.chunk_plans(last, "greedy")
    of_prompt = sum(len(plan.recording.command_buffers) for plan in plans)
    assert len(plans) < of_prompt < 3 * len(plans), "a chunk in a few command buffers"
    assert submits == of_prompt + snapshot + 1 + STEPS_IN_FLIGHT - 1


def test_an_early_close_waits_for_the_steps(engine: Engine, decoder: Decoder, run: Runner) -> None:
    """A caller that takes one token and leaves: the steps after it have run, but no prompt continues from them."""

    async def one() -> int:
        async with aclosing(start(engine)) as batches:
            async for batch in batches:
                return int(batch[0].token)
        raise AssertionError

    token = run(one())
    assert decoder._seen == len(PROMPT) + STEPS_IN_FLIGHT - 1
    decoder.keep(PROMPT)
    assert decoder.prefix.ids == PROMPT
    assert not decoder.prefix.lives
    goes_on(engine, run, [*PROMPT, token, 9, 8], len(PROMPT))


def test_a_stop_before_the_first_token_was_taken(
    engine: Engine, decoder: Decoder, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole prompt has run, and stays cached."""
    loop = decoder.gpu.decode_loop

    async def stopped() -> Any:
        generation = engine.generate(PROMPT, max_tokens=20, temperature=0.0, ignore_eos=True)

        def stopping(*args: Any, **options: Any) -> Any:
            generation.stop()
            return loop(*args, **options)

        monkeypatch.setattr(decoder.gpu, "decode_loop", stopping)
        return await generation

    got = run(stopped())
    monkeypatch.undo()
    assert (got.finish_reason, got.tokens) == ("abort", [])
    assert engine.info()["context"]["used"] == len(PROMPT)
    goes_on(engine, run, [*PROMPT, 9, 8], len(PROMPT))


@pytest.mark.parametrize("count", [1, 20])
def test_an_end_at_the_first_token(
    engine: Engine, decoder: Decoder, run: Runner, count: int
) -> None:
    """The answer ends by the limit or by a stop token. The state is the one after the prompt, whatever was submitted
    later."""
    token = answer(engine, run, PROMPT, 1).tokens[0]
    run(engine.logits([1]))
    stop_ids = [] if count == 1 else [token]

    async def ended() -> list[tuple[int, int]]:
        batches = start(engine, count=count, stop_ids=stop_ids)
        return [(s.token, s.halt) async for batch in batches for s in batch]

    assert run(ended()) == [(token, 2 if count == 1 else 1)]
    assert decoder._seen == len(PROMPT)
    decoder.keep(PROMPT)
    assert decoder.prefix.ids == PROMPT and decoder.prefix.lives
    goes_on(engine, run, [*PROMPT, 9, 8], len(PROMPT))


def test_at_most_two_chunks_are_on_their_way(
    engine: Engine, decoder: Decoder, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop comes between chunks: those that ran stay cached."""
    fence, abort = decoder.gpu.fence, Abort()
    under_way = most = passed = 0

    def fenced() -> Callable[[], Awaitable[None]]:
        nonlocal under_way, most
        under_way, wait = under_way + 1, fence()
        most = max(most, under_way)

        async def waited() -> None:
            nonlocal under_way, passed
            await wait()
            under_way, passed = under_way - 1, passed + 1
            if passed == 2:
                abort.set()

        return waited

    ids = [*PROMPT, *PROMPT]

    async def stopped() -> None:
        async for _ in start(engine, ids, abort):
            raise AssertionError

    with monkeypatch.context() as patch, pytest.raises(AbortError):
        patch.setattr(decoder.gpu, "fence", fenced)
        run(stopped())
    assert (most, under_way) == (2, 1)
    ran = ids[: 3 * CHUNK]
    assert decoder.prefix.ids == ran and decoder.prefix.lives
    goes_on(engine, run, [*ran, 9], len(ran))
