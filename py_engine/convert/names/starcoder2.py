"""StarCoder2: LayerNorms, biases everywhere, an MLP without a gate."""

from __future__ import annotations

from py_engine.convert.common_names import ATTENTION, NORMS
from py_engine.convert.family import Config, Family, Tensors
from py_engine.convert.metadata import Metadata

BLOCKS = {**NORMS, **ATTENTION, "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}


def config(metadata: Metadata, config: Config, tensors: Tensors) -> Config:
    """The window: the published models were trained with one, which their files leave out."""
    window = metadata.integer("attention.sliding_window", 0, 1 << 24, 0)
    return {"sliding_window": window or None}


FAMILY = Family(
    "starcoder2", "Starcoder2ForCausalLM", BLOCKS, biases=tuple(BLOCKS), top_biases=("output_norm",),
    gated=False, eps="norm_epsilon", config=config,
    fixed={"hidden_act": "gelu_pytorch_tanh", "use_bias": True},
)  # fmt: skip
