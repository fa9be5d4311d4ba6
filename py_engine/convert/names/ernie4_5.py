"""ERNIE 4.5 (dense): a Llama that rotates neighbours, so q and k stand as in its own files."""

from __future__ import annotations

from py_engine.convert.common_names import BLOCKS
from py_engine.convert.family import Family

FAMILY = Family(
    "ernie4_5", "Ernie4_5ForCausalLM", BLOCKS, fixed={"hidden_act": "silu", "use_bias": False}
)
