"""Settings that stand in several places, or nowhere: every variant gives transformers' logits, or is refused by name.

tests/variants.py makes the checkpoints. tests/goldens/make_variants.py recorded the logits of transformers. Most of the
variants that mean the same as another one run with --slow only.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from py_engine.errors import ModelError
from py_engine.host.gpu import Gpu
from py_engine.host.gpu_counting import CountingGpu
from py_engine.serve.device import Device
from py_engine.serve.engine import Engine
from tests import reference
from tests.conftest import Runner
from tests.variants import IDS, VARIANTS, Variant

LOGITS = json.loads((reference.GOLDENS / "variants.json").read_text())["logits"]
LOADED = [variant for variant in VARIANTS if variant.refused is None]
QUICK = (
    "llama-tied-yet-a-head", "llama-scaling-and-parameters", "llama-original-twice", "llama-partial",
    "qwen2-window-null", "gemma3-both-styles", "gemma3-nested", "qwen3_5-nested", "lfm2-tie-embedding",
)  # fmt: skip
CASES = [
    pytest.param(
        v, id=v.name, marks=[pytest.mark.slow] if v.like is not None and v.name not in QUICK else []
    )
    for v in LOADED
]
REFUSED = [variant for variant in VARIANTS if variant.refused is not None]


@pytest.fixture(scope="module")
def device(open_software_gpu: Callable[..., Gpu]) -> Device:
    """One host is enough, because only Python code differs. On one device, kernels of equal sizes are compiled once."""
    return Device(open_software_gpu("wgpu"), recovers=False)


def written(variant: Variant, folder: Path) -> str:
    """The variant's folder, with a tokenizer."""
    variant.write(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(reference.folder("qwen2-f32") / file, folder / file)
    return str(folder)


def test_there_is_a_golden_for_each() -> None:
    assert LOGITS.keys() == {variant.name for variant in LOADED}
    assert len(LOADED) >= 60 and len(REFUSED) >= 10


@pytest.mark.parametrize("variant", CASES)
def test_logits_of_transformers(
    device: Device, run: Runner, tmp_path: Path, variant: Variant
) -> None:
    engine = run(device.load(written(variant, tmp_path / "m"), dtype="f32", context=64))
    try:
        got = np.frombuffer(run(engine.logits(IDS)), np.float32)
    finally:
        run(engine.close())
    assert reference.nmse(got, LOGITS[variant.name]) <= reference.NMSE_F32


@pytest.mark.parametrize("variant", REFUSED, ids=lambda v: v.name)
def test_refused_by_name(run: Runner, tmp_path: Path, variant: Variant) -> None:
    """An estimate refuses it too. Nothing is allocated."""
    folder = written(variant, tmp_path / "m")
    for act in (Engine.load, Engine.estimate):
        counting = CountingGpu()
        with pytest.raises(ModelError, match=variant.refused):
            run(act(folder, gpu=counting, context=64))
        assert counting.counters.live_buffers == 0
