"""Qwen3 (dense): Qwen2's block without biases, q and k normalised per head before RoPE, head_dim of its own.

Paper: Qwen3 Technical Report, arXiv:2505.09388. Reference: transformers, models/qwen3/modeling_qwen3.py.
Tried with: tiny random checkpoints; the shapes of Qwen3-0.6B.
"""

from __future__ import annotations

from py_engine.models import qwen2
from py_engine.models.layers import Model
from py_engine.weights.config import Config, require_bool
from py_engine.weights.store import WeightStore


def build(config: Config, store: WeightStore) -> Model:
    """The decoder."""
    return qwen2.build(
        config, store, bias=require_bool(config, "attention_bias", False), head_norms=True
    )
