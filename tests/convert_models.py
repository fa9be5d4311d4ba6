"""Whole tiny models under GGUF's names, with random weights, for the tests of `convert`.

Names and shapes of both sides are independent of the engine: goldens/make_convert_names.py took them from transformers
and `gguf`. The changes that llama.cpp's converter makes to values (reordered rows of q and k, one added to norms) are
written here independently.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.gguf_writer import byte_level_metadata, float_tensor, write_gguf

CASES: dict[str, Any] = json.loads(
    (Path(__file__).parent / "goldens" / "convert_names.json").read_text()
)
IDS = [(11 * i * i + 5 * i + 3) % 300 for i in range(40)]  # a prompt longer than the windows
PAIRED = {"llama", "mistral3", "smollm3", "granite"}  # llama.cpp reorders rows of q and k
PLUS_ONE = {"gemma2", "gemma3", "nemotron"}  # llama.cpp adds one to norms


def settings(case: dict[str, Any]) -> dict[str, Any]:
    """The metadata that llama.cpp's converter writes for the case's config."""
    arch, config = case["architecture"], case["config"]
    heads = config["num_attention_heads"]
    rope = config["rope_parameters"] or {}
    rope = rope.get("full_attention", rope)
    found: dict[str, Any] = {
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": config["hidden_size"] // heads,
        "context_length": config["max_position_embeddings"],
        "rope.freq_base": float(rope.get("rope_theta", 5e5)),
    }
    for key, name in (
        ("rms_norm_eps", "layer_norm_rms_epsilon"), ("layer_norm_eps", "layer_norm_epsilon"),
        ("norm_epsilon", "layer_norm_epsilon"), ("norm_eps", "layer_norm_epsilon"),
    ):  # fmt: skip
        if key in config:
            found[f"attention.{name}"] = float(np.float32(config[key]))
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        found["rope.dimension_count"] = int(rope["partial_rotary_factor"] * 16)
    if config.get("sliding_window") and arch not in ("llama", "qwen2", "qwen3"):
        found["attention.sliding_window"] = config["sliding_window"]
        if arch in ("exaone4", "olmo2"):
            sliding = [kind == "sliding_attention" for kind in config["layer_types"]]
            found["attention.sliding_window_pattern"] = sliding
    if arch == "granite":
        for key, name in (
            ("attention_multiplier", "attention.scale"), ("embedding_multiplier", "embedding_scale"),
            ("residual_multiplier", "residual_scale"), ("logits_scaling", "logit_scale"),
        ):  # fmt: skip
            found[name] = float(np.float32(config[key]))
    if arch == "cohere2":
        found["logit_scale"] = config["logit_scale"]
    if arch == "gemma2":
        found["attn_logit_softcapping"] = config["attn_logit_softcapping"]
        found["final_logit_softcapping"] = config["final_logit_softcapping"]
    if arch == "phi3":
        found["rope.scaling.original_context_length"] = config["original_max_position_embeddings"]
    if arch == "mistral3":
        found |= {
            "rope.scaling.type": "yarn", "rope.scaling.factor": rope["factor"],
            "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
            "rope.scaling.yarn_log_multiplier": rope["mscale_all_dim"],
            "attention.temperature_scale": float(np.float32(rope["llama_4_scaling_beta"])),
        }  # fmt: skip
    return {"general.architecture": arch} | {f"{arch}.{key}": v for key, v in found.items()}


def values_of(case: dict[str, Any]) -> dict[str, Any]:
    """Random float32 weights under transformers' names; float16 holds them exactly."""
    rng = np.random.default_rng(5)
    return {
        name: (rng.integers(-64, 64, shape) / 64).astype(np.float32)
        for name, (_, shape) in case["tensors"].items()
    }


def model(case: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """A GGUF file with random weights, and the weights."""
    arch = case["architecture"]
    values = values_of(case)
    parts: dict[str, list[Any]] = {}
    for name, (theirs, shape) in case["tensors"].items():
        array = values[name]
        if arch in PAIRED and (".q_proj." in name or ".k_proj." in name):
            array = array.reshape(shape[0] // 16, 2, 8, *shape[1:]).swapaxes(1, 2).reshape(shape)
        if arch in PLUS_ONE and name.endswith("norm.weight"):
            array = array + np.float32(1)
        parts.setdefault(theirs, []).append(array)
    tensors = {
        theirs: float_tensor(arrays[0] if len(arrays) == 1 else np.stack(arrays))
        for theirs, arrays in parts.items()
    }
    rope = case["config"]["rope_parameters"] or {}
    for key in ("short_factor", "long_factor"):
        if key in rope:
            kind = key.removesuffix("_factor")
            tensors[f"rope_factors_{kind}.weight"] = float_tensor(np.array(rope[key]))
    return write_gguf({**settings(case), **byte_level_metadata()}, tensors), values
