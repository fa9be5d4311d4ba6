"""A second WebGPU implementation in a browser (naga over lavapipe, with shader-f16): Firefox answers as native does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import reference
from tests.conftest import software_adapter

ROOT = Path(__file__).parents[1]
NAME = "qwen3-mlx4-g128"
COMMON = ["--prompt-tokens", "8", "--new-tokens", "4", "--context", "64", "--dtype", "f32"]

# What ESR 140 says whatever its preferences; 153 has it.
NO_WEBGPU = "WebGPU is not yet available in Release or late Beta builds"


def last_line(command: list[str], home: Path) -> dict[str, Any]:
    with software_adapter("wgpu"):
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=600,
            env={**os.environ, "HOME": str(home)},
        )
    if NO_WEBGPU in done.stdout:
        pytest.skip(f"this Firefox is too old, it says: {NO_WEBGPU}")
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]
    value = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(value, dict)
    return value


def test_firefox_samples_the_same_tokens(tmp_path: Path) -> None:
    """One short generation, from the page's own worker, against wgpu-native on the same driver."""
    if not (shutil.which("firefox-esr") or shutil.which("firefox")):
        pytest.skip("no Firefox: ./dev test --firefox installs it where it may")
    folder = str(reference.folder(NAME))
    browser = last_line(
        ["devtools.browser_bench", folder, "--firefox", *COMMON, "--timeout", "500"], tmp_path
    )
    native = last_line(
        ["py_engine", "bench", folder, "--host", "wgpu", "--json", *COMMON], tmp_path
    )
    assert len(browser["tokens"]) == 5
    assert browser["tokens"] == native["tokens"]
    assert browser["adapter"]["host"] == "browser"
    assert browser["traffic"]["readback_bytes_per_token"] <= 16
