"""Helium: Llama whose rotary pairs are neighbouring entries; q, k and v have biases if attention_bias is true.

Paper: Helium 1, Kyutai 2025. Reference: transformers, models/helium/modeling_helium.py.
Tried with: tiny random checkpoints.
"""

from __future__ import annotations

from py_engine.blocks.dense import decoder
from py_engine.blocks.layers import Model
from py_engine.sources.config import Config, require_bool
from py_engine.weights.store import WeightStore

# What transformers' HeliumConfig assumes. It has no sliding layers: a layer_types in the file is not read.
DEFAULTS = {
    "num_key_value_heads": 20,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-8,
    "rope_theta": 1e5,
}


def build(config: Config, store: WeightStore) -> Model:
    """The decoder."""
    return decoder(
        {**DEFAULTS, **config, "layer_types": None}, store, neighbours=True,
        bias=require_bool(config, "attention_bias", False),
        mlp_bias=require_bool(config, "mlp_bias", False),
    )  # fmt: skip
