"""Ministral 3: Mistral with queries that grow with their position, and yarn unless the config says otherwise.

Reference: transformers, models/ministral3/modeling_ministral3.py: q at position p is multiplied by
1 + beta ln(1 + floor(p / original_max_position_embeddings)), as in Llama 4. Tried with: tiny random checkpoints.
"""

from __future__ import annotations

from dataclasses import replace

from py_engine.blocks.dense import Checkpoint, decoder
from py_engine.blocks.layers import Attention, Model
from py_engine.sources.config import Config, every_layer_slides, require_float, require_int
from py_engine.weights.store import WeightStore

# What transformers' Ministral3Config assumes.
DEFAULTS = {
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 262144,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
}
_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}


def build(config: Config, store: WeightStore) -> Model:
    """The decoder."""
    config = {**DEFAULTS, **config}
    rope = config.get("rope_scaling") or config.get("rope_parameters") or _ROPE
    config = {**config, "rope_scaling": rope}
    growth: tuple[float, int] | None = None
    if isinstance(rope, dict) and rope.get("llama_4_scaling_beta"):
        beta = require_float(rope, "llama_4_scaling_beta", 0.0, 100.0)
        growth = beta, require_int(rope, "original_max_position_embeddings", 1, 1 << 30)

    def refine(weights: Checkpoint, layer: int, attention: Attention) -> Attention:
        return replace(attention, growth=growth)

    return decoder(every_layer_slides(config), store, refine=refine)
