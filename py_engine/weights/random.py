"""`random:PRESET[-4bit]`: the shapes of a published model, with weights from a hash that runs on the GPU. For measuring
speed and memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from py_engine.abort import Abort
from py_engine.graph.kernels import Kernels
from py_engine.graph.matrix import Matrix
from py_engine.graph.plan import Planner
from py_engine.graph.submit import SubmitStrategy, default_strategy
from py_engine.graph.trace import Tensor, Trace
from py_engine.host.gpu import Gpu
from py_engine.ops import layout
from py_engine.sources.config import DENSE_MODULES, Config, Part, quantization
from py_engine.weights.formats import Layer, Quantization, StorageForm, quantised
from py_engine.weights.store import Rows, WeightStore


def _dense(number: int, given: int, out: int) -> Part:
    """The config of a Dense module."""
    values = {
        "in_features": given,
        "out_features": out,
        "bias": False,
        "activation_function": _IDENTITY,
    }
    return Part(values, file=f"{number}_Dense/config.json")


_IDENTITY = "torch.nn.modules.linear.Identity"
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
    },
}
_SHAPES["qwen3.5-0.8b"] = {
    "model_type": "qwen3_5_text",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "intermediate_size": 3584,
    "vocab_size": 248320,
    "full_attention_interval": 4,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e7,
        "partial_rotary_factor": 0.25,
    },
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 262144,
}
_SHAPES["lfm2.5-350m"] = {
    "model_type": "lfm2",
    "hidden_size": 1024,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "block_ff_dim": 6656,
    "block_multiple_of": 256,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": True,
    "conv_L_cache": 3,
    "conv_bias": False,
    "full_attn_idxs": [2, 5, 8, 10, 12, 14],
    "vocab_size": 65536,
    "rope_theta": 1e6,
    "norm_eps": 1e-5,
    "max_position_embeddings": 128000,
}
_BERT = {
    "model_type": "bert",
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}
_SHAPES["minilm-l6"] = _BERT  # all-MiniLM-L6-v2
_SHAPES["bge-small"] = {**_BERT, "num_hidden_layers": 12}  # bge-small-en-v1.5
_SHAPES["embeddinggemma-300m"] = {
    **_SHAPES["gemma3-270m"],
    "hidden_size": 768,
    "num_hidden_layers": 24,
    "num_attention_heads": 3,
    "intermediate_size": 1152,
    "max_position_embeddings": 2048,
    "use_bidirectional_attention": True,
    DENSE_MODULES: [_dense(2, 768, 3072), _dense(3, 3072, 768)],
}
# Their towers: 4 bits leave them plain, as published conversions do.
_SHAPES["qwen3.5-0.8b-vl"] = {
    **_SHAPES["qwen3.5-0.8b"],
    "model_type": "qwen3_5",
    "vision_config": {
        "depth": 12,
        "hidden_size": 768,
        "num_heads": 12,
        "intermediate_size": 3072,
        "in_channels": 3,
        "patch_size": 16,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "out_hidden_size": 1024,
        "num_position_embeddings": 2304,
    },
}
_SHAPES["lfm2.5-vl-450m"] = {
    **_SHAPES["lfm2.5-350m"],
    "model_type": "lfm2_vl",
    "downsample_factor": 2,
    "projector_hidden_size": 2560,
    "projector_use_layernorm": True,
    "vision_config": {},
}
# Not a published model: one layer of each kind, to test a device with (diagnostics/dispatch_tests.py).
_SHAPES["tiny"] = {
    **_SHAPES["qwen3.5-0.8b"],
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 256,
    "vocab_size": 512,
    "full_attention_interval": 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "max_position_embeddings": 4096,
}
PRESETS: dict[str, dict[str, Any]] = {
    **_SHAPES,
    **{
        f"{name}-4bit": {**shape, "quantization": {"group_size": 64, "bits": 4}}
        for name, shape in _SHAPES.items()
    },
}


class RandomStore(WeightStore):
    """A WeightStore without files. Matrices are uniform in +-sqrt(3 / cols), so that a product is as large as its
    input; vectors are 0 (for norms that add 1) or 1. The hash works on integers, so every host gets the same
    weights."""

    def __init__(self, gpu: Gpu, config: Config, form: StorageForm) -> None:
        packing = quantization(config)
        given = packing.default if packing else None
        packed = Quantization(given.bits or 4, given.group_size or 64) if given else None
        super().__init__(gpu, {}, lambda _: packed, form=form, family="random")
        self._given = packed
        self._fills: list[tuple[Tensor, Matrix | None]] = []

    def has(self, name: str) -> bool:
        """True, except for a head of its own: embeddings are tied."""
        return not name.endswith("lm_head.weight")

    def has_under(self, prefix: str) -> bool:
        """True: every tensor that is asked for exists."""
        return True

    async def fill(
        self, kernels: Kernels, abort: Abort, strategy: SubmitStrategy | None = None
    ) -> None:
        """Fill every buffer from the hash."""
        for seed, (target, matrix) in enumerate(self._fills):
            abort.check()
            trace = Trace(1, self._gpu.features)
            layout.random(trace, target, matrix, seed)
            planner = Planner(self._gpu, kernels, strategy or default_strategy())
            planner.reserve([trace])
            plan = await planner.lower([trace])
            await self._gpu.replay(plan.recording)
            if seed % 16 == 0:
                await self._gpu.idle()

    def _layer(self, name: str, rows: int, wanted: Rows) -> Layer:
        cols, plain = wanted.cols, wanted.plain or bool(wanted.channels)
        if self._given is None or plain:
            return Layer(self._plain("BF16", cols, plain))
        return Layer(quantised("q4", cols, self._given.group_size, "bf16"))

    def _rows_jobs(self, layer: Layer, matrix: Matrix, lo: int, hi: int, target_row: int) -> None:
        if target_row == 0:  # the whole matrix at once, with its first source
            self._fills.append((matrix.weight, matrix))

    def _vector_job(
        self, name: str, allowed: Sequence[tuple[int, ...]], target: Tensor, element: int
    ) -> None:
        if element == 0:
            self._fills.append((target, None))
