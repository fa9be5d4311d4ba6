"""Prompts with rows that are given as embeddings. Rows of the model's own table give the answers of their ids.
Cached prefixes are told apart by the content of such rows: in the KV cache, in a recurrent state and in saved
sessions.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from py_engine.errors import InputError, SessionError
from py_engine.generate.given import Given, Positions
from py_engine.graph.trace import Tensor
from py_engine.host.gpu import Binding, Gpu
from py_engine.inputs.content_ids import MOST_NEGATIVE, content_ids
from py_engine.serve.engine import Engine
from tests import reference
from tests.checkpoints import Checkpoint
from tests.conftest import Runner

# One model can return to any prefix and scales its embeddings; the other has a recurrent state.
GEMMA, HYBRID = "gemma3-text-bf16", "qwen3.5-bf16"
SCALES = {GEMMA: "hidden_size", HYBRID: ""}
IDS = [(7 * i + 3) % 250 for i in range(45)]
FIRST, END = 4, 40  # the given rows reach over two chunks of 16 into a third


@pytest.fixture(scope="module")
def gpu(wgpu: Gpu) -> Gpu:
    """One host is enough: this tests the bookkeeping. The kernel has tests of its own."""
    return wgpu


class Model:
    """A loaded checkpoint with its embedding table, scaled as the residual stream gets it."""

    def __init__(self, run: Runner, gpu: Gpu, name: str) -> None:
        self.run = run
        self.engine: Engine = run(
            Engine.load(
                str(reference.folder(name)), gpu=gpu, dtype="f32", context=64, context_classes=()
            )
        )
        made = Checkpoint.golden(name)
        table = made.tensors[made.find("embed_tokens.weight")].values
        scale = np.float32(1.0)
        if SCALES[
            name
        ]:  # transformers rounds Gemma's scale to bf16, the engine may not: take its own
            scale = np.float32(self.engine._loaded.decoder.model.embedding_scale)
        self.table = table * scale

    def rows(self, ids: list[int]) -> bytes:
        return self.table[ids].astype(np.float32).tobytes()

    def logits(self, ids: list[int], given: Given | None = None, reuse: bool = False) -> bytes:
        decoder = self.engine._loaded.decoder
        got: bytes = self.run(decoder.logits(ids, reuse=reuse, given=given))
        return got

    def answer(self, ids: list[int], given: Given, count: int = 6, **options: Any) -> Any:
        async def start() -> Any:
            return await self.engine._generate_given(
                ids, given, max_tokens=count, ignore_eos=True, **{"temperature": 0.0, **options}
            )

        return self.run(start())

    @property
    def prefilled(self) -> int:
        return self.engine._loaded.decoder.prefilled


@pytest.fixture(scope="module", params=[GEMMA, HYBRID])
def model(request: pytest.FixtureRequest, run: Runner, gpu: Gpu) -> Iterator[Model]:
    made = Model(run, gpu, request.param)
    yield made
    run(made.engine.close())


class Counted:
    """A source that counts how often it is read."""

    def __init__(self, rows: bytes) -> None:
        self.rows, self.asked = rows, 0

    async def __call__(self) -> bytes:
        self.asked += 1
        return self.rows


def picture(
    model: Model, seed: int = 0, ids: list[int] | None = None
) -> tuple[list[int], Given, Counted]:
    """A prompt in which some ids are replaced by the table's own rows, given as content."""
    rows = model.rows((ids or IDS)[FIRST:END])
    source = Counted(rows)
    names = content_ids("test", END - FIRST, [rows, struct.pack("<I", seed)])
    given = Given()
    given.add(names, source)
    return [*IDS[:FIRST], *names, *IDS[END:]], given, source


def test_rows_of_the_table_are_the_ids_themselves(model: Model) -> None:
    """Bit for bit: in chunks, with ids before and after, with a given row last, and with given rows only."""
    prompt, given, source = picture(model)
    for end in (len(IDS), END, FIRST + 1):
        wanted = model.logits(IDS[:end])
        assert model.logits(prompt[:end], given) == wanted
    assert source.asked == 3
    assert model.logits(prompt[FIRST : FIRST + 1], given) == model.logits(IDS[FIRST : FIRST + 1])
    plain = [*model.run(model.engine.generate_ids(IDS, 6, ignore_eos=True))]
    model.logits([1])
    assert model.answer(prompt, given).tokens == plain


