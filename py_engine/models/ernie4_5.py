"""ERNIE 4.5 (dense): Llama whose rotary pairs are neighbouring entries; biases everywhere if use_bias is true.

Paper: ERNIE 4.5 Technical Report, Baidu 2025. Reference: transformers, models/ernie4_5/modeling_ernie4_5.py.
Tried with: tiny random checkpoints.
"""

from __future__ import annotations

from py_engine.blocks.dense import decoder
from py_engine.blocks.layers import Model
from py_engine.sources.config import Config, require_bool
from py_engine.weights.store import WeightStore

# What transformers' Ernie4_5Config assumes. It has no sliding layers: a layer_types in the file is not read.
DEFAULTS = {
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5e5,
    "tie_word_embeddings": True,
}


def build(config: Config, store: WeightStore) -> Model:
    """The decoder."""
    bias = require_bool(config, "use_bias", False)
    return decoder(
        {**DEFAULTS, **config, "layer_types": None}, store,
        bias=bias, out_bias=bias, mlp_bias=bias, neighbours=True,
    )  # fmt: skip
