"""The engine's promises on a real device with a tiny real checkpoint: queue, stop, reuse, counts, freed memory."""

from __future__ import annotations

import asyncio
import json
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.worker import Host
from py_engine.abort import Abort
from py_engine.errors import (
    AbortError,
    ClosedError,
    ContextError,
    InputError,
    ModelError,
    OutOfMemoryError,
)
from py_engine.graph.submit import GroupedSubmit
from py_engine.host.gpu import Gpu
from py_engine.serve.engine import Engine
from tests import chat_formats, reference
from tests.conftest import Runner
from tests.hub_server import hub_server
from tests.ops.harness import nmse

NAME = "qwen2-mlx4-g64"
FOLDER = reference.folder(NAME)
LAYERS = 2
CONTEXT = 512
PROMPT = list(range(40, 80))


@pytest.fixture(scope="module")
def gpu(wgpu: Gpu) -> Gpu:
    """These promises do not depend on the WebGPU implementation, so one host is enough. This is the faster one."""
    return wgpu


@pytest.fixture(scope="module")
def engine(gpu: Gpu, run: Runner) -> Iterator[Engine]:
    before = gpu.counters.live_buffers
    loaded: Engine = run(Engine.load(str(FOLDER), gpu=gpu, dtype="f32", context=CONTEXT))
    yield loaded
    run(loaded.close())
    rings = gpu.counters.live_buffers - before
    assert 0 <= rings <= 5, "only the host's readback rings may stay"


def ids_of(engine: Engine, run: Runner, ids: list[int], n: int, **options: Any) -> list[int]:
    tokens: list[int] = run(engine.generate_ids(ids, max_tokens=n, ignore_eos=True, **options))
    return tokens


async def answer(engine: Engine, ids: list[int], n: int, **options: Any) -> Any:
    options = {"temperature": 0.0, "ignore_eos": True, **options}
    return await engine.generate(ids, max_tokens=n, **options)


def test_counts_at_steady_state(engine: Engine, gpu: Gpu, run: Runner) -> None:
    ids_of(engine, run, PROMPT, 8)
    counters = gpu.counters
    before = (counters.buffers_created, counters.pipelines_created, counters.bind_groups_created)
    ids_of(engine, run, PROMPT[1:], 24)
    assert (
        counters.buffers_created,
        counters.pipelines_created,
        counters.bind_groups_created,
    ) == before
    info = engine.info()
    assert info["traffic"]["upload_bytes_per_token"] <= 64
    assert info["traffic"]["readback_bytes_per_token"] <= 16
    assert info["plan"]["decode_dispatches"] <= 6 * LAYERS + 5
    assert info["memory"]["peak_transient_bytes"] <= 64 << 20
    assert counters.max_steps_in_flight >= 3


def test_at_most_40_pipelines(run: Runner, open_software_gpu: Callable[..., Gpu]) -> None:
    gpu = open_software_gpu("wgpu")
    loaded = run(Engine.load(str(reference.folder("gemma3-mlx4-g64")), gpu=gpu, context=64))
    assert gpu.counters.pipelines_created <= 40
    run(loaded.close())
    assert gpu.counters.live_buffers == 0
    assert gpu.counters.live_bytes == 0


def test_second_turn_runs_only_new_tokens(engine: Engine, run: Runner) -> None:
    first = run(answer(engine, PROMPT, 10))
    follow = [*PROMPT, *first.tokens, 5, 6, 7]
    second = run(answer(engine, follow, 6))
    # The last token of the first answer was sampled but never run. So that token and the three new ones are left to
    # run.
    assert second.cached_tokens == len(PROMPT) + 9
    run(engine.logits([1]))  # forget the cached prefix
    assert run(answer(engine, follow, 6)).tokens == second.tokens


def test_a_changed_middle_is_run_again(engine: Engine, run: Runner) -> None:
    run(answer(engine, PROMPT, 4))
    changed = [*PROMPT[:10], 3, *PROMPT[11:]]
    got = run(answer(engine, changed, 6))
    assert got.cached_tokens == 10
    run(engine.logits([1]))
    assert run(answer(engine, changed, 6)).tokens == got.tokens


