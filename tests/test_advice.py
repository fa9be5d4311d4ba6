"""generation_config.json: which settings are on and which are off, as transformers reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from py_engine.errors import ModelError
from py_engine.generate.advice import not_applied, sampling_advice
from py_engine.generate.sampling import Sampling

# generation_config.json, and the processors that transformers runs for it (found by tests/goldens/make_advice.py).
GOLDENS = json.loads((Path(__file__).parent / "goldens" / "advice.json").read_text())["cases"]


def as_processors(made: Sampling) -> dict[str, float]:
    """The engine's settings under the names of transformers' processors. Settings that are off are left out."""
    found: dict[str, float] = {}
    if made.repetition_penalty != 1:
        found["RepetitionPenaltyLogitsProcessor"] = made.repetition_penalty
    if made.greedy:
        return found
    if made.temperature != 1:
        found["TemperatureLogitsWarper"] = made.temperature
    if made.top_k:
        found["TopKLogitsWarper"] = made.top_k
    if made.top_p < 1:
        found["TopPLogitsWarper"] = made.top_p
    if made.min_p > 0:
        found["MinPLogitsWarper"] = made.min_p
    return found


@pytest.mark.parametrize("case", GOLDENS, ids=lambda c: json.dumps(c["config"]))
def test_as_transformers_takes_it(case: dict[str, Any]) -> None:
    config = {key: value for key, value in case["config"].items() if value is not None}
    made = sampling_advice(config)
    assert made.greedy is not case["sampled"]
    assert made.seed is None  # each answer draws a fresh one
    wanted = dict(case["processors"])
    if wanted.get("MinPLogitsWarper") == 0:
        del wanted["MinPLogitsWarper"]  # it does nothing
    others = {key: on for key, on in wanted.items() if key not in KNOWN}
    assert as_processors(made) == {key: wanted[key] for key in wanted if key in KNOWN}
    assert bool(not_applied(config)) == bool(others)


KNOWN = {
    "RepetitionPenaltyLogitsProcessor",
    "TemperatureLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "MinPLogitsWarper",
}


@pytest.mark.parametrize("top_k", [-1, -5, 0])
def test_top_k_below_one_is_off(top_k: int) -> None:
    """transformers refuses negative values; vLLM writes -1 for off."""
    assert sampling_advice({"do_sample": True, "top_k": top_k}).top_k == 0


def test_temperature_0_is_greedy() -> None:
    assert sampling_advice({"do_sample": True, "temperature": 0}).greedy


def test_top_p_above_1_is_off() -> None:
    assert sampling_advice({"do_sample": True, "top_p": 1.5}).top_p == 1.0


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"do_sample": "yes"}, "do_sample is 'yes'"),
        ({"do_sample": 1}, "do_sample is 1"),
        ({"do_sample": True, "top_k": "50"}, "top_k is '50'"),
        ({"do_sample": True, "top_k": 3.5}, "top_k=3.5"),
        ({"do_sample": True, "top_p": -0.5}, "top_p=-0.5"),
        ({"do_sample": True, "temperature": float("nan")}, "temperature is nan"),
        ({"do_sample": True, "temperature": [0.7]}, "temperature is"),
        ({"do_sample": True, "min_p": True}, "min_p is True"),
        ({"repetition_penalty": 0}, "repetition_penalty=0"),
        ({"repetition_penalty": 10**400}, "repetition_penalty"),
    ],
)
def test_what_means_nothing_is_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=f"generation_config.json: {words}"):
        sampling_advice(config)


def test_without_sampling_its_settings_rest() -> None:
    """Even absurd values are accepted, because nothing reads them."""
    assert sampling_advice({"do_sample": False, "temperature": -3, "top_k": "x"}) == Sampling()