def test_rows_on_the_gpu(model: Model, gpu: Gpu) -> None:
    """Rows that a tower left on the GPU are copied there, not uploaded."""
    prompt, _, source = picture(model)
    buffer = gpu.create_buffer("rows", 64 + len(source.rows))
    gpu.write(buffer, 64, source.rows)
    h = model.table.shape[1]
    rows = Tensor("rows", (END - FIRST, h), "f32", Binding(buffer, 64, len(source.rows)))

    async def made() -> Tensor:
        return rows

    given = Given()
    given.add(prompt[FIRST:END], made)
    got = model.logits(prompt, given)
    gpu.destroy_buffer(buffer)
    assert got == model.logits(IDS)


def test_the_same_content_is_not_run_again_and_other_content_is(model: Model) -> None:
    prompt, given, source = picture(model)
    model.logits([1])
    first = model.answer(prompt, given)
    assert (first.cached_tokens, source.asked) == (0, 1)
    follow = [*prompt, *first.tokens, 5, 6]
    again, same, unasked = picture(model)
    assert again == prompt
    second = model.answer(follow, same)
    assert second.cached_tokens == len(prompt) + len(first.tokens) - 1
    assert model.prefilled == 3 and unasked.asked == 0
    # Other content that gives the very same rows: nothing may be reused from the first.
    other, given, source = picture(model, seed=1)
    got = model.answer(other, given)
    assert got.cached_tokens == (0 if model.engine._loaded.decoder.prefix.recurrent else FIRST)
    assert got.tokens == first.tokens and source.asked == 1


def test_two_pictures_in_a_prompt(model: Model) -> None:
    """One of them comes twice. Runs of rows are told apart by picture, wherever they stand."""
    a, b = IDS[:5], IDS[10:13]
    names = [content_ids("test", len(ids), [model.rows(ids)]) for ids in (a, b)]
    given = Given()
    for ids, name in zip((a, b), names, strict=True):
        given.add(name, Counted(model.rows(ids)))
    prompt = [9, *names[0], *names[1], 8, *names[0], *names[1][:2], 7]
    assert model.logits(prompt, given) == model.logits([9, *a, *b, 8, *a, *b[:2], 7])


def test_penalties_do_not_see_rows(model: Model) -> None:
    """The repetition penalty counts the prompt's tokens. Given rows are not tokens, also when an answer is run
    again."""
    prompt, given, _ = picture(model)
    tokens = [*IDS[:FIRST], *IDS[END:]]
    sampler = model.engine._loaded.decoder.sampler

    def remembered() -> set[int]:
        assert sampler._counts.binding is not None
        raw = model.run(model.engine._gpu.read(sampler._counts.binding.buffer))
        return {*np.flatnonzero(np.frombuffer(raw, np.uint32)).tolist()}

    got = model.answer(prompt, given, 12, repetition_penalty=100.0).tokens
    assert not {*got} & {*tokens} and len({*got}) == len(got)
    assert remembered() == {*tokens, *got}
    sampler.remember(prompt, got[:3])
    assert remembered() == {*tokens, *got[:3]}


def test_sessions_keep_them(model: Model, stores: Path) -> None:
    prompt, given, _ = picture(model)
    model.logits([1])
    first = model.answer(prompt, given)
    model.run(model.engine.save_session("a picture"))
    model.logits([1])
    model.run(model.engine.restore_session("a picture"))
    follow = [*prompt, *first.tokens, 5]
    _, given, source = picture(model)
    got = model.answer(follow, given)
    assert got.cached_tokens == len(follow) - 2 and source.asked == 0
    model.run(model.engine.restore_session("a picture"))
    other, given, source = picture(model, seed=1)
    assert model.answer([*other, *first.tokens, 5], given).cached_tokens <= FIRST
    assert source.asked == 1


def test_a_session_whose_rows_were_lost_says_so(model: Model, stores: Path) -> None:
    """After a loss the session's ids are run again. Given rows have no ids to run."""
    prompt, given, _ = picture(model)
    model.answer(prompt, given)
    decoder = model.engine._loaded.decoder
    model.engine._lost_ids = list(decoder.prefix.ids)  # the state of the engine after a loss
    decoder.prefix.forget()
    with pytest.raises(SessionError, match="images or sounds"):
        model.run(model.engine.save_session("a picture"))
    _, given, _ = picture(model)
    model.answer(prompt, given)
    model.run(model.engine.save_session("a picture"))


