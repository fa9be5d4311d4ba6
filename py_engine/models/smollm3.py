"""SmolLM3: Llama in which some layers have no positions: every fourth, or those with a 0 in no_rope_layers.

Paper: Yang et al. 2025, arXiv:2501.18795 (layers without positions). Reference: transformers,
models/smollm3/modeling_smollm3.py. Tried with: tiny random checkpoints.
"""

from __future__ import annotations

from py_engine.blocks.dense import decoder
from py_engine.blocks.layers import Model
from py_engine.errors import ModelError
from py_engine.sources.config import (
    FULL,
    MAX_LAYERS,
    SLIDING,
    Config,
    require_bool,
    require_int,
    short,
)
from py_engine.weights.store import WeightStore

# What transformers' SmolLM3Config assumes.
DEFAULTS = {
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rope_theta": 2e6,
    "tie_word_embeddings": True,
}


def build(config: Config, store: WeightStore) -> Model:
    """The decoder."""
    bias = require_bool(config, "attention_bias", False)
    config = {**DEFAULTS, **config}
    rotates = _rotates(config)
    return decoder(
        _windowed(config, rotates), store, bias=bias, out_bias=bias, rotates=rotates,
        mlp_bias=require_bool(config, "mlp_bias", False),
    )  # fmt: skip


def _rotates(config: Config) -> list[bool]:
    """Which layers have rotary positions."""
    count = require_int(config, "num_hidden_layers", 1, MAX_LAYERS)
    every = require_int(config, "no_rope_layer_interval", 1, MAX_LAYERS, 4)
    given = config.get("no_rope_layers")
    if given is None:
        given = [int((i + 1) % every != 0) for i in range(count)]
    if not isinstance(given, list) or len(given) < count or any(v not in (0, 1) for v in given):
        raise ModelError(
            f"config.json: no_rope_layers is {short(given)}, expected 0 or 1 for each of {count} layers."
        )
    return [v == 1 for v in given[:count]]


def _windowed(config: Config, rotates: list[bool]) -> Config:
    """The config with the sliding layers that layer_types names. Without it, layers without positions slide if
    use_sliding_window is true."""
    if config.get("layer_types") is not None:
        return config
    if not require_bool(config, "use_sliding_window", False) or not config.get("sliding_window"):
        return config
    return {**config, "layer_types": [FULL if turns else SLIDING for turns in rotates]}
