"""Mistral 3 (Mistral Small 3.1, Ministral 3), its text part: a wrapper around a vision tower and a text model, which is
a Ministral 3 where text_config says so, else a Mistral.

Reference: transformers, models/mistral3. Tried with: tiny random checkpoints.
"""

from __future__ import annotations

from py_engine.blocks.layers import Model
from py_engine.models import ministral3, mistral
from py_engine.sources.config import TEXT_MODEL_TYPE, Config, require_str
from py_engine.weights.store import WeightStore

_BUILDS = {"mistral": mistral.build, "ministral3": ministral3.build}


def build(config: Config, store: WeightStore) -> Model:
    """The text model's decoder."""
    kind = require_str(config, TEXT_MODEL_TYPE, _BUILDS, "mistral")
    return _BUILDS[kind](config, store)
