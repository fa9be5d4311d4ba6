"""Hunyuan (dense, V1): Llama whose q and k are normalised per head after RoPE.

Reference: transformers, models/hunyuan_v1_dense/modeling_hunyuan_v1_dense.py. Its rope type "dynamic" with an alpha is
static: the base is scaled once, base * alpha^(d / (d - 2)) (NTK-aware scaling). Tried with: tiny random checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from py_engine.blocks.dense import Checkpoint, Sizes, decoder
from py_engine.blocks.layers import Attention, Model
from py_engine.errors import ModelError
from py_engine.sources.config import Config, require_bool, require_float, require_int
from py_engine.weights.store import WeightStore

# What transformers' HunYuanDenseV1Config assumes. It has no sliding layers.
DEFAULTS = {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 1e4}


def build(config: Config, store: WeightStore) -> Model:
    """The decoder."""
    if require_bool(config, "use_cla", False):
        raise ModelError(
            "config.json: use_cla is true: keys and values shared between layers are not supported"
        )
    if require_int(config, "num_experts", 0, 1024, 1) > 1:
        raise ModelError("config.json: num_experts is above 1: a mixture of experts, not supported")
    config = {**DEFAULTS, **config, "layer_types": None}
    d = Sizes.of(config).head_dim
    for key in ("rope_scaling", "rope_parameters"):
        if given := config.get(key):
            config = {**config, key: _stretched(given, config, d)}
    bias = require_bool(config, "attention_bias", False)
    return decoder(config, store, bias=bias, out_bias=bias, refine=_normed)


def _stretched(given: Any, config: Config, d: int) -> Any:
    """rope_scaling or rope_parameters, with the base scaled by alpha."""
    if not isinstance(given, Mapping) or not given.get("alpha"):
        return given
    if given.get("rope_type", given.get("type")) != "dynamic":
        return given
    theta = require_float({"rope_theta": config["rope_theta"], **given}, "rope_theta", 1.0, 1e12)
    alpha = require_float(given, "alpha", 1e-3, 1e6)
    return {"rope_type": "default", "rope_theta": theta * alpha ** (d / (d - 2))}


def _normed(weights: Checkpoint, layer: int, attention: Attention) -> Attention:
    at, d = f"layers.{layer}.self_attn.", attention.head_dim
    return replace(
        attention,
        q_norm=weights.norm(f"{at}query_layernorm", d),
        k_norm=weights.norm(f"{at}key_layernorm", d),
        norm_last=True,
    )
