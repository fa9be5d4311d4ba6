"""dtype="q4" and "q8": quantising a plain checkpoint on the GPU while it loads gives what MLX's conversion gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from py_engine.host.gpu import Gpu
from py_engine.host.io_native import NativeIo
from py_engine.serve import options as load_options
from py_engine.serve.engine import Engine
from py_engine.weights.loader import SLICE_BYTES
from tests import reference
from tests.checkpoints import Checkpoint, Stored, convert, dequantise, is_matrix, pack, quantise
from tests.conftest import Runner
from tests.reference import nmse

IDS = [(7 * i) % 250 for i in range(21)]
# Plain checkpoints of these shapes: tied and untied heads, HF's and MLX's names, every float type. In qwen3.5-bf16 only
# layers of 96 columns are quantised (in groups of 32); those of 60 and 90 columns stay plain.
CASES = [
    ("qwen3.5-bf16", "BF16", "q4"),
    ("gemma3-mlx4-g64", "BF16", "q8"),
    pytest.param("qwen3.5-mlx4-g64", "BF16", "q4", marks=pytest.mark.slow),
    pytest.param("lfm2-mlx4-g64", "F16", "q4", marks=pytest.mark.slow),
    pytest.param("qwen3-mlx4-g32-untied-f32", "F32", "q4", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def gpu(open_software_gpu: Callable[..., Gpu]) -> Gpu:
    """One host is enough: tests/ops/test_layout.py tests the kernel on both."""
    return open_software_gpu("wgpu")


@pytest.fixture(autouse=True)
def exact_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A KV cache in f32, so that only the weights differ."""
    for dtype in ("q4", "q8"):
        form, _ = load_options._STORAGE[dtype]
        monkeypatch.setitem(load_options._STORAGE, dtype, (form, "f32"))


class Loaded:
    """The logits and info() of one load, which is then closed."""

    def __init__(self, run: Runner, gpu: Gpu, folder: str, dtype: str) -> None:
        engine = run(Engine.load(folder, gpu=gpu, dtype=dtype, context=64))
        self.logits = np.frombuffer(run(engine.logits(IDS)), np.float32).copy()
        self.info: dict[str, Any] = engine.info()
        run(engine.close())


@pytest.mark.parametrize("name, stored, dtype", CASES)
def test_it_is_mlxs_conversion(
    gpu: Gpu, run: Runner, tmp_path: Path, name: str, stored: str, dtype: str
) -> None:
    bits = int(dtype[1])
    plain = dequantise(Checkpoint.golden(name), stored)
    got = Loaded(run, gpu, plain.write(tmp_path / "plain"), dtype)
    packed = convert(plain, bits, packed=True).write(tmp_path / "packed")
    wanted = Loaded(run, gpu, packed, "f32")
    assert (got.logits == wanted.logits).all(), "the same packed weights give the same bits"
    for key in ("weights_bytes", "state_bytes"):
        assert got.info["memory"][key] == wanted.info["memory"][key]
    assert (got.info["dtype"], got.info["weights_as"]) == (dtype, dtype)
    values = convert(plain, bits, packed=False).write(tmp_path / "values")
    assert nmse(got.logits, Loaded(run, gpu, values, "f32").logits) <= 1e-6
    # The plain model gives other logits, because quantising rounds.
    assert nmse(got.logits, Loaded(run, gpu, str(tmp_path / "plain"), "f32").logits) > 1e-6


def test_what_is_quantised_stays_as_it_is(gpu: Gpu, run: Runner) -> None:
    """So do layers that are plain in a quantised checkpoint."""
    folder = str(reference.folder("qwen3.5-mlx-mixed-vision"))
    got, wanted = (Loaded(run, gpu, folder, dtype) for dtype in ("q4", "f32"))
    assert (got.logits == wanted.logits).all()
    assert got.info["memory"] == wanted.info["memory"]
    assert got.info["weights_as"] == "stored"


def test_auto_is_4_bit_where_memory_is_small(gpu: Gpu, run: Runner) -> None:
    def weights(dtype: str, **options: Any) -> int:
        preset = "random:lfm2.5-350m"
        told = run(Engine.estimate(preset, gpu=gpu, dtype=dtype, context=64, **options))
        return int(told.by_kind["weights_bytes"])

    class Phone(NativeIo):
        @property
        def handheld(self) -> bool:
            return True

    assert weights("auto", io=Phone()) == weights("q4") < 0.3 * weights("auto")
    assert weights("f16", io=Phone()) == weights("f16")  # a dtype that is asked for by name is used


