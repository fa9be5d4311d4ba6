"""Qwen3 (dense): Qwen2's block with biases only where attention_bias asks, q and k normalised per head before RoPE.

Paper: Qwen3 Technical Report, arXiv:2505.09388. Reference: transformers, models/qwen3/modeling_qwen3.py.
Tried with: tiny random checkpoints; the shapes of Qwen3-0.6B.
"""

from __future__ import annotations

from py_engine.blocks.dense import decoder
from py_engine.blocks.layers import Model
from py_engine.models import qwen2
from py_engine.sources.config import Config, require_bool
from py_engine.weights.store import WeightStore

# What transformers' Qwen3Config assumes.
DEFAULTS = {**qwen2.DEFAULTS, "head_dim": 128}


def build(config: Config, store: WeightStore) -> Model:
    """The decoder."""
    bias = require_bool(config, "attention_bias", False)
    return decoder(
        qwen2.windowed({**DEFAULTS, **config}), store, bias=bias, out_bias=bias, head_norms=True
    )
