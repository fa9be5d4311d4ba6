"""The command line as other tools call it: one JSON object as the last line of stdout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import chat_formats, reference
from tests.conftest import software_adapter

ROOT = Path(__file__).parents[1]


def cli(*args: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    with software_adapter("wgpu"):
        done = subprocess.run(
            [sys.executable, "-m", "py_engine", *args],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=600,
        )
    assert done.returncode == expect, done.stderr[-2000:]
    return done


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    value = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(value, dict)
    return value


def test_generate_json_and_text() -> None:
    folder = str(reference.folder("qwen2-mlx4-g64"))
    done = cli(
        "generate",
        folder,
        "--prompt",
        "ab",
        "--max-tokens",
        "3",
        "--host",
        "wgpu",
        "--json",
        "--context",
        "64",
    )
    got = last_line(done)
    assert set(got) == {
        "tokens", "text", "reasoning", "tool_calls", "prompt_tokens", "finish_reason",
        "timings", "plan", "memory", "traffic", "adapter",
    }  # fmt: skip
    assert set(got["timings"]) == {"load_s", "ttft_s", "prefill_tps", "decode_tps"}
    assert set(got["plan"]) == {"prefill_dispatches", "decode_dispatches", "pipelines", "buffers"}
    assert set(got["memory"]) == {
        "weights_bytes",
        "activation_bytes",
        "state_bytes",
        "peak_transient_bytes",
        "snapshot_bytes",
    }
    assert set(got["traffic"]) == {"upload_bytes_per_token", "readback_bytes_per_token"}
    assert len(got["tokens"]) == 3 or got["finish_reason"] == "stop"


def test_thinking_and_tools(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(reference.folder("qwen2-mlx4-g64"), folder)
    chat_formats.write("qwen3.5", folder)
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([{"type": "function", "function": {"name": "größe"}}]))
    options = ["--max-tokens", "4", "--host", "wgpu", "--context", "512", "--json"]
    chat = ["generate", str(folder), "--prompt", "hi", "--chat", "--tools", str(tools), *options]
    got = last_line(cli(*chat, "--think"))
    assert got["reasoning"] and (got["text"], got["tool_calls"]) == ("", [])
    tools.write_text('[{"type": "function"}]')
    got = last_line(cli(*chat, "--no-think", expect=1))
    assert got["error"]["type"] == "InputError" and "tools[0]" in got["error"]["message"]


def test_random_preset_of_true_shapes() -> None:
    """The published shape of Gemma 3 270M: counts and memory, and logits that are numbers."""
    done = cli(
        "generate", "random:gemma3-270m-4bit", "--prompt", "x", "--max-tokens", "2", "--host", "wgpu", "--json",
        "--context", "128",
    )  # fmt: skip
    got = last_line(done)
    assert len(got["tokens"]) == 2
    assert got["plan"]["decode_dispatches"] <= 8 * 18 + 5
    assert got["plan"]["pipelines"] <= 40
    assert got["memory"]["activation_bytes"] < 40e6
    assert got["memory"]["weights_bytes"] < 155e6  # 268 M weights of 4.5 bits


def test_warm_loads_beside_their_bytes() -> None:
    """`./dev bench --load`: the folder goes through a hub into a cache of its own, then is loaded from there."""
    folder = reference.folder("qwen2-mlx4-g64")
    with software_adapter("wgpu"):
        done = subprocess.run(
            [sys.executable, "-m", "devtools.load_bench", str(folder), "--host", "wgpu", "--runs", "2"],
            cwd=ROOT, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    got = last_line(done)
    size = (folder / "model.safetensors").stat().st_size
    assert not got["kept_before"] and 0.9 * size < got["bytes"] <= size
    assert len(got["bytes_s"]) == len(got["load_s"]) == 2 and got["ratio"] > 0
    assert sys.platform != "linux" or got["process_mb"]["main"] > 10


def test_logits_file(tmp_path: Path) -> None:
    out = tmp_path / "logits.npy"
    folder = reference.folder("qwen3-bf16")
    golden = reference.prompt("qwen3-bf16", 7)
    ids = ",".join(map(str, golden.ids))
    cli(
        "logits",
        str(folder),
        "--ids",
        ids,
        "--dtype",
        "f32",
        "--host",
        "wgpu",
        "--context",
        "64",
        "--out",
        str(out),
    )
    logits = np.load(out)
    assert (logits.dtype, logits.shape) == (np.float32, golden.logits.shape)
    assert int(logits.argmax()) == int(golden.logits.argmax())


@pytest.mark.parametrize(
    ("args", "kind", "word"),
    [
        (["generate", "random:nothing", "--prompt", "x"], "ModelError", "random:nothing"),
        (["generate", "/no/such/folder", "--prompt", "x"], "HubError", "/no/such/folder"),
        (["generate", "FOLDER", "--prompt", ""], "InputError", "prompt"),
        (
            ["generate", "FOLDER", "--prompt", "x", "--temperature", "nan"],
            "InputError",
            "temperature",
        ),
        (["generate", "FOLDER", "--prompt", "x", "--max-tokens", "99999"], "ContextError", "99999"),
        (["generate", "FOLDER", "--prompt", "x", "--context", "0"], "InputError", "context"),
        (["generate", "FOLDER", "--prompt", "x", "--think"], "InputError", "--chat"),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_errors_are_json_and_exit_1(args: list[str], kind: str, word: str) -> None:
    folder = str(reference.folder("qwen2-mlx4-g64"))
    got = last_line(
        cli(*[a.replace("FOLDER", folder) for a in args], "--host", "wgpu", "--json", expect=1)
    )
    assert got["error"]["type"] == kind
    assert word in got["error"]["message"]


def test_estimate_and_budget() -> None:
    folder = str(reference.folder("lfm2-mlx4-g64"))
    told = last_line(cli("estimate", folder, "--context", "64", "--host", "wgpu", "--json"))
    kinds = {"weights_bytes", "state_bytes", "snapshot_bytes", "activation_bytes"}
    sums = {"total_bytes", "loaded_bytes", "peak_bytes"}
    assert set(told) == {"model", "context"} | sums | kinds
    assert sum(told[kind] for kind in kinds) == told["total_bytes"] <= told["peak_bytes"]
    assert told["loaded_bytes"] <= told["total_bytes"]
    options = ["--prompt", "a", "--context", "64", "--host", "wgpu", "--json"]
    refused = cli("generate", folder, *options, "--memory-budget", "1kB", expect=1)
    assert last_line(refused)["error"]["type"] == "MemoryBudgetError"
