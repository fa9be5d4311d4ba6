"""Gemma 2: norms before and after each branch, with one added to their weights; scores and logits are capped."""

from __future__ import annotations

from py_engine.convert.common_names import ATTENTION, MLP
from py_engine.convert.family import Config, Family, Tensors
from py_engine.convert.metadata import Metadata

BLOCKS = {
    **ATTENTION,
    **MLP,
    "attn_norm": "input_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
LAYERS_OF_27B = 46  # whose queries are scaled by hidden size / heads, not by head size: llama.cpp goes by it too


def config(metadata: Metadata, config: Config, tensors: Tensors) -> Config:
    """Caps and windows. Every second layer, from the first on, has a window."""
    layers = config["num_hidden_layers"]
    scale = config["head_dim"]
    if layers == LAYERS_OF_27B:
        scale = config["hidden_size"] // config["num_attention_heads"]
    return {
        "attn_logit_softcapping": metadata.number("attn_logit_softcapping", 0.0, 1e6, 50.0),
        "final_logit_softcapping": metadata.number("final_logit_softcapping", 0.0, 1e6, 30.0),
        "query_pre_attn_scalar": scale,
        "sliding_window": metadata.integer("attention.sliding_window", 1, 1 << 24),
        "layer_types": metadata.sliding_layers(layers, 2),
    }


FAMILY = Family(
    "gemma2", "Gemma2ForCausalLM", BLOCKS, norm_offset=1.0, config=config,
    fixed={"hidden_activation": "gelu_pytorch_tanh"},
    carries=frozenset({"attn_logit_softcapping", "final_logit_softcapping"}),
)  # fmt: skip
