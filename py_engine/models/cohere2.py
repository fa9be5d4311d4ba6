"""Cohere 2 (Command R7B, Command A): both branches read one LayerNorm without a bias; full layers have no positions.

Reference: transformers, models/cohere2/modeling_cohere2.py. Rotary pairs are neighbours; logits are multiplied by
logit_scale. Tried with: tiny random checkpoints.
"""

from __future__ import annotations

from py_engine.blocks.dense import Checkpoint, Sizes, activation, rope_of
from py_engine.blocks.layers import Model, ParallelBlock
from py_engine.sources.config import (
    SLIDING,
    Config,
    layer_types,
    require_bool,
    require_float,
    sliding_window,
)
from py_engine.weights.store import WeightStore

# What transformers' Cohere2Config assumes.
DEFAULTS = {
    "max_position_embeddings": 8192,
    "rope_theta": 1e4,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}


def build(config: Config, store: WeightStore) -> Model:
    """The decoder."""
    act = activation(config, "hidden_act", "silu")
    config = {**DEFAULTS, **config}
    sizes = Sizes.of(config, "layer_norm_eps", 1e-5)
    weights = Checkpoint(sizes, store, layer_norm=True, norm_bias=False)
    rope = rope_of(config, sizes, neighbours=True)
    bias = require_bool(config, "attention_bias", False)
    embedding, head = weights.embedding_and_head(config)

    def block(i: int, slides: bool) -> ParallelBlock:
        return ParallelBlock(
            weights.norm(f"layers.{i}.input_layernorm"),
            weights.attention(
                i, rope if slides else None, sizes.head_dim**-0.5, bias=bias, out_bias=bias,
                window=sliding_window(config) if slides else None,
            ),
            weights.mlp(i, act),
        )  # fmt: skip

    blocks = [block(i, kind == SLIDING) for i, kind in enumerate(layer_types(config, pattern=4))]
    scale = require_float(config, "logit_scale", 1e-6, 1e6, 0.0625)
    return weights.model(embedding, blocks, head, logit_scale=scale)
