"""The KV cache grows with the text: it gives the same tokens as a cache of full size, and costs what is expected."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from py_engine.abort import Abort
from py_engine.errors import AbortError, InputError, OutOfMemoryError
from py_engine.generate.cache_growth import Sizes
from py_engine.host.gpu import Gpu
from py_engine.serve.engine import Engine
from tests import reference
from tests.conftest import Runner

CLASSES = (16, 160, 176, 240)
CONTEXT = 320
PROMPT = [3, 50, 7, 99, 12]


@pytest.fixture(scope="module")
def gpu(wgpu: Gpu) -> Gpu:
    """One host is enough: this tests the engine's bookkeeping."""
    return wgpu


def load(gpu: Gpu, run: Runner, name: str, **options: Any) -> Engine:
    settings: dict[str, Any] = {"dtype": "f32", "context": CONTEXT, "context_classes": CLASSES}
    loaded: Engine = run(Engine.load(str(reference.folder(name)), gpu=gpu, **settings | options))
    return loaded


@pytest.fixture(scope="module")
def engine(gpu: Gpu, run: Runner) -> Iterator[Engine]:
    loaded = load(gpu, run, "qwen2-mlx4-g64")
    yield loaded
    run(loaded.close())


@pytest.fixture
def emptied(engine: Engine, run: Runner) -> Engine:
    """The engine with one token in the smallest cache."""
    run(engine.logits([1]))
    assert capacity(engine) == CLASSES[0]
    return engine


def capacity(engine: Engine) -> int:
    n: int = engine.info()["context"]["class"]
    return n


def answer(engine: Engine, run: Runner, ids: list[int], count: int, **options: Any) -> Any:
    async def start() -> Any:
        return await engine.generate(
            ids, max_tokens=count, **{"temperature": 0.0, "ignore_eos": True, **options}
        )

    return run(start())


def refuse_keys(gpu: Gpu, monkeypatch: pytest.MonkeyPatch, after: int = 0) -> None:
    """From now on the device has no room for K and V of layer `after` and later layers."""
    create = gpu.create_buffer

    def refusing(label: str, nbytes: int, kind: Any = "storage") -> Any:
        if label.startswith("layer") and int(label.split()[1].split(".")[0]) >= after:
            raise OutOfMemoryError(f"no room for {label}")
        return create(label, nbytes, kind)

    monkeypatch.setattr(gpu, "create_buffer", refusing)


def test_fixed_sizes() -> None:
    assert Sizes.of(100, (64, 16, 100, 16)) == Sizes(100, (16, 64, 100))
    assert Sizes.of(7, (512,)) == Sizes.of(7, ()) == Sizes(7, (7,))
    for bad in (0, -512, True, 2.5, "512"):
        with pytest.raises(InputError, match="context_classes"):
            Sizes.of(100, (16, bad))  # type: ignore[arg-type]


@pytest.mark.parametrize("context", [300, 512, 4096, 40960, 262144])
def test_sizes(context: int) -> None:
    """From 2,048 tokens on a cache has at most 1.15 times the size of the text, which comes by tokens or at once."""
    sizes = Sizes.of(context, None)
    assert sizes.first == min(512, context)
    growths = 0
    grown = sizes.first
    for tokens in range(1, context + 1, 1 if context < 50000 else 97):
        wanted = sizes.wanted(grown, tokens, tokens - 1, 0)
        growths += wanted != grown
        grown = wanted
        fresh = sizes.wanted(sizes.first, tokens, 0, 128)
        for size in (grown, fresh):
            assert tokens <= size <= context
            assert tokens < 2048 or size <= 1.15 * tokens
    assert grown == context
    assert growths <= 45
    assert sizes.wanted(context, 2048, 0, 128) <= 2304, "a new text does not keep a large cache"
    at_once = sizes.wanted(sizes.first, min(context, 600), 0, 128)
    assert sizes.wanted(at_once, min(context, 500), 0, 128) == at_once, "small ones stay"
    assert sizes.last_but_one <= context


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("gemma3-mlx4-g64", marks=pytest.mark.slow),
        pytest.param("qwen3-mlx4-g128", marks=pytest.mark.slow),
        "qwen3.5-mlx4-g64",
    ],
)
def test_the_same_tokens_as_without_growing(gpu: Gpu, run: Runner, name: str) -> None:
    """The cache grows during decode, greedy and sampled, and then in a second turn before its prefill."""
    grown, whole = load(gpu, run, name), load(gpu, run, name, context_classes=())
    try:
        assert capacity(whole) == CONTEXT
        for options in ({}, {"temperature": 1.0, "seed": 5, "presence_penalty": 0.5}):
            run(grown.logits([1]))
            got = answer(grown, run, PROMPT, 180, **options)
            assert got.tokens == answer(whole, run, PROMPT, 180, **options).tokens
            assert capacity(grown) == 240
            follow = [*PROMPT, *got.tokens, *range(40, 90)]
            second = answer(grown, run, follow, 20, **options)
            assert second.cached_tokens == len(PROMPT) + 179
            assert capacity(grown) == CONTEXT
            assert second.tokens == answer(whole, run, follow, 20, **options).tokens
    finally:
        run(grown.close())
        run(whole.close())