def test_positions_in_a_straight_line(model: Model) -> None:
    """The same shift of all positions changes only the last bits of attention. Other changes need several axes."""
    ids = IDS[:20]
    given = Given(Positions([[i + 7] for i in range(len(ids))]))
    wanted = np.frombuffer(model.logits(ids), np.float32)
    got = np.frombuffer(model.logits(ids, given), np.float32)
    assert (got != wanted).any()
    assert reference.nmse(got, wanted) < 1e-9
    with pytest.raises(InputError, match="numbers of its rows"):
        model.logits(ids, Given(Positions([[0] for _ in ids])))


def test_what_is_refused(model: Model) -> None:
    prompt, given, _ = picture(model)
    with pytest.raises(InputError, match="not given with this prompt"):
        model.answer([*prompt, -5], given)
    with pytest.raises(InputError, match="not given"):
        model.logits(prompt)
    with pytest.raises(InputError, match="ids\\[0\\] is -5"):
        model.engine.generate([-5], max_tokens=1)
    with pytest.raises(InputError, match="negative"):
        given.add([3], Counted(b""))
    short = Given()
    short.add(prompt[FIRST:END], Counted(b"1234"))
    with pytest.raises(InputError, match="have 4 bytes"):
        model.logits(prompt, short)
    assert model.logits(prompt, given) == model.logits(IDS)


def test_ids_of_content() -> None:
    made = content_ids("a", 3, [b"12", b"3"])
    assert all(MOST_NEGATIVE <= i < 0 for i in made)
    others = [
        content_ids("b", 3, [b"12", b"3"]),
        content_ids("a", 3, [b"1", b"23"]),
        content_ids("a", 3, [b"123"]),
        content_ids("a", 3, [b"12", b"4"]),
    ]
    assert len({*made, *(i for ids in others for i in ids)}) == 15
    assert content_ids("a", 5, [bytearray(b"12"), memoryview(b"3")])[:3] == made


# ---- positions with several axes, in a model


class Turned(Model):
    """The hybrid with M-RoPE in its attention layers, in sections as its vision model has them."""

    def __init__(self, run: Runner, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
        from py_engine.blocks import dense
        from py_engine.models import qwen3_5
        from py_engine.sources.rope_config import mrope_axes

        plain = dense.rope_of

        def with_axes(*given: Any, **options: Any) -> Any:
            made = plain(*given, **options)
            pairs = made.width // 2
            return replace(made, axes=mrope_axes((pairs - 2, 1, 1), True, pairs))

        monkeypatch.setattr(qwen3_5, "rope_of", with_axes)
        super().__init__(run, gpu, HYBRID)


def test_axes_in_a_model(run: Runner, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal positions on all axes equal plain positions, bit for bit. A picture moves the positions of the tokens
    behind it back, in prefill and in decode. Where prompts are cut makes no difference."""
    plain = Model(run, gpu, HYBRID)
    wanted = plain.logits(IDS)
    run(plain.engine.close())
    model = Turned(run, gpu, monkeypatch)
    try:
        assert model.logits(IDS) == wanted
        told = run(model.engine._loaded.decoder.self_check().run())
        assert told.wrong == []
        # 4 tokens, then a picture of 6 x 6 rows, then 5 tokens; the positions are those of transformers'
        # get_rope_index.
        places = [[i] * 3 for i in range(FIRST)]
        places += [[FIRST, FIRST + i // 6, FIRST + i % 6] for i in range(END - FIRST)]
        places += [[FIRST + 6 + i] * 3 for i in range(len(IDS) - END)]
        prompt, _, source = picture(model)
        given = Given(Positions(places))
        assert given.positions is not None and given.positions.shift == 6 - (END - FIRST)
        given.add(prompt[FIRST:END], source)
        whole = model.answer(prompt, given, 8).tokens
        assert model.logits(prompt, given) != wanted
        # An answer that runs as a prompt gives the same next tokens: decode and prefill agree on positions.
        cut = [*prompt, *whole[:4]]
        assert model.answer(cut, given, 4).tokens == whole[4:]
        last = np.frombuffer(model.logits(cut, given), np.float32)
        model.logits(cut[:-1], given)
        one = np.frombuffer(model.logits(cut, given, reuse=True), np.float32)
        assert model.prefilled == 1 and reference.nmse(one, last) < 1e-10
        # The last row of a picture runs alone. Its position differs by axis.
        model.logits(prompt[: END - 1], given)
        one = np.frombuffer(model.logits(prompt[:END], given, reuse=True), np.float32)
        last = np.frombuffer(model.logits(prompt[:END], given), np.float32)
        assert reference.nmse(one, last) < 1e-10
    finally:
        run(model.engine.close())
