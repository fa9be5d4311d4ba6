"""EXAONE 4.0: norms after each branch only, norms of q and k by head; layers with a window rotate, full ones do not."""

from __future__ import annotations

from py_engine.convert.common_names import ATTENTION, HEAD_NORMS, MLP
from py_engine.convert.family import Config, Family, Tensors
from py_engine.convert.metadata import Metadata

BLOCKS = {
    **ATTENTION,
    **HEAD_NORMS,
    **MLP,
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def config(metadata: Metadata, config: Config, tensors: Tensors) -> Config:
    """Windows; a file of the 1.2B model has none, and all its layers rotate."""
    layers = config["num_hidden_layers"]
    if metadata.get("attention.sliding_window") is None:
        return {
            "sliding_window": None,
            "sliding_window_pattern": None,
            "layer_types": ["full_attention"] * layers,
        }
    return {
        "sliding_window": metadata.integer("attention.sliding_window", 1, 1 << 24),
        "layer_types": metadata.sliding_layers(layers, 4),
    }


FAMILY = Family("exaone4", "Exaone4ForCausalLM", BLOCKS, config=config)
