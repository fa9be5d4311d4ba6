"""Many loads and generations in a row: no buffer stays, and Python's heap does not grow."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from py_engine.host.gpu import Gpu
from py_engine.serve.engine import Engine
from tests.conftest import Runner

GOLDENS = Path(__file__).parent / "goldens"
HYBRID = "qwen3.5-mlx4-g64"  # it has attention and DeltaNet layers, so every kind of state
# A model and the number of rounds. A few rounds find most leaks; rare ones need many.
LOADS = [("qwen2-mlx4-g64", 6), pytest.param(HYBRID, 100, marks=pytest.mark.slow)]
GENERATIONS = [("qwen2-mlx4-g64", 60), pytest.param(HYBRID, 2000, marks=pytest.mark.slow)]
# Python itself sometimes keeps a little (interned strings, caches of asyncio and re). That is far below a leak of one
# small object a round, which is about 100 bytes.
LEAK_BYTES = 100


@pytest.fixture(scope="module")
def gpu(open_software_gpu: Callable[..., Gpu]) -> Gpu:
    """wgpu only: the test counts what the engine keeps, not the host."""
    return open_software_gpu("wgpu")


def growth(run: Runner, once: Callable[[], Awaitable[None]], rounds: int) -> float:
    """Bytes of Python's heap that a round leaves behind. Half of the rounds run first, uncounted."""

    async def all_of_them() -> float:
        for _ in range(rounds // 2):
            await once()
        gc.collect()
        tracemalloc.start()
        try:
            for _ in range(3):  # until tracemalloc itself is stable
                await once()
            gc.collect()
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(rounds // 2):
                await once()
            gc.collect()
            return (tracemalloc.get_traced_memory()[0] - before) / (rounds // 2)
        finally:
            tracemalloc.stop()

    return float(run(all_of_them()))


@pytest.mark.parametrize(("model", "rounds"), LOADS)
def test_loads_and_disposes(gpu: Gpu, run: Runner, model: str, rounds: int) -> None:
    counts = []

    async def once() -> None:
        async with await Engine.load(str(GOLDENS / model), gpu=gpu, context=64) as engine:
            await engine.generate([1, 2, 3], max_tokens=2, temperature=0.0, ignore_eos=True)
        counts.append((gpu.counters.live_buffers, gpu.counters.live_bytes))

    left = growth(run, once, rounds)
    assert len(set(counts)) == 1 and counts[-1][1] <= 1024, "only the host's ring of results stays"
    assert left < 200 * LEAK_BYTES, f"{left:.0f} bytes a load"


@pytest.mark.parametrize(("model", "rounds"), GENERATIONS)
def test_short_generations(gpu: Gpu, run: Runner, model: str, rounds: int) -> None:
    engine = run(Engine.load(str(GOLDENS / model), gpu=gpu, context=64))
    ids, answers = [1, 2, 3], set()

    async def once() -> None:
        answers.add(tuple(await engine.generate_ids(ids, max_tokens=2, ignore_eos=True)))

    try:
        run(once())
        made = (gpu.counters.buffers_created, gpu.counters.bind_groups_created)
        assert growth(run, once, rounds) < LEAK_BYTES
        assert (gpu.counters.buffers_created, gpu.counters.bind_groups_created) == made
        assert len(answers) == 1
    finally:
        run(engine.close())
