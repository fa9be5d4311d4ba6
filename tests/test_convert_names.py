"""The name maps of `convert`: whole tiny models with GGUF's names get transformers' names, and every value is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from py_engine.convert.convert import convert
from py_engine.convert.family import architectures
from tests.convert_models import CASES, model
from tests.test_convert import load


@pytest.mark.parametrize("name", CASES)
def test_every_tensor_and_setting(tmp_path: Path, name: str) -> None:
    """Every value has its name, there are no other names, and every setting is the one of transformers."""
    case = CASES[name]
    body, wanted = model(case)
    (tmp_path / "m.gguf").write_bytes(body)
    made = convert(tmp_path / "m.gguf", tmp_path / "out", 32, 32)
    _, _, values = load(tmp_path / "out")
    assert values.keys() == wanted.keys()
    for key, array in wanted.items():
        assert np.array_equal(values[key].reshape(array.shape), array), key
    config = case["config"]
    left = {"architectures", "bos_token_id", "eos_token_id", "pad_token_id", "rope_parameters"}
    left.add("attention_dropout")  # used in training only
    for key in made.keys() & config.keys() - left:
        assert made[key] == config[key], key


def test_every_map_has_a_case() -> None:
    assert {case["architecture"] for case in CASES.values()} == set(architectures())
