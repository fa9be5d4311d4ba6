"""Seed-OSS: a Llama with biases on q, k and v; its second norm is called after the attention."""

from __future__ import annotations

from py_engine.convert.common_names import ATTENTION, MLP, MLP_BIASES, QKV_BIASES
from py_engine.convert.family import Config, Family, Tensors, has
from py_engine.convert.metadata import Metadata

OUT_BIAS = ("attn_output.bias",)


def config(metadata: Metadata, config: Config, tensors: Tensors) -> Config:
    """Which linears have biases."""
    return {
        "attention_bias": has(FAMILY, tensors, QKV_BIASES),
        "attention_out_bias": has(FAMILY, tensors, OUT_BIAS),
        "mlp_bias": has(FAMILY, tensors, MLP_BIASES),
    }


FAMILY = Family(
    "seed_oss", "SeedOssForCausalLM",
    {
        "attn_norm": "input_layernorm",
        "post_attention_norm": "post_attention_layernorm",
        **ATTENTION,
        **MLP,
    },
    optional=(QKV_BIASES, OUT_BIAS, MLP_BIASES), config=config,
)  # fmt: skip
