"""Nemotron (Nemotron-4, Minitron): LayerNorm with weights 1 + w, an MLP of squared ReLU without a gate, half of each
head rotated.

Paper: Parmar et al. 2024, arXiv:2402.16819. Reference: transformers, models/nemotron/modeling_nemotron.py.
Tried with: tiny random checkpoints.
"""

from __future__ import annotations

from py_engine.blocks.dense import Checkpoint, Sizes, activation, rope_of
from py_engine.blocks.layers import Block, Model
from py_engine.sources.config import Config, require_bool
from py_engine.weights.store import WeightStore

# What transformers' NemotronConfig assumes.
DEFAULTS = {"max_position_embeddings": 4096, "rope_theta": 1e4, "partial_rotary_factor": 0.5}


def build(config: Config, store: WeightStore) -> Model:
    """The decoder."""
    config = {**DEFAULTS, **config}
    act = activation(config, "hidden_act", "relu2")
    sizes = Sizes.of(config, "norm_eps", 1e-5)
    bias = require_bool(config, "attention_bias", False)
    mlp_bias = require_bool(config, "mlp_bias", False)
    weights = Checkpoint(sizes, store, norm_offset=1.0, layer_norm=True)
    rope = rope_of(config, sizes, partial=True)
    embedding, head = weights.embedding_and_head(config)
    blocks = [
        Block(
            weights.norm(f"layers.{i}.input_layernorm"),
            weights.attention(i, rope, sizes.head_dim**-0.5, bias=bias, out_bias=bias),
            weights.norm(f"layers.{i}.post_attention_layernorm"),
            weights.plain_mlp(i, act, ("up_proj", "down_proj"), mlp_bias),
        )
        for i in range(sizes.num_hidden_layers)
    ]
    return weights.model(embedding, blocks, head)
