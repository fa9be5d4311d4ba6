"""OLMo 3: OLMo 2's block; three layers slide, every fourth is full, and only full ones have scaled positions.

Report: Ai2, "Olmo 3", 2025. Reference: transformers, models/olmo3/modeling_olmo3.py.
A rope_theta at the top level is for full layers only: sliding ones stay at 500000, as in transformers.
Tried with: tiny random checkpoints.
"""

from __future__ import annotations

from py_engine.blocks.layers import Model
from py_engine.models.olmo2 import wire
from py_engine.sources.config import Config, layer_types
from py_engine.weights.store import WeightStore

# What transformers' Olmo3Config assumes. rope_local_base_freq: so that rope_scaling never reaches a sliding layer.
DEFAULTS = {
    "rms_norm_eps": 1e-5,
    "rope_theta": 5e5,
    "rope_local_base_freq": 5e5,
    "sliding_window": 4096,
}


def build(config: Config, store: WeightStore) -> Model:
    """The decoder."""
    config = {
        **DEFAULTS,
        **config,
        "sliding_window_pattern": 4,
    }  # a pattern in the file is not read
    return wire({**config, "layer_types": list(layer_types(config, pattern=4))}, store)
