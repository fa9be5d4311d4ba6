"""Nemotron and Minitron: LayerNorms with one added to their weights, squared ReLU without a gate, a part of each head
rotated."""

from __future__ import annotations

from py_engine.convert.common_names import ATTENTION, ATTENTION_BIASES, NORMS
from py_engine.convert.family import Config, Family, Tensors, has
from py_engine.convert.metadata import Metadata

MLP_BIASES = ("ffn_up.bias", "ffn_down.bias")


def config(metadata: Metadata, config: Config, tensors: Tensors) -> Config:
    """Whether the MLP has biases."""
    return {"mlp_bias": has(FAMILY, tensors, MLP_BIASES)}


FAMILY = Family(
    "nemotron", "NemotronForCausalLM",
    {**NORMS, **ATTENTION, "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"},
    biases=("attn_norm", "ffn_norm"), top_biases=("output_norm",),
    optional=(ATTENTION_BIASES, MLP_BIASES), norm_offset=1.0, partial=True, gated=False,
    eps="norm_eps", fixed={"hidden_act": "relu2"}, config=config,
)  # fmt: skip
