"""OLMo 2, and OLMo 3 (which has windows): norms after each branch only, norms of q and k over all heads at once."""

from __future__ import annotations

from py_engine.convert.common_names import ATTENTION, ATTENTION_BIASES, HEAD_NORMS, MLP
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
    """What makes it an OLMo 3: the window, and which layers have it."""
    if metadata.get("attention.sliding_window") is None:
        return {}
    return {
        "model_type": "olmo3",
        "architectures": ["Olmo3ForCausalLM"],
        "sliding_window": metadata.integer("attention.sliding_window", 1, 1 << 24),
        "layer_types": metadata.sliding_layers(config["num_hidden_layers"], 4),
    }


FAMILY = Family(
    "olmo2", "Olmo2ForCausalLM", BLOCKS, wide_norms=True, optional=(ATTENTION_BIASES,),
    config=config,
)  # fmt: skip