def wide_lfm2(vocab: int) -> Checkpoint:
    """A plain LFM2 with a vocabulary of `vocab` tokens."""
    made = dequantise(Checkpoint.golden("lfm2-mlx4-g64"), "BF16")
    name = made.find("embed_tokens.weight")
    hidden = made.tensors[name].array.shape[1]
    rng = np.random.default_rng(3)
    made.tensors[name] = Stored.of(0.3 * rng.standard_normal((vocab, hidden)), "BF16")
    made.text["vocab_size"] = vocab
    return made


@pytest.fixture
def peak(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A list of one number: the peak of GPU bytes, above those allocated before the test."""
    before, seen = gpu.counters.live_bytes, [0]
    create = gpu.create_buffer

    def watched(*args: Any) -> Any:
        made = create(*args)
        seen[0] = max(seen[0], gpu.counters.live_bytes - before)
        return made

    monkeypatch.setattr(gpu, "create_buffer", watched)
    yield seen


def test_the_widest_layer_is_quantised_slice_by_slice(
    gpu: Gpu, run: Runner, tmp_path: Path, peak: list[int]
) -> None:
    """The layer's floats are never held whole, in memory or on the GPU. The cuts do not change the result."""
    plain = wide_lfm2(300_000)  # 38 MB as bf16, 11 MB packed
    folder = plain.write(tmp_path / "plain")
    size = plain.tensors[plain.find("embed_tokens.weight")].array.nbytes
    assert size > 2 * SLICE_BYTES
    engine = run(Engine.load(folder, gpu=gpu, dtype="q4", context=64))
    memory = engine.info()["memory"]
    assert memory["peak_transient_bytes"] <= 2 * SLICE_BYTES
    told = run(Engine.estimate(folder, gpu=gpu, dtype="q4", context=64))
    assert peak[0] == told.peak_bytes
    assert peak[0] <= memory["weights_bytes"] + memory["state_bytes"] + SLICE_BYTES + (8 << 20)
    embedding = engine._loaded.decoder.model.embedding
    (part,) = embedding.parts
    stored = plain.tensors[plain.find("embed_tokens.weight")]
    fields, scale, bias = quantise(stored.values, 4, 64)
    words = run(gpu.read(part.weight.binding.buffer, 0, fields.size // 2))
    assert words == pack(fields, 4).tobytes()
    pairs = np.stack([Stored.of(scale, "BF16").array, Stored.of(bias, "BF16").array], -1)
    assert run(gpu.read(part.scales.binding.buffer, 0, pairs.nbytes)) == pairs.tobytes()
    run(engine.close())


def test_a_matrix_that_one_binding_cannot_hold(
    gpu: Gpu, run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cut into parts, and each part is quantised from its own rows."""
    plain = wide_lfm2(70_001)
    folder = plain.write(tmp_path / "plain")
    whole = Loaded(run, gpu, folder, "q4")
    monkeypatch.setattr(gpu, "limits", replace(gpu.limits, max_binding_bytes=1 << 20))
    engine = run(Engine.load(folder, gpu=gpu, dtype="q4", context=64))
    parts = engine._loaded.decoder.model.embedding.parts
    assert len(parts) == 3 and sum(part.rows for part in parts) == 70_001
    logits = np.frombuffer(run(engine.logits(IDS)), np.float32)
    assert (logits == whole.logits).all()
    run(engine.close())


def test_every_matrix_but_nothing_else(gpu: Gpu, run: Runner, tmp_path: Path) -> None:
    """Norms, convolutions, A_log and dt_bias stay in f32; every linear layer and the embedding is packed."""
    plain = dequantise(Checkpoint.golden("qwen3.5-mlx4-g64"), "BF16")
    engine = run(Engine.load(plain.write(tmp_path / "plain"), gpu=gpu, dtype="q4", context=64))
    jobs = {job.tensor.name: job.kind for job in engine._loaded.store.jobs}
    run(engine.close())
    assert {name for name, stored in plain.tensors.items() if is_matrix(name, stored)} == {
        name for name, kind in jobs.items() if kind == "quantise"
    }
    rest = {name: kind for name, kind in jobs.items() if kind != "quantise"}
    assert set(rest.values()) == {"f32"}
    for end in ("A_log", "dt_bias", "conv1d.weight", "input_layernorm.weight"):
        assert any(name.endswith(end) for name in rest)


@pytest.mark.parametrize("preset", ["random:lfm2.5-350m"])
def test_random_presets_too(run: Runner, gpu: Gpu, preset: str) -> None:
    """Benches can then measure what a phone makes of the plain checkpoint."""
    took = {
        d: run(Engine.estimate(preset, gpu=gpu, dtype=d, context=512)).by_kind["weights_bytes"]
        for d in ("auto", "q8", "q4")
    }
    packed = run(Engine.estimate(preset + "-4bit", gpu=gpu, context=512)).by_kind["weights_bytes"]
    assert took["q4"] == packed < took["q8"] < took["auto"]
