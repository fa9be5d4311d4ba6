"""The command line as other tools use it: the last line of stdout is one JSON object."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from py_engine.__main__ import main
from py_engine.cli.commands import COMMANDS
from py_engine.cli.parser import parser
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
        "tokens", "text", "reasoning", "tool_calls", "prompt_tokens", "image_tokens", "finish_reason",
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
    """The published shape of Gemma 3 270M: counts, memory, and finite logits."""
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
    """`./dev bench --load` serves the folder from a hub, loads it into a cache of its own, then measures loads from
    there."""
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
def test_errors_are_json_and_exit_1(args: list[str], kind: str, word: str, capsys: Any) -> None:
    folder = str(reference.folder("qwen2-mlx4-g64"))
    words = [a.replace("FOLDER", folder) for a in args]
    with software_adapter("wgpu"):
        assert main([*words, "--host", "wgpu", "--json"]) == 1
    got = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert got["error"]["type"] == kind
    assert word in got["error"]["message"]


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["generate", "MODEL", "--prompt", ""], "--prompt"),
        (["generate", "MODEL", "--prompt", "a", "--top-p", "1.5"], "top_p=1.5"),
        (["generate", "MODEL", "--prompt", "a", "--seed", "-1"], "seed=-1"),
        (["generate", "MODEL", "--prompt", "a", "--max-tokens", "0"], "--max-tokens 0"),
        (["generate", "MODEL", "--prompt", "a", "--stop", ""], "stop[0]"),
        (["generate", "MODEL", "--prompt", "a", "--context", "-5"], "--context -5"),
        (["generate", "MODEL", "--prompt", "a", "--group", "0"], "group=0"),
        (["generate", "MODEL", "--prompt", "a", "--no-think"], "--chat"),
        (["generate", "MODEL", "--prompt", "a", "--tools", "x"], "--chat"),
        (["generate", "MODEL", "--prompt", "a", "--chat", "--tools", "/no/such"], "/no/such"),
        (["generate", "MODEL", "--prompt", "a", "--chat", "--tools", "BAD"], "BAD"),
        (["logits", "MODEL", "--ids", "1,x", "--out", "OUT"], "--ids 1,x"),
        (["logits", "MODEL", "--ids", "", "--out", "OUT"], "--ids"),
        (["logits", "MODEL", "--ids", "-1", "--out", "OUT"], "--ids -1"),
        (["logits", "MODEL", "--ids", "1", "--out", "/no/such/x.npy"], "/no/such"),
        (["logits", "MODEL", "--ids", "1", "--out", "FOLDER"], "is a folder"),
        (["bench", "MODEL", "--new-tokens", "0"], "--new-tokens 0"),
        (["bench", "MODEL", "--temperature", "-1"], "temperature=-1"),
        (["doctor", "--probes", "nothing"], "nothing"),
        (["cache", "clean"], "--yes"),
        (["convert", "/no/such.gguf", "OUT"], "/no/such.gguf"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_what_is_wrong_by_itself_is_told_before_anything_loads(
    args: list[str], word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """No GPU is opened: there is none here."""
    monkeypatch.setenv("JERBOA_HOST", "no GPU was to be asked for")
    (tmp_path / "BAD").write_text('[{"type": "function"}]')
    places = {"OUT": "out.npy", "FOLDER": "."}
    monkeypatch.chdir(tmp_path)
    words = [places.get(arg, arg) for arg in args]
    if "MODEL" in words:
        words[words.index("MODEL")] = str(reference.folder("qwen2-mlx4-g64"))
    assert main([*words, "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["type"] == "InputError" and word in error["message"]
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("InputError: ") and word in err


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["nothing"],
        ["generate"],
        ["generate", "m", "--prompt", "a", "--temperature", "warm"],
        ["generate", "m", "--prompt", "a", "--memory-budget", "much"],
        ["generate", "m", "--prompt", "a", "--host", "metal"],
        ["logits", "m"],
        ["estimate"],
        ["bench", "m", "--runs", "x"],
        ["convert", "a"],
        ["cache"],
        ["cache", "wash"],
        ["doctor", "--host", "x"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("flag", ["--json", "--js"])
def test_a_wrong_command_line_is_an_object_too(args: list[str], flag: str, capsys: Any) -> None:
    assert main([*args, flag]) == 2
    out, err = capsys.readouterr()
    (line,) = out.splitlines()
    assert set(json.loads(line)["error"]) == {"type", "message"}
    assert err.startswith("usage: jerboa")
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == "" and "InputError: " in err


def test_a_fault_of_ours_is_an_object_and_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    async def fault(args: object) -> int:
        raise KeyError("a fault")

    monkeypatch.setitem(COMMANDS, "doctor", fault)
    assert main(["doctor", "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["error"] == {"type": "KeyError", "message": "'a fault'"}
    assert "Traceback" in err
    with pytest.raises(KeyError):
        main(["doctor"])


def test_a_stdout_that_takes_ascii_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(args: object) -> None:
        print("caf\u00e9")

    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="ascii"))
    monkeypatch.setitem(COMMANDS, "doctor", answer)
    assert main(["doctor"]) == 0
    assert out.getvalue().splitlines() == [b"caf\\xe9"]


@pytest.mark.parametrize(
    ("size", "nbytes"),
    [("1.2GB", 1_200_000_000), ("900 MB", 900_000_000), ("7", 7), ("9" * 400, 10**400)],
)
def test_sizes(size: str, nbytes: int) -> None:
    words = ["generate", "m", "--prompt", "x", "--memory-budget", size]
    assert parser().parse_args(words).memory_budget == nbytes


def test_a_reader_that_has_enough_is_no_error() -> None:
    command = [sys.executable, "-u", "-m", "py_engine", "generate", "random:tiny", "--prompt", "a"]
    with software_adapter("wgpu"):
        process = subprocess.Popen(
            [*command, "--host", "wgpu", "--max-tokens", "200"], cwd=ROOT,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(1)
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0
    assert "Traceback" not in said and "BrokenPipe" not in said


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals there")
def test_a_terminal_shows_a_bar_a_pipe_lines() -> None:
    import pty  # Windows does not have it

    folder = str(reference.folder("qwen2-f32"))
    command = [sys.executable, "-m", "py_engine", "generate", folder, "--prompt", "a"]
    command += ["--max-tokens", "1", "--host", "wgpu"]
    ours, theirs = pty.openpty()
    with software_adapter("wgpu"):
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs, timeout=60,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "200"},
        )  # fmt: skip
    os.close(theirs)
    assert done.returncode == 0
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert f"\r{folder} [####################] 100%" in shown
    assert f"{folder}: loaded" in shown
    piped = cli(*command[3:]).stderr
    assert "\r" not in piped and "weights 100 %" in piped


def test_cache_clean_asks(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    class Terminal:
        def __init__(self, answer: str) -> None:
            self.answer = answer

        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return self.answer

    for answer, code in (("\n", 1), ("no\n", 1), ("", 1), ("y\n", 0), ("YES\n", 0)):
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        assert main(["cache", "clean"]) == code
        out, err = capsys.readouterr()
        assert "Delete all 0 models" in err and bool(out) == (code == 0)
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["cache", "clean"]) == 1
    assert main(["cache", "clean", "--yes"]) == 0


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
