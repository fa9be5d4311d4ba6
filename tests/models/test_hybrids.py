"""Hybrids beyond their logits: halts, memory, and checkpoints that do not fit their config. What a state that cannot be
rolled back goes back to: tests/test_prefix.py."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from py_engine.errors import ModelError
from py_engine.host.gpu import Gpu
from py_engine.serve.engine import Engine
from tests import reference
from tests.conftest import Runner

PROMPT = [(7 * i) % 250 for i in range(21)]


@pytest.fixture(scope="module")
def gpu(open_software_gpu: Callable[..., Gpu]) -> Gpu:
    """One host: what is tested here is the engine's bookkeeping."""
    return open_software_gpu("wgpu")


@pytest.fixture(scope="module", params=["qwen3.5-mlx4-g64", "lfm2-mlx4-g64"])
def engine(request: pytest.FixtureRequest, gpu: Gpu, run: Runner) -> Iterator[Engine]:
    loaded = run(
        Engine.load(str(reference.folder(request.param)), gpu=gpu, dtype="f32", context=128)
    )
    yield loaded
    run(loaded.close())


def answer(engine: Engine, run: Runner, ids: list[int], count: int, **options: Any) -> Any:
    async def start() -> Any:
        options.setdefault("ignore_eos", True)
        return await engine.generate(ids, max_tokens=count, temperature=0.0, **options)

    return run(start())


def fresh(engine: Engine, run: Runner, ids: list[int], count: int) -> list[int]:
    """The answer with nothing kept."""
    run(engine.logits([1]))
    got = answer(engine, run, ids, count)
    assert got.cached_tokens == 0
    return list(got.tokens)


def test_halt_keeps_the_state(engine: Engine, run: Runner) -> None:
    """Steps in flight behind the last token change nothing: 200 runs of one prompt, one answer; then a turn on top."""
    wanted = fresh(engine, run, PROMPT, 3)
    for _ in range(5):
        assert fresh(engine, run, PROMPT, 3) == wanted
    follow = [*PROMPT, *wanted, 11]
    got = answer(engine, run, follow, 4)
    assert got.cached_tokens == len(PROMPT) + 2
    assert got.tokens == fresh(engine, run, follow, 4)


def broken(name: str, to: Path, config: dict[str, Any], drop: str = "") -> str:
    """A copy of a checkpoint with other config keys and without the tensors whose names end in `drop`."""
    shutil.copytree(reference.folder(name), to)
    path = to / "config.json"
    given = json.loads(path.read_text())
    given.get("text_config", given).update(config)
    path.write_text(json.dumps(given))
    if drop:  # hidden under another name: the data stays where it is
        file = to / "model.safetensors"
        raw = file.read_bytes()
        end = 8 + int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8:end])
        (key,) = (key for key in header if key.endswith(drop))
        header["hidden"] = header.pop(key)
        text = json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + raw[end:])
    return str(to)


@pytest.mark.parametrize(
    "name, config, drop, message",
    [
        ("qwen3.5-bf16", {}, "layers.1.linear_attn.conv1d.weight", "linear_attn.conv1d.weight"),
        ("qwen3.5-bf16", {}, "layers.2.linear_attn.in_proj_a.weight", "in_proj_a"),
        ("qwen3.5-bf16", {}, "layers.0.linear_attn.A_log", "A_log"),
        ("qwen3.5-bf16", {"full_attention_interval": 2}, "", "layers.1.self_attn"),
        ("qwen3.5-bf16", {"layer_types": ["full_attention"] * 3}, "", "layer_types"),
        ("qwen3.5-bf16", {"layer_types": ["sliding_attention"] * 4}, "", "sliding_attention"),
        ("qwen3.5-bf16", {"linear_conv_kernel_dim": 3}, "", "conv1d"),
        ("qwen3.5-bf16", {"linear_num_value_heads": 4}, "", "value heads"),
        ("qwen3.5-bf16", {"linear_key_head_dim": 10}, "", "head size 10"),
        ("qwen3.5-bf16", {"attn_output_gate": False}, "", "attn_output_gate"),
        ("qwen3.5-mlx4-g64", {}, "layers.0.linear_attn.in_proj_z.biases", "in_proj_z.biases"),
        ("lfm2-bf16", {}, "layers.0.conv.conv.weight", "conv.conv.weight"),
        ("lfm2-bf16", {"full_attn_idxs": [0, 1]}, "", "layers.0.self_attn"),
        ("lfm2-bf16", {"full_attn_idxs": [9]}, "", "full_attn_idxs"),
        ("lfm2-bf16", {"block_multiple_of": 64}, "", "feed_forward.w1"),
        ("lfm2-bf16", {"conv_bias": True}, "", "conv.in_proj.bias"),
        ("lfm2-bf16", {"conv_L_cache": 1}, "", "conv_L_cache"),
    ],
)
def test_what_does_not_fit(
    gpu: Gpu,
    run: Runner,
    tmp_path: Path,
    name: str,
    config: dict[str, Any],
    drop: str,
    message: str,
) -> None:
    before = gpu.counters.buffers_created
    with pytest.raises(ModelError, match=message):
        run(Engine.load(broken(name, tmp_path / "model", config, drop), gpu=gpu, context=64))
    assert gpu.counters.buffers_created == before  # refused before anything was allocated


@pytest.mark.parametrize(
    "preset, dispatches, most",
    [
        ("qwen3.5-0.8b-4bit", 132, 0.62e9),
        ("lfm2.5-350m-4bit", 92, 0.24e9),
    ],
)
def test_published_shapes(gpu: Gpu, run: Runner, preset: str, dispatches: int, most: float) -> None:
    """Counts and memory at a context of 512, and tokens from logits that are numbers."""
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
