"""Hunyuan (dense): norms of q and k by head, after the rotation. The file holds the stretched base."""

from __future__ import annotations

from py_engine.convert.common_names import ATTENTION_BIASES, BLOCKS
from py_engine.convert.family import Family

FAMILY = Family(
    "hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM",
    {
        **BLOCKS,
        "attn_q_norm": "self_attn.query_layernorm",
        "attn_k_norm": "self_attn.key_layernorm",
    },
    optional=(ATTENTION_BIASES,),
)  # fmt: skip
