"""Makes the tiny random checkpoints of tests/goldens/<name>/ and their golden.npz.

Run with a Python that has torch, transformers, mlx_lm, safetensors and tokenizers (golden.npz stores the versions
used):

    pip install '.[goldens]'
    python -m tests.goldens.make_goldens [name ...]

A new family is an entry in families.py: config and weights then come from transformers' own model. CHECKPOINTS below
are older, and written by hand.

The engine takes no part in this. The reference for a plain checkpoint is transformers in float32 on the CPU, which
reads the committed config.json itself. A quantised checkpoint is made by mlx_lm's own conversion. Its reference is
transformers in float32 on the exactly dequantised weights, and is checked here against mlx_lm's own forward pass with
the packed ones.

The sizes are odd on purpose: no width is a multiple of a workgroup unless a quantisation group needs it. The weights
are scaled so that the logits spread over a few units and attention matters. A kernel that attends to the wrong keys
then changes the logits by far more than the tolerance; the asserts at the end of `make` prove that.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import tempfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import torch
import transformers
from mlx_lm.utils import load_model, quantize_model, save_config, save_model
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    Gemma3ForCausalLM,
    Lfm2ForCausalLM,
    LlamaForCausalLM,
    Qwen2ForCausalLM,
    Qwen3_5ForCausalLM,
    Qwen3ForCausalLM,
)

from tests.goldens.families import FAMILIES, Family

HERE = Path(__file__).parent
LENGTHS = (1, 7, 65, 300, 600)
# Chunked forms of recurrences have their border at 64.
HYBRID_LENGTHS = (1, 7, 63, 64, 65, 300)
NEW_TOKENS = 32
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
CLASSES = {
    "llama": LlamaForCausalLM,
    "qwen2": Qwen2ForCausalLM,
    "qwen3": Qwen3ForCausalLM,
    "gemma3_text": Gemma3ForCausalLM,
    "gemma3": Gemma3ForCausalLM,
    "qwen3_5": Qwen3_5ForCausalLM,
    "lfm2": Lfm2ForCausalLM,
}


@dataclass(frozen=True)
class Checkpoint:
    """One tiny checkpoint. `config` is the text part of config.json, as written to the file."""

    name: str
    family: str
    config: dict[str, Any]
    dtype: str
    tied: bool = True
    shards: int = 1
    multimodal: bool = False  # config in text_config, prefixed names, and tensors of other parts
    bits: int = 0  # 0: plain floats
    group: int = 64
    overrides: dict[str, Any] = field(default_factory=dict)  # end of a module's path -> override
    new_style: bool = False  # rewrite the converted config.json in the new style
    lengths: tuple[int, ...] = LENGTHS
    vision: bool = False  # MLX: as mlx_vlm writes it, with a vision tower that is not quantised


def sizes(h, heads, kv, d, mlp, vocab, layers):
    """The keys that every family shares."""
    return {
        "hidden_size": h,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "head_dim": d,
        "intermediate_size": mlp,
        "vocab_size": vocab,
        "num_hidden_layers": layers,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "eos_token_id": None,
        "bos_token_id": None,
        "pad_token_id": None,
    }


def without(config, *keys):
    """`config` without some keys, for configs that rely on a default."""
    return {key: value for key, value in config.items() if key not in keys}


SLIDING, FULL = "sliding_attention", "full_attention"
QWEN = {"hidden_act": "silu", "rope_theta": 1e6}
QWEN3 = {**QWEN, "attention_bias": False}
LLAMA3 = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rope_theta": 5e5,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}
GEMMA = {
    "hidden_activation": "gelu_pytorch_tanh",
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "attention_bias": False,
}

LINEAR, CONV = "linear_attention", "conv"


def qwen3_5(key_heads, value_heads, dk, dv, taps=4):
    """The keys of Qwen3.5 beside those of `sizes`, in the new style."""
    return {
        "hidden_act": "silu",
        "attention_bias": False,
        "attn_output_gate": True,
        "linear_num_key_heads": key_heads,
        "linear_num_value_heads": value_heads,
        "linear_key_head_dim": dk,
        "linear_value_head_dim": dv,
        "linear_conv_kernel_dim": taps,
        "mamba_ssm_dtype": "float32",
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e7,
            "partial_rotary_factor": 0.25,
            "mrope_section": [2, 1, 1],
            "mrope_interleaved": True,
        },
    }


def lfm2(h, heads, kv, ff, vocab, layers, taps=3):
    """config.json of LFM2, without the list of layers that attend."""
    return {
        **without(
            sizes(h, heads, kv, 0, ff, vocab, layers),
            "head_dim",
            "rms_norm_eps",
            "intermediate_size",
        ),
        "norm_eps": 1e-5,
        "rope_theta": 1e6,
        "block_dim": h,
        "block_ff_dim": ff,
        "block_multiple_of": 10,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": True,
        "conv_L_cache": taps,
        "conv_bias": False,
        "conv_dim": h,
    }


CHECKPOINTS = [
    # --- plain -----------------------------------------------------------------------------------
    Checkpoint(  # 3 query heads a kv head; published Qwen2 configs name no head_dim
        "qwen2-f32",
        "qwen2",
        without({**sizes(60, 3, 1, 20, 106, 257, 2), **QWEN}, "head_dim"),
        "f32",
    ),
    Checkpoint(
        "qwen2-yarn-untied-f16",
        "qwen2",
        {
            **without(sizes(64, 4, 4, 16, 90, 301, 2), "head_dim"),
            "hidden_act": "silu",
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
        "f16",
        tied=False,
        shards=3,
    ),
    Checkpoint(
        "qwen3-bf16",
        "qwen3",
        {**sizes(48, 4, 2, 32, 100, 515, 3), **QWEN3},
        "bf16",
        shards=2,
    ),
    Checkpoint(
        "qwen3-llama3-untied-f32",
        "qwen3",
        {
            **sizes(52, 4, 1, 24, 72, 333, 2),
            **QWEN3,
            "rope_theta": 5e5,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
        "f32",
        tied=False,
    ),
    Checkpoint(  # new style; layer_types overrides every pattern
        "gemma3-text-bf16",
        "gemma3_text",
        {
            **sizes(48, 4, 1, 24, 84, 322, 5),
            **without(GEMMA, "rope_theta", "rope_local_base_freq"),
            "query_pre_attn_scalar": 20,
            "sliding_window": 16,
            "layer_types": [SLIDING, FULL, SLIDING, SLIDING, FULL],
            "rope_parameters": {
                SLIDING: {"rope_type": "default", "rope_theta": 1e4},
                FULL: {"rope_type": "default", "rope_theta": 1e6},
            },
        },
        "bf16",
    ),
    Checkpoint(  # old style with the 4B's linear scaling, which only full layers use
        "gemma3-text-linear-f16",
        "gemma3_text",
        {
            **sizes(66, 2, 1, 16, 90, 301, 4),
            **GEMMA,
            "query_pre_attn_scalar": 11,
            "sliding_window": 20,
            "sliding_window_pattern": 3,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        },
        "f16",
    ),
    Checkpoint(  # the multimodal file's names; default eps, bases, pattern of 6 and activation
        "gemma3-multimodal-bf16",
        "gemma3",
        {
            **without(sizes(48, 2, 2, 20, 70, 257, 7), "rms_norm_eps"),
            "query_pre_attn_scalar": 30,
            "sliding_window": 16,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        },
        "bf16",
        multimodal=True,
    ),
    Checkpoint(  # as Llama 3.2 1B: head_dim given, tied, scaled positions
        "llama3-bf16",
        "llama",
        {**sizes(60, 3, 1, 20, 100, 301, 2), **LLAMA3},
        "bf16",
    ),
    Checkpoint(  # every bias that the config can ask for; heads wider than hidden_size / heads
        "llama-biases-untied-f32",
        "llama",
        {
            **sizes(48, 4, 2, 20, 70, 257, 2),
            "hidden_act": "silu",
            "attention_bias": True,
            "mlp_bias": True,
            "rope_theta": 1e4,
        },
        "f32",
        tied=False,
    ),
    # --- quantised by mlx_lm ---------------------------------------------------------------------
    Checkpoint(
        "qwen2-mlx4-g64",
        "qwen2",
        without({**sizes(64, 2, 1, 32, 192, 321, 2), **QWEN}, "head_dim"),
        "bf16",
        bits=4,
    ),
    Checkpoint(
        "qwen2-mlx8-g32-untied",
        "qwen2",
        without({**sizes(96, 3, 3, 32, 160, 259, 2), **QWEN}, "head_dim"),
        "f16",
        tied=False,
        bits=8,
        group=32,
    ),
    Checkpoint(
        "qwen3-mlx4-g32-untied-f32",
        "qwen3",
        {**sizes(64, 4, 2, 24, 96, 300, 2), **QWEN3},
        "f32",
        tied=False,
        bits=4,
        group=32,
    ),
    Checkpoint(
        "qwen3-mlx4-g128",
        "qwen3",
        {**sizes(128, 4, 1, 32, 256, 257, 2), **QWEN3},
        "bf16",
        bits=4,
        group=128,
        new_style=True,
    ),
    # o_proj (80 wide) and down_proj (160 wide) are not multiples of 64, so they stay plain.
    Checkpoint(
        "qwen3-mlx8-g64-ragged",
        "qwen3",
        {**sizes(64, 4, 2, 20, 160, 270, 2), **QWEN3},
        "bf16",
        bits=8,
    ),
    Checkpoint(  # every width, two group sizes, and an unquantised override
        "qwen3-mlx-mixed-untied",
        "qwen3",
        {**sizes(64, 6, 2, 32, 192, 290, 3), **QWEN3},
        "f16",
        tied=False,
        bits=4,
        overrides={
            "layers.0.self_attn.q_proj": {"group_size": 64, "bits": 3},
            "layers.0.self_attn.k_proj": {"group_size": 32, "bits": 5},
            "layers.0.self_attn.v_proj": {"group_size": 64, "bits": 6},
            "layers.0.mlp.gate_proj": {"group_size": 64, "bits": 2},
            "layers.0.mlp.up_proj": {"group_size": 32, "bits": 8},
            "layers.0.mlp.down_proj": {"group_size": 32, "bits": 3},
            "layers.1.self_attn.o_proj": {"group_size": 64, "bits": 5},
            "layers.1.mlp.gate_proj": {"group_size": 64, "bits": 6},
            "layers.1.mlp.up_proj": {"group_size": 64, "bits": 6},
            "layers.1.mlp.down_proj": False,
            "layers.2.self_attn.q_proj": False,
            "layers.2.mlp.down_proj": {"group_size": 64, "bits": 2},
            "embed_tokens": {"group_size": 64, "bits": 6},
            "lm_head": {"group_size": 32, "bits": 8},
        },
    ),
    Checkpoint(  # as TinyLlama: no head_dim, no scaling
        "llama-mlx4-g32-untied",
        "llama",
        {
            **without(sizes(64, 4, 2, 16, 96, 288, 2), "head_dim"),
            "hidden_act": "silu",
            "rope_theta": 1e4,
        },
        "bf16",
        tied=False,
        bits=4,
        group=32,
    ),
    Checkpoint(
        "gemma3-mlx4-g64",
        "gemma3_text",
        {
            **sizes(64, 4, 1, 32, 128, 331, 4),
            **GEMMA,
            "query_pre_attn_scalar": 24,
            "sliding_window": 16,
            "sliding_window_pattern": 3,
        },
        "bf16",
        bits=4,
    ),
    Checkpoint(  # 3-bit embedding: the tied matrix serves the lookup and the logits
        "gemma3-mlx8-g32-embed3",
        "gemma3_text",
        {
            **sizes(96, 3, 1, 32, 96, 285, 3),
            **GEMMA,
            "query_pre_attn_scalar": 32,
            "sliding_window": 24,
            "sliding_window_pattern": 2,
        },
        "f16",
        bits=8,
        group=32,
        overrides={"embed_tokens": {"group_size": 32, "bits": 3}},
    ),
    Checkpoint(
        "gemma3-multimodal-mlx4-mixed",
        "gemma3",
        {
            **sizes(64, 2, 1, 32, 64, 261, 4),
            **GEMMA,
            "query_pre_attn_scalar": 40,
            "sliding_window": 16,
            "sliding_window_pattern": 2,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        },
        "bf16",
        bits=4,
        multimodal=True,
        overrides={
            "layers.1.mlp.down_proj": {"group_size": 64, "bits": 6},
            "layers.2.mlp.down_proj": {"group_size": 64, "bits": 3},
            "layers.3.self_attn.v_proj": False,
        },
    ),
    # --- hybrids ---------------------------------------------------------------------------------
    Checkpoint(  # text only; the default pattern: every fourth layer attends
        "qwen3.5-bf16",
        "qwen3_5",
        {**sizes(60, 3, 1, 32, 90, 301, 4), **qwen3_5(3, 3, 12, 20)},
        "bf16",
        lengths=(*HYBRID_LENGTHS, 600),
    ),
    Checkpoint(  # three value heads share a key head; the file also holds vision and MTP tensors
        "qwen3.5-multimodal-untied-f32",
        "qwen3_5",
        {
            **sizes(52, 4, 2, 16, 70, 259, 4),
            **qwen3_5(2, 6, 16, 12, taps=3),
            "layer_types": [FULL, LINEAR, LINEAR, FULL],
        },
        "f32",
        tied=False,
        multimodal=True,
        lengths=HYBRID_LENGTHS,
    ),
    Checkpoint(
        "qwen3.5-mlx4-g64",
        "qwen3_5",
        {
            **sizes(64, 4, 1, 32, 128, 331, 4),
            **qwen3_5(4, 8, 32, 16),
            "full_attention_interval": 4,
        },
        "bf16",
        multimodal=True,
        bits=4,
        lengths=HYBRID_LENGTHS,
    ),
    Checkpoint(
        "qwen3.5-mlx-mixed-vision",
        "qwen3_5",
        {
            **sizes(64, 2, 2, 32, 96, 290, 4),
            **qwen3_5(2, 4, 36, 24),
            "full_attention_interval": 2,
        },
        "bf16",
        multimodal=True,
        bits=4,
        group=32,
        overrides={
            "embed_tokens": {"group_size": 64, "bits": 8},
            "layers.0.linear_attn.in_proj_qkv": {"group_size": 64, "bits": 8},
            "layers.0.linear_attn.in_proj_a": {"group_size": 32, "bits": 8},
            "layers.0.linear_attn.out_proj": {"group_size": 32, "bits": 6},
            "layers.1.self_attn.q_proj": {"group_size": 64, "bits": 5},
            "layers.2.linear_attn.in_proj_b": False,
            "layers.2.linear_attn.in_proj_z": False,
            "layers.3.mlp.down_proj": {"group_size": 32, "bits": 3},
        },
        vision=True,
        lengths=HYBRID_LENGTHS,
    ),
    Checkpoint(  # MLP width by the adjusting rule: 125 -> 83 -> 90
        "lfm2-bf16",
        "lfm2",
        {**lfm2(60, 3, 1, 125, 301, 4), "full_attn_idxs": [1, 3], "tie_embedding": True},
        "bf16",
        lengths=(*HYBRID_LENGTHS, 600),
    ),
    Checkpoint(
        "lfm2-conv-bias-untied-f32",
        "lfm2",
        {
            **lfm2(84, 3, 3, 85, 259, 4, taps=4),
            "layer_types": [CONV, CONV, FULL, CONV],
            "block_auto_adjust_ff_dim": False,
            "conv_bias": True,
        },
        "f32",
        tied=False,
        lengths=HYBRID_LENGTHS,
    ),
    Checkpoint(
        "lfm2-mlx4-g64",
        "lfm2",
        {
            **lfm2(64, 2, 1, 192, 321, 4),
            "block_multiple_of": 64,
            "full_attn_idxs": [2],
        },
        "bf16",
        bits=4,
        overrides={"embed_tokens": {"group_size": 64, "bits": 8}},
        lengths=HYBRID_LENGTHS,
    ),
]


# --- weights -------------------------------------------------------------------------------------
def random_weights(spec: Checkpoint) -> dict[str, torch.Tensor]:
    """Random weights under HF names (without a multimodal prefix), in the checkpoint's own float type."""
    if spec.family in ("qwen3_5", "lfm2"):
        return hybrid_weights(spec)
    rng = np.random.default_rng(zlib.crc32(spec.name.encode()))
    config, gemma = spec.config, spec.family.startswith("gemma3")
    h, heads = config["hidden_size"], config["num_attention_heads"]
    kv, mlp = config["num_key_value_heads"], config["intermediate_size"]
    d = config.get("head_dim", h // heads)
    state: dict[str, np.ndarray] = {}

    def matrix(name, rows, columns, gain):
        state[name] = rng.normal(0, gain / np.sqrt(columns), (rows, columns))

    def norm(name, width, centre=None):
        neutral = (0.0 if gemma else 1.0) if centre is None else centre
        state[name] = neutral + rng.normal(0, 0.25, width)

    # Embeddings are small beside the layers' outputs. Otherwise a tied head would only repeat its input. (Gemma
    # multiplies them by sqrt(h); its last norm makes up for that in the logits.)
    size = 0.1 if gemma else 0.3
    state["model.embed_tokens.weight"] = rng.normal(0, size, (config["vocab_size"], h))
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        matrix(at + "self_attn.q_proj.weight", heads * d, h, 1.8)
        matrix(at + "self_attn.k_proj.weight", kv * d, h, 1.8)
        matrix(at + "self_attn.v_proj.weight", kv * d, h, 1.0)
        matrix(at + "self_attn.o_proj.weight", h, heads * d, 2.0)
        matrix(at + "mlp.gate_proj.weight", mlp, h, 1.2)
        matrix(at + "mlp.up_proj.weight", mlp, h, 1.2)
        matrix(at + "mlp.down_proj.weight", h, mlp, 1.2)
        norm(at + "input_layernorm.weight", h)
        norm(at + "post_attention_layernorm.weight", h)
        if gemma:
            norm(at + "pre_feedforward_layernorm.weight", h)
            norm(at + "post_feedforward_layernorm.weight", h)
        rows_of = {"q": heads * d, "k": kv * d, "v": kv * d, "o": h}
        if spec.family == "qwen2":
            for which in "qkv":
                state[at + f"self_attn.{which}_proj.bias"] = rng.normal(0, 0.4, rows_of[which])
        elif spec.family == "llama":
            if config.get("attention_bias"):
                for which, rows in rows_of.items():
                    state[at + f"self_attn.{which}_proj.bias"] = rng.normal(0, 0.4, rows)
            if config.get("mlp_bias"):
                for which, rows in (("gate", mlp), ("up", mlp), ("down", h)):
                    state[at + f"mlp.{which}_proj.bias"] = rng.normal(0, 0.4, rows)
        else:
            norm(at + "self_attn.q_norm.weight", d, 0.7 if gemma else 1.7)
            norm(at + "self_attn.k_norm.weight", d, 0.7 if gemma else 1.7)
    norm("model.norm.weight", h, 2.0 if gemma else 1.0)
    if not spec.tied:
        matrix("lm_head.weight", config["vocab_size"], h, 2.5)
    dtype = DTYPES[spec.dtype]
    return {name: torch.from_numpy(value).to(dtype) for name, value in state.items()}


def hybrid_weights(spec: Checkpoint) -> dict[str, torch.Tensor]:
    """As random_weights, for Qwen3.5 and LFM2. The recurrences forget slowly, so that early tokens still matter."""
    rng = np.random.default_rng(zlib.crc32(spec.name.encode()))
    config, qwen = spec.config, spec.family == "qwen3_5"
    h, heads, kv = (
        config["hidden_size"],
        config["num_attention_heads"],
        config["num_key_value_heads"],
    )
    d = config.get("head_dim", h // heads)
    state: dict[str, np.ndarray] = {}

    def normal(name, shape, size, centre=0.0):
        state[name] = centre + rng.normal(0, size, shape)

    def matrix(name, rows, columns, gain):
        normal(name + ".weight", (rows, columns), gain / np.sqrt(columns))

    def norm(name, width, neutral=0.0 if qwen else 1.0, centre=0.0):
        normal(name + ".weight", width, 0.25, neutral + centre)

    def linear_attention(at):
        hk, hv = config["linear_num_key_heads"], config["linear_num_value_heads"]
        dk, dv = config["linear_key_head_dim"], config["linear_value_head_dim"]
        width = 2 * hk * dk + hv * dv
        matrix(at + "in_proj_qkv", width, h, 1.5)
        matrix(at + "in_proj_z", hv * dv, h, 1.0)
        matrix(at + "in_proj_b", hv, h, 1.0)
        matrix(at + "in_proj_a", hv, h, 1.0)
        normal(at + "conv1d.weight", (width, 1, config["linear_conv_kernel_dim"]), 0.6)
        state[at + "A_log"] = np.log(rng.uniform(0.02, 0.5, hv))
        normal(at + "dt_bias", hv, 0.7, -1.5)
        norm(at + "norm", dv, neutral=1.0)
        matrix(at + "out_proj", h, hv * dv, 2.0)

    def convolution(at):
        matrix(at + "in_proj", 3 * h, h, 1.2)
        normal(at + "conv.weight", (h, 1, config["conv_L_cache"]), 0.6)
        matrix(at + "out_proj", h, h, 1.5)
        if config["conv_bias"]:
            for name, width in (("in_proj", 3 * h), ("conv", h), ("out_proj", h)):
                normal(f"{at}{name}.bias", width, 0.3)

    def attention(at, out, norms):
        matrix(at + "q_proj", (2 if qwen else 1) * heads * d, h, 1.8)
        matrix(at + "k_proj", kv * d, h, 1.8)
        matrix(at + "v_proj", kv * d, h, 1.0)
        matrix(at + out, h, heads * d, 2.5)
        for which in "qk":
            norm(f"{at}{which}_{norms}", d, centre=0.7)

    def mlp(at, gate, up, down, width):
        matrix(at + gate, width, h, 1.2)
        matrix(at + up, width, h, 1.2)
        matrix(at + down, h, width, 1.2)

    normal("model.embed_tokens.weight", (config["vocab_size"], h), 0.3)
    for i, kind in enumerate(kinds(spec)):
        at = f"model.layers.{i}."
        if kind == LINEAR:
            linear_attention(at + "linear_attn.")
        elif kind == CONV:
            convolution(at + "conv.")
        elif qwen:
            attention(at + "self_attn.", "o_proj", "norm")
        else:
            attention(at + "self_attn.", "out_proj", "layernorm")
        if qwen:
            norm(at + "input_layernorm", h)
            norm(at + "post_attention_layernorm", h)
            mlp(at + "mlp.", "gate_proj", "up_proj", "down_proj", config["intermediate_size"])
        else:
            norm(at + "operator_norm", h)
            norm(at + "ffn_norm", h)
            width, multiple = config["block_ff_dim"], config["block_multiple_of"]
            if config["block_auto_adjust_ff_dim"]:
                width = -(-int(2 * width / 3) // multiple) * multiple
            mlp(at + "feed_forward.", "w1", "w3", "w2", width)
    norm("model.norm" if qwen else "model.embedding_norm", h, centre=1.0)
    if not spec.tied:
        matrix("lm_head", config["vocab_size"], h, 2.5)
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    return {  # every published form keeps A_log in float32
        name: tensor.float() if name.endswith("A_log") else tensor.to(DTYPES[spec.dtype])
        for name, tensor in tensors.items()
    }


def kinds(spec: Checkpoint) -> list[str]:
    """The kind of each layer of a hybrid model."""
    config, count = spec.config, spec.config["num_hidden_layers"]
    if "layer_types" in config:
        return config["layer_types"]
    if "full_attn_idxs" in config:
        return [FULL if i in config["full_attn_idxs"] else CONV for i in range(count)]
    every = config.get("full_attention_interval", 4)
    return [LINEAR if (i + 1) % every else FULL for i in range(count)]


def dequantised(folder: Path) -> dict[str, torch.Tensor]:
    """The committed weights in float32, under HF text names. Packed weights follow MLX's own rule.

    The value is scale * q + bias in float32, from the stored scale and bias: what mlx dequantises to.
    """
    raw: dict[str, torch.Tensor] = {}
    for shard in sorted(folder.glob("model*.safetensors")):
        raw.update(load_file(shard))
    config = json.loads((folder / "config.json").read_text())
    quant = config.get("quantization", {})
    state = {}
    for name, tensor in raw.items():
        module = name.rsplit(".", 1)[0]
        if name.endswith((".scales", ".biases")):
            continue
        if module + ".scales" in raw and name.endswith(".weight"):
            entry = quant.get(module, {})
            bits = entry.get("bits", quant["bits"])
            group = entry.get("group_size", quant["group_size"])
            tensor = torch.from_numpy(
                unpack(
                    tensor.view(torch.int32).numpy().view(np.uint32),
                    raw[module + ".scales"].float().numpy(),
                    raw[module + ".biases"].float().numpy(),
                    bits,
                    group,
                )
            )
        if name.startswith(OTHER_PARTS):
            continue
        name = name.replace("model.language_model.", "model.").removeprefix("language_model.")
        state[name] = tensor.float()
    if config["model_type"].startswith(("qwen3_5", "lfm2")):
        undo_mlx(state)
    return state


OTHER_PARTS = ("vision_tower.", "multi_modal_projector.", "model.visual.", "mtp.")


def undo_mlx(state: dict[str, torch.Tensor]) -> None:
    """Convert MLX's form of a hybrid back to HF's: convolutions [C, k, 1] to [C, 1, k], and Qwen3.5's 1 + w to w.
    Both are exact."""
    convs = [name for name in state if name.endswith(("conv1d.weight", "conv.conv.weight"))]
    if all(state[name].shape[1] == 1 for name in convs):
        return
    for name in convs:
        state[name] = state[name].transpose(1, 2).contiguous()
    if convs[0].endswith("conv1d.weight"):
        for name, tensor in state.items():
            if name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight"):
                state[name] = tensor - 1.0


def unpack(words, scales, biases, bits, group):
    """float32 [out, in] from MLX's packed rows. Field i is in bits [i*bits, (i+1)*bits)."""
    rows = words.shape[0]
    bit = np.unpackbits(words.view(np.uint8).reshape(rows, -1), axis=1, bitorder="little")
    fields = bit.reshape(rows, -1, bits).astype(np.float32) @ (2.0 ** np.arange(bits, dtype="f4"))
    grouped = fields.reshape(rows, -1, group)
    return (grouped * scales[..., None] + biases[..., None]).reshape(rows, -1).astype(np.float32)


# --- files ---------------------------------------------------------------------------------------
def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer with one token a byte (its id is the byte's place in the byte-level alphabet), then
    <|endoftext|>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    template = (
        "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}) + "\n")


def write_plain(spec: Checkpoint, folder: Path) -> None:
    """Write config.json and safetensors with the published names."""
    state, config = random_weights(spec), copy.deepcopy(spec.config)
    new_style = "rope_parameters" in config
    config |= {"model_type": spec.family, "tie_word_embeddings": spec.tied}
    config["dtype" if new_style else "torch_dtype"] = str(DTYPES[spec.dtype]).split(".")[1]
    if spec.family == "qwen3_5":
        config["model_type"] = "qwen3_5_text"
    if spec.family == "qwen3_5" and spec.multimodal:
        state, config = wrapped(state, config)
    elif spec.multimodal:
        state = {"language_model." + name: value for name, value in state.items()}
        rng = np.random.default_rng(0)
        junk = torch.from_numpy(rng.normal(0, 1, (8, 6))).to(DTYPES[spec.dtype])
        state["vision_tower.vision_model.post_layernorm.weight"] = junk[0].clone()
        state["multi_modal_projector.mm_input_projection_weight"] = junk
        text = without(config, "torch_dtype", "tie_word_embeddings") | {"model_type": "gemma3_text"}
        config = {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "model_type": "gemma3",
            "text_config": text,
            "torch_dtype": config["torch_dtype"],
            "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 6},
        }
    else:
        config["architectures"] = [CLASSES[spec.family].__name__]
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    if spec.shards == 1:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(state)
    where = {}
    for shard in range(spec.shards):
        file = f"model-{shard + 1:05d}-of-{spec.shards:05d}.safetensors"
        part = {name: state[name] for name in names[shard :: spec.shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    index = {
        "metadata": {"total_size": sum(t.numel() * t.element_size() for t in state.values())},
        "weight_map": dict(sorted(where.items())),
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def wrapped(state, config):
    """Qwen3.5 as it is published: text_config, other prefixes, and tensors of a vision tower and of an MTP layer."""
    names = {name: name.replace("model.", "model.language_model.", 1) for name in state}
    state = {
        names[name] if name.startswith("model.") else name: value for name, value in state.items()
    }
    h = config["hidden_size"]
    state["model.visual.patch_embed.proj.weight"] = torch.ones(6, 3, 2, 2, 2)
    state["mtp.fc.weight"] = torch.ones(h, 2 * h)
    state["mtp.norm.weight"] = torch.ones(h)
    return state, {
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "model_type": "qwen3_5",
        "text_config": config,
        "tie_word_embeddings": config["tie_word_embeddings"],
        "vision_config": {"model_type": "qwen3_5", "hidden_size": 6},
    }


def write_quantised(spec: Checkpoint, folder: Path) -> None:
    """Write what mlx_lm's own conversion steps make of the plain checkpoint in float32."""
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary)
        write_plain(spec, source)
        config = json.loads((source / "config.json").read_text())
        # mlx_lm's Gemma 3 reads these two from other places than the published files have them.
        if spec.multimodal and spec.family == "gemma3":
            config["vocab_size"] = spec.config["vocab_size"]
            (source / "config.json").write_text(json.dumps(config))
        model, config = load_model(source, lazy=True)

        def predicate(path, module):
            for end, override in spec.overrides.items():
                if path.endswith(end):
                    return override
            return True

        model, config = quantize_model(
            model, config, spec.group, spec.bits, quant_predicate=predicate
        )
        for end, override in spec.overrides.items():
            if override is False:  # mlx_lm leaves the entry out; others (and mlx-vlm) write it
                prefix = "language_model.model." if spec.multimodal else "model."
                config["quantization"][prefix + end] = False
        save_model(folder, model)
        save_config(config, folder / "config.json")
    stored = load_file(folder / "model.safetensors")
    if spec.vision:
        stored["vision_tower.patch_embed.proj.weight"] = torch.ones(6, 2, 2, 2, 3).bfloat16()
        save_file(stored, folder / "model.safetensors", metadata={"format": "mlx"})
    dtypes = {tensor.dtype for name, tensor in stored.items() if name.endswith("scales")}
    assert dtypes == {DTYPES[spec.dtype]}, dtypes
    config = json.loads((folder / "config.json").read_text())
    if spec.new_style:  # as mlx_lm writes a config that it read from transformers 5
        config["rope_parameters"] = {"type": "default", "rope_theta": config.pop("rope_theta")}
        config["dtype"] = config.pop("torch_dtype")
    if spec.name == "qwen2-mlx4-g64":
        config.pop("tie_word_embeddings")  # then the file decides, because it has no lm_head
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


# --- references ----------------------------------------------------------------------------------
def reference_model(spec: Checkpoint, folder: Path):
    """transformers' model, with its config from the committed config.json and exactly our weights."""
    config = json.loads((folder / "config.json").read_text())
    config.pop("quantization", None)
    config.pop("quantization_config", None)
    config.pop("vision_config", None)
    text = config.get("text_config", config)
    rope = text.get("rope_parameters")
    if rope and "type" in rope:
        rope["rope_type"] = rope.pop("type")
    with tempfile.TemporaryDirectory() as temporary:
        (Path(temporary) / "config.json").write_text(json.dumps(text))
        parsed = AutoConfig.from_pretrained(temporary)
    parsed.tie_word_embeddings = spec.tied
    parsed._attn_implementation = "eager"
    model = CLASSES[spec.family](parsed)
    state = dequantised(folder)
    if spec.tied:
        assert "lm_head.weight" not in state
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not missing and not unexpected, (missing, unexpected)
    return model.eval().float()


class HalfCache(DynamicCache):
    """A cache that rounds its entries to float16, to find how an f16 KV cache changes the logits."""

    def update(self, key_states, value_states, *args, **kwargs):
        """Round, then store."""
        return super().update(
            key_states.half().to(key_states.dtype),
            value_states.half().to(value_states.dtype),
            *args,
            **kwargs,
        )


@torch.inference_mode()
def last_logits(model, ids, cache=None) -> np.ndarray:
    """Logits of the last row, [vocab]."""
    out = model(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=cache is not None)
    return out.logits[0, -1].numpy()


def greedy(model, ids) -> tuple[list[int], list[float]]:
    """Greedy tokens. Each comes from a whole new forward pass, so no cache can be wrong."""
    ids, tokens, margins = list(ids), [], []
    for _ in range(NEW_TOKENS):
        logits = last_logits(model, ids)
        second, best = np.argsort(logits, kind="stable")[-2:]
        tokens.append(int(best))
        margins.append(float(logits[best] - logits[second]))
        ids.append(int(best))
    return tokens, margins


def nmse(a, b) -> float:
    """sum((a-b)^2) / sum(b^2) in float64."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(((a - b) ** 2).sum() / (b**2).sum())


def sensitivity(model, out) -> dict[str, float]:
    """NMSE that typical mistakes cause. A golden that cannot show these mistakes is refused.

    order: two neighbouring tokens swapped (7 tokens); base: every RoPE frequency 2% off (65); first: the prompt's first
    token replaced (65); window: a sliding window one key wider (65).
    """
    ids = {n: out[f"ids_{n}"].tolist() for n in (7, 65)}
    result = {}
    swapped = ids[7][:3] + [ids[7][4], ids[7][3]] + ids[7][5:]
    result["order"] = nmse(last_logits(model, swapped), out["logits_7"])
    config = model.config
    other = copy.deepcopy(model)
    for buffer_name, buffer in other.named_buffers():
        if buffer_name.endswith("inv_freq"):
            buffer *= 1.02
    # longrope's frequencies, which replace the buffers in long texts.
    for module in other.modules():
        if getattr(module, "long_inv_freq", None) is not None:
            module.long_inv_freq = module.long_inv_freq * 1.02
    result["base"] = nmse(last_logits(other, ids[65]), out["logits_65"])
    changed = [(ids[65][0] + 1) % config.vocab_size, *ids[65][1:]]
    result["first"] = nmse(last_logits(model, changed), out["logits_65"])
    if getattr(config, "sliding_window", None):
        config.sliding_window += 1
        result["window"] = nmse(last_logits(model, ids[65]), out["logits_65"])
        config.sliding_window -= 1
    return result


def make(spec: Checkpoint) -> None:
    """Write one checkpoint and its golden.npz, and prove that the golden shows mistakes."""
    folder = emptied(spec.name)
    (write_quantised if spec.bits else write_plain)(spec, folder)
    index = folder / "model.safetensors.index.json"
    if spec.shards == 1 and index.exists():
        index.unlink()
    write_tokenizer(folder)
    # MLX rounds Gemma's sqrt(h) to bfloat16. That is exact only where h is a square.
    rounds = spec.family.startswith("gemma3") and spec.config["hidden_size"] ** 0.5 % 1 > 0
    allowed = (1e-4 if rounds else 1e-8) if spec.bits else None
    record(folder, reference_model(spec, folder), spec.family, spec.bits, spec.lengths, allowed)


def emptied(name: str) -> Path:
    """Make the checkpoint's folder, empty."""
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def record(
    folder: Path, model, family: str, bits: int, lengths: tuple[int, ...], mlx_allowed: float | None
) -> None:
    """Write golden.npz: the results of `model`, the reference with exactly the folder's weights, for the prompts.

    `mlx_allowed`: the NMSE by which mlx_lm's own forward pass of the folder may differ; None: mlx_lm does not run.
    """
    exact = copy.deepcopy(model).double()
    rng = np.random.default_rng(zlib.crc32(folder.name.encode()) + 1)
    out: dict[str, np.ndarray] = {}
    noise, half, spread, cross = 0.0, 0.0, 0.0, 0.0
    other = None
    if mlx_allowed is not None:
        other, _ = load_model(folder)
        other.set_dtype(mx.float32)
    narrowed = copy.deepcopy(model)
    for parameter in narrowed.parameters():
        if parameter.ndim == 2:
            parameter.data = parameter.data.half().float()
    for length in lengths:
        ids = rng.integers(0, model.config.vocab_size, length).tolist()
        logits = last_logits(model, ids)
        tokens, margins = greedy(model, ids)
        out[f"ids_{length}"] = np.array(ids, np.int32)
        out[f"logits_{length}"] = logits.astype(np.float32)
        out[f"greedy_{length}"] = np.array(tokens, np.int32)
        out[f"margins_{length}"] = np.array(margins, np.float32)
        spread = max(spread, float(logits.std()))
        noise = max(noise, nmse(logits, last_logits(exact, ids)))
        cache = HalfCache(config=narrowed.config)
        half = max(half, nmse(last_logits(narrowed, ids, cache), logits))
        if other is not None:
            theirs = np.array(other(mx.array([ids]))[0, -1])
            cross = max(cross, nmse(theirs, logits))
    told = sensitivity(model, out)
    meta = {
        "versions": {
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "mlx": mx.__version__,
            "mlx_lm": mlx_lm.__version__,
        },
        "family": family,
        "bits": bits,
        "nmse_float32_vs_float64": noise,
        "nmse_f16_weights_and_kv": half,
        "nmse_mlx_lm": cross if other is not None else None,
    }
    out["meta"] = np.array(json.dumps(meta))
    np.savez_compressed(folder / "golden.npz", **out)
    size = sum(file.stat().st_size for file in folder.iterdir())
    distinct = [len(set(out[f"greedy_{n}"].tolist())) for n in lengths]
    least = min(float(out[f"margins_{n}"].min()) for n in lengths)
    print(
        f"{folder.name:30} {size / 1024:5.0f} KB  std {spread:4.1f}  f32 noise {noise:.0e}  "
        f"f16 {half:.0e}  mlx {cross:.0e}  distinct {distinct}  margin {least:.0e}  "
        + "  ".join(f"{what} {value:.0e}" for what, value in told.items()),
        flush=True,
    )
    assert noise < 1e-9, "float32 itself is too noisy here for a tolerance of 1e-6"
    assert half < 5e-5, "f16 storage alone would use up its tolerance of 1e-4"
    assert told["order"] > 1e-3, "two swapped tokens hardly change the logits"
    assert min(told.values()) > 3e-5, f"a wrong kernel could pass: {told}"
    assert mlx_allowed is None or cross < mlx_allowed, "mlx_lm and transformers disagree"


# --- families from transformers' own model -------------------------------------------------------
# The first entry that matches the end of a weight's name gives its standard deviation times sqrt(columns). Attention
# has to matter, and no branch may dominate the others.
GAINS = {
    "embed_tokens.weight": 0.3,
    "lm_head.weight": 2.5,
    "q_proj.weight": 1.8,
    "k_proj.weight": 1.8,
}
USUAL_GAIN = 1.4


def make_family(entry: Family) -> None:
    """Write an entry's plain checkpoint, the quantised one where mlx_lm knows the family, and their golden.npz."""
    model = random_model(entry)
    folder = emptied(entry.name)
    save(model, folder, DTYPES[entry.dtype])
    record(folder, model, entry.model_type, 0, entry.lengths, None)
    if not entry.quantised:
        return
    packed = emptied(f"{entry.name}-mlx4-g32")
    config = json.loads((folder / "config.json").read_text())
    quantised, config = load_model(folder, lazy=True, model_config=old_style(config))
    # This leaves out a family's own rule. (Granite's keeps some layers at 8 bits in groups of 64, which SMALL does not
    # have.) CHECKPOINTS has files that mix widths.
    quantised, config = quantize_model(
        quantised, config, 32, 4, quant_predicate=lambda path, module: True
    )
    save_model(packed, quantised)
    save_config(config, packed / "config.json")
    (packed / "model.safetensors.index.json").unlink()
    write_tokenizer(packed)
    reference = copy.deepcopy(model)
    missing, unexpected = reference.load_state_dict(dequantised(packed), strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= set(reference.all_tied_weights_keys), missing
    agrees = 1e-8 if entry.mlx_agrees else None
    record(packed, reference, entry.model_type, 4, entry.lengths, agrees)


def old_style(config: dict[str, Any]) -> dict[str, Any]:
    """Rotary positions as transformers < 5 wrote them, and as mlx_lm reads most families: rope_theta, rope_scaling."""
    parameters = config["rope_parameters"]
    flat = parameters.get(FULL, parameters)
    old = {key: flat[key] for key in ("rope_theta", "partial_rotary_factor") if key in flat}
    if flat["rope_type"] != "default":
        old["rope_scaling"] = {key: value for key, value in flat.items() if key not in old}
    return old


def random_model(entry: Family):
    """transformers' model of the entry in float32, with random weights that the entry's dtype can hold."""
    config = AutoConfig.for_model(entry.model_type, **entry.settings)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).eval().float()
    rng = np.random.default_rng(zlib.crc32(entry.name.encode()))
    gains = {**GAINS, **entry.gains}
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            values = rng.normal(0, 1, tuple(parameter.shape))
            if parameter.ndim > 1:
                gain = next((g for end, g in gains.items() if name.endswith(end)), USUAL_GAIN)
                columns = 1 if "embed_tokens" in name else parameter.shape[-1]
                values *= gain / np.sqrt(columns)
            elif name.endswith("bias"):
                values *= 0.3
            else:
                # A norm's weight leaves x about as it is: it is near 1 or, where 1 + w is meant, near 0.
                gain = next((g for end, g in entry.gains.items() if name.endswith(end)), 1.0)
                values = gain * (parameter.numpy() + 0.25 * values)
            parameter.copy_(torch.from_numpy(values).to(DTYPES[entry.dtype]).float())
    return model


def save(model, folder: Path, dtype: torch.dtype) -> None:
    """Write the model by save_pretrained in `dtype`, with a tokenizer."""
    stored = copy.deepcopy(model).to(dtype)
    stored.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    write_tokenizer(folder)


def main() -> None:
    """Make all checkpoints, or those named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    names = parser.parse_args().names
    torch.set_num_threads(1)
    for spec in CHECKPOINTS:
        if not names or spec.name in names:
            make(spec)
    for entry in FAMILIES:
        if not names or entry.name in names:
            make_family(entry)


if __name__ == "__main__":
    main()
