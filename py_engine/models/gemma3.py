"""Gemma 3 (text): alternating sliding and full attention, norms before and after each branch, GeGLU, scaled embedding.
EmbeddingGemma is one whose rows see both sides (use_bidirectional_attention).

Papers: Gemma 3 Technical Report, arXiv:2503.19786; EmbeddingGemma, arXiv:2509.20354. Reference: transformers,
models/gemma3/modeling_gemma3.py. Norm weights are stored as w and used as 1 + w. The embedding is scaled by
sqrt(hidden_size) in float32; MLX and bfloat16 runs round that factor to bfloat16 (25.25 for 25.298), which moves single
logits by 0.01 to 0.03. Tried with: Gemma 3 270M (GGUF, converted to MLX layout); EmbeddingGemma's tiny random
checkpoints.
"""

from __future__ import annotations

from py_engine.blocks.dense import Checkpoint, Sizes, activation, rope_of
from py_engine.blocks.layers import Block, Model
from py_engine.errors import ModelError
from py_engine.sources.config import (
    SLIDING,
    Config,
    layer_types,
    require_bool,
    require_float,
    sees_both_sides,
    sliding_window,
)
from py_engine.weights.store import WeightStore

ALIASES = ("gemma3_text",)  # inside a multimodal wrapper's config
_THETA = {"full_attention": 1e6, SLIDING: 1e4}
# What transformers' Gemma3TextConfig assumes; published multimodal configs leave these out.
_DEFAULTS = {
    "head_dim": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
    "rope_local_base_freq": _THETA[SLIDING],  # so that rope_scaling never reaches a sliding layer
}


def build(config: Config, store: WeightStore) -> Model:
    """The decoder."""
    for key in ("final_logit_softcapping", "attn_logit_softcapping"):
        if config.get(key) is not None:
            raise ModelError(
                f"config.json: {key} is set; Gemma 3 has no soft-capping (a Gemma 2 config?)"
            )
    act = activation(config, "hidden_activation", "gelu_pytorch_tanh")
    config = {**_DEFAULTS, **config}
    sizes = Sizes.of(config)
    weights = Checkpoint(sizes, store, norm_offset=1.0)
    scale = require_float(config, "query_pre_attn_scalar", 1e-3, 1e6, 256.0) ** -0.5
    kinds = layer_types(config, pattern=6)
    ropes = {kind: rope_of(config, sizes, kind, _THETA[kind]) for kind in set(kinds)}
    bias = require_bool(config, "attention_bias", False)
    embedding, head = weights.embedding_and_head(config)
    blocks = [
        Block(
            weights.norm(f"layers.{i}.input_layernorm"),
            weights.attention(
                i, ropes[kind], scale, bias=bias, out_bias=bias, head_norms=True,
                window=_window(config) if kind == SLIDING else None,
            ),
            weights.norm(f"layers.{i}.pre_feedforward_layernorm"),
            weights.mlp(i, act),
            weights.norm(f"layers.{i}.post_attention_layernorm"),
            weights.norm(f"layers.{i}.post_feedforward_layernorm"),
        )
        for i, kind in enumerate(kinds)
    ]  # fmt: skip
    return weights.model(embedding, blocks, head, embedding_scale=sizes.hidden_size**0.5)


def _window(config: Config) -> int:
    """Row i sees rows j where |i - j| < window. Of an embedding model the config tells both sides together."""
    window = sliding_window(config)
    return window // 2 + 1 if sees_both_sides(config) else window
