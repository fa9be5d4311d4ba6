"""Gemma 2: alternating sliding and full attention, norms before and after each branch, capped scores and logits, GeGLU.

Paper: Gemma 2, arXiv:2408.00118. Reference: transformers, models/gemma2/modeling_gemma2.py. Norm weights are stored as
w and used as 1 + w. Tried with: tiny random checkpoints.
"""

from __future__ import annotations

from dataclasses import replace

from py_engine.blocks.dense import Checkpoint, Sizes, activation, rope_of
from py_engine.blocks.layers import Block, Model
from py_engine.errors import ModelError
from py_engine.sources.config import (
    SLIDING,
    Config,
    layer_types,
    require_bool,
    require_float,
    sliding_window,
)
from py_engine.weights.store import WeightStore

# What transformers' Gemma2Config assumes.
DEFAULTS = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "rope_theta": 1e4,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}


def build(config: Config, store: WeightStore) -> Model:
    """The decoder."""
    if require_bool(config, "use_bidirectional_attention", False):
        raise ModelError(
            "config.json: use_bidirectional_attention is true: an embedding model, not a decoder"
        )
    act = activation(config, "hidden_activation", "gelu_pytorch_tanh")
    config = {**DEFAULTS, **config, "sliding_window_pattern": 2}
    sizes = Sizes.of(config)
    weights = Checkpoint(sizes, store, norm_offset=1.0)
    scale = require_float(config, "query_pre_attn_scalar", 1e-3, 1e6, 256.0) ** -0.5
    rope = rope_of(config, sizes)
    bias, cap = require_bool(config, "attention_bias", False), _cap(config, "attn")
    embedding, head = weights.embedding_and_head(config)
    blocks = [
        Block(
            weights.norm(f"layers.{i}.input_layernorm"),
            replace(
                weights.attention(
                    i, rope, scale, bias=bias, out_bias=bias,
                    window=sliding_window(config) if kind == SLIDING else None,
                ),
                cap=cap,
            ),
            weights.norm(f"layers.{i}.pre_feedforward_layernorm"),
            weights.mlp(i, act),
            weights.norm(f"layers.{i}.post_attention_layernorm"),
            weights.norm(f"layers.{i}.post_feedforward_layernorm"),
        )
        for i, kind in enumerate(layer_types(config, pattern=2))
    ]  # fmt: skip
    return weights.model(
        embedding, blocks, head,
        embedding_scale=sizes.hidden_size**0.5, logit_cap=_cap(config, "final"),
    )  # fmt: skip


def _cap(config: Config, which: str) -> float:
    """The cap of scores (attn) or logits (final). null gives 0, which means no cap."""
    key = f"{which}_logit_softcapping"
    return 0.0 if config[key] is None else require_float(config, key, 1e-3, 1e6)
