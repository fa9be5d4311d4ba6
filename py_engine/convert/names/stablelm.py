"""StableLM 2: LayerNorms with biases, a part of each head rotated.

The 12B model has a norm for each head of q and k, and its branches stand side by side.
"""

from __future__ import annotations

from py_engine.convert.common_names import BLOCKS, QKV_BIASES
from py_engine.convert.family import Config, Family, Tensors, has
from py_engine.convert.metadata import Metadata

HEADS = ("attn_q_norm.weight", "attn_k_norm.weight")
SECOND_NORM = ("ffn_norm.weight", "ffn_norm.bias")


def config(metadata: Metadata, config: Config, tensors: Tensors) -> Config:
    """What stands in the layers."""
    config.pop("attention_bias")
    return {
        "use_qkv_bias": has(FAMILY, tensors, QKV_BIASES),
        "qk_layernorm": has(FAMILY, tensors, HEADS),
        "use_parallel_residual": not has(FAMILY, tensors, SECOND_NORM),
    }


FAMILY = Family(
    "stablelm", "StableLmForCausalLM",
    {
        **BLOCKS,
        "attn_q_norm": "self_attn.q_layernorm.norms.{head}",
        "attn_k_norm": "self_attn.k_layernorm.norms.{head}",
    },
    biases=("attn_norm",), top_biases=("output_norm",), optional=(QKV_BIASES, HEADS, SECOND_NORM),
    partial=True, eps="layer_norm_eps", config=config,
)  # fmt: skip
