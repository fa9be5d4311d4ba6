"""Gemma 3 (text): as Gemma 2 without caps, with norms of q and k; five layers of six have a window."""

from __future__ import annotations

from py_engine.convert.common_names import ATTENTION_BIASES, HEAD_NORMS
from py_engine.convert.family import Config, Family, Tensors
from py_engine.convert.metadata import Metadata
from py_engine.convert.names.gemma2 import BLOCKS

LAYERS_OF_27B = 62  # whose queries are scaled by hidden size / heads, not by head size: llama.cpp goes by it too


def config(metadata: Metadata, config: Config, tensors: Tensors) -> Config:
    """Windows. The file does not say which layers have one: llama.cpp knows it by architecture."""
    scale = config["head_dim"]
    if config["num_hidden_layers"] == LAYERS_OF_27B:
        scale = config["hidden_size"] // config["num_attention_heads"]
    return {
        "query_pre_attn_scalar": scale,
        "sliding_window": metadata.integer("attention.sliding_window", 1, 1 << 24),
        "sliding_window_pattern": 6,
        "rope_local_base_freq": metadata.number("rope.freq_base_swa", 1.0, 1e12, 10000.0),
    }


FAMILY = Family(
    "gemma3_text", "Gemma3ForCausalLM", {**BLOCKS, **HEAD_NORMS}, norm_offset=1.0,
    optional=(ATTENTION_BIASES,), fixed={"hidden_activation": "gelu_pytorch_tanh"}, config=config,
)  # fmt: skip
