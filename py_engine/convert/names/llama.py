"""Llama, and what is built like it: Mistral, SmolLM2, TinyLlama.

llama.cpp keeps q and k with the two halves of each head side by side. Its files do not hold the window of Mistral 7B
v0.1 (4096 tokens): longer texts are attended to whole, as in llama.cpp.
"""

from __future__ import annotations

from py_engine.convert.common_names import ATTENTION_BIASES, BLOCKS, MLP_BIASES
from py_engine.convert.family import Config, Family, Tensors, has
from py_engine.convert.metadata import Metadata


def config(metadata: Metadata, config: Config, tensors: Tensors) -> Config:
    """Whether the layers have biases."""
    return {"mlp_bias": has(FAMILY, tensors, MLP_BIASES)}


FAMILY = Family(
    "llama", "LlamaForCausalLM", BLOCKS, paired=True,
    optional=(ATTENTION_BIASES, MLP_BIASES), config=config,
)  # fmt: skip
