"""Granite (dense): Llama's decoder with factors on the embedding, the scores, the branches and the logits.

Paper: Granite 3.0 Language Models, IBM 2024. Reference: transformers, models/granite/modeling_granite.py.
Tried with: tiny random checkpoints.
"""

from __future__ import annotations

from dataclasses import replace

from py_engine.blocks.dense import Checkpoint, Sizes, activation, rope_of
from py_engine.blocks.layers import Block, Model
from py_engine.sources.config import Config, require_bool, require_float
from py_engine.weights.store import WeightStore

# What transformers' GraniteConfig assumes.
DEFAULTS = {"rope_theta": 1e4}


def build(config: Config, store: WeightStore) -> Model:
    """The decoder."""
    config = {**DEFAULTS, **config}
    act, sizes = activation(config, "hidden_act", "silu"), Sizes.of(config)
    bias = require_bool(config, "attention_bias", False)
    mlp_bias = require_bool(config, "mlp_bias", False)
    scale, branch, embedded, logits = (
        require_float(config, key, 1e-6, 1e6, 1.0)
        for key in (
            "attention_multiplier", "residual_multiplier", "embedding_multiplier", "logits_scaling",
        )
    )  # fmt: skip
    weights, rope = Checkpoint(sizes, store), rope_of(config, sizes)
    embedding, head = weights.embedding_and_head(config)
    blocks = [
        Block(
            weights.norm(f"layers.{i}.input_layernorm"),
            replace(
                weights.attention(i, rope, scale, bias=bias, out_bias=bias), residual_scale=branch
            ),
            weights.norm(f"layers.{i}.post_attention_layernorm"),
            replace(weights.mlp(i, act, bias=mlp_bias), residual_scale=branch),
        )
        for i in range(sizes.num_hidden_layers)
    ]
    return weights.model(
        embedding, blocks, head, embedding_scale=embedded, logit_scale=1.0 / logits
    )
