"""LFM2 and LFM2.5: gated short convolutions and attention, q and k normalised per head, SwiGLU.

Reference: transformers, models/lfm2/modeling_lfm2.py. `embedding_norm` is the final norm. The MLP's width is not the
config's number but follows from it (`_mlp_width`).
Tried with: tiny random checkpoints (plain, and converted by mlx_lm); the shapes of LFM2.5-350M.
"""

from __future__ import annotations

from dataclasses import replace

from py_engine.blocks.dense import MAX_WIDTH, Checkpoint, Sizes, depthwise, rope_of
from py_engine.blocks.layers import Block, Mixer, Model
from py_engine.blocks.short_conv import ShortConv
from py_engine.errors import ModelError
from py_engine.sources.config import (
    FULL,
    MAX_LAYERS,
    Config,
    layer_types,
    require_bool,
    require_float,
    require_int,
    short,
)
from py_engine.weights.store import WeightStore

CONV = "conv"
# What transformers' Lfm2Config assumes.
_DEFAULTS = {
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 128000,
    "rope_theta": 1e6,
}


def build(config: Config, store: WeightStore) -> Model:
    """The decoder."""
    config = _normalised(config)
    kinds = _kinds(config)
    sizes = Sizes.of(config, "norm_eps", 1e-5)
    taps = require_int(config, "conv_L_cache", 2, 16, 3)
    bias = require_bool(config, "conv_bias", False)
    weights = Checkpoint(sizes, store)
    weights.check_kinds(kinds, {CONV: "conv", FULL: "self_attn"})
    rope = rope_of(config, sizes)
    embedding, head = weights.embedding_and_head(config)

    def mixer(i: int, kind: str) -> Mixer:
        if kind == CONV:
            return _short_conv(weights, sizes.hidden_size, taps, bias, f"layers.{i}.conv.")
        return weights.attention(
            i, rope, sizes.head_dim**-0.5, head_norms=True, out="out_proj", norm="layernorm"
        )

    names = ("feed_forward.w1", "feed_forward.w3", "feed_forward.w2")
    blocks = [
        Block(
            weights.norm(f"layers.{i}.operator_norm"),
            mixer(i, kind),
            weights.norm(f"layers.{i}.ffn_norm"),
            weights.mlp(i, "silu", names),
        )
        for i, kind in enumerate(kinds)
    ]
    return weights.model(embedding, blocks, head, norm="embedding_norm")


def _normalised(config: Config) -> Config:
    """The config with LFM2's own keys renamed to those of other families. If a file has both, LFM2's own count."""
    made = {
        **_DEFAULTS,
        **config,
        "intermediate_size": _mlp_width(config),
    }
    if "tie_embedding" in config:
        made["tie_word_embeddings"] = require_bool(config, "tie_embedding")
    return made


def _mlp_width(config: Config) -> int:
    """block_ff_dim (or intermediate_size) times 2/3 times the multiplier, rounded up to the next multiple."""
    key = "block_ff_dim" if "block_ff_dim" in config else "intermediate_size"
    width = require_int(config, key, 1, MAX_WIDTH)
    if not require_bool(config, "block_auto_adjust_ff_dim", True):
        return width
    width = 2 * width // 3
    multiple = require_int(config, "block_multiple_of", 1, MAX_WIDTH, 256)
    width = int(require_float(config, "block_ffn_dim_multiplier", 1e-3, 1e3, 1.0) * width)
    return -(-width // multiple) * multiple


def _kinds(config: Config) -> tuple[str, ...]:
    """The kind of each layer: from layer_types, else from full_attn_idxs, the attention layers (absent: all)."""
    if "layer_types" in config:
        return layer_types(config, allowed=(CONV, FULL))
    count = require_int(config, "num_hidden_layers", 1, MAX_LAYERS)
    attends = config.get("full_attn_idxs", list(range(count)))
    if not isinstance(attends, list) or any(
        type(i) is not int or not 0 <= i < count for i in attends
    ):
        raise ModelError(
            f"config.json: full_attn_idxs is {short(attends)}, expected a list of layers below {count}."
        )
    return tuple(FULL if i in attends else CONV for i in range(count))


def _short_conv(weights: Checkpoint, hidden: int, taps: int, bias: bool, at: str) -> ShortConv:
    in_proj = weights.linear([at + "in_proj"], [3 * hidden], hidden)
    vectors = {at + "conv.weight": depthwise(hidden, taps)}
    if bias:
        vectors = {at + "in_proj.bias": [(3 * hidden,)], **vectors, at + "conv.bias": [(hidden,)]}
    stacked = weights.vectors(vectors)
    return ShortConv(
        taps,
        replace(in_proj, bias=stacked) if bias else in_proj,  # `stacked` begins with its bias
        stacked,
        weights.linear([at + "out_proj"], [hidden], hidden, bias),
    )
