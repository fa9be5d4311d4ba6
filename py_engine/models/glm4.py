"""GLM-4 (0414): norms before and after each branch, half of a head rotated in pairs of neighbours, gate and up fused.

Paper: ChatGLM, arXiv:2406.12793. Reference: transformers, models/glm4/modeling_glm4.py.
Tried with: tiny random checkpoints.
"""

from __future__ import annotations

from py_engine.blocks.dense import Checkpoint, Sizes, activation, rope_of
from py_engine.blocks.layers import Block, Model
from py_engine.sources.config import Config, require_bool
from py_engine.weights.store import WeightStore

# What transformers' Glm4Config assumes. It has no sliding layers.
DEFAULTS = {
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1.5625e-7,
    "rope_theta": 1e4,
    "partial_rotary_factor": 0.5,
}


def build(config: Config, store: WeightStore) -> Model:
    """The decoder."""
    act = activation(config, "hidden_act", "silu")
    config = {**DEFAULTS, **config}
    sizes = Sizes.of(config)
    weights = Checkpoint(sizes, store)
    rope = rope_of(config, sizes, partial=True, neighbours=True)
    bias = require_bool(config, "attention_bias", True)
    embedding, head = weights.embedding_and_head(config)
    blocks = [
        Block(
            weights.norm(f"layers.{i}.input_layernorm"),
            weights.attention(i, rope, sizes.head_dim**-0.5, bias=bias),
            weights.norm(f"layers.{i}.post_attention_layernorm"),
            weights.mlp(i, act),
            weights.norm(f"layers.{i}.post_self_attn_layernorm"),
            weights.norm(f"layers.{i}.post_mlp_layernorm"),
        )
        for i in range(sizes.num_hidden_layers)
    ]
    return weights.model(embedding, blocks, head)
