"""The layers of a decoder as a text encoder: Qwen3-Embedding, EmbeddingGemma and others that were made of decoders.

A text's rows see those before them in the text, or with `both_sides` (BehnamGhader et al. 2024, arXiv:2404.05961) those
after them too. There is no KV cache and no head.
"""

from __future__ import annotations

from py_engine.blocks.encoder import (
    EVERY,
    Embeddings,
    EncoderModel,
    FeedForward,
    PreNormBlock,
    SelfAttention,
)
from py_engine.blocks.layers import Attention, Block, Model, ParallelBlock
from py_engine.errors import ModelError
from py_engine.ops.attention_full import FullHeads


def encoder_of(model: Model, family: str, *, both_sides: bool) -> EncoderModel:
    """The encoder of a decoder's layers. A window holds on both sides as it does on one: row i sees j where
    |i - j| < window. Raises ModelError for layers that no published encoder has (recurrent ones, capped scores, ...).
    """
    blocks = [_block(block, family, both_sides) for block in model.blocks]
    words = Embeddings(model.embedding, scale=model.embedding_scale)
    return EncoderModel(
        model.hidden_size, model.vocab_size, model.max_context, words, blocks, model.norm
    )


def _block(block: Block | ParallelBlock, family: str, both_sides: bool) -> PreNormBlock:
    if not isinstance(block, Block) or not isinstance(block.mixer, Attention):
        raise _unknown(family, "layers other than attention and MLP, one after the other")
    attention, mlp = block.mixer, block.mlp
    differs = {
        "gates": attention.gated,
        "capped scores": attention.cap,
        "norms behind the rotation": attention.norm_last,
        "growing queries": attention.growth,
        "norms over all heads": attention.part_norms,
        "scaled branches": attention.residual_scale != 1.0 or mlp.residual_scale != 1.0,
        "positions by length (longrope)": attention.rope and attention.rope.long,
    }
    if found := [name for name, there in differs.items() if there]:
        raise _unknown(family, ", ".join(found))
    window = EVERY if attention.window is None else attention.window - 1
    seen = (window, window if both_sides else 0)
    heads = FullHeads(
        attention.heads,
        attention.kv_heads,
        attention.head_dim,
        attention.scale,
        None if seen == (EVERY, EVERY) else seen,
    )
    return PreNormBlock(
        block.mixer_norm,
        SelfAttention(
            attention.qkv, attention.o, heads, attention.rope, attention.q_norm, attention.k_norm
        ),
        block.mlp_norm,
        FeedForward(mlp.gate_up, mlp.down, mlp.activation, mlp.gated),
        block.mixer_post,
        block.mlp_post,
    )


def _unknown(family: str, what: str) -> ModelError:
    return ModelError(f"{family}: an encoder with {what} is not supported")
