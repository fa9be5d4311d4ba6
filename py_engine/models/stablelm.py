"""StableLM: LayerNorm, a quarter of each head rotated. In the 12B model each head of q and k has a norm of its own, and
both branches read the same x.

Report: Bellagente et al. 2024, arXiv:2402.17834. Reference: transformers, models/stablelm/modeling_stablelm.py.
Tried with: tiny random checkpoints.
"""

from __future__ import annotations

from dataclasses import replace

from py_engine.blocks.dense import Checkpoint, Sizes, activation, rope_of
from py_engine.blocks.layers import Block, Model, ParallelBlock
from py_engine.sources.config import Config, require_bool
from py_engine.weights.store import WeightStore

# What transformers' StableLmConfig assumes.
DEFAULTS = {
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rope_theta": 1e4,
    "partial_rotary_factor": 0.25,
}


def build(config: Config, store: WeightStore) -> Model:
    """The decoder."""
    config = {**DEFAULTS, **config}
    act = activation(config, "hidden_act", "silu")
    # A head_dim in the file is not read: heads are as wide as hidden_size makes them.
    config = {key: value for key, value in config.items() if key != "head_dim"}
    sizes = Sizes.of(config, "layer_norm_eps", 1e-5)
    bias = require_bool(config, "use_qkv_bias", False)
    normed = require_bool(config, "qk_layernorm", False)
    parallel = require_bool(config, "use_parallel_residual", False)
    weights = Checkpoint(sizes, store, layer_norm=True)
    rope = rope_of(config, sizes, partial=True)
    embedding, head = weights.embedding_and_head(config)
    blocks: list[Block | ParallelBlock] = []
    for i in range(sizes.num_hidden_layers):
        norm = weights.norm(f"layers.{i}.input_layernorm")
        attention = weights.attention(i, rope, sizes.head_dim**-0.5, bias=bias)
        if normed:
            attention = replace(attention, part_norms=weights.norms_by_head(i))
        mlp = weights.mlp(i, act)
        if parallel:
            blocks.append(ParallelBlock(norm, attention, mlp))
        else:
            after = weights.norm(f"layers.{i}.post_attention_layernorm")
            blocks.append(Block(norm, attention, after, mlp))
    return weights.model(embedding, blocks, head)
