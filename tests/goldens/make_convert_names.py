"""Writes convert_names.json: for each architecture that `convert` takes, a tiny transformers model with its config, and
for each parameter its name, its shape, and the GGUF name that the `gguf` package (llama.cpp's) gives it.

    python tests/goldens/make_convert_names.py     (transformers 5.24, gguf 0.19; weights are never made)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import torch
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 2048, "rope_theta": 5e5,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
WINDOW = {"sliding_window": 16}
YARN = {
    "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 256, "rope_theta": 5e5,
    "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
}  # fmt: skip
LONG = {
    "rope_type": "longrope", "short_factor": [1.0 + i / 8 for i in range(8)],
    "long_factor": [2.0 + i / 4 for i in range(8)], "original_max_position_embeddings": 256,
}  # fmt: skip
# case -> (GGUF architecture, transformers' model_type, what differs from SIZES)
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("llama", "llama", {}),
    "llama-biases": ("llama", "llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral3": ("mistral3", "ministral3", {"rope_parameters": YARN}),
    "smollm3": ("smollm3", "smollm3", {}),
    "qwen2": ("qwen2", "qwen2", {}),
    "qwen3": ("qwen3", "qwen3", {}),
    "gemma2": ("gemma2", "gemma2", {**WINDOW, "query_pre_attn_scalar": 16}),
    "gemma3": ("gemma3", "gemma3_text", {**WINDOW, "query_pre_attn_scalar": 16}),
    "phi3": ("phi3", "phi3", {"partial_rotary_factor": 1.0}),
    "phi3-long": ("phi3", "phi3", {"rope_scaling": LONG, "original_max_position_embeddings": 256}),
    "olmo2": ("olmo2", "olmo2", {}),
    "olmo3": ("olmo2", "olmo3", WINDOW),
    "granite": (
        "granite", "granite",
        {"attention_multiplier": 0.03, "embedding_multiplier": 12.0, "residual_multiplier": 0.2, "logits_scaling": 8.0},
    ),
    "exaone4": ("exaone4", "exaone4", {**WINDOW, "sliding_window_pattern": 4}),
    "hunyuan-dense": ("hunyuan-dense", "hunyuan_v1_dense", {}),
    "ernie4_5": ("ernie4_5", "ernie4_5", {}),
    "cohere2": ("cohere2", "cohere2", {**WINDOW, "logit_scale": 0.25}),
    "starcoder2": ("starcoder2", "starcoder2", {}),
    "stablelm": ("stablelm", "stablelm", {"use_qkv_bias": True, "partial_rotary_factor": 0.25}),
    "stablelm-12b": (
        "stablelm", "stablelm",
        {"qk_layernorm": True, "use_parallel_residual": True, "partial_rotary_factor": 0.25},
    ),
    "glm4": ("glm4", "glm4", {"partial_rotary_factor": 0.5}),
    "seed_oss": ("seed_oss", "seed_oss", {}),
    "nemotron": ("nemotron", "nemotron", {"partial_rotary_factor": 0.5}),
}  # fmt: skip


def case(architecture: str, model_type: str, changes: dict[str, Any]) -> dict[str, Any]:
    """A case as the file stores it."""
    config = AutoConfig.for_model(model_type, **{**SIZES, **changes})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    number = next(n for n, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    tied = config.tie_word_embeddings
    tensors = {}
    for name, tensor in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        # transformers has a norm for each head; llama.cpp's converter joins them (conversion/stablelm.py).
        whole = name.split(".norms.")[0] + ".weight" if ".norms." in name else name
        theirs = names.get_name(whole, try_suffixes=(".weight", ".bias"))
        assert theirs is not None, name
        tensors[name] = [theirs, list(tensor.shape)]
    return {
        "architecture": architecture,
        "config": json.loads(config.to_json_string(use_diff=False)),
        "tensors": tensors,
    }


if __name__ == "__main__":
    made = {name: case(*entry) for name, entry in CASES.items()}
    path = Path(__file__).parent / "convert_names.json"
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in made.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
