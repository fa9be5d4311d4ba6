"""Converted GGUF files load, and compute what transformers computes with the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from py_engine.convert.convert import convert
from py_engine.host.gpu import Gpu
from py_engine.serve.engine import Engine
from tests import reference
from tests.conftest import Runner
from tests.convert_models import CASES, IDS, model

LOGITS = json.loads((reference.GOLDENS / "convert_logits.json").read_text())["logits"]


@pytest.fixture(scope="module")
def gpu(wgpu: Gpu) -> Gpu:
    """One host is enough: only Python code differs between these tests."""
    return wgpu


@pytest.mark.parametrize("name", CASES)
def test_logits_of_transformers(gpu: Gpu, run: Runner, tmp_path: Path, name: str) -> None:
    body, _ = model(CASES[name])
    (tmp_path / "m.gguf").write_bytes(body)
    convert(tmp_path / "m.gguf", tmp_path / "out", 32, 32)
    engine = run(Engine.load(str(tmp_path / "out"), gpu=gpu, dtype="f32", context=64))
    try:
        got = np.frombuffer(run(engine.logits(IDS)), np.float32)
    finally:
        run(engine.close())
    assert reference.nmse(got, LOGITS[name]) <= reference.NMSE_F32
