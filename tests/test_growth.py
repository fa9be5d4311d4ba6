"""The KV cache grows with the text, from size class to size class: the tokens are those of a full-size cache, and
the tests measure what it costs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from py_engine.abort import Abort
from py_engine.blocks.kv_cache import classes_up_to
from py_engine.errors import AbortError, InputError, OutOfMemoryError
from py_engine.host.gpu import Gpu
from py_engine.serve.engine import Engine
from tests import reference
from tests.conftest import Runner

CLASSES = (16, 160, 176, 240)
CONTEXT = 320
PROMPT = [3, 50, 7, 99, 12]


@pytest.fixture(scope="module")
def gpu(open_software_gpu: Callable[..., Gpu]) -> Gpu:
    """One host is enough: this tests the engine's bookkeeping."""
    return open_software_gpu("wgpu")


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
    """The engine with nothing cached and with the smallest cache."""
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
    """From now on the device has no room for K and V of layers from `after` on."""
    create = gpu.create_buffer

    def refusing(label: str, nbytes: int, kind: Any = "storage") -> Any:
        if label.startswith("layer") and int(label.split()[1].split(".")[0]) >= after:
            raise OutOfMemoryError(f"no room for {label}")
        return create(label, nbytes, kind)

    monkeypatch.setattr(gpu, "create_buffer", refusing)


def test_classes() -> None:
    assert classes_up_to(512) == (512,)
    assert classes_up_to(4096) == (512, 2048, 4096)
    assert classes_up_to(40960) == (512, 2048, 8192, 32768, 40960)
    assert classes_up_to(100, (64, 16, 100, 16)) == (16, 64, 100)
    assert classes_up_to(7) == (7,)
    for bad in (0, -512, True, 2.5, "512"):
        with pytest.raises(InputError, match="context_classes"):
            classes_up_to(100, (16, bad))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("gemma3-mlx4-g64", marks=pytest.mark.slow),
        pytest.param("qwen3-mlx4-g128", marks=pytest.mark.slow),
        "qwen3.5-mlx4-g64",
    ],
)
def test_the_same_tokens_as_without_growing(gpu: Gpu, run: Runner, name: str) -> None:
    """Greedy and sampled answers whose cache grows in the middle of decoding, then a second turn whose cache grows
    before its prefill."""
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


def test_what_growing_makes(emptied: Engine, gpu: Gpu, run: Runner) -> None:
    """Growing makes no pipeline and keeps the number of buffers. Within a size class nothing is made at all."""
    answer(emptied, run, PROMPT[:3], 2)  # this makes the buffers that tokens are read through
    before = gpu.counters.pipelines_created, gpu.counters.live_buffers
    small = emptied.info()["memory"]["state_bytes"]
    answer(emptied, run, PROMPT, 160)
    assert capacity(emptied) == 176
    large = emptied.info()["memory"]["state_bytes"]
    config = json.loads((reference.folder("qwen2-mlx4-g64") / "config.json").read_text())
    heads, layers = config["num_key_value_heads"], config["num_hidden_layers"]
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    assert large - small == (176 - 16) * heads * head_dim * 4 * 2 * layers
    made = gpu.counters.buffers_created, gpu.counters.bind_groups_created
    answer(emptied, run, [*PROMPT[:3], 9, 9], 160)
    assert (gpu.counters.buffers_created, gpu.counters.bind_groups_created) == made
    assert (gpu.counters.pipelines_created, gpu.counters.live_buffers) == before


def test_a_new_conversation_begins_small(emptied: Engine, run: Runner) -> None:
    answer(emptied, run, PROMPT, 50)
    assert capacity(emptied) == 160
    answer(emptied, run, PROMPT, 2)  # the same prompt: its rows are kept, and so is their cache
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
    """In the middle of decoding and before a prefill: the error gives the numbers, nothing is lost, and the old
    cache is used on."""
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
    """The first or the last buffer is refused: nothing more stays allocated, and the small cache stays in use."""
    kept = answer(emptied, run, PROMPT, 3)
    live, create = gpu.counters.live_bytes, gpu.create_buffer
    for room in range(100):
        made = 0

        def refusing(label: str, *rest: Any, room: int = room) -> Any:
            nonlocal made
            if made == room:
                raise OutOfMemoryError(f"no room for {label}")
            made += 1
            return create(label, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(gpu, "create_buffer", refusing)
            try:
                answer(emptied, run, PROMPT, 20)
            except OutOfMemoryError:
                assert (gpu.counters.live_bytes, capacity(emptied)) == (live, CLASSES[0])
                assert answer(emptied, run, PROMPT, 3).tokens == kept.tokens
                continue
        break
    assert room == made >= 4
    assert capacity(emptied) == CLASSES[1]


def test_no_room_reported_late(
    emptied: Engine, gpu: Gpu, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in browsers: the buffers seem to exist, and the next check reports that they do not."""
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
    """The old and the new cache exist together while rows are copied. The budget counts both, and what a full
    context takes."""
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
        run(engine._loaded.decoder.fit(1024))
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
