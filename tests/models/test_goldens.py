"""Every family against transformers in float32, on tiny random checkpoints, through the public surface.

They run in f32 on wgpu-native (lavapipe). Where a checkpoint exists both plain and in MLX's 4 bits, the plain one runs
with --slow only. f16 storage and Dawn (SwiftShader) run a few checkpoints, and more with --slow.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from py_engine.generate.answer import Answer
from py_engine.serve.device import Device
from py_engine.serve.engine import Engine
from tests import reference
from tests.conftest import HOSTS, Runner, software_adapter

# Compiling kernels takes most of these tests' time, so f16 and Dawn run only a few checkpoints. With --slow they cover
# bf16, f16, q4, q8 and repacked matrices, biases and windows.
F16 = ("gemma3-text-bf16", "qwen3.5-mlx4-g64")
F16_SLOW = ("lfm2-bf16", "qwen2-mlx8-g32-untied", "qwen3-mlx-mixed-untied")
DAWN = ("qwen3.5-mlx4-g64",)  # Chromium's own Dawn runs others in tests_e2e
DAWN_SLOW = (
    "gemma3-multimodal-mlx4-mixed",
    "lfm2-mlx4-g64",
    "qwen2-yarn-untied-f16",
    "qwen3-mlx4-g32-untied-f32",
)
# Prompts of two prefill chunks. One checkpoint a family is enough, because chunks do not depend on the checkpoint.
LONG = ("gemma3-text-bf16", "lfm2-bf16", "qwen2-f32", "qwen3-mlx4-g32-untied-f32", "qwen3.5-bf16")
# Together they have every kind of kernel. Others would add little but other sizes, each compiled anew.
SELF_CHECKED = (
    "gemma3-multimodal-mlx4-mixed",
    "lfm2-conv-bias-untied-f32",
    "llama3-bf16",
    "qwen2-mlx8-g32-untied",
    "qwen2-yarn-untied-f16",
    "qwen3-mlx-mixed-untied",
    "qwen3.5-mlx4-g64",
)
# These have a quantised form too, which tests what the family computes. Other checkpoints test how plain matrices are
# read.
PLAIN = tuple(
    name for name in reference.checkpoints() if f"{name}-mlx4-g32" in reference.checkpoints()
)

GRID = [
    pytest.param((name, host, dtype), id=f"{name}-{host}-{dtype}", marks=marks)
    for names, host, dtype, marks in (
        ([n for n in reference.checkpoints() if n not in PLAIN], "wgpu", "f32", ()),
        (PLAIN, "wgpu", "f32", pytest.mark.slow),
        (F16, "wgpu", "f16", ()),
        (F16_SLOW, "wgpu", "f16", pytest.mark.slow),
        (DAWN, "dawn", "f32", ()),
        (DAWN_SLOW, "dawn", "f32", pytest.mark.slow),
    )
    for name in names
]
ROOT = Path(__file__).parents[2]


class Loaded:
    """A loaded checkpoint with blocking calls."""

    def __init__(self, run: Runner, device: Device, name: str, host: str, dtype: str) -> None:
        self.run, self.name, self.host, self.dtype = run, name, host, dtype
        self.engine = run(device.load(str(reference.folder(name)), dtype=dtype, context=1024))
        self.live_bytes = self.engine._gpu.counters.live_bytes

    def logits(self, ids: list[int]) -> np.ndarray:
        """float32 [vocab] after the last id."""
        return np.frombuffer(self.run(self.engine.logits(ids)), np.float32).copy()

    def answer(self, ids: list[int], count: int) -> Answer:
        """The greedy continuation. The engine may reuse the KV cache of a common prefix."""

        async def start() -> Answer:
            return await self.engine.generate(ids, max_tokens=count, temperature=0)

        return self.run(start())


@pytest.fixture(scope="module")
def devices(run: Runner) -> Iterator[Callable[[str], Device]]:
    """One device on each host, so that kernels of equal sizes are compiled once for all checkpoints."""
    opened: dict[str, Device] = {}

    def device(host: str) -> Device:
        if host not in opened:
            with software_adapter(host):
                opened[host] = run(Device.open(host))
        return opened[host]

    yield device
    for each in opened.values():
        run(each.close())


@pytest.fixture(scope="module", params=GRID)
def loaded(
    request: pytest.FixtureRequest, run: Runner, devices: Callable[[str], Device]
) -> Iterator[Loaded]:
    """One checkpoint on one host at a time."""
    name, host, dtype = request.param
    model = Loaded(run, devices(host), name, host, dtype)
    yield model
    run(model.engine.close())


def test_the_self_check_finds_it_right(
    loaded: Loaded, run: Runner, skip_unless_slow: Callable[[], None]
) -> None:
    """The self-check covers all pipelines of the model and no others, and leaves no buffer behind."""
    if loaded.name not in SELF_CHECKED:
        skip_unless_slow()
    decoder, gpu = loaded.engine._loaded.decoder, loaded.engine._gpu
    before = gpu.counters.live_buffers, gpu.counters.pipelines_created
    outcome = run(decoder.self_check().run())
    assert outcome.wrong == []
    assert outcome.pipelines == len({call.kernel for call in decoder.programs.calls}) >= 15
    assert (gpu.counters.live_buffers, gpu.counters.pipelines_created) == before


def test_it_takes_what_was_estimated(loaded: Loaded, run: Runner) -> None:
    folder, gpu = str(reference.folder(loaded.name)), loaded.engine._gpu
    told = run(Engine.estimate(folder, dtype=loaded.dtype, gpu=gpu, context=1024))
    assert told.loaded_bytes == loaded.live_bytes
    run(loaded.engine._loaded.decoder.fit(1024))
    assert told.total_bytes == sum(told.by_kind.values())
    assert told.by_kind.items() <= loaded.engine.info()["memory"].items()


@pytest.mark.parametrize("length", [1, 7, 63, 64, 65, 300, 600])
def test_last_row(loaded: Loaded, length: int) -> None:
    if length not in reference.lengths(loaded.name):
        pytest.skip(
            "the hybrids have other lengths: about 64, where chunked recurrences have borders"
        )
    if length > 512 and loaded.name not in LONG:
        pytest.skip("two prefill chunks: covered by one checkpoint of each family")
    golden = reference.prompt(loaded.name, length)
    bound = reference.NMSE_F32 if loaded.dtype == "f32" else reference.NMSE_F16
    error = reference.nmse(loaded.logits(golden.ids), golden.logits)
    assert error <= bound, f"NMSE {error:.2e}, allowed {bound:.0e}"  # also fails on NaN


def test_greedy_tokens(loaded: Loaded) -> None:
    if loaded.dtype != "f32":
        pytest.skip("f16 storage has a tolerance for logits, none for near ties")
    golden = reference.prompt(loaded.name, 65)
    answer = loaded.answer(golden.ids, len(golden.greedy))
    assert answer.finish_reason == "length"
    reference.assert_same_tokens(answer.tokens, golden)


def test_token_by_token_is_whole_prompt(loaded: Loaded) -> None:
    """Seven prompt tokens run one by one, each on the KV cache of those before; then comes the greedy answer.

    The reference runs the whole sequence anew for every token. So single rows must leave in the KV cache what a whole
    prefill leaves there.
    """
    golden = reference.prompt(loaded.name, 7)
    for count in range(1, 7):
        answer = loaded.answer(golden.ids[:count], 1)
        assert answer.cached_tokens == count - 1
    answer = loaded.answer(golden.ids, len(golden.greedy))
    assert answer.cached_tokens == 6
    if loaded.dtype == "f32":
        reference.assert_same_tokens(answer.tokens, golden)
    # In f16 too, one prefill of the same sequence chooses the same tokens, except where two logits nearly tie.
    for count in (1, 2, 17, 31):  # at 17 a sliding window of 16 has moved
        logits = loaded.logits(golden.ids + answer.tokens[:count])
        margin = logits.max() - logits[answer.tokens[count]]
        assert margin <= (reference.MARGIN if loaded.dtype == "f32" else 0.05)


@pytest.mark.parametrize("host", HOSTS)
def test_command_line_logits(host: str, tmp_path: Path) -> None:
    name = "qwen3-mlx4-g128"
    golden = reference.prompt(name, 7)
    out = tmp_path / "logits.npy"
    ids = ",".join(map(str, golden.ids))
    python(host, "logits", name, "--ids", ids, "--dtype", "f32", "--out", str(out))
    logits = np.load(out)
    assert logits.dtype == np.float32
    assert reference.nmse(logits, golden.logits) <= reference.NMSE_F32


@pytest.mark.parametrize("host", HOSTS)
def test_command_line_generate(host: str) -> None:
    name = "qwen2-mlx4-g64"
    layers = 2
    options = ("--prompt", "Grüße", "--max-tokens", "5", "--temperature", "0", "--json")
    stdout = python(host, "generate", name, *options)
    answer = json.loads(stdout.splitlines()[-1])
    assert answer["prompt_tokens"] == 7  # its tokenizer has one token a byte
    assert len(answer["tokens"]) == 5
    assert answer["finish_reason"] == "length"
    assert answer["plan"]["decode_dispatches"] <= 6 * layers + 5
    assert answer["timings"].keys() >= {"load_s", "ttft_s", "prefill_tps", "decode_tps"}


def python(host: str, command: str, name: str, *options: str) -> str:
    """stdout of `python -m py_engine command <checkpoint> ... --host host`."""
    with software_adapter(host):
        done = subprocess.run(
            [sys.executable, "-m", "py_engine", command, str(reference.folder(name)), *options]
            + ["--host", host],
            cwd=ROOT,
            env=os.environ.copy(),
            capture_output=True,
            text=True,
            timeout=600,  # SwiftShader compiles for a minute on a busy machine
        )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout
