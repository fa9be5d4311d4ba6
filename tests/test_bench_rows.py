"""Rows and the picture of docs/benchmarks.md, made from results as the benches print them."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from devtools import bench_rows, token_time
from devtools.browser_bench import browser_name
from tests import reference
from tests.conftest import software_adapter

ROOT = Path(__file__).parents[1]
CELLS = len(bench_rows.COLUMNS)


@pytest.fixture(scope="module")
def saved(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Two real runs of a tiny hybrid, greedy (profiled) and sampled, and one of a model that is missing."""
    file = tmp_path_factory.mktemp("rows") / "runs.jsonl"
    models = [str(reference.folder("qwen3.5-mlx4-g64")), "/no/such/model"]
    with software_adapter("wgpu"):
        done = subprocess.run(
            [sys.executable, "-m", "devtools.bench_rows", *models, "--sampled", "--profile"]
            + ["--save", str(file), "--device", "A <test> GPU"]
            + ["--prompts", "32", "--new-tokens", "8"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=600,
            env={**os.environ, "JERBOA_HOST": "wgpu", "JERBOA_COMMIT": "abc1234"},
        )
    return file, done


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_rows_of_real_runs(saved: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    file, done = saved
    assert done.returncode == 1 and "/no/such/model" in done.stderr, "one of the models is missing"
    head, rule, *rows = done.stdout.splitlines()
    assert cells(head) == list(bench_rows.COLUMNS)
    assert rule.count("---") == CELLS
    assert len(rows) == 2
    greedy, sampled = (dict(zip(bench_rows.COLUMNS, cells(row), strict=True)) for row in rows)
    assert greedy["device"] == "A <test> GPU"
    assert greedy["model"] == "`goldens/qwen3.5-mlx4-g64`"
    assert greedy["weights"] == "q4 g64"
    assert greedy["version"].endswith("abc1234")
    assert "wgpu-native" in greedy["where"] and "plain" not in greedy["where"], "lavapipe has f16"
    assert greedy["sampling"] == "greedy"
    assert sampled["sampling"] == "temperature 0.7, top k 20, top p 0.8, presence penalty 1.5"
    assert int(sampled["dispatches"]) > 0 and float(greedy["of bandwidth"].removesuffix(" %")) > 0
    again = subprocess.run(
        [sys.executable, "-m", "devtools.bench_rows", "--from", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert again.stdout == done.stdout


def test_picture_of_a_real_profile(
    saved: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    file, _ = saved
    svg = tmp_path / "token-time.svg"
    assert token_time.main([str(file), str(svg)]) == 0
    root = ElementTree.parse(svg).getroot()
    tag = "{http://www.w3.org/2000/svg}"
    words = [e.text or "" for e in root.iter(f"{tag}text")]
    assert any("qwen3.5-mlx4-g64" in w and "A <test> GPU" in w for w in words)
    assert {"DeltaNet", "attention", "sampler", "lm_head"} <= set(words)
    section = json.loads(file.read_text().splitlines()[0])["profile"]["decode"]
    drawn = sum(
        float(r.get("width", 0)) for r in root.iter(f"{tag}rect") if r.get("height") == "30"
    )
    assert drawn == pytest.approx(token_time.WIDTH - 2 * token_time.MARGIN, abs=2)
    told = sum(us for _, us in token_time.segments(section, ["DeltaNet", "attention"]))
    assert told == pytest.approx(max(section["wall_us"], section["kernels_us"]), rel=0.01)


def test_picture_of_a_prompt(
    saved: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    file, _ = saved
    svg = tmp_path / "prompt-time.svg"
    assert token_time.main([str(file), str(svg), "--prefill"]) == 0
    assert "prompt of 32" in svg.read_text() and "for 32 tokens" in svg.read_text()
    section = json.loads(file.read_text().splitlines()[0])["profile"]["prefill"]
    assert (section["tokens"], section["position"]) == (32, 0)


def test_no_picture_without_a_profile(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    file.write_text('{"model": "x"}\n')
    assert token_time.main([str(file), str(tmp_path / "x.svg")]) == 1
    assert not (tmp_path / "x.svg").exists()


def result(model: str, decode: float, prompt: int = 512, **more: Any) -> dict[str, Any]:
    return {
        "model": model,
        "prompt_tokens": prompt,
        "decode_tps": decode,
        "prefill_tps": 2e4,
    } | more


def test_which_runs_are_asked_for() -> None:
    """A run for each preset and length; a long prompt gets a context that holds it and its answer."""
    asked = argparse.Namespace(
        models=["m"], browser=True, native=True, presets=["nvidia", "nvidia-plain"], rest=["--x"],
        prompts=[512, 16000], new_tokens=128, sampled=False, profile=False, tune=False,
    )  # fmt: skip
    lines = [" ".join(command) for command in bench_rows.commands(asked)]
    assert len(lines) == 6
    assert [" --preset nvidia " in line for line in lines] == [True, False, False] * 2
    assert all(("--context 16384" in line) == ("16000" in line) for line in lines)
    assert sum("-m py_engine bench" in line for line in lines) == 2


def test_peers_beside_the_best_run_of_the_same_kind() -> None:
    peers = json.loads((ROOT / "docs" / "peers.json").read_text())
    results = [
        result("random:qwen3.5-0.8b-4bit", 800.0),
        result("random:qwen3.5-0.8b-4bit", 1036.0),
        result("random:qwen3.5-0.8b-4bit", 9999.0, sampling={"temperature": 1.0}),
        result("random:qwen3.5-0.8b-4bit", 9999.0, prompt=3900),
    ]
    table = bench_rows.peer_rows(results, peers).splitlines()
    ours = [line for line in table if "onnxruntime-web" in line]
    assert len(ours) == 1, "only models that were measured"
    assert "1,036 (**20 x**)" in ours[0] and "51.8" in ours[0]


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        (
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/156.0.0.0 "
            "Safari/537.36",
            "Chromium 156, headless",
        ),
        (
            "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
            "Firefox 140, headless",
        ),
    ],
)
def test_browser_name(agent: str, name: str) -> None:
    assert browser_name(agent) == name
