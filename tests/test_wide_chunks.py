"""Long prompts run in wide chunks, whose buffers are made for the first prompt with so many rows. These tests check
what the chunks compute, the memory that they take and when, and that narrow chunks replace them where there is no room.
Small sizes stand for 2,048 and 512 rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from py_engine.abort import Abort
from py_engine.errors import AbortError, MemoryBudgetError, OutOfMemoryError
from py_engine.generate.chunks import Chunks
from py_engine.host.gpu import Gpu
from py_engine.host.profile import HARDWARE
from py_engine.serve import device as device_module
from py_engine.serve.engine import Engine
from py_engine.serve.sessions import Sessions
from tests import reference
from tests.answers import answer, fresh
from tests.conftest import Runner, software_adapter
from tests.ops.harness import nmse
from tests.test_device_loss import Devices, Rig, lose_at_replay

NARROW, WIDE = 32, 64
CONTEXT = 256
LONG = [40 + 7 * i % 150 for i in range(100)]
SHORT = LONG[:NARROW]
QWEN2 = "qwen2-mlx4-g64"


@pytest.fixture(scope="module")
def gpu(open_software_gpu: Callable[..., Gpu]) -> Gpu:
    """One host is enough: this tests the engine's bookkeeping."""
    return open_software_gpu("wgpu")


@pytest.fixture(scope="module", autouse=True)
def _small_sizes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in ("passes", "build"):
            patch.setattr(f"py_engine.generate.{module}.PREFILL_ROWS", (NARROW, 16))
        patch.setattr("py_engine.generate.passes.WIDE_ROWS", WIDE)
        for limit in ("FAST_S", "SLOW_S"):  # every chunk counts as fast
            patch.setattr(f"py_engine.generate.chunks.{limit}", 1000.0)
        patch.setattr("py_engine.serve.memory.adapter_profile", lambda _: HARDWARE)
        yield


def load(gpu: Gpu, run: Runner, name: str = QWEN2, **options: Any) -> Engine:
    settings: dict[str, Any] = {"dtype": "f32", "context": CONTEXT, "context_classes": (128,)}
    loaded: Engine = run(Engine.load(str(reference.folder(name)), gpu=gpu, **settings | options))
    return loaded


@pytest.fixture
def engine(gpu: Gpu, run: Runner) -> Iterator[Engine]:
    """A fresh engine for each test, because chunks that became wide stay wide."""
    loaded = load(gpu, run)
    yield loaded
    run(loaded.close())


def rows(engine: Engine) -> int:
    return engine._loaded.decoder.chunk_rows


@pytest.mark.parametrize(
    ("start", "stop", "ends"),
    [
        (0, 2500, [2048, 2500]),
        (0, 2048, [2048]),
        (10, 4200, [2048, 4096, 4200]),
        (10, 2058, [2058]),
        (1000, 3049, [3008, 3049]),
    ],
)
def test_cuts(start: int, stop: int, ends: list[int]) -> None:
    """A prompt is cut into as few chunks as possible, and all but the last end at multiples of 64."""
    programs: Any = SimpleNamespace(sizes=lambda _: (16, 512, 2048))
    chunks, found = Chunks(None, None, programs), []  # type: ignore[arg-type]
    while start < stop:
        found.append(start := chunks.end(start, stop))
    assert found == ends


@pytest.mark.parametrize("name", [QWEN2, "qwen3.5-mlx4-g64"])
def test_the_same_answers(gpu: Gpu, run: Runner, name: str) -> None:
    """Greedy and sampled answers with penalties are those of narrow chunks, and the next turn goes on from them."""
    wide = load(gpu, run, name)
    told = run(Engine.estimate(str(reference.folder(name)), gpu=gpu, dtype="f32", context=CONTEXT))
    narrow = load(gpu, run, name, memory_budget=told.peak_bytes - 1)
    try:
        logits = [np.asarray(run(engine.logits(LONG))) for engine in (wide, narrow)]
        assert (rows(wide), rows(narrow)) == (WIDE, NARROW)
        assert nmse(*logits) < 1e-10
        for options in ({}, {"temperature": 1.0, "seed": 5, "repetition_penalty": 1.3}):
            run(wide.logits([1]))
            run(narrow.logits([1]))
            got = answer(wide, run, LONG, 12, **options)
            assert got.tokens == answer(narrow, run, LONG, 12, **options).tokens
        assert (
            wide.info()["plan"]["prefill_dispatches"] < narrow.info()["plan"]["prefill_dispatches"]
        )
        follow = [*LONG, *got.tokens, *SHORT, *SHORT]
        second = answer(wide, run, follow, 5)
        assert second.cached_tokens == len(LONG) + 11
        assert second.tokens == fresh(wide, run, follow, 5)
    finally:
        run(wide.close())
        run(narrow.close())


