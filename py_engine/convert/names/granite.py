"""Granite 3 (dense): a Llama with four multipliers."""

from __future__ import annotations

from py_engine.convert.common_names import ATTENTION_BIASES, BLOCKS, MLP_BIASES
from py_engine.convert.family import Config, Family, Tensors, has
from py_engine.convert.metadata import Metadata

# GGUF's names of the multipliers -> Hugging Face's. A file leaves out those that are zero.
MULTIPLIERS = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}


def config(metadata: Metadata, config: Config, tensors: Tensors) -> Config:
    """The multipliers. Without one for attention llama.cpp divides by the root of the head size, as usual."""
    usual = config["head_dim"] ** -0.5
    made: Config = {
        theirs: metadata.number(key, 0.0, 1e6, usual if key == "attention.scale" else 1.0)
        for key, theirs in MULTIPLIERS.items()
    }
    return {**made, "mlp_bias": has(FAMILY, tensors, MLP_BIASES)}


FAMILY = Family(
    "granite", "GraniteForCausalLM", BLOCKS, paired=True, carries=frozenset(MULTIPLIERS),
    optional=(ATTENTION_BIASES, MLP_BIASES), config=config,
)  # fmt: skip
