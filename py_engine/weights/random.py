"""`random:PRESET[-4bit]`: a published model's shapes with weights from a hash on the GPU, for speed and memory runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from py_engine.abort import Abort
from py_engine.graph.kernels import Kernels
from py_engine.graph.matrix import Linear
from py_engine.graph.plan import Planner
from py_engine.graph.submit import SingleSubmit
from py_engine.graph.trace import Tensor, Trace
from py_engine.host.gpu import Gpu
from py_engine.inputs.tokenizer import Tokenizer
from py_engine.ops import layout
from py_engine.weights.config import quantization_of
from py_engine.weights.store import WeightStore

_SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": {
        "model_type": "qwen3",
        "hidden_size": 1024,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
        "vocab_size": 151936,
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": True,
    },
    "gemma3-270m": {
        "model_type": "gemma3_text",
        "hidden_size": 640,
        "num_hidden_layers": 18,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "intermediate_size": 2048,
        "vocab_size": 262144,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    },
}
PRESETS: dict[str, dict[str, Any]] = {
    **_SHAPES,
    **{
        f"{name}-4bit": {**shape, "quantization": {"group_size": 64, "bits": 4}}
        for name, shape in _SHAPES.items()
    },
}


class _Everything(Mapping[str, Any]):
    """A checkpoint that has whatever tensor is asked for, in the shape it is asked for."""


class RandomStore(WeightStore):
    """A WeightStore without files: matrices uniform in +-sqrt(3 / cols), so that a product keeps its input's size;
    vectors near their neutral value. The hash is of integers, so every host gets the same weights."""

    def __init__(self, gpu: Gpu, config: Mapping[str, Any]) -> None:
        super().__init__(gpu, {}, quantization_of(config), narrow=False, family="random")
        self._fills: list[tuple[str, Tensor | Linear, int]] = []
