"""Seed-OSS: Llama's decoder with biases on q, k and v, heads of 128 unless the config says otherwise.

Model card: ByteDance Seed, Seed-OSS-36B, 2025. Reference: transformers, models/seed_oss/modeling_seed_oss.py.
Tried with: tiny random checkpoints.
"""

from __future__ import annotations

from py_engine.blocks.dense import decoder
from py_engine.blocks.layers import Model
from py_engine.sources.config import Config, require_bool
from py_engine.weights.store import WeightStore

# What transformers' SeedOssConfig assumes.
DEFAULTS = {
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 524288,
    "rope_theta": 1e4,
}


def build(config: Config, store: WeightStore) -> Model:
    """The decoder."""
    return decoder(
        {**DEFAULTS, **config, "layer_types": None}, store,
        bias=require_bool(config, "attention_bias", True),
        out_bias=require_bool(config, "attention_out_bias", False),
        mlp_bias=require_bool(config, "mlp_bias", False),
    )  # fmt: skip
