"""Command R7B: one LayerNorm for both branches, which stand side by side; three layers of four have a window."""

from __future__ import annotations

from py_engine.convert.common_names import ATTENTION, MLP
from py_engine.convert.family import Config, Family, Tensors
from py_engine.convert.metadata import Metadata

BLOCKS = {"attn_norm": "input_layernorm", **ATTENTION, **MLP}


def config(metadata: Metadata, config: Config, tensors: Tensors) -> Config:
    """The scale of the logits; windows."""
    return {
        "logit_scale": metadata.number("logit_scale", 0.0, 1e6),
        "sliding_window": metadata.integer("attention.sliding_window", 1, 1 << 24),
        "layer_types": metadata.sliding_layers(config["num_hidden_layers"], 4),
    }


FAMILY = Family(
    "cohere2", "Cohere2ForCausalLM", BLOCKS, eps="layer_norm_eps",
    carries=frozenset({"logit_scale"}), config=config,
)  # fmt: skip
