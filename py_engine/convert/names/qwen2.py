"""Qwen2 and Qwen2.5: biases on q, k and v."""

from __future__ import annotations

from py_engine.convert.common_names import BLOCKS
from py_engine.convert.family import Family

FAMILY = Family(
    "qwen2", "Qwen2ForCausalLM", BLOCKS, biases=("attn_q", "attn_k", "attn_v"),
    fixed={"hidden_act": "silu", "use_sliding_window": False},
)  # fmt: skip
