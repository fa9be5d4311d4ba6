"""Qwen3 (dense): q and k are normalised head by head."""

from __future__ import annotations

from py_engine.convert.common_names import ATTENTION_BIASES, BLOCKS, HEAD_NORMS
from py_engine.convert.family import Family

FAMILY = Family(
    "qwen3", "Qwen3ForCausalLM", {**BLOCKS, **HEAD_NORMS}, optional=(ATTENTION_BIASES,),
    fixed={"hidden_act": "silu", "use_sliding_window": False},
)  # fmt: skip