def test_calls_wait_their_turn(engine: Engine, run: Runner) -> None:
    prompts = [[20 + i, *PROMPT] for i in range(4)]
    alone = [ids_of(engine, run, p, 6) for p in prompts]
    done: list[int] = []

    async def together() -> list[list[int]]:
        async def one(i: int) -> list[int]:
            got = await answer(engine, prompts[i], 6)
            done.append(i)
            return list(got.tokens)

        return await asyncio.gather(*(one(i) for i in range(4)))

    assert run(together()) == alone
    assert done == [0, 1, 2, 3]


def test_stop_in_decode_and_the_next_call(engine: Engine, run: Runner) -> None:
    whole = ids_of(engine, run, PROMPT, 12)

    async def stopped() -> Any:
        generation = engine.generate(PROMPT, max_tokens=200, temperature=0.0, ignore_eos=True)
        async for _ in generation:
            generation.stop()
        return await generation

    got = run(stopped())
    assert got.finish_reason == "abort"
    assert 1 <= len(got.tokens) < 200
    assert got.tokens[:12] == whole[: len(got.tokens)]
    assert ids_of(engine, run, PROMPT, 12) == whole


def test_stop_before_its_turn(engine: Engine, run: Runner) -> None:
    async def both() -> tuple[Any, Any]:
        first = engine.generate(PROMPT, max_tokens=8, temperature=0.0, ignore_eos=True)
        second = engine.generate(PROMPT[2:], max_tokens=8, temperature=0.0, ignore_eos=True)
        second.stop()
        return await first, await second

    first, second = run(both())
    assert (first.finish_reason, len(first.tokens)) == ("length", 8)
    assert (second.finish_reason, second.tokens) == ("abort", [])


