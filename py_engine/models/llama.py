"""Llama and models built like it: pre-norm decoder, grouped queries, SwiGLU; biases only where the config asks.

Paper: Touvron et al. 2023, arXiv:2302.13971. Reference: transformers, models/llama/modeling_llama.py.
Tried with: SmolLM2-135M-Instruct (GGUF, converted to MLX layout).
"""

from __future__ import annotations

from py_engine.blocks.dense import decoder
from py_engine.blocks.layers import Model
from py_engine.sources.config import Config, require_bool
from py_engine.weights.store import WeightStore

# What transformers' LlamaConfig assumes. It has no sliding layers: a layer_types in the file is not read.
DEFAULTS = {"max_position_embeddings": 2048, "rope_theta": 1e4}


def build(config: Config, store: WeightStore) -> Model:
    """The decoder."""
    bias = require_bool(config, "attention_bias", False)
    return decoder(
        {**DEFAULTS, **config, "layer_types": None}, store,
        bias=bias, out_bias=bias, mlp_bias=require_bool(config, "mlp_bias", False),
    )  # fmt: skip
