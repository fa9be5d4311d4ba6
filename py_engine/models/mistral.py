"""Mistral: Llama's decoder without biases, whose layers all slide where `sliding_window` is set.

Paper: Jiang et al. 2023, arXiv:2310.06825. Reference: transformers, models/mistral/modeling_mistral.py.
mlx_lm ignores the window. Tried with: tiny random checkpoints.
"""

from __future__ import annotations

from py_engine.blocks.dense import decoder
from py_engine.blocks.layers import Model
from py_engine.sources.config import Config, every_layer_slides
from py_engine.weights.store import WeightStore

# What transformers' MistralConfig assumes.
DEFAULTS = {
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
    "rope_theta": 1e4,
}


def build(config: Config, store: WeightStore) -> Model:
    """The decoder."""
    return decoder(every_layer_slides({**DEFAULTS, **config}), store)
