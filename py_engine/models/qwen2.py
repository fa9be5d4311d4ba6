"""Qwen2 and Qwen2.5: pre-norm decoder, grouped queries, biases on q, k and v, SwiGLU.

Paper: Qwen2 Technical Report, arXiv:2407.10671. Reference: transformers, models/qwen2/modeling_qwen2.py.
Tried with: Qwen2.5-Coder-0.5B-Instruct (GGUF, converted to MLX layout).
"""

from __future__ import annotations

from py_engine.blocks.dense import decoder
from py_engine.blocks.layers import Model
from py_engine.sources.config import FULL, MAX_LAYERS, SLIDING, Config, require_bool, require_int
from py_engine.weights.store import WeightStore

# What transformers' Qwen2Config assumes.
DEFAULTS = {
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "rope_theta": 1e4,
}


def build(config: Config, store: WeightStore) -> Model:
    """The decoder."""
    return decoder(windowed({**DEFAULTS, **config}), store, bias=True)


def windowed(config: Config) -> Config:
    """`config` with layer_types. If use_sliding_window is true, layers from max_window_layers on slide. Else no layer
    slides, although published configs set sliding_window."""
    config = {"sliding_window": 4096, **config}
    if not require_bool(config, "use_sliding_window", False):
        config = {**config, "sliding_window": None}
    if "layer_types" in config or config["sliding_window"] is None:
        return config
    count = require_int(config, "num_hidden_layers", 1, MAX_LAYERS)
    first = require_int(config, "max_window_layers", 0, 1 << 20, 28)  # may be past the last layer
    return {**config, "layer_types": [SLIDING if i >= first else FULL for i in range(count)]}
