"""Where a prompt continues when the state cannot be rolled back: the number of tokens run, and answers that equal
those of an engine with nothing cached.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from py_engine.host.gpu import Gpu
from py_engine.serve.engine import Engine
from tests.answers import answer, fresh
from tests.checkpoints import Checkpoint
from tests.conftest import Runner

PROMPT = [(7 * i) % 250 for i in range(21)]
CONTEXT = 1024
# As Qwen3.5 has it: the generation prompt holds thinking (closed here), and the history drops it.
THINKING = """{% for m in messages %}[{{ m.role }}] {{ m.content.split('</think>')[-1] }}
{% endfor %}{% if add_generation_prompt %}[assistant] <think>

</think>

{% endif %}"""
GENERATION_PROMPT = "[assistant] <think>\n\n</think>\n\n"  # a token of these tokenizers is a byte
QUESTIONS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is it?"}]


@pytest.fixture(scope="module")
def gpu(wgpu: Gpu) -> Gpu:
    """One host is enough: this tests the engine's bookkeeping."""
    return wgpu


@pytest.fixture(scope="module", params=["qwen3.5-mlx4-g64", "lfm2-mlx4-g64"])
def engine(
    request: pytest.FixtureRequest, gpu: Gpu, run: Runner, tmp_path_factory: Any
) -> Iterator[Engine]:
    """A hybrid model with one layer of each kind."""
    folder: Path = tmp_path_factory.mktemp(request.param) / "model"
    checkpoint = Checkpoint.golden(request.param)
    checkpoint.keep_layers(2, 3)
    if request.param.startswith("qwen3.5"):
        checkpoint.text["full_attention_interval"] = 2
    else:
        checkpoint.text["full_attn_idxs"] = [0]
    checkpoint.write(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": THINKING}))
    loaded = run(
        Engine.load(str(folder), gpu=gpu, dtype="f32", context=CONTEXT, context_classes=())
    )
    yield loaded
    run(loaded.close())


def chat(
    engine: Engine, run: Runner, messages: Any, count: int = 12, stop_at: int = 0, **options: Any
) -> Any:
    """Answer a chat. `stop_at`: stop after this many deltas."""

    async def start() -> Any:
        generation = engine.chat(
            messages, max_tokens=count, temperature=0.0, ignore_eos=True, **options
        )
        seen = 0
        async for _ in generation:
            seen += 1
            if seen == stop_at:
                generation.stop()
        return await generation

    return run(start())


def fresh_chat(engine: Engine, run: Runner, messages: Any, count: int = 12) -> list[int]:
    run(engine.logits([1]))
    got = chat(engine, run, messages, count)
    assert got.cached_tokens == 0
    return list(got.tokens)


def history(*said: str) -> list[dict[str, str]]:
    """QUESTIONS, followed by answers and questions in turn."""
    roles = ("assistant", "user")
    turns = [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)]
    return [*QUESTIONS, *turns]


def border(engine: Engine, messages: Any) -> int:
    """The number of tokens in a chat without its generation prompt."""
    return engine.count_tokens(messages) - len(GENERATION_PROMPT)


def test_second_turn_goes_on(engine: Engine, run: Runner) -> None:
    first = answer(engine, run, PROMPT, 9)
    follow = [*PROMPT, *first.tokens, 5, 6, 7]
    second = answer(engine, run, follow, 6)
    assert second.cached_tokens == len(PROMPT) + 8  # the last token was sampled, but never run
    assert second.tokens == fresh(engine, run, follow, 6)


def test_a_changed_middle_begins_anew(engine: Engine, run: Runner) -> None:
    """Attention alone could reuse 10 tokens. A recurrence holds all of them in one state."""
    changed = [*PROMPT[:10], 3, *PROMPT[11:]]
    wanted = fresh(engine, run, changed, 6)
    answer(engine, run, PROMPT, 4)
    got = answer(engine, run, changed, 6)
    assert got.cached_tokens == 0
    assert got.tokens == wanted
    # The same prompt again: its last token must run once more, but the state already contains it.
    again = answer(engine, run, changed, 6)
    assert again.cached_tokens == 0
    assert again.tokens == wanted


def test_a_changed_question_goes_on_from_the_turn_before(engine: Engine, run: Runner) -> None:
    first = answer(engine, run, PROMPT, 9)
    end = [*PROMPT, *first.tokens[:-1]]  # these tokens have run
    answer(engine, run, [*end, 5, 6, 7], 6)
    got = answer(engine, run, [*end, 8, 9], 6)
    assert got.cached_tokens == len(end)
    assert got.tokens == fresh(engine, run, [*end, 8, 9], 6)


