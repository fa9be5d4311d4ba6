"""OLMo 2: norms after the branches, none before; q and k normalised over their whole width, not per head.

Paper: OLMo et al. 2024, arXiv:2501.00656. Reference: transformers, models/olmo2/modeling_olmo2.py.
Tried with: tiny random checkpoints.
"""

from __future__ import annotations

from dataclasses import replace

from py_engine.blocks.dense import Checkpoint, Sizes, activation, rope_of
from py_engine.blocks.layers import Block, Model
from py_engine.sources.config import FULL, Config, layer_types, require_bool, sliding_window
from py_engine.weights.store import WeightStore

# What transformers' Olmo2Config assumes.
DEFAULTS = {"rms_norm_eps": 1e-5, "rope_theta": 1e4}


def build(config: Config, store: WeightStore) -> Model:
    """The decoder. Every layer sees all earlier tokens."""
    return wire({**DEFAULTS, **config, "layer_types": None}, store)


def wire(config: Config, store: WeightStore) -> Model:
    """The decoder with the layer kinds and the rotary positions of the config (for OLMo 3)."""
    act, sizes = activation(config, "hidden_act", "silu"), Sizes.of(config)
    bias = require_bool(config, "attention_bias", False)
    weights, kinds = Checkpoint(sizes, store), layer_types(config)
    ropes = {kind: rope_of(config, sizes, kind) for kind in set(kinds)}
    embedding, head = weights.embedding_and_head(config)
    blocks = []
    for i, kind in enumerate(kinds):
        attention = weights.attention(
            i, ropes[kind], sizes.head_dim**-0.5, bias=bias, out_bias=bias,
            window=None if kind == FULL else sliding_window(config),
        )  # fmt: skip
        blocks.append(
            Block(
                None, replace(attention, part_norms=weights.whole_norms(i)),
                None, weights.mlp(i, act),
                weights.norm(f"layers.{i}.post_attention_layernorm"),
                weights.norm(f"layers.{i}.post_feedforward_layernorm"),
            )
        )  # fmt: skip
    return weights.model(embedding, blocks, head)
