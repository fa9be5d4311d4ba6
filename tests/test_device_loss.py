"""GPU devices that are lost: every call reports it, and an engine continues with the very same answer on another
device.

The tests really destroy the device, without telling the engine.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.worker import Host
from py_engine.errors import DeviceLostError, NoAdapterError, OutOfMemoryError
from py_engine.generate.decoder import Decoder
from py_engine.generate.prefix import shared
from py_engine.graph.submit import GroupedSubmit
from py_engine.host import open_gpu
from py_engine.host.gpu import Binding, Dispatch, Gpu
from py_engine.host.gpu_native import NativeGpu
from py_engine.host.io_native import NativeIo
from py_engine.host.profile import profile_of
from py_engine.memory import search as memory_search
from py_engine.memory.gpu_search import GpuSearch
from py_engine.memory.memory import Memory
from py_engine.serve import device as device_module
from py_engine.serve import recovery
from py_engine.serve.engine import Engine
from py_engine.serve.recovery import DeviceEvent
from py_engine.tasks.features import FeaturesRequest
from tests import reference, waiting
from tests.conftest import HOSTS, Runner, software_adapter
from tests.hub_server import hub_server

# The first has only a KV cache, the second a recurrent state as well.
MODELS = ("qwen2-mlx4-g64", "qwen3.5-mlx4-g64")
PROMPT = [40 + i % 150 for i in range(70)]
NEW = 24
ONE = (1, 1, 1)
DOUBLE = "@group(0) @binding(0) var<storage, read_write> x: array<u32>;\n"
DOUBLE += "@compute @workgroup_size(1) fn main() { x[0] *= 2u; }"


def destroy(gpu: Gpu) -> None:
    gpu._device.destroy()  # type: ignore[attr-defined]


def lose_at_replay(patch: pytest.MonkeyPatch, devices: Devices) -> None:
    """Destroy the newest device after the next plan was submitted."""
    gpu = devices.opened[-1]
    replay = gpu.replay

    async def lose_behind(recording: Any) -> None:
        await replay(recording)
        devices.lose()

    patch.setattr(gpu, "replay", lose_behind)


def lose_at_first_token(patch: pytest.MonkeyPatch, devices: Devices) -> None:
    """The newest device is gone when the prompt was submitted, and its first token is to be read."""
    gpu = devices.opened[-1]
    begin = gpu.decode_loop

    def lose_before(*args: Any, **options: Any) -> Any:
        devices.lose()
        return begin(*args, **options)

    patch.setattr(gpu, "decode_loop", lose_before)


class Devices:
    """Every device that engines open. `at_open` gets each of them and may refuse it."""

    def __init__(self) -> None:
        self.opened: list[Gpu] = []
        self.at_open: Callable[[], None] = lambda: None

    async def open(self, host: str | None) -> Gpu:
        self.at_open()
        gpu = await open_gpu(host)
        self.opened.append(gpu)
        return gpu

    def lose(self) -> None:
        """Destroy the newest device."""
        destroy(self.opened[-1])

    @property
    def live_buffers(self) -> int:
        return sum(gpu.counters.live_buffers for gpu in self.opened)


class Rig:
    """An engine with its own devices, and what it reported about them."""

    def __init__(self, run: Runner, devices: Devices) -> None:
        self.run = run
        self.devices = devices
        self.events: list[DeviceEvent] = []
        self.engine: Engine

    def load(self, model: str = MODELS[0], **options: Any) -> Rig:
        return self.load_address(str(reference.folder(model)), **options)

    def load_address(self, address: str, **options: Any) -> Rig:
        options = {"host": "wgpu", "dtype": "f32", "context": 128, **options}
        self.engine = self.run(Engine.load(address, on_device=self.events.append, **options))
        return self

    async def answer(self, lose_at: tuple[int, ...] = (), **options: Any) -> Any:
        """The answer to PROMPT. The device is lost after each of these numbers of tokens."""
        options = {"max_tokens": NEW, "temperature": 0.0, "ignore_eos": True, **options}
        generation = self.engine.generate(PROMPT, **options)
        came, left = 0, list(lose_at)
        async for delta in generation:
            came += delta.tokens
            if left and came >= left[0]:
                left.pop(0)
                self.devices.lose()
        assert not left
        return await generation

    def told(self) -> list[tuple[str, str, int]]:
        """What was reported since the last call."""
        told: list[tuple[str, str, int]] = [(e.state, e.during, e.losses) for e in self.events]
        self.events.clear()
        return told


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[Devices]:
    """Replaces open_gpu in the engine. It does not wait for a driver between two attempts."""
    devices = Devices()
    monkeypatch.setattr(device_module, "open_gpu", devices.open)
    monkeypatch.setattr(recovery, "_PAUSE_S", 0.0)
    with software_adapter("wgpu"):
        yield devices


@pytest.fixture
def rig(run: Runner, devices: Devices) -> Iterator[Rig]:
    rig = Rig(run, devices)
    yield rig
    if hasattr(rig, "engine"):
        run(rig.engine.close())
    assert devices.live_buffers == 0, "lost devices' buffers are given back too"


@pytest.mark.parametrize("host", HOSTS)
def test_every_call_of_a_lost_device_says_so(
    open_software_gpu: Callable[..., Gpu], run: Runner, host: str
) -> None:
    """Whatever error the WebGPU implementation itself gives, if any."""
    gpu = open_software_gpu(host)
    assert gpu.lost is None
    a = gpu.create_buffer("a", 64)
    pipeline = run(gpu.create_pipeline("double", DOUBLE, {}))
    dispatch = Dispatch("double", pipeline, gpu.bind_group("double", pipeline, [Binding(a)]), ONE)
    recording = gpu.record([[[dispatch]]], False)
    loop = gpu.decode_loop(recording, a, 8, 4)
    assert len(run(loop.next())) == 1
    destroy(gpu)
    for call in (
        loop.next,
        gpu.idle,
        lambda: gpu.read(a),
        gpu.decode_loop(recording, a, 8, 4).next,
    ):
        with pytest.raises(DeviceLostError) as caught:
            run(call())
        assert "lost" in caught.value.reason
    assert gpu.lost
    gpu.destroy_buffer(a)
    gpu.close()
    assert (gpu.lost, gpu.counters.live_buffers) == ("it was closed", 0)


@pytest.mark.parametrize("model", MODELS)
def test_lost_in_decode_in_prefill_and_while_idle(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """The tokens are those of an undisturbed run, greedy and sampled, with penalties. The next turn continues from
    there."""
    rig.load(model)
    drawn: dict[str, Any] = {
        "temperature": 1.3,
        "seed": 5,
        "repetition_penalty": 1.3,
        "frequency_penalty": 0.4,
    }
    greedy = rig.run(rig.answer())
    sampled = rig.run(rig.answer(**drawn))

    got = rig.run(rig.answer((3, 11)))
    assert (got.tokens, got.text, got.device_losses) == (greedy.tokens, greedy.text, 2)
    assert (got.finish_reason, got.prompt_tokens) == ("length", len(PROMPT))
    assert 0 <= got.cached_tokens < len(PROMPT)
    assert rig.told() == [
        ("lost", "decode", 1),
        ("recovered", "decode", 1),
        ("lost", "decode", 2),
        ("recovered", "decode", 2),
    ]
    got = rig.run(rig.answer((1,), **drawn))
    assert (got.tokens, got.device_losses) == (sampled.tokens, 1)
    rig.told()

    rig.devices.lose()  # a native host notices the loss of an idle device at the next call
    got = rig.run(rig.answer())
    assert (got.tokens, got.device_losses) == (greedy.tokens, 0)
    assert rig.told() == [("lost", "idle", 1), ("recovered", "idle", 1)]

    for lose in (lose_at_replay, lose_at_first_token):
        rig.run(rig.engine.logits([1]))  # forget the cached prefix
        lose(monkeypatch, rig.devices)
        got = rig.run(rig.answer())
        assert (got.tokens, got.device_losses) == (greedy.tokens, 1)
        assert (got.cached_tokens, rig.told()[0]) == (0, ("lost", "prefill", 1))
    follow = [*PROMPT, *got.tokens, 7, 8, 9]
    turn = rig.run(rig.engine.generate_ids(follow, 4, ignore_eos=True))
    rig.run(rig.engine.logits([1]))
    assert rig.run(rig.engine.generate_ids(follow, 4, ignore_eos=True)) == turn


@pytest.mark.parametrize("copied", [False, True], ids=["before", "behind"])
def test_lost_while_the_cache_grows(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, copied: bool
) -> None:
    """The new cache is there, its content is being copied: in the middle of an answer, and before a longer prompt."""
    monkeypatch.setattr("py_engine.generate.decoder.ANSWER_ROOM", 8)
    rig.load(context_classes=(80, 112))
    wanted = rig.run(rig.answer())
    follow = [*PROMPT, *wanted.tokens, *range(40, 52)]
    turn = rig.run(rig.engine.generate_ids(follow, 4, ignore_eos=True))

    def lose_at_copy() -> None:
        cache = rig.engine._loaded.decoder.state.cache
        copy = cache._copy

        async def lose_beside(*layers: Any) -> None:
            if copied:
                await copy(*layers)
            rig.devices.lose()
            if not copied:
                await copy(*layers)

        monkeypatch.setattr(cache, "_copy", lose_beside)

    async def begin_small() -> None:
        await rig.engine.logits([1])  # forget the cached prefix
        assert rig.engine.info()["context"]["class"] == 80

    rig.run(begin_small())
    lose_at_copy()
    got = rig.run(rig.answer())
    assert (got.tokens, got.device_losses) == (wanted.tokens, 1)
    assert [event[:2] for event in rig.told()] == [("lost", "decode"), ("recovered", "decode")]
    rig.run(begin_small())
    rig.run(rig.engine.logits(PROMPT))
    lose_at_copy()
    assert rig.run(rig.engine.generate_ids(follow, 4, ignore_eos=True)) == turn
    assert [event[:2] for event in rig.told()] == [("lost", "prefill"), ("recovered", "prefill")]


def test_an_encoder_lost_while_idle_and_between_passes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vectors are the same, bit for bit, in the order of the texts."""
    rig.load("bert-f32", context=80)
    texts = [f"hello {'again ' * n}world" for n in (0, 30, 3, 12, 25, 1)]

    async def embed() -> list[bytes]:
        found = await rig.engine.embed(texts)
        return [bytes(row) for row in found]

    wanted = rig.run(embed())
    rig.devices.lose()
    assert rig.run(embed()) == wanted
    assert rig.told() == [("lost", "idle", 1), ("recovered", "idle", 1)]

    runtime: Any = rig.engine._loaded.runtime
    monkeypatch.setattr(runtime, "_sizes", (32, 80))  # two passes: four texts, two
    passes = []
    write = runtime._write

    def lose_second(batch: Any) -> int:
        passes.append(batch)
        if len(passes) == 2:
            rig.devices.lose()
        rows: int = write(batch)
        return rows

    monkeypatch.setattr(runtime, "_write", lose_second)
    assert rig.run(embed()) == wanted
    assert len(passes) == 2, "all was done again elsewhere"
    assert rig.told() == [("lost", "prefill", 1), ("recovered", "prefill", 1)]
    assert rig.engine.info()["status"] == "ready"