def test_stop_string_leaves_no_dropped_tokens(engine: Engine, run: Runner) -> None:
    """No later answer continues from what the stop string cut off, including the rows of steps in flight. Neither
    the same tokens (which would be right by accident) nor others may reuse it."""
    # With greedy decoding the tiny model soon repeats itself.
    drawn = {"temperature": 1.5, "seed": 1}
    plain = run(answer(engine, PROMPT, 40, **drawn))
    text = plain.text
    at = next(i for i in range(len(text) // 2, len(text)) if text.index(text[i : i + 2]) == i)
    stop = text[at : at + 2]
    cut = run(answer(engine, PROMPT, 40, stop=[stop], **drawn))
    assert cut.finish_reason == "stop"
    assert cut.text == text[: text.index(stop)]
    decode = engine._loaded.tokenizer.decode
    shown = max(n for n in range(len(cut.tokens)) if len(decode(cut.tokens[:n])) <= len(cut.text))
    assert 0 < shown < len(cut.tokens), "the string's own tokens were drawn too"
    assert engine.info()["context"]["used"] == len(PROMPT) + shown
    for follow in ([*PROMPT, *plain.tokens], [*PROMPT, *cut.tokens[:shown], 9, 8, 7]):
        run(answer(engine, PROMPT, 40, stop=[stop], **drawn))
        got = run(answer(engine, follow, 3))
        assert got.cached_tokens == len(PROMPT) + shown
        run(engine.logits([1]))
        assert run(answer(engine, follow, 3)).tokens == got.tokens


def test_stop_token_halts_on_the_gpu(engine: Engine, gpu: Gpu, run: Runner) -> None:
    """A stop id ends the answer and is not part of it. Steps in flight behind it change nothing."""
    # With greedy decoding the tiny model soon repeats itself.
    drawn = {"temperature": 1.5, "seed": 1}
    tokens = ids_of(engine, run, PROMPT, 12, **drawn)
    stop_at = next(i for i in range(3, 12) if tokens[i] not in tokens[:i])
    decoder = engine._loaded.decoder
    sampling = engine._loaded.text.sampling_defaults.make(
        engine._loaded.text.sampling_defaults, drawn, [tokens[stop_at]]
    )

    async def halted() -> tuple[list[int], int]:
        got, halt = [], 0
        async for batch in decoder.generate(PROMPT, sampling, 100, Abort()):
            for sampled in batch:
                got.append(sampled.token)
                halt = sampled.halt
        return got, halt

    got, halt = run(halted())
    assert got == tokens[: stop_at + 1]
    assert halt == 1
    decoder.keep([*PROMPT, *got[:-1]])
    length = len(decoder.prefix.ids)
    assert length == len(PROMPT) + stop_at
    follow = run(answer(engine, [*PROMPT, *got, 9], 4))
    assert follow.cached_tokens == length
    run(engine.logits([1]))
    assert run(answer(engine, [*PROMPT, *got, 9], 4)).tokens == follow.tokens


@pytest.mark.parametrize(
    "strategy", [GroupedSubmit(1), GroupedSubmit(8, 3), GroupedSubmit(1000, 5)], ids=str
)
def test_submit_strategies_are_bitwise_equal(
    engine: Engine, gpu: Gpu, run: Runner, strategy: GroupedSubmit
) -> None:
    grouped: Engine = run(
        Engine.load(str(FOLDER), gpu=gpu, dtype="f32", context=CONTEXT, strategy=strategy)
    )
    try:
        assert bytes(run(grouped.logits(PROMPT))) == bytes(run(engine.logits(PROMPT)))
        assert ids_of(grouped, run, PROMPT, 6) == ids_of(engine, run, PROMPT, 6)
    finally:
        run(grouped.close())


def test_seeds(engine: Engine, run: Runner) -> None:
    options = {"temperature": 1.5, "top_k": 50, "top_p": 0.95}
    a = ids_of(engine, run, PROMPT, 16, seed=7, **options)
    assert ids_of(engine, run, PROMPT, 16, seed=7, **options) == a
    others = [ids_of(engine, run, PROMPT, 16, seed=s, **options) for s in (8, 9, 10)]
    assert any(other != a for other in others)


def test_history_is_made_only_for_penalties_that_look_at_it(
    engine: Engine, gpu: Gpu, run: Runner
) -> None:
    def dispatches(**options: float) -> int:
        before = gpu.counters.dispatches
        ids_of(engine, run, PROMPT, 1, **options)
        return gpu.counters.dispatches - before

    dispatches()  # so that the calls below find the same prefix
    none = dispatches()
    assert dispatches(presence_penalty=1.0) == none + 1  # clear_counts
    # clear_counts and mark_prompt
    assert dispatches(frequency_penalty=1.0, repetition_penalty=1.1) == none + 2


def test_repetition_penalty_forbids_repeats(engine: Engine, run: Runner) -> None:
    """With a presence penalty of 100 no token of the answer comes twice."""
    tokens = ids_of(engine, run, PROMPT, 24, presence_penalty=100.0)
    assert len(set(tokens)) == 24


def test_chat_counts_and_streams(engine: Engine, run: Runner) -> None:
    messages = [{"role": "user", "content": "hello there"}]

    async def chat() -> tuple[str, Any]:
        generation = engine.chat(messages, max_tokens=12, temperature=0.0)
        text = "".join([delta.text async for delta in generation])
        return text, await generation

    text, got = run(chat())
    assert text == got.text
    assert got.prompt_tokens == engine.count_tokens(messages)
    assert got.timings.ttft_s > 0


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_k": False}, "top_k"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 2.0}, "top_p"),
        ({"seed": 1.5}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"frobnicate": 1}, "frobnicate"),
    ],
    ids=str,
)
def test_bad_options(engine: Engine, run: Runner, options: dict[str, Any], word: str) -> None:
    async def complete() -> Any:
        return await engine.complete("hello", **options)

    with pytest.raises(InputError, match=word):
        run(complete())
    assert len(ids_of(engine, run, PROMPT, 2)) == 2


@pytest.mark.parametrize("prompt", ["", "\ud800"], ids=["empty", "lone surrogate"])
def test_bad_prompts(engine: Engine, run: Runner, prompt: str) -> None:
    async def complete() -> Any:
        return await engine.complete(prompt)

    with pytest.raises(InputError):
        run(complete())


def test_overflow_has_the_numbers(engine: Engine, run: Runner) -> None:
    async def generate(ids: list[int], n: int) -> Any:
        return await engine.generate(ids, max_tokens=n)

    with pytest.raises(
        ContextError, match=r"40 prompt tokens \+ max_tokens=500 exceed the context of 512"
    ) as caught:
        run(generate(PROMPT, 500))
    assert (caught.value.prompt_tokens, caught.value.context) == (40, 512)
    with pytest.raises(ContextError):
        run(generate([1] * 512, 1))
    with pytest.raises(InputError, match="outside the vocabulary"):
        run(generate([10**6], 1))


def test_the_context_can_be_filled(engine: Engine, run: Runner) -> None:
    got = run(answer(engine, [1 + i % 200 for i in range(CONTEXT - 8)], 8))
    assert (len(got.tokens), got.finish_reason) == (8, "length")


