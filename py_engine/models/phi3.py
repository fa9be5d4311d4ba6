"""Phi-3, Phi-3.5 and Phi-4-mini: Llama with fused projections, part of a head rotated, longrope.

Paper: Phi-3 Technical Report, arXiv:2404.14219; LongRoPE, arXiv:2402.13753. Reference: transformers,
models/phi3/modeling_phi3.py. All tokens of a text longer than original_max_position_embeddings use other frequencies: a
text that grows past that length is run again from its beginning. Tried with: tiny random checkpoints.
"""

from __future__ import annotations

from typing import Any

from py_engine.blocks.dense import decoder
from py_engine.blocks.layers import Model
from py_engine.errors import ModelError
from py_engine.sources.config import Config, every_layer_slides, short
from py_engine.weights.store import WeightStore

# What transformers' Phi3Config assumes.
DEFAULTS = {
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
}


def build(config: Config, store: WeightStore) -> Model:
    """The decoder."""
    config = {**DEFAULTS, **config}
    for key in ("rope_scaling", "rope_parameters"):
        if given := config.get(key):
            config = {**config, key: _named(given, key)}
    return decoder(every_layer_slides(config), store, partial=True)


def _named(given: Any, key: str) -> Any:
    """The scaling with its type named longrope. Older files call it "su" or "yarn"."""
    if not isinstance(given, dict):
        return given
    kind = given.get("rope_type", given.get("type", "default"))
    if kind in ("su", "yarn"):
        kind = "longrope"
    if kind not in ("default", "longrope"):
        raise ModelError(f"config.json: {key} is of type {short(kind)}; Phi-3 has longrope alone.")
    return {**given, "rope_type": kind}
