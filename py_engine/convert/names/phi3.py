"""Phi-3, Phi-3.5 and Phi-4 (mini too): q, k and v in one tensor, gate and up in one; long contexts by LongRoPE."""

from __future__ import annotations

from py_engine.convert.family import Config, Family, Tensors
from py_engine.convert.metadata import Metadata

BLOCKS = {
    "attn_norm": "input_layernorm",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.gate_up_proj",
    "ffn_down": "mlp.down_proj",
}


def config(metadata: Metadata, config: Config, tensors: Tensors) -> Config:
    """The window (0: none) and the context before it was stretched."""
    window = metadata.integer("attention.sliding_window", 0, 1 << 24, 0)
    context = config["max_position_embeddings"]
    original = metadata.integer("rope.scaling.original_context_length", 1, 1 << 30, context)
    return {"sliding_window": window or None, "original_max_position_embeddings": original}


FAMILY = Family("phi3", "Phi3ForCausalLM", BLOCKS, partial=True, config=config)