def test_abort_in_load_gives_everything_back(
    run: Runner, open_software_gpu: Callable[..., Gpu]
) -> None:
    gpu = open_software_gpu("wgpu")
    abort = Abort()

    def tell(progress: Any) -> None:
        if progress.phase == "weights":
            abort.set()

    with pytest.raises(AbortError):
        run(Engine.load(str(FOLDER), gpu=gpu, abort=abort, on_progress=tell))
    assert gpu.counters.live_buffers == 0
    loaded: Engine = run(Engine.load(str(FOLDER), gpu=gpu, context=64))
    assert len(ids_of(loaded, run, PROMPT, 3)) == 3
    run(loaded.close())


def test_a_silent_server_does_not_hold_up_a_stop(
    run: Runner, open_software_gpu: Callable[..., Gpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = open_software_gpu("wgpu")
    abort = Abort()
    with hub_server(FOLDER.parent.parent) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.fail("model.safetensors", "stall")

        async def stopped() -> float:
            asyncio.get_running_loop().call_later(0.5, abort.set)
            began = time.monotonic()
            with pytest.raises(AbortError):
                await Engine.load(f"goldens/{NAME}", gpu=gpu, context=64, abort=abort)
            return time.monotonic() - began

        assert run(stopped()) < 5, "the server says nothing for 20 s"
    assert gpu.counters.live_buffers == 0


def broken(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of the checkpoint with another config.json."""
    folder = tmp_path / "broken"
    shutil.copytree(FOLDER, folder)
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(model_type="mamba9"), "mamba9.*Supported: .*gemma3"),
        (lambda c: c.update(hidden_size=10**12), "hidden_size"),
        (lambda c: c.update(num_attention_heads=-4), "num_attention_heads"),
        (lambda c: c.update(num_hidden_layers=7), "layers.2.*missing"),
        (lambda c: c.update(intermediate_size=64), "mlp"),
        (lambda c: c.pop("vocab_size"), "vocab_size"),
        (lambda c: c["quantization"].update(bits=8), "bits"),
        (lambda c: c["quantization"].update(mode="mxfp4"), "mxfp4"),
        (lambda c: (c.pop("quantization"), c.pop("quantization_config", None)), "quantization"),
    ],
)
def test_broken_checkpoints(
    gpu: Gpu, run: Runner, tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    before = gpu.counters.live_buffers
    with pytest.raises(ModelError, match=words):
        run(Engine.load(str(broken(tmp_path, change)), gpu=gpu, context=64))
    assert gpu.counters.live_buffers == before


def test_the_closed_engine_says_so(gpu: Gpu, run: Runner) -> None:
    loaded: Engine = run(Engine.load(str(FOLDER), gpu=gpu, context=64))
    run(loaded.close())
    run(loaded.close())
    for call in (
        lambda: loaded.generate([1]),
        lambda: loaded.complete("one"),
        lambda: run(loaded.logits([1])),
        lambda: run(loaded.save_session("s")),
    ):
        with pytest.raises(ClosedError, match="closed: load the model again"):
            call()


def test_matrices_above_the_binding_limit_are_cut(
    run: Runner, open_software_gpu: Callable[..., Gpu]
) -> None:
    """A device with a small binding limit: every matrix is cut into parts, and the logits are still those of the
    reference."""
    gpu = open_software_gpu("wgpu")
    gpu.limits = replace(gpu.limits, max_binding_bytes=9000)
    golden = reference.prompt(NAME, 7)
    loaded: Engine = run(Engine.load(str(FOLDER), gpu=gpu, dtype="f32", context=16))
    assert len(loaded._loaded.decoder.model.embedding.parts) > 1
    logits = np.frombuffer(run(loaded.logits(golden.ids)), np.float32)
    assert nmse(logits, golden.logits) <= reference.NMSE_F32
    run(loaded.close())


def test_a_context_beyond_the_device_is_refused(
    run: Runner, open_software_gpu: Callable[..., Gpu]
) -> None:
    gpu = open_software_gpu("wgpu")
    gpu.limits = replace(gpu.limits, max_binding_bytes=64 << 10)
    with pytest.raises(OutOfMemoryError, match="smaller context"):
        run(Engine.load(str(FOLDER), gpu=gpu, dtype="f32", context=2048))
    assert gpu.counters.live_buffers == 0


@pytest.mark.parametrize("name", [NAME, "qwen3.5-mlx4-g64"])
def test_out_of_memory_at_any_buffer_gives_everything_back(
    run: Runner, open_software_gpu: Callable[..., Gpu], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A device has room for a number of buffers only, from one to all but the last. The load frees what it made, the
    error names what had no room, and then a load that needs less succeeds."""
    gpu = open_software_gpu("wgpu")
    create, labels, room = gpu.create_buffer, list[str](), 10**9

    def refusing(label: str, nbytes: int, kind: Any = "storage") -> Any:
        if len(labels) == room:
            raise OutOfMemoryError(f"no room for {label}")
        labels.append(label)
        return create(label, nbytes, kind)

    def load() -> Engine:
        labels.clear()
        loaded: Engine = run(Engine.load(str(reference.folder(name)), gpu=gpu, context=64))
        return loaded

    monkeypatch.setattr(gpu, "create_buffer", refusing)
    run(load().close())
    every = list(labels)
    rooms = {0, 2, 7, *range(20, len(every), 20), len(every) - 1}
    rooms |= {i for i, label in enumerate(every) if label == "snapshot 1"}
    for room in sorted(rooms):  # noqa: B007  (`refusing` reads it)
        with pytest.raises(OutOfMemoryError, match=f"no room for {re.escape(every[room])}$"):
            load()
        assert gpu.counters.live_buffers == 0
    room = len(every)
    run(load().close())
    assert gpu.counters.live_buffers == 0


def test_the_next_smaller_context_loads(
    run: Runner, open_software_gpu: Callable[..., Gpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device has a little less than a context of 2048 needs: that load is refused half way, and 512 fits."""
    gpu = open_software_gpu("wgpu")
    needs = run(Engine.estimate(str(FOLDER), gpu=gpu, context=2048)).loaded_bytes
    create = gpu.create_buffer

    def refusing(label: str, nbytes: int, kind: Any = "storage") -> Any:
        if gpu.counters.live_bytes + nbytes >= needs:
            raise OutOfMemoryError(f"no room for {label}")
        return create(label, nbytes, kind)

    monkeypatch.setattr(gpu, "create_buffer", refusing)
    with pytest.raises(OutOfMemoryError, match="no room for"):
        run(Engine.load(str(FOLDER), gpu=gpu, context=2048))
    assert gpu.counters.live_bytes == 0
    loaded: Engine = run(Engine.load(str(FOLDER), gpu=gpu, context=256))
    assert len(ids_of(loaded, run, PROMPT, 3)) == 3
    run(loaded.close())


@pytest.fixture(scope="module")
def thinker(gpu: Gpu, run: Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The same weights with Qwen3.5's marks and template. The answers are noise; where each piece of text goes is
    not."""
    folder = tmp_path_factory.mktemp("thinker") / NAME
    shutil.copytree(FOLDER, folder)
    chat_formats.write("qwen3.5", folder)
    loaded: Engine = run(Engine.load(str(folder), gpu=gpu, dtype="f32", context=CONTEXT))
    yield loaded
    run(loaded.close())


def test_thinking_comes_apart_from_the_answer(thinker: Engine, run: Runner) -> None:
    async def chat(**options: Any) -> tuple[Any, list[Any]]:
        options = {"max_tokens": 12, "temperature": 0.0, "ignore_eos": True, **options}
        generation = thinker.chat([{"role": "user", "content": "hi"}], **options)
        deltas = [delta async for delta in generation]
        return await generation, deltas

    thinking, deltas = run(chat(enable_thinking=True, stop="\ufffd"))
    assert (thinking.text, thinking.finish_reason) == ("", "length")
    assert thinking.reasoning and thinking.reasoning_tokens == 12
    assert "".join(delta.reasoning for delta in deltas) == thinking.reasoning
    for options in ({}, {"enable_thinking": False}):
        silent, deltas = run(chat(**options))
        assert (silent.reasoning, silent.reasoning_tokens) == ("", 0)
        assert silent.text == "".join(delta.text for delta in deltas) != ""
        assert (silent.tool_calls, silent.tool_call_errors) == ([], [])
    info = thinker.info()
    assert info["thinking"] == {"marks": True, "switch": True}
    assert info["tool_format"] == "tags"


def test_the_end_of_a_turn_that_the_template_writes_ends_an_answer(
    gpu: Gpu, run: Runner, tmp_path: Path
) -> None:
    """A fine-tuned model whose files name <|endoftext|> as its end, and whose template ends turns with <|im_end|>."""
    folder = tmp_path / NAME
    shutil.copytree(FOLDER, folder)
    chat_formats.write("qwen3", folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["eos_token"] = "<|endoftext|>"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    said = [{"role": "user", "content": "hi"}]

    async def talk(engine: Engine, seed: int, **options: Any) -> Any:
        # Any token can come.
        noise: dict[str, Any] = {"temperature": 100.0, "top_k": 0, "top_p": 1.0, "seed": seed}
        return await engine.chat(said, max_tokens=60, **noise, **options)

    async def check() -> None:
        async with await Engine.load(str(folder), gpu=gpu, dtype="f32", context=CONTEXT) as engine:
            tokenizer = engine._loaded.tokenizer
            end = tokenizer.control["<|im_end|>"]
            assert tokenizer.stop_ids == (tokenizer.control["<|endoftext|>"],)
            for seed in range(40):  # find an answer that says <|im_end|> before any other mark
                whole = (await talk(engine, seed, ignore_eos=True)).tokens
                at = next((i for i, token in enumerate(whole) if token in tokenizer.added), 0)
                if at > 3 and whole[at] == end:
                    break
            assert whole[at] == end and at > 3
            text = tokenizer.decode(whole[:at])
            ended = await talk(engine, seed)
            assert (ended.finish_reason, ended.tokens, ended.text) == ("stop", whole[:at], text)
            tail = tokenizer.decode([whole[at - 1]])
            for stop in ("<|im_end|>", ["never", "<|im_end|>"], f"{tail}<|im_end|>"):
                cut = await talk(engine, seed, ignore_eos=True, stop=stop)
                assert (cut.finish_reason, cut.tokens) == ("stop", whole[: at + 1])
                assert cut.text == (
                    text.removesuffix(tail) if stop == f"{tail}<|im_end|>" else text
                )

    run(check())


def test_tokens_are_counted_with_tools_and_thinking(thinker: Engine, run: Runner) -> None:
    messages = [{"role": "user", "content": "hi"}]
    counts = set()

    async def chat(**options: Any) -> Any:
        return await thinker.chat(messages, max_tokens=1, **options)

    given: list[dict[str, Any]] = [{}, {"enable_thinking": True}, {"tools": [{"name": "f"}]}]
    for options in given:
        counted = thinker.count_tokens(messages, **options)
        counts.add(counted)
        assert run(chat(**options)).prompt_tokens == counted
    assert len(counts) == 3


def test_the_worker_prepares_the_first_chat_before_it_is_asked(
    thinker: Engine, run: Runner
) -> None:
    """The worker prepares the template of a model that has one. For a model without one it writes only a line to the
    log."""

    async def warm_up(engine: Engine) -> tuple[list[str], list[dict[str, Any]]]:
        fetched: list[str] = []
        heard: list[dict[str, Any]] = []

        async def fetch() -> None:
            fetched.append("Jinja2")

        await Host(heard.append, fetch)._warm_up(engine)
        return fetched, heard

    template = thinker._loaded.text.template
    template._compiled.clear()
    assert run(warm_up(thinker)) == (["Jinja2"], [])
    assert template._compiled
    kept, template._sources = template._sources, {}
    (fetched, heard) = run(warm_up(thinker))
    template._sources = kept
    assert fetched == ["Jinja2"] and [m["status"] for m in heard] == ["log"]


def test_tools_and_thinking_are_checked_at_once(thinker: Engine, engine: Engine) -> None:
    messages = [{"role": "user", "content": "hi"}]
    with pytest.raises(InputError, match=r"tools\[0\]"):
        thinker.chat(messages, tools=[{"type": "function"}])
    with pytest.raises(InputError, match="enable_thinking"):
        thinker.chat(messages, enable_thinking="yes")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="takes no tools"):
        engine.chat(messages, tools=[{"name": "f"}])
    with pytest.raises(InputError, match=r"tools\[0\]"):
        thinker.count_tokens(messages, tools=[{"type": "function"}])
    with pytest.raises(InputError, match="enable_thinking"):
        thinker.count_tokens(messages, enable_thinking="yes")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="belong to a conversation"):
        thinker.count_tokens("hi", tools=[{"name": "f"}])
    assert engine.info()["thinking"] == {"marks": False, "switch": False}
