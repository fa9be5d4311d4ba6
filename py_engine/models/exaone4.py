"""EXAONE 4: norms only after each branch, q and k normalised per head, full layers without positions.

Paper: EXAONE 4.0, arXiv:2507.11407. Reference: transformers, models/exaone4/modeling_exaone4.py. Without a
sliding_window every layer is full and rotates. Tried with: tiny random checkpoints.
"""

from __future__ import annotations

from dataclasses import replace

from py_engine.blocks.dense import Checkpoint, Sizes, activation, rope_of
from py_engine.blocks.layers import Attention, Block, Model
from py_engine.errors import ModelError
from py_engine.sources.config import (
    FULL,
    MAX_LAYERS,
    SLIDING,
    Config,
    layer_types,
    require_int,
    short,
    sliding_window,
)
from py_engine.weights.store import WeightStore

# What transformers' Exaone4Config assumes.
DEFAULTS = {
    "num_key_value_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "sliding_window": 4096,
}


def build(config: Config, store: WeightStore) -> Model:
    """The decoder."""
    act = activation(config, "hidden_act", "silu")
    config = {**DEFAULTS, **config}
    sizes = Sizes.of(config)
    weights = Checkpoint(sizes, store)
    rope = rope_of(config, sizes)
    kinds = _kinds(config)
    embedding, head = weights.embedding_and_head(config)

    def attention(i: int, kind: str) -> Attention:
        made = weights.attention(
            i, rope, sizes.head_dim**-0.5, head_norms=True,
            window=sliding_window(config) if kind == SLIDING else None,
        )  # fmt: skip
        rotates = kind == SLIDING or config["sliding_window"] is None
        return made if rotates else replace(made, rope=None)

    blocks = [
        Block(
            None,
            attention(i, kind),
            None,
            weights.mlp(i, act),
            weights.norm(f"layers.{i}.post_attention_layernorm"),
            weights.norm(f"layers.{i}.post_feedforward_layernorm"),
        )
        for i, kind in enumerate(kinds)
    ]
    return weights.model(embedding, blocks, head)


def _kinds(config: Config) -> tuple[str, ...]:
    """The kind of each layer: from layer_types, else from sliding_window_pattern, a number or a text like "LLLG"
    that repeats."""
    pattern = config.get("sliding_window_pattern", 4)
    count = require_int(config, "num_hidden_layers", 1, MAX_LAYERS)
    if config.get("layer_types") is not None:
        return layer_types(config)
    if config["sliding_window"] is None:
        return (FULL,) * count
    if isinstance(pattern, str):
        if not pattern or set(pattern) - {"L", "G"}:
            raise ModelError(
                f"config.json: sliding_window_pattern is {short(pattern)}, expected letters L and G."
            )
        return tuple(SLIDING if pattern[i % len(pattern)] == "L" else FULL for i in range(count))
    return layer_types(config, pattern=4)