def test_a_large_cache_grows_part_by_part(
    gpu: Gpu, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two batches of tokens no more than a part moves, so that no pause is long; the tokens are the same."""
    whole = load(gpu, run, "qwen2-mlx4-g64", context_classes=())
    parted = load(gpu, run, "qwen2-mlx4-g64", context_classes=(160,))
    made: list[str] = []
    create = gpu.create_buffer

    def noting(label: str, nbytes: int, kind: Any = "storage") -> Any:
        made.append(label)
        return create(label, nbytes, kind)

    async def tokens(engine: Engine) -> tuple[list[int], int]:
        found: list[int] = []
        most = 0
        work = engine.generate(PROMPT, max_tokens=200, temperature=0.0, ignore_eos=True)
        async for delta in work:
            most = max(most, sum(label.startswith("layer") for label in made))
            made.clear()
            found.append(delta.num_tokens)
        return (await work).tokens, most

    monkeypatch.setattr("py_engine.generate.cache_growth._PART_BYTES", 1)
    try:
        expected = run(tokens(whole))[0]
        monkeypatch.setattr(gpu, "create_buffer", noting)
        got, most = run(tokens(parted))
        assert capacity(parted) == CONTEXT
        assert got == expected
        assert most == 1
        run(parted.logits([1]))
        made.clear()
        answer(parted, run, PROMPT, 155)
        assert capacity(parted) == 160
        assert not made, "an answer that ends before the cache does"
    finally:
        run(whole.close())
        run(parted.close())


def test_what_growing_makes(emptied: Engine, gpu: Gpu, run: Runner) -> None:
    """Growing makes no pipeline and leaves as many buffers as before. Within one size nothing is made at all."""
    answer(emptied, run, PROMPT[:3], 2)  # makes the ring of readback buffers
    before = gpu.counters.pipelines_created, gpu.counters.live_buffers
    small = emptied.info()["memory"]["state_bytes"]
    answer(emptied, run, PROMPT, 160)
    assert capacity(emptied) == 176
    large = emptied.info()["memory"]["state_bytes"]
    config = json.loads((reference.folder("qwen2-mlx4-g64") / "config.json").read_text())
    heads, layers = config["num_key_value_heads"], config["num_hidden_layers"]
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    assert large - small == (176 - 16) * heads * head_dim * 4 * 2 * layers
    answer(
        emptied, run, [*PROMPT[:3], 9], 160
    )  # makes the bind groups of a chunk's plans, which decode does not need
    made = gpu.counters.buffers_created, gpu.counters.bind_groups_created
    answer(emptied, run, [*PROMPT[:3], 9, 9], 160)
    assert (gpu.counters.buffers_created, gpu.counters.bind_groups_created) == made
    assert (gpu.counters.pipelines_created, gpu.counters.live_buffers) == before


def test_small_caches_grow_at_once(
    emptied: Engine, gpu: Gpu, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the old and the new cache together fit the size of the full context, the device is asked once whether it has
    memory. Otherwise it is asked for each of the two layers."""
    check, asked = gpu.check, 0

    async def counted() -> None:
        nonlocal asked
        asked += 1
        await check()

    monkeypatch.setattr(gpu, "check", counted)
    assert CLASSES[0] + CLASSES[1] <= CONTEXT < CLASSES[1] + CLASSES[2]
    answer(emptied, run, PROMPT, 20)
    assert (capacity(emptied), asked) == (CLASSES[1], 1)
    answer(emptied, run, PROMPT, 160)
    assert (capacity(emptied), asked) == (CLASSES[2], 3)


def test_a_new_conversation_begins_small(emptied: Engine, run: Runner) -> None:
    answer(emptied, run, PROMPT, 50)
    assert capacity(emptied) == 160
    answer(emptied, run, PROMPT, 2)  # the same conversation keeps its rows and their cache
    assert capacity(emptied) == 160
    fresh = answer(emptied, run, [77, *PROMPT], 2)
    assert fresh.cached_tokens == 0
    assert capacity(emptied) == CLASSES[0]


def test_a_stop_lands_before_and_after_growing(emptied: Engine, run: Runner) -> None:
    async def stopped(after: int) -> Any:
        generation = emptied.generate(PROMPT, max_tokens=300, temperature=0.0, ignore_eos=True)
        count = 0
        async for delta in generation:
            count += delta.tokens
            if count >= after:
                generation.stop()
        return await generation

    whole = answer(emptied, run, PROMPT, 220).tokens
    for after in (3, 155, 156, 173):
        run(emptied.logits([1]))
        got = run(stopped(after))
        assert got.finish_reason == "abort"
        assert got.tokens == whole[: len(got.tokens)]
        follow = [*PROMPT, *got.tokens, 9]
        second = answer(emptied, run, follow, 5)
        assert second.cached_tokens >= len(PROMPT) + len(got.tokens) - 1
        run(emptied.logits([1]))
        assert answer(emptied, run, follow, 5).tokens == second.tokens


@pytest.mark.parametrize("layer", [0, 1])
def test_no_room_to_grow(
    emptied: Engine, gpu: Gpu, run: Runner, monkeypatch: pytest.MonkeyPatch, layer: int
) -> None:
    """In decode and before a prefill: the error has the numbers, nothing is lost, and the old cache stays in use."""
    live = gpu.counters.live_bytes
    with monkeypatch.context() as patch:
        refuse_keys(gpu, patch, layer)
        seen: list[int] = []

        async def grow_in_decode() -> None:
            generation = emptied.generate(PROMPT, max_tokens=200, temperature=0.0, ignore_eos=True)
            async for delta in generation:
                seen.append(delta.tokens)

        with pytest.raises(
            OutOfMemoryError, match="KV cache of 160 tokens.*17 needs.*the one of 16"
        ):
            run(grow_in_decode())
        assert sum(seen) == 12, "those that the small cache had room for"
        with pytest.raises(OutOfMemoryError, match="KV cache of 160 tokens.*a text of 25"):
            answer(emptied, run, [*PROMPT, *range(20)], 3)
        assert gpu.counters.live_bytes == live
        kept = answer(emptied, run, [*PROMPT, 6], 2)
        assert kept.cached_tokens == len(PROMPT)
    assert len(answer(emptied, run, PROMPT, 30).tokens) == 30
    run(emptied.logits([1]))
    assert answer(emptied, run, [*PROMPT, 6], 2).tokens == kept.tokens


def test_no_room_for_any_buffer_of_a_larger_cache(
    emptied: Engine, gpu: Gpu, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever buffer is refused, nothing stays allocated and the small cache stays in use."""
    kept = answer(emptied, run, PROMPT, 3)
    live, create = gpu.counters.live_bytes, gpu.create_buffer
    buffers = [t.buffer for pair in emptied._loaded.decoder.state.cache.tensors for t in pair]
    assert len(buffers) >= 4
    for refused in buffers:

        def refusing(label: str, nbytes: int, kind: Any = "storage", refused: Any = refused) -> Any:
            if label == refused.label and nbytes > refused.nbytes:
                raise OutOfMemoryError(f"no room for {label}")
            return create(label, nbytes, kind)

        with monkeypatch.context() as patch:
            patch.setattr(gpu, "create_buffer", refusing)
            with pytest.raises(OutOfMemoryError, match=refused.label):
                answer(emptied, run, PROMPT, 20)
            assert (gpu.counters.live_bytes, capacity(emptied)) == (live, CLASSES[0])
            assert answer(emptied, run, PROMPT, 3).tokens == kept.tokens
    assert len(answer(emptied, run, PROMPT, 20).tokens) == 20
    assert capacity(emptied) == CLASSES[1]


def test_no_room_reported_late(
    emptied: Engine, gpu: Gpu, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In browsers the buffers seem to exist, and only the next check reports that they do not."""
    live = gpu.counters.live_bytes

    async def refused() -> None:
        raise OutOfMemoryError("the GPU is out of memory at buffer 'layer 1.v'")

    with monkeypatch.context() as patch:
        patch.setattr(gpu, "check", refused)
        with pytest.raises(OutOfMemoryError, match="KV cache of 160 tokens.*layer 1.v"):
            answer(emptied, run, PROMPT, 20)
    assert (gpu.counters.live_bytes, capacity(emptied)) == (live, CLASSES[0])
    assert len(answer(emptied, run, PROMPT, 20).tokens) == 20


def test_the_estimate_knows_the_peak(
    gpu: Gpu, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a layer is copied, its old and its new buffers exist. The estimate counts both, and the full context."""
    folder = str(reference.folder("qwen3-mlx4-g128"))
    told = run(Engine.estimate(folder, gpu=gpu, context=1024))
    before = gpu.counters.live_bytes
    engine: Engine = run(Engine.load(folder, gpu=gpu, context=1024))
    try:
        assert gpu.counters.live_bytes - before == told.loaded_bytes
        peak, create = 0, gpu.create_buffer

        def watched(*args: Any) -> Any:
            nonlocal peak
            made = create(*args)
            peak = max(peak, gpu.counters.live_bytes - before)
            return made

        monkeypatch.setattr(gpu, "create_buffer", watched)
        run(engine._loaded.decoder.fill())
        assert gpu.counters.live_bytes - before == told.total_bytes
        assert told.loaded_bytes < told.total_bytes < peak == told.peak_bytes
    finally:
        run(engine.close())


def test_an_abort_in_prefill_keeps_what_ran(emptied: Engine, run: Runner) -> None:
    abort = Abort()
    abort.set()
    decoder = emptied._loaded.decoder
    sampling = emptied._loaded.text.sampling_defaults

    async def stopped() -> None:
        async for _ in decoder.generate([*PROMPT, *range(30)], sampling, 5, abort):
            pass

    answer(emptied, run, PROMPT, 2)
    with pytest.raises(AbortError):
        run(stopped())
    assert decoder.prefix.ids[: len(PROMPT)] == PROMPT
    assert len(answer(emptied, run, PROMPT, 3).tokens) == 3