def test_a_ranking_goes_on_behind_the_documents_that_were_judged(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a decoder, which takes one document after another."""
    rig.load("rerank-qwen3", context=400)

    async def rank() -> dict[int, float]:
        answer = await rig.engine.rerank("Where?", ["jerboas", "in burrows", "hello"])
        return {ranked.index: ranked.relevance_score for ranked in answer.results}

    wanted = rig.run(rank())
    decoder, asked = rig.engine._loaded.decoder, []
    logits = decoder.logits

    async def lose_second(ids: list[int], *args: Any, **options: Any) -> bytes:
        asked.append(ids)
        if len(asked) == 2:
            rig.devices.lose()
        return await logits(ids, *args, **options)

    monkeypatch.setattr(decoder, "logits", lose_second)
    judged: list[int] = []
    run_again = Decoder.logits

    async def count(self: Decoder, ids: list[int], *args: Any, **options: Any) -> bytes:
        if self is not decoder:
            judged.append(len(ids))
        return await run_again(self, ids, *args, **options)

    monkeypatch.setattr(Decoder, "logits", count)
    found = rig.run(rank())
    assert [*found] == [*wanted] and found == pytest.approx(wanted, abs=1e-6)
    assert len(asked) == 2 and len(judged) == 2, "the first document is not judged again"
    assert rig.told() == [("lost", "prefill", 1), ("recovered", "prefill", 1)]


@pytest.mark.parametrize("model", [pytest.param(MODELS[0], marks=pytest.mark.slow), MODELS[1]])
def test_with_16_bits_up_to_rounding(rig: Rig, model: str) -> None:
    """Models are loaded in 16 bits by default. After a loss the answer so far runs as a prompt, which sums in another
    order. Where a token differs, both choices were as good."""
    rig.load(model, dtype="auto")
    wanted, got = rig.run(rig.answer()), rig.run(rig.answer((3, 11)))
    assert (len(got.tokens), got.device_losses) == (NEW, 2)
    same = shared(wanted.tokens, got.tokens)
    assert same >= 3, "those came before the first loss"
    if same < NEW:
        logits = rig.run(rig.engine.logits([*PROMPT, *wanted.tokens[:same]]))
        assert logits[got.tokens[same]] == pytest.approx(logits[wanted.tokens[same]], abs=1e-3)


def test_what_else_is_kept(rig: Rig) -> None:
    """The way that commands are submitted stays. A session saved after a loss equals the one before it: its tokens are
    run again."""
    rig.load(MODELS[1], strategy=GroupedSubmit(4, 2))
    greedy = rig.run(rig.answer())
    seen = list(rig.engine._loaded.decoder.prefix.ids)
    rig.engine._loaded.decoder.strategy = proven = GroupedSubmit(16, 2)
    rig.devices.lose()
    rig.run(rig.engine.save_session("s"))
    assert rig.engine._loaded.decoder.strategy == proven
    assert rig.told() == [("lost", "idle", 1), ("recovered", "idle", 1)]
    rig.run(rig.engine.logits([1]))
    rig.devices.lose()
    rig.run(rig.engine.restore_session("s"))
    assert rig.engine._loaded.decoder.prefix.ids == seen
    follow = [*PROMPT, *greedy.tokens, 5]
    turn = rig.run(rig.engine.generate_ids(follow, 4, ignore_eos=True))
    rig.run(rig.engine.logits([1]))
    assert rig.run(rig.engine.generate_ids(follow, 4, ignore_eos=True)) == turn


def test_a_session_is_what_was_seen_last(rig: Rig) -> None:
    """A session holds the tokens seen before the last measurement (a calibration's): not nothing, nor those seen before
    an older loss."""
    rig.load()

    async def measure() -> None:
        async with rig.engine.exclusive() as decoder:
            await decoder.logits([9, 9])

    for ids in ([5, 6, 7, 8], [3, 4]):
        rig.run(rig.engine.logits(ids))
        rig.run(measure())
        rig.run(measure())
        rig.run(rig.engine.save_session("s"))
        assert rig.engine._loaded.decoder.prefix.ids == ids
        rig.devices.lose()
    rig.run(rig.engine.save_session("s"))
    assert rig.engine._loaded.decoder.prefix.ids == [3, 4]


def test_the_model_comes_from_what_is_kept_here(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same commit is used, wherever the branch is now. The hub is not asked, and need not be reachable."""
    shutil.copytree(reference.folder(MODELS[0]), tmp_path / "root" / "org" / "tiny")
    with hub_server(tmp_path / "root") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        rig.load_address("org/tiny")
        asked = len(hub.requests)
        greedy = rig.run(rig.answer())
        assert rig.run(rig.answer((4,))).tokens == greedy.tokens
        assert len(hub.requests) == asked > 0
    assert rig.run(rig.answer((4,))).tokens == greedy.tokens
    assert rig.engine.info()["model"] == "org/tiny"


def test_lost_while_loading(rig: Rig) -> None:
    """The device is lost at the first weights, and again before the kernels are compiled. The third device holds the
    model."""
    left = ["weights", "kernels"]

    def tell(progress: Any) -> None:
        if left and progress.phase == left[0]:
            left.pop(0)
            rig.devices.lose()

    rig.load(on_progress=tell)
    assert rig.told() == [
        ("lost", "load", 1),
        ("lost", "load", 2),
        ("recovered", "load", 2),
    ]
    assert len(rig.run(rig.answer()).tokens) == NEW


@pytest.mark.parametrize("handheld", [False, True])
def test_lost_again_and_again(rig: Rig, monkeypatch: pytest.MonkeyPatch, handheld: bool) -> None:
    """An engine does not retry for ever on a device that cannot hold the model, and on a phone only once. It can be
    used again as soon as a device can."""
    monkeypatch.setattr(NativeIo, "handheld", handheld)
    most = profile_of(handheld).losses
    bears = True

    def tell(progress: Any) -> None:
        if progress.phase == "kernels" and not bears:
            rig.devices.lose()

    rig.load(on_progress=tell)
    greedy = rig.run(rig.answer())
    bears = False
    with pytest.raises(DeviceLostError, match=f"lost {most + 1} times in a row.*smaller"):
        rig.run(rig.answer((2,)))
    assert len(rig.devices.opened) == 1 + most
    assert rig.told()[-1] == ("failed", "decode", most + 1)
    assert rig.engine.info()["status"] == "lost"
    assert rig.devices.live_buffers == 0
    bears = True
    assert rig.run(rig.answer()).tokens == greedy.tokens
    assert rig.told() == [("lost", "idle", 1), ("recovered", "idle", 1)]
    assert rig.engine.info()["status"] == "ready"


def test_lost_now_and_then_while_idle(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A phone's browser takes the GPU away every few hours while nothing is asked. The engine recovers from each loss,
    but two in a row are too many."""
    monkeypatch.setattr(NativeIo, "handheld", True)
    rig.load()
    hours = 0.0
    monkeypatch.setattr(recovery, "monotonic", lambda: time.monotonic() + 3600 * hours)

    def lose() -> list[tuple[str, str, int]]:
        rig.devices.lose()
        # A browser's device reports a loss in this way; a native one does not.
        rig.run(rig.engine.replace_when_idle(rig.devices.opened[-1]))
        return rig.told()

    for _ in range(3):
        hours += 1
        assert lose() == [("lost", "idle", 1), ("recovered", "idle", 1)]
    assert lose() == [("lost", "idle", 2), ("failed", "idle", 2)]
    assert rig.engine.info()["status"] == "lost"


def test_a_page_that_dies_while_the_model_is_loaded_again_says_so(
    run: Runner, devices: Devices, stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when nothing was asked: the worker notes the reload while it lasts, and a close too."""
    monkeypatch.setattr(device_module.Device, "open", partial(device_module.Device.open, "wgpu"))
    monkeypatch.setenv("JERBOA_RUN", "run")
    crumb = stores / "crumbs" / "run.json"
    heard: list[dict[str, Any]] = []

    async def nothing() -> None:
        pass

    async def until(status: str, state: str | None = None) -> None:
        def told() -> bool:
            assert not any(m["status"] == "error" for m in heard), heard
            return any((m["status"], m.get("state")) == (status, state) for m in heard)

        await waiting.until(f"a message {status}, {state}", told, 0.001)

    def phase() -> str | None:
        return str(json.loads(crumb.read_text()).get("phase"))

    async def lose(engine: Engine) -> None:
        heard.clear()
        devices.lose()
        engine._device.told_lost("as a browser's device tells it; a native one does not")
        await until("device", "lost")

        def loading() -> bool:
            assert ("device", "recovered") not in [(m["status"], m.get("state")) for m in heard]
            return phase() == "load"

        await waiting.until("the phase load", loading, 0.001)

    async def at_nothing(host: Host) -> None:
        await waiting.until("all tasks done", lambda: all(t.done() for t in host._tasks), 0.001)
        assert phase() == "None"

    async def work() -> None:
        host = Host(heard.append, nothing)
        host.begin()
        folder = str(reference.folder(MODELS[0]))
        host.receive({"type": "load", "id": 1, "repo": folder, "options": {"context": 128}})
        await until("ready")
        engine = host._engine
        assert engine
        await lose(engine)
        await until("device", "recovered")
        await at_nothing(host)
        await lose(engine)
        host.receive({"type": "unload", "id": 2})
        await until("result")
        await at_nothing(host)
        await host._log.crumbs.close()

    run(work())


def test_no_adapter_after_a_loss(rig: Rig) -> None:
    """The caller keeps the tokens so far, the error says what to do, and the next call tries again."""
    rig.load()
    greedy = rig.run(rig.answer())

    def refuse() -> None:
        raise NoAdapterError("no WebGPU adapter")

    rig.devices.at_open = refuse
    came = []

    async def ask() -> None:
        generation = rig.engine.generate(PROMPT, max_tokens=NEW, temperature=0.0, ignore_eos=True)
        async for delta in generation:
            came.append(delta.tokens)
            rig.devices.lose()

    with pytest.raises(
        NoAdapterError, match="the GPU was lost, and there is none any more.*Restart"
    ):
        rig.run(ask())
    assert sum(came) >= 1
    assert rig.told() == [("lost", "decode", 1), ("failed", "decode", 1)]
    with pytest.raises(NoAdapterError):
        rig.run(rig.engine.logits([1]))
    rig.devices.at_open = lambda: None
    assert rig.run(rig.answer()).tokens == greedy.tokens


def test_a_full_device_after_a_loss(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program took the memory meanwhile: the engine raises OutOfMemoryError, nothing stays allocated, and the
    next call tries again."""
    rig.load()
    greedy = rig.run(rig.answer())
    with monkeypatch.context() as patch:

        def refuse(gpu: Gpu, label: str, *_: Any) -> None:
            raise OutOfMemoryError(f"cannot create buffer {label!r}")

        patch.setattr(NativeGpu, "create_buffer", refuse)
        with pytest.raises(OutOfMemoryError):
            rig.run(rig.answer((2,)))
        assert rig.devices.live_buffers == 0
    assert rig.run(rig.answer()).tokens == greedy.tokens


def test_stopped_and_closed_while_it_loads_again(rig: Rig) -> None:
    """A stop returns the tokens so far at once. A close ends the load and reports no loss."""
    rig.load()

    async def stop() -> Any:
        generation = rig.engine.generate(PROMPT, max_tokens=NEW, temperature=0.0, ignore_eos=True)
        rig.devices.at_open = generation.stop
        async for _ in generation:
            rig.devices.lose()
        return await generation

    got = rig.run(stop())
    assert (got.finish_reason, len(got.tokens) >= 1) == ("abort", True)
    assert len(rig.run(rig.answer()).tokens) == NEW
    rig.told()

    async def close() -> Any:
        generation = rig.engine.generate(PROMPT, max_tokens=NEW, temperature=0.0, ignore_eos=True)
        closing: list[Any] = []
        rig.devices.at_open = lambda: closing.append(asyncio.ensure_future(rig.engine.close()))
        async for _ in generation:
            rig.devices.lose()
        await closing[0]
        return await generation

    assert rig.run(close()).finish_reason == "abort"
    assert rig.told() == [("lost", "decode", 1)]
    assert rig.devices.live_buffers == 0


def test_a_close_is_no_loss(rig: Rig) -> None:
    rig.load()
    rig.run(rig.engine.close())
    rig.run(asyncio.sleep(0.1))
    assert rig.told() == []
    assert rig.devices.opened[-1].lost == "it was closed"


def test_the_callers_own_device_is_the_callers(
    open_software_gpu: Callable[..., Gpu], run: Runner
) -> None:
    """An engine on a caller's device raises, and frees its buffers."""
    gpu = open_software_gpu("wgpu")
    told: list[str] = []
    gpu.on_lost = tell = told.append
    engine: Engine = run(Engine.load(str(reference.folder(MODELS[0])), gpu=gpu, context=64))
    assert gpu.on_lost == tell
    destroy(gpu)
    with pytest.raises(DeviceLostError, match="Load the model again"):
        run(engine.generate_ids(PROMPT[:4], 4))
    run(engine.close())


def test_a_memory_is_searched_on_the_next_device(
    rig: Rig, run: Runner, devices: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is lost in a search, and then between two: the vectors are uploaded again from the store."""
    monkeypatch.setattr(memory_search, "CPU_PRODUCTS", 0)
    rig.load("bert-f32", context=80)
    texts = [f"text {i} of the memory" for i in range(5)]

    async def go() -> None:
        async with Memory(rig.engine, namespace="lost") as memory:
            await memory.add_many(texts)
            wanted = [item.text for item in (await memory.recall(texts[3])).items]
            best, losses = GpuSearch.best, 0

            async def lose_first(self: GpuSearch, *args: Any) -> Any:
                nonlocal losses
                losses += 1
                if losses == 1:
                    devices.lose()
                return await best(self, *args)

            monkeypatch.setattr(GpuSearch, "best", lose_first)
            assert [item.text for item in (await memory.recall(texts[3])).items] == wanted
            devices.lose()
            assert [item.text for item in (await memory.recall(texts[3])).items] == wanted
            assert losses == 3 and len(devices.opened) == 3

    run(go())


@pytest.mark.parametrize("vision", [pytest.param("auto", marks=pytest.mark.slow), "lazy"])
def test_a_tower_lost_while_idle_and_at_work(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, vision: str
) -> None:
    """The rows are the same, bit for bit; a tower that came with the first picture comes again with the next."""
    rig.load("lfm2-vl-tower", vision=vision)
    golden = np.load(reference.folder("lfm2-vl-tower") / "tower.npz")
    request = FeaturesRequest(golden["patches_0"], grid=golden["grid_0"].tolist())

    async def seen() -> bytes:
        return bytes((await rig.engine.ask(request)).features)

    wanted = rig.run(seen())
    rig.devices.lose()
    assert rig.run(seen()) == wanted
    assert rig.told() == [("lost", "idle", 1), ("recovered", "idle", 1)]
    lose_at_replay(monkeypatch, rig.devices)
    assert rig.run(seen()) == wanted
    assert rig.told() == [("lost", "prefill", 1), ("recovered", "prefill", 1)]
    assert rig.engine.info()["vision"] == {"loaded": True}
