"""What a load will take, estimated before it: the estimate equals what the load then takes, and a load that would not
fit is refused.

Equality over all checkpoints: tests/models/test_goldens.py; over the published shapes: tests/models/test_hybrids.py.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest

from py_engine.cli.parser import _bytes
from py_engine.errors import InputError, MemoryBudgetError, ModelError, OutOfMemoryError
from py_engine.host.gpu import Buffer, Gpu, Limits
from py_engine.host.gpu_counting import CountingGpu
from py_engine.host.io_native import NativeIo
from py_engine.host.profile import DESKTOP, HANDHELD, IOS
from py_engine.serve.engine import Engine
from py_engine.serve.memory import Estimate
from py_engine.serve.options import Progress
from tests import reference
from tests.conftest import Runner

PRESET = "random:qwen3-0.6b-4bit"


@pytest.fixture(scope="module")
def gpu(wgpu: Gpu) -> Gpu:
    """One host is enough: sizes are the same on all."""
    return wgpu


def estimate(run: Runner, model: str, **options: Any) -> Estimate:
    """An estimate with WebGPU's own limits, unless told otherwise."""
    options.setdefault("gpu", CountingGpu())
    found: Estimate = run(Engine.estimate(model, **options))
    return found


def test_the_peak_too(gpu: Gpu, run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The vectors of a plain checkpoint go through staging buffers, beside the weights. A budget of exactly the peak
    is enough."""
    model = str(reference.folder("lfm2-bf16"))
    before, peak = gpu.counters.live_bytes, 0
    create = gpu.create_buffer

    def watched(*args: Any) -> Buffer:
        nonlocal peak
        made = create(*args)
        peak = max(peak, gpu.counters.live_bytes - before)
        return made

    monkeypatch.setattr(gpu, "create_buffer", watched)
    told = run(Engine.estimate(model, gpu=gpu, context=64))
    engine = run(Engine.load(model, gpu=gpu, context=64, memory_budget=told.peak_bytes))
    try:
        assert peak == told.peak_bytes
        assert gpu.counters.live_bytes - before == told.total_bytes
        assert told.by_kind.items() <= engine.info()["memory"].items()
    finally:
        run(engine.close())


def test_refused_before_anything_is_allocated(gpu: Gpu, run: Runner) -> None:
    model = str(reference.folder("lfm2-bf16"))
    told = run(Engine.estimate(model, gpu=gpu, context=512))
    made, writes = gpu.counters.buffers_created, gpu.counters.upload_bytes
    with pytest.raises(MemoryBudgetError) as caught:
        run(Engine.load(model, gpu=gpu, kv="f16", context=512, memory_budget=told.peak_bytes - 1))
    assert (caught.value.needed, caught.value.budget) == (told.peak_bytes, told.peak_bytes - 1)
    for kind in ("weights", "state", "activation"):
        assert re.search(rf"{kind} \d+ MB", str(caught.value))
    assert gpu.counters.buffers_created == made
    assert gpu.counters.upload_bytes == writes


@pytest.mark.parametrize("budget", [500_000_000, 800_000_000])
def test_what_is_suggested_fits(run: Runner, budget: int) -> None:
    with pytest.raises(MemoryBudgetError, match="What would fit: context=") as caught:
        run(Engine.load(PRESET, gpu=CountingGpu(), context=32768, memory_budget=budget))
    told = re.findall(r"context=(\d+) \((\d+) MB, KV (\w+)\)", str(caught.value))
    for context, size, kv in told:
        ask = {"kv": kv, "memory_budget": budget}
        fits = estimate(run, PRESET, context=int(context), **ask).peak_bytes
        assert int(size) - 1 < fits / 1e6 <= int(size) <= budget / 1e6
        assert estimate(run, PRESET, context=2 * int(context), **ask).peak_bytes > budget
    assert [kv for _, _, kv in told] == ["f16", "q8"], "q8 has room for more"


def test_q8_where_only_that_fits(gpu: Gpu, run: Runner) -> None:
    model = str(reference.folder("lfm2-bf16"))
    told: list[Progress] = []
    budget = estimate(run, model, gpu=gpu, context=512).peak_bytes - 1
    ask: dict[str, Any] = {
        "gpu": gpu,
        "context": 512,
        "memory_budget": budget,
        "on_progress": told.append,
    }
    with pytest.raises(MemoryBudgetError, match="KV cache in f32"):
        run(Engine.load(model, dtype="f32", **ask))
    with pytest.raises(MemoryBudgetError, match="KV cache in f16"):
        run(Engine.load(model, kv="f16", **ask))
    engine = run(Engine.load(model, **ask))
    try:
        assert engine.info()["context"]["kv"] == "q8"
        notes = [p.message for p in told if p.phase == "note"]
        assert notes == ["The KV cache is kept in q8: in f16 it would not fit."]
        memory = engine.info()["memory"]
        assert sum(memory.values()) - memory["peak_transient_bytes"] < budget
    finally:
        run(engine.close())


@pytest.mark.parametrize("dtype", ["auto", "f32"])
def test_4_bits_are_suggested_for_a_plain_checkpoint(run: Runner, dtype: str) -> None:
    model = "random:qwen3.5-0.8b"
    with pytest.raises(
        MemoryBudgetError, match=r'What would fit: dtype="q4" \((\d+) MB, KV f16\)'
    ) as caught:
        run(Engine.load(model, gpu=CountingGpu(), dtype=dtype, memory_budget=1_200_000_000))
    told = int(re.findall(r'"q4" \((\d+) MB', str(caught.value))[0])
    fits = estimate(run, model, dtype="q4", memory_budget=1_200_000_000).peak_bytes
    assert told - 1 < fits / 1e6 <= told <= 1200


def test_and_not_for_one_that_is_quantised(run: Runner) -> None:
    """Its few plain layers stay plain."""
    model = str(reference.folder("qwen3.5-mlx-mixed-vision"))
    budget = estimate(run, model, context=512, kv="q8").peak_bytes - 1
    with pytest.raises(MemoryBudgetError, match="What would fit: context=256") as caught:
        run(Engine.load(model, gpu=CountingGpu(), context=512, memory_budget=budget))
    assert "q4" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "budget"), [(None, 1_200_000_000), (1_300_000_000, 1_300_000_000)]
)
def test_a_phone_has_a_budget_whoever_loads(
    run: Runner, monkeypatch: pytest.MonkeyPatch, asked: int | None, budget: int
) -> None:
    monkeypatch.setattr(NativeIo, "handheld", True)
    with pytest.raises(MemoryBudgetError) as caught:
        run(Engine.load("random:qwen3.5-0.8b", gpu=CountingGpu(), dtype="f16", memory_budget=asked))
    assert caught.value.budget == budget


def test_the_page_s_copies_of_numbers_are_the_engine_s() -> None:
    """MicroPython cannot import host/profile.py."""
    app = Path(__file__).parent.parent / "app"
    (gigabytes,) = re.findall(
        r"^HANDHELD_BUDGET = ([\d.]+) \* GB", (app / "device.py").read_text(), re.MULTILINE
    )
    assert float(gigabytes) * 1e9 == HANDHELD.memory_budget
    (contexts,) = re.findall(
        r"^DEFAULT, DEFAULT_ON_IOS = (\d+), (\d+)", (app / "crash.py").read_text(), re.MULTILINE
    )
    assert tuple(map(int, contexts)) == (DESKTOP.context, IOS.context)
    assert DESKTOP.context == HANDHELD.context  # the page and build_decoder tell only iOS apart


def test_nothing_fits(run: Runner) -> None:
    with pytest.raises(MemoryBudgetError, match="choose a smaller model"):
        run(Engine.load(PRESET, gpu=CountingGpu(), memory_budget=100_000_000))


def test_a_longer_context_takes_more_state_and_no_more_weights(run: Runner) -> None:
    short, long = (estimate(run, PRESET, context=c) for c in (2048, 8192))
    assert short.context == 2048
    kv = 28 * 2 * 8 * 128 * 2  # layers, k and v, heads, head size, f16
    growth = long.by_kind["state_bytes"] - short.by_kind["state_bytes"]
    assert kv * (8192 - 2048) <= growth <= 1.01 * kv * (8192 - 2048)
    assert long.by_kind["weights_bytes"] == short.by_kind["weights_bytes"]
    assert estimate(run, PRESET).context == 4096  # a load without a context takes this one


def test_the_devices_limits(run: Runner) -> None:
    """One binding cannot hold the KV cache: the error gives both numbers and a context that fits."""
    model = "random:qwen3.5-0.8b-4bit"
    with pytest.raises(
        OutOfMemoryError, match=r"142,606,336.*134,217,728.*context=131072"
    ) as caught:
        run(Engine.load(model, gpu=CountingGpu(), context=262144))
    assert not isinstance(caught.value, MemoryBudgetError)
    assert estimate(run, model, context=131072).context == 131072
    roomy = CountingGpu(limits=Limits(max_buffer_bytes=1 << 31, max_binding_bytes=1 << 31))
    assert estimate(run, model, gpu=roomy, context=262144).total_bytes > 3_000_000_000


@pytest.mark.parametrize("context", [0, -1, 40961, True])
def test_a_context_beyond_the_model(run: Runner, context: int) -> None:
    # What no model takes is refused before the model is read.
    most = 40960 if context > 1 else 2**31
    with pytest.raises(InputError, match=f"context={context!r}.* 1 to {most}"):
        estimate(run, PRESET, context=context)


@pytest.mark.parametrize("budget", [0, -5, 1.5, True, "1GB"])
def test_a_budget_that_is_none(run: Runner, budget: Any) -> None:
    with pytest.raises(InputError, match="memory_budget"):
        run(Engine.load(PRESET, gpu=CountingGpu(), memory_budget=budget))


def test_unknown_models(run: Runner) -> None:
    with pytest.raises(ModelError, match="no such preset"):
        estimate(run, "random:nothing")


def test_sizes_on_the_command_line() -> None:
    assert _bytes("1.2GB") == 1_200_000_000
    assert _bytes("900 mb") == 900_000_000
    assert _bytes("123456") == 123456
    for wrong in ("", "GB", "1.2.3GB", "12 parsecs", "-1GB"):
        with pytest.raises(argparse.ArgumentTypeError):
            _bytes(wrong)
