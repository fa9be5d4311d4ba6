"""StarCoder2: LayerNorm, biases everywhere, an MLP without a gate; every layer slides where `sliding_window` is set.

Paper: Lozhkov et al. 2024, arXiv:2402.19173. Reference: transformers, models/starcoder2/modeling_starcoder2.py.
mlx_lm ignores the window. Tried with: tiny random checkpoints.
"""

from __future__ import annotations

from py_engine.blocks.dense import Checkpoint, Sizes, activation, rope_of
from py_engine.blocks.layers import Block, Model
from py_engine.sources.config import Config, require_bool, sliding_window
from py_engine.weights.store import WeightStore

# What transformers' Starcoder2Config assumes.
DEFAULTS = {
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "rope_theta": 1e4,
}


def build(config: Config, store: WeightStore) -> Model:
    """The decoder."""
    config = {**DEFAULTS, **config}
    act = activation(config, "hidden_act", "gelu_pytorch_tanh")
    sizes = Sizes.of(config, "norm_epsilon", 1e-5)
    bias = require_bool(config, "use_bias", True)
    window = None if config.get("sliding_window") is None else sliding_window(config)
    weights, rope = Checkpoint(sizes, store, layer_norm=True), rope_of(config, sizes)
    embedding, head = weights.embedding_and_head(config)
    blocks = [
        Block(
            weights.norm(f"layers.{i}.input_layernorm"),
            weights.attention(
                i, rope, sizes.head_dim**-0.5, bias=bias, out_bias=bias, window=window
            ),
            weights.norm(f"layers.{i}.post_attention_layernorm"),
            weights.plain_mlp(i, act, ("c_fc", "c_proj"), bias),
        )
        for i in range(sizes.num_hidden_layers)
    ]
    return weights.model(embedding, blocks, head)
