"""bench --profile: timed passes really run, bytes add up to the checkpoint, and the normal mode does not change."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from py_engine.checks.clock import Clock
from py_engine.diagnostics.bench import BenchOptions, bench
from py_engine.diagnostics.tables import profile_text
from py_engine.diagnostics.traffic import Reads, Traffic
from py_engine.errors import HostError, InputError
from py_engine.graph.plan import Planner
from py_engine.graph.submit import SingleSubmit
from py_engine.graph.trace import Tensor, Trace, kernel
from py_engine.host.gpu import Dispatch, Gpu
from py_engine.serve.engine import Engine
from tests import reference
from tests.conftest import Runner
from tests.ops.harness import Bench

CONTEXT = 64


@pytest.fixture(scope="module")
def wgpu(open_software_gpu: Callable[..., Gpu]) -> Gpu:
    return open_software_gpu("wgpu")


def load(run: Runner, gpu: Gpu, name: str) -> Engine:
    folder = str(reference.folder(name))
    engine: Engine = run(Engine.load(folder, gpu=gpu, dtype="f32", context=CONTEXT))
    return engine


@pytest.fixture(scope="module")
def engine(wgpu: Gpu, run: Runner) -> Iterator[Engine]:
    """A hybrid with attention and DeltaNet layers and a tied 4-bit embedding."""
    loaded = load(run, wgpu, "qwen3.5-mlx4-g64")
    yield loaded
    run(loaded.close())


# ---- the host's timed passes


@pytest.fixture
def ticks(gpu: Gpu, run: Runner) -> Iterator[tuple[Tensor, list[Dispatch], Bench]]:
    """A counter, and two dispatches that each add one to it."""
    bench = Bench(gpu)
    count = bench.put("count", np.zeros(64, np.uint32))
    trace = Trace(1)
    for _ in range(2):
        trace.call("tick", kernel("probe_tick"), [(count, "w")], (1, 1, 1))
    planner = Planner(gpu, bench.kernels, SingleSubmit())

    async def lower() -> list[Dispatch]:
        planner.reserve([trace])
        return list((await planner.lower([trace])).dispatches)

    yield count, run(lower()), bench
    bench.close()


def test_timed_passes_run_what_they_time(
    gpu: Gpu, run: Runner, ticks: tuple[Tensor, list[Dispatch], Bench]
) -> None:
    if "timestamp-query" not in gpu.features:
        pytest.skip("no timestamp queries")
    count, (one, two), bench = ticks
    before = gpu.counters.live_buffers
    started = time.perf_counter()
    stamps = run(gpu.time_passes(gpu.record([[[one], [one, two]], [[two]]], False), 5))
    wall_ns = 1e9 * (time.perf_counter() - started)
    assert run(bench.get(count))[0] == 5 * 4
    assert len(stamps) == 3
    flat = [stamp for pair in stamps for stamp in pair]
    assert flat == sorted(flat), "passes follow each other"
    assert flat[-1] - flat[0] <= wall_ns, "timestamps are in nanoseconds"
    assert gpu.counters.live_buffers == before


def test_timestamps_are_not_rounded(
    gpu: Gpu, run: Runner, ticks: tuple[Tensor, list[Dispatch], Bench]
) -> None:
    """Dawn rounds timestamps to 65 us unless told otherwise."""
    if "timestamp-query" not in gpu.features:
        pytest.skip("no timestamp queries")
    _, dispatches, _ = ticks
    clock = Clock(gpu)
    run(clock.passes([[d] for d in dispatches * 8]))
    assert clock.step_ns < 2000


def test_without_timestamp_queries_the_host_says_so(
    run: Runner, open_software_gpu: Callable[..., Gpu]
) -> None:
    gpu = open_software_gpu("wgpu", features=frozenset())
    with pytest.raises(HostError, match="timestamp-query"):
        run(gpu.time_passes(gpu.record([[[]]], False)))


def test_more_passes_than_a_query_set_holds(wgpu: Gpu, run: Runner) -> None:
    with pytest.raises(HostError, match="2048"):
        run(wgpu.time_passes(wgpu.record([[[]] * 2049], False)))


# ---- bytes


def embedding_row(engine_name: str, hidden: int) -> int:
    """Size in bytes of one row of a 4-bit embedding in groups of 64."""
    return hidden // 2 + hidden // 64 * 4


@pytest.mark.parametrize("name", ["qwen3.5-mlx4-g64", "qwen2-mlx8-g32-untied", "gemma3-text-bf16"])
def test_a_token_reads_every_weight_once(name: str, wgpu: Gpu, run: Runner) -> None:
    """The calls' weights add up to what the store holds. With a tied embedding, one row comes on top; with an untied
    one, only one row of it is read."""
    engine = load(run, wgpu, name)
    try:
        held = engine.info()["memory"]["weights_bytes"]
        row_bytes: list[float] = []  # bytes of keys and values of one position

        async def reads(plan: str, rows: int, position: int) -> Reads:
            async with engine.exclusive() as decoder:
                traffic = Traffic(decoder.model, decoder.state, decoder.sampler.logits)
                embedding = sum(
                    t.nbytes
                    for part in decoder.model.embedding.parts
                    for t in (part.weight, part.scales)
                    if t is not None
                )
                tied = decoder.model.embedding is decoder.model.lm_head
                row = embedding // decoder.model.vocab_size
                expected = held + row if tied else held - embedding + row
                caches = [t for pair in decoder.state.cache.tensors for t in pair]
                row_bytes.append(sum(t.nbytes / t.shape[1] for t in caches))
                found = traffic.of_plans([decoder.programs.plans[plan]], rows, position)
                assert found.weights == pytest.approx(expected, abs=256), (found, tied)
                return found

        short, long = run(reads("decode greedy", 1, 9)), run(reads("decode greedy", 1, 19))
    finally:
        run(engine.close())
    if "gemma3" not in name:  # Gemma's windows are shorter
        assert long.kv == pytest.approx(2 * short.kv), "keys and values of twice as many positions"
    assert short.kv == 10 * row_bytes[0], "each position's once"
    assert short.state == long.state
    assert (short.state > 0) == ("3.5" in name)


# ---- the profile


def test_profile_of_both_passes(engine: Engine, run: Runner) -> None:
    ids = list(range(40, 60))
    before = run(engine.generate_ids(ids, 8, ignore_eos=True))
    counts = engine.info()["plan"]
    result = run(bench(engine, BenchOptions(20, 8, 3, profile=True)))
    assert len(result["ttft_s_all"]) == 3 and result["first_ttft_s"] > 0
    assert 20 < result["longest_gap_at"] < 20 + 9
    assert 1 / result["longest_gap_ms"] <= max(result["decode_tps_all"]) / 1000
    found = result["profile"]
    assert found["clock"] == "timestamps"
    for name, dispatches in (("decode", counts["decode_dispatches"]), ("prefill", 0)):
        section = found[name]
        kernels = section["kernels"]
        assert sum(k["count"] for k in kernels) == section["dispatches"]
        assert (
            section["dispatches"] == (dispatches and result["decode_dispatches"]) or not dispatches
        )
        assert sum(k["share"] for k in kernels) == pytest.approx(1.0, abs=0.01)
        assert section["kernels_us"] == pytest.approx(sum(k["us"] for k in kernels), rel=1e-3)
        assert all(k["us_each"] > 0 for k in kernels)
        assert section["pass_us"] > 0 and section["alone_us"] > 0
    assert found["decode"]["wall_us"] == pytest.approx(1e6 / result["decode_tps"], rel=1e-3)
    assert result["weights"] == "q4 g64"
    text = profile_text(found)
    for word in ("decode: 1 token at position 20", "prefill: 20 tokens", "delta scan", "idle"):
        assert word in text
    assert run(engine.generate_ids(ids, 8, ignore_eos=True)) == before
    assert engine.info()["plan"] == counts | {
        k: engine.info()["plan"][k] for k in ("prefill_dispatches", "pipelines", "buffers")
    }


def test_profile_by_the_wall_clock(run: Runner, open_software_gpu: Callable[..., Gpu]) -> None:
    gpu = open_software_gpu("wgpu", features=frozenset())
    engine = load(run, gpu, "qwen2-mlx4-g64")
    try:
        sampling: dict[str, Any] = {"temperature": 0.7, "top_k": 20, "presence_penalty": 1.5}
        result = run(bench(engine, BenchOptions(16, 4, 3, sampling, profile=True)))
    finally:
        run(engine.close())
    found = result["profile"]
    assert "wall clock" in found["clock"]
    assert found["decode"]["pass_us"] is None and found["decode"]["idle_us"] is None
    assert found["decode"]["kernels_us"] > 0
    assert any(k["shader"].startswith("sample") for k in found["decode"]["kernels"])
    assert result["sampling"] == sampling
    assert "not measured" in profile_text(found)


def test_no_room_to_profile_at_the_context_s_end(engine: Engine, run: Runner) -> None:
    from py_engine.diagnostics.profile import profile

    async def at_the_end() -> None:
        async with engine.exclusive() as decoder:
            await profile(decoder, "greedy", CONTEXT, 1.0)

    with pytest.raises(InputError, match="context of 64"):
        run(at_the_end())
