"""Hybrid models: halts, and the dispatches and memory of the published shapes.

tests/test_prefix.py tests where a prompt continues when the state cannot be rolled back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from py_engine.host.gpu import Gpu
from py_engine.serve.engine import Engine
from tests import reference
from tests.answers import answer, fresh
from tests.conftest import Runner

PROMPT = [(7 * i) % 250 for i in range(21)]


@pytest.fixture(scope="module")
def gpu(open_software_gpu: Callable[..., Gpu]) -> Gpu:
    """One host is enough: this tests the engine's bookkeeping."""
    return open_software_gpu("wgpu")


@pytest.fixture(scope="module", params=["qwen3.5-mlx4-g64", "lfm2-mlx4-g64"])
def engine(request: pytest.FixtureRequest, gpu: Gpu, run: Runner) -> Iterator[Engine]:
    loaded = run(
        Engine.load(str(reference.folder(request.param)), gpu=gpu, dtype="f32", context=128)
    )
    yield loaded
    run(loaded.close())


@pytest.mark.parametrize("runs", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_halt_keeps_the_state(engine: Engine, run: Runner, runs: int) -> None:
    """Steps in flight behind the last token change nothing: one prompt always gives one answer, and the next turn goes
    on from it."""
    wanted = fresh(engine, run, PROMPT, 3)
    for _ in range(runs):
        assert fresh(engine, run, PROMPT, 3) == wanted
    follow = [*PROMPT, *wanted, 11]
    got = answer(engine, run, follow, 4)
    assert got.cached_tokens == len(PROMPT) + 2
    assert got.tokens == fresh(engine, run, follow, 4)


@pytest.mark.parametrize(
    "preset, dispatches, most",
    [
        ("qwen3.5-0.8b-4bit", 131, 0.62e9),
        ("lfm2.5-350m-4bit", 81, 0.24e9),
    ],
)
def test_published_shapes(gpu: Gpu, run: Runner, preset: str, dispatches: int, most: float) -> None:
    """Dispatches and memory at a context of 512, and an answer of two tokens."""
    engine = run(Engine.load(f"random:{preset}", gpu=gpu, context=512))
    try:
        got = answer(engine, run, [1], 2)
        info = engine.info()
        assert len(got.tokens) == 2
        assert info["plan"]["decode_dispatches"] <= dispatches
        memory = info["memory"]
        kinds = ("weights", "activation", "state", "snapshot")
        total = sum(memory[f"{kind}_bytes"] for kind in kinds)
        assert total <= most
        assert total == run(Engine.estimate(f"random:{preset}", gpu=gpu, context=512)).total_bytes
        assert memory["activation_bytes"] <= 40e6
    finally:
        run(engine.close())
