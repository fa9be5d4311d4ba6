"""Qwen2 and Qwen2.5: pre-norm decoder, grouped queries, biases on q, k and v, SwiGLU.

Paper: Qwen2 Technical Report, arXiv:2407.10671. Reference: transformers, models/qwen2/modeling_qwen2.py.
Tried with: Qwen2.5-Coder-0.5B-Instruct (GGUF, converted to MLX layout).
"""

from __future__ import annotations

from py_engine.errors import ModelError
from py_engine.models.dense import Checkpoint, Sizes, rope_of
from py_engine.models.layers import Block, Model
from py_engine.weights.config import Config, require_bool
from py_engine.weights.store import WeightStore


def build(
    config: Config, store: WeightStore, *, bias: bool = True, head_norms: bool = False
) -> Model:
    """The decoder. `bias`: q, k, v have one; `head_norms`: q and k are normalised per head (Qwen3)."""
    if require_bool(config, "use_sliding_window", False):
        raise ModelError(
            "config.json: use_sliding_window is true, which this family does not support yet"
        )
    sizes = Sizes.of(config)
    weights = Checkpoint(sizes, store)
    rope = rope_of(config, sizes, theta=1e6)
    embedding, head = weights.embedding_and_head(config)
    blocks = [
        Block(
            weights.norm(f"layers.{i}.input_layernorm"),
            weights.attention(i, rope, sizes.head_dim**-0.5, bias=bias, head_norms=head_norms),
            weights.norm(f"layers.{i}.post_attention_layernorm"),
            weights.mlp(i, "silu"),
        )
        for i in range(sizes.num_hidden_layers)
    ]
    return Model(
        sizes.hidden_size, sizes.vocab_size, sizes.max_position_embeddings,
        embedding, 1.0, blocks, weights.norm("norm"), head,
    )  # fmt: skip