def test_the_first_chunk_tells_whether_wide_ones_pay(
    engine: Engine, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No wide chunk runs before a narrow one was timed."""
    chunks = engine._loaded.decoder._chunks
    ends: list[int] = []
    end = chunks.end

    def cut(start: int, stop: int) -> int:
        ends.append(end(start, stop))
        return ends[-1]

    monkeypatch.setattr(chunks, "end", cut)
    wanted = fresh(engine, run, LONG, 3)
    assert ends[1:] == [NARROW, WIDE, len(LONG)], "the first, of logits([1]), has one row"
    assert fresh(engine, run, LONG, 3) == wanted
    assert ends[5:] == [WIDE, len(LONG)]


@pytest.mark.parametrize(
    ("times", "rows"),
    [
        ([0.01, 0.04, 0.4], [512, 2048, 2048, 2048]),
        ([0.5, 0.9], [512, 512, 512]),
        ([2.0, 1.5, 0.6, 0.05], [512, 128, 64, 64, 320]),
        ([30.0, 30.0], [512, 64, 64]),
    ],
)
def test_rows_follow_the_time_that_chunks_take(times: list[float], rows: list[int]) -> None:
    programs: Any = SimpleNamespace(sizes=lambda _: (16, 512))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("py_engine.generate.chunks.FAST_S", 0.25)
        patch.setattr("py_engine.generate.chunks.SLOW_S", 1.0)
        chunks = Chunks(None, None, programs)  # type: ignore[arg-type]
        found = [chunks.end(0, 1 << 20)]
        for seconds in times:
            chunks.ran(found[-1], seconds)
            if chunks._rows > 512:
                programs.sizes = lambda _: (16, 512, 2048)
            found.append(chunks.end(0, 1 << 20))
    assert found == rows


def test_memory(engine: Engine, gpu: Gpu, run: Runner) -> None:
    """A load and a short text take the memory that they take without wide chunks. A full context takes the estimate."""
    told = run(Engine.estimate(str(reference.folder(QWEN2)), gpu=gpu, dtype="f32", context=CONTEXT))
    assert told.wide_chunks
    made, pipelines = engine.info()["memory"], gpu.counters.pipelines_created
    answer(engine, run, SHORT, 3)
    assert (engine.info()["memory"], rows(engine)) == (made, NARROW)
    run(engine.logits([1]))
    answer(engine, run, LONG, 3)
    assert rows(engine) == WIDE
    assert gpu.counters.pipelines_created == pipelines, "its kernels were compiled at load"
    run(engine._loaded.decoder.fill())
    assert told.by_kind.items() <= engine.info()["memory"].items()
    live = gpu.counters.live_bytes
    answer(engine, run, LONG[1:], 3)
    answer(engine, run, LONG[2:], 3)
    assert gpu.counters.live_bytes <= live + 4 * 16, "but for the ring that tokens are read through"


def test_the_budget_decides(gpu: Gpu, run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(reference.folder(QWEN2))
    wide = run(Engine.estimate(folder, gpu=gpu, context=CONTEXT))
    with monkeypatch.context() as patch:
        patch.setattr("py_engine.generate.passes.WIDE_ROWS", NARROW)
        narrow = run(Engine.estimate(folder, gpu=gpu, context=CONTEXT))
    assert (wide.wide_chunks, narrow.wide_chunks) == (True, False)
    assert narrow.loaded_bytes == wide.loaded_bytes
    assert narrow.total_bytes < wide.total_bytes and narrow.peak_bytes < wide.peak_bytes
    for budget, most in (
        (wide.peak_bytes, WIDE),
        (wide.peak_bytes - 1, NARROW),
        (narrow.peak_bytes, NARROW),
    ):
        engine = load(gpu, run, dtype="auto", memory_budget=budget)
        answer(engine, run, LONG, 2)
        assert rows(engine) == most
        run(engine.close())
    with pytest.raises(MemoryBudgetError):
        load(gpu, run, dtype="auto", kv="f16", memory_budget=narrow.peak_bytes - 1)


def test_no_room(engine: Engine, gpu: Gpu, run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever buffer is refused, narrow chunks run, nothing stays allocated, and wide chunks are not tried again."""
    narrow = fresh(engine, run, SHORT, 3)
    live, create = gpu.counters.live_bytes, gpu.create_buffer
    made = []

    def listing(label: str, nbytes: int, kind: Any = "storage") -> Any:
        made.append((label, nbytes))
        return create(label, nbytes, kind)

    with monkeypatch.context() as patch:
        patch.setattr(gpu, "create_buffer", listing)
        other = load(gpu, run)
        del made[:]
        answer(other, run, LONG, 3)
        run(other.close())
    wanted = [(label, n) for label, n in made if not label.startswith("ring")]
    assert {"ids", "residual stream"} < {label for label, _ in wanted}
    assert any(label.startswith("activations") for label, _ in wanted)
    for refused in wanted:
        asked = 0

        def refusing(label: str, nbytes: int, kind: Any = "storage", refused: Any = refused) -> Any:
            nonlocal asked
            if (label, nbytes) == refused:
                asked += 1
                raise OutOfMemoryError(f"no room for {label}")
            return create(label, nbytes, kind)

        engine._loaded.decoder._chunks._refused = False
        run(engine.logits([1]))
        with monkeypatch.context() as patch:
            patch.setattr(gpu, "create_buffer", refusing)
            got = answer(engine, run, LONG, 3)
            again = answer(engine, run, LONG[1:], 3)
        assert (asked, rows(engine)) == (1, NARROW)
        assert gpu.counters.live_bytes == live
        assert len(again.tokens) == 3
        assert fresh(engine, run, SHORT, 3) == narrow
    engine._loaded.decoder._chunks._refused = False
    assert fresh(engine, run, LONG, 3) == got.tokens
    assert rows(engine) == WIDE


def test_no_room_reported_late(
    engine: Engine, gpu: Gpu, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In browsers the buffers seem to exist, and only the next check reports that they do not."""
    wanted, live = fresh(engine, run, SHORT, 3), gpu.counters.live_bytes

    async def refused() -> None:
        raise OutOfMemoryError("the GPU is out of memory at buffer 'residual stream'")

    with monkeypatch.context() as patch:
        patch.setattr(gpu, "check", refused)
        assert len(fresh(engine, run, LONG, 3)) == 3
    assert (gpu.counters.live_bytes, rows(engine)) == (live, NARROW)
    assert fresh(engine, run, SHORT, 3) == wanted


def test_a_stop_lands_within_a_wide_chunk(
    engine: Engine, gpu: Gpu, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh(engine, run, LONG, 1)  # the engine times a chunk, so that it uses wide ones
    run(engine.logits([1]))
    ids, abort = [*LONG, *LONG], Abort()
    settings = engine._loaded.text.sampling_defaults
    decoder, fence = engine._loaded.decoder, gpu.fence

    async def stopped() -> None:
        async for _ in decoder.generate(ids, settings, 5, abort):
            raise AssertionError

    def fenced() -> Any:
        abort.set()
        return fence()

    with monkeypatch.context() as patch, pytest.raises(AbortError):
        patch.setattr(gpu, "fence", fenced)
        run(stopped())
    assert decoder.prefix.ids == ids[:WIDE]
    got = answer(engine, run, ids, 5)
    assert got.cached_tokens == WIDE
    assert got.tokens == fresh(engine, run, ids, 5)


def test_sessions_know_the_size_of_chunks(gpu: Gpu, run: Runner, engine: Engine) -> None:
    """A session's key has the chunk size that its load allows, whether or not wide chunks were needed yet."""
    told = run(Engine.estimate(str(reference.folder(QWEN2)), gpu=gpu, dtype="f32", context=CONTEXT))

    async def key(engine: Engine) -> Any:
        return await Sessions(engine._gpu, engine._loaded)._identity()

    before = run(key(engine))
    answer(engine, run, LONG, 2)
    assert rows(engine) == WIDE
    assert run(key(engine)) == before
    narrow = load(gpu, run, memory_budget=told.peak_bytes - 1)
    other = run(key(narrow))
    run(narrow.close())
    assert {field for field in before if before[field] != other[field]} == {"kernels"}


def test_lost_in_a_wide_chunk(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer continues on another device, in wide chunks again, with the tokens of an undisturbed run."""
    devices = Devices()
    monkeypatch.setattr(device_module, "open_gpu", devices.open)
    with software_adapter("wgpu"):
        engine = Rig(run, devices).load(QWEN2, context=CONTEXT).engine
        wanted = fresh(engine, run, LONG, 8)
        assert rows(engine) == WIDE
        run(engine.logits([1]))
        lose_at_replay(monkeypatch, devices)
        got = answer(engine, run, LONG, 8)
        assert (got.tokens, got.device_losses) == (wanted, 1)
        assert (len(devices.opened), rows(engine)) == (2, WIDE)
        run(engine.close())
    assert devices.live_buffers == 0
