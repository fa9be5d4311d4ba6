"""SmolLM3: a Llama of which every fourth layer rotates nothing."""

from __future__ import annotations

from py_engine.convert.common_names import ATTENTION_BIASES, BLOCKS, MLP_BIASES
from py_engine.convert.family import Config, Family, Tensors, has
from py_engine.convert.metadata import Metadata


def config(metadata: Metadata, config: Config, tensors: Tensors) -> Config:
    """Which layers rotate. The file does not say it: llama.cpp knows it by architecture."""
    layers = config["num_hidden_layers"]
    return {
        "no_rope_layers": [int((layer + 1) % 4 != 0) for layer in range(layers)],
        "no_rope_layer_interval": 4,
        "layer_types": ["full_attention"] * layers,
        "mlp_bias": has(FAMILY, tensors, MLP_BIASES),
    }


FAMILY = Family(
    "smollm3", "SmolLM3ForCausalLM", BLOCKS, paired=True,
    optional=(ATTENTION_BIASES, MLP_BIASES), config=config,
    fixed={"hidden_act": "silu", "use_sliding_window": False, "sliding_window": None},
)  # fmt: skip