def test_stop_with_steps_in_flight(engine: Engine, run: Runner) -> None:
    """The state has run past what the reader saw, so the next prompt continues from the prompt's snapshot."""

    async def stopped() -> Any:
        generation = engine.generate(PROMPT, max_tokens=90, temperature=0.0, ignore_eos=True)
        async for _ in generation:
            generation.stop()
        return await generation

    run(engine.logits([1]))
    got = run(stopped())
    assert got.finish_reason == "abort"
    assert len(got.tokens) < 90
    follow = [*PROMPT, *got.tokens, 9]
    cut = answer(engine, run, follow, 5)
    assert cut.cached_tokens == len(PROMPT)
    assert cut.tokens == fresh(engine, run, follow, 5)


def test_second_turn_of_a_thinking_chat(engine: Engine, run: Runner) -> None:
    """Only what follows the first question is run: the answer without its thinking, and the second question."""
    run(engine.logits([1]))
    first = chat(engine, run, QUESTIONS)
    assert first.cached_tokens == 0
    second = history(f"<think>\n{first.text}</think>So it is.", "And then?")
    got = chat(engine, run, second)
    assert got.cached_tokens == border(engine, QUESTIONS)
    new = f"[assistant] So it is.\n[user] And then?\n{GENERATION_PROMPT}"
    assert got.prompt_tokens - got.cached_tokens == len(new)
    third = history("So it is.", "And then?", "That is all.", "Sure?")
    after = chat(engine, run, third)
    assert after.cached_tokens == border(engine, second)
    assert got.tokens == fresh_chat(engine, run, second)
    assert after.tokens == fresh_chat(engine, run, third)


def test_regenerate_and_edit(engine: Engine, run: Runner) -> None:
    second = history("So it is.", "And then?")
    third = history("So it is.", "And then?", "That is all.", "Sure?")
    edited = history("So it is.", "And when?")
    wanted = {i: fresh_chat(engine, run, m) for i, m in enumerate((second, third, edited))}
    run(engine.logits([1]))
    for messages in (QUESTIONS, second, third):
        chat(engine, run, messages)
    again = chat(engine, run, third)
    assert (again.cached_tokens, again.tokens) == (border(engine, third), wanted[1])
    changed = chat(engine, run, edited)
    assert (changed.cached_tokens, changed.tokens) == (border(engine, QUESTIONS), wanted[2])
    back = chat(engine, run, second)
    assert (back.cached_tokens, back.tokens) == (border(engine, QUESTIONS), wanted[0])


def test_stop_string_and_stopped_answer(engine: Engine, run: Runner) -> None:
    """The tokens that the reader keeps are run again after the snapshot, however far the state had gone."""
    run(engine.logits([1]))
    whole = chat(engine, run, QUESTIONS, 40)
    stop = whole.text[len(whole.text) // 2 :][:2]
    cut = chat(engine, run, QUESTIONS, 40, stop=[stop])
    assert cut.finish_reason == "stop"
    assert len(cut.tokens) < 40
    follow = history(cut.text, "Go on.")
    for ended in (cut, chat(engine, run, QUESTIONS, 200, stop_at=2)):
        assert len(ended.tokens) < 200
        got = chat(engine, run, follow)
        assert got.cached_tokens == border(engine, QUESTIONS)
        assert got.tokens == fresh_chat(engine, run, follow)
        chat(engine, run, QUESTIONS, 1)


def test_long_prompts_are_cut_at_chunks_and_at_the_border(engine: Engine, run: Runner) -> None:
    long = [{"role": "user", "content": "word " * 130}]  # longer than a prefill chunk
    wanted = fresh_chat(engine, run, long)
    again = chat(engine, run, long)
    assert (again.cached_tokens, again.tokens) == (border(engine, long), wanted)


def test_snapshots_are_few_and_cost_nothing_later(engine: Engine, gpu: Gpu, run: Runner) -> None:
    """In ten turns the oldest snapshots are replaced, no buffer is made, and the newest snapshot is there."""
    before = engine.info()["memory"], gpu.counters.buffers_created
    said: list[str] = []
    for i in range(20):
        chat(engine, run, history(*said), 2)
        said += [f"Answer {i}.", f"Question {i}?"]
    assert (engine.info()["memory"], gpu.counters.buffers_created) == before
    decoder = engine._loaded.decoder
    assert 2 <= decoder.snapshots.count <= 16
    last = chat(engine, run, history(*said[:-1], "Another question?"), 4)
    assert last.cached_tokens == border(engine, history(*said[:-2]))
    assert last.tokens == fresh_chat(engine, run, history(*said[:-1], "Another question?"), 4)
