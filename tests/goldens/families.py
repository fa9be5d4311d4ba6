"""The families whose tiny checkpoints come from transformers' own model, one entry each, for make_goldens.py.

An entry makes `<name>/` (plain tensors, as save_pretrained writes them) and, where mlx_lm knows the family,
`<name>-mlx4-g32/` (quantised by mlx_lm.convert's own steps). All entries share SMALL's sizes, so their kernels are the
same pipelines, and a driver compiles most of them once for all families.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Some families fix head_dim at hidden_size / heads, so all entries use that. Widths are whole groups of 32 for MLX.
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 64,
    "vocab_size": 257,
    "num_hidden_layers": 2,
    "max_position_embeddings": 2048,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": None,
}
SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class Family:
    """`config`: settings beside SMALL, as keywords of the family's config class; None removes a key of SMALL.

    `gains`: by the end of a weight's name, instead of make_goldens.GAINS; for a norm's weight it is a factor.
    `quantised`: mlx_lm makes a quantised checkpoint too. `mlx_agrees`: mlx_lm computes the same; False where a
    difference is known (say why). `lengths`: lengths of the prompts. 65 crosses the border of tiles of 64, and of the
    windows that entries set. (Layers times window must be more than 65, or the first token cannot matter.) `dtype`: of
    the plain checkpoint.
    """

    name: str
    model_type: str
    config: Mapping[str, Any] = field(default_factory=dict)
    gains: Mapping[str, float] = field(default_factory=dict)
    quantised: bool = True
    mlx_agrees: bool = True
    lengths: tuple[int, ...] = (7, 65)
    dtype: str = "bf16"

    @property
    def settings(self) -> dict[str, Any]:
        """Keyword arguments of the config class."""
        absent = [key for key in SMALL if key in self.config and self.config[key] is None]
        return {key: v for key, v in {**SMALL, **self.config}.items() if key not in absent}


YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 5e5,
}

FAMILIES = [
    Family(
        "granite",
        "granite",
        {
            "embedding_multiplier": 0.5,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.6,
            "logits_scaling": 0.4,
            "tie_word_embeddings": True,
        },
        gains={"o_proj.weight": 2.5, "down_proj.weight": 2.5},
    ),
    Family(  # every layer slides, which mlx_lm does not support
        "mistral",
        "mistral",
        {
            "head_dim": 16,
            "sliding_window": 40,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
        mlx_agrees=False,
    ),
    Family(  # norms are 1 + w
        "nemotron",
        "nemotron",
        gains={"norm.weight": 0.3, "up_proj.weight": 1.0, "o_proj.weight": 2.0},
    ),
    Family("olmo2", "olmo2"),
    Family(  # sliding and full layers; the full ones are scaled
        "olmo3",
        "olmo3",
        {
            "sliding_window": 24,
            "layer_types": [SLIDING, FULL],
            "rope_parameters": {
                SLIDING: {"rope_type": "default", "rope_theta": 5e5},
                FULL: YARN,
            },
        },
        mlx_agrees=False,
    ),
    Family("seed_oss", "seed_oss", {"head_dim": 16}),
    Family("stablelm", "stablelm", {"use_qkv_bias": True}),
    Family(  # the 12B kind
        "stablelm-parallel",
        "stablelm",
        {"qk_layernorm": True, "use_parallel_residual": True, "partial_rotary_factor": 0.5},
    ),
    Family(  # every layer slides, which mlx_lm does not support
        "starcoder2", "starcoder2", {"sliding_window": 40}, mlx_agrees=False
    ),
    Family(  # scores and logits reach their caps; mlx_lm has no windows
        "gemma2",
        "gemma2",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 20,
            "sliding_window": 40,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 4.0,
        },
        gains={"embed_tokens.weight": 0.05},
        mlx_agrees=False,
    ),
    Family(  # a layer without positions after two that slide
        "cohere2-nope",
        "cohere2",
        {
            "num_hidden_layers": 3,
            "sliding_window": 40,
            "layer_types": [SLIDING, SLIDING, FULL],
            "logit_scale": 0.5,
        },
        gains={
            "embed_tokens.weight": 0.5,
            "v_proj.weight": 2.0,
            "o_proj.weight": 3.0,
            "down_proj.weight": 0.3,
        },
        mlx_agrees=False,
    ),
    Family("glm4", "glm4", {"head_dim": 16}),
    Family("helium", "helium", {"head_dim": 16}),
    Family("ernie4_5", "ernie4_5", {"head_dim": 16, "use_bias": True}),
    Family(
        "hunyuan_v1_dense",
        "hunyuan_v1_dense",
        {
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "dynamic",
                "type": "dynamic",
                "alpha": 50.0,
                "factor": 1.0,
                "rope_theta": 1e4,
            },
        },
    ),
    Family("smollm3", "smollm3", {"no_rope_layers": [1, 0]}),
    Family(
        "exaone4",
        "exaone4",
        {
            "head_dim": 16,
            "sliding_window": 40,
            "layer_types": [SLIDING, FULL],
            "sliding_window_pattern": "LG",
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 1e6,
                "factor": 16.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
        mlx_agrees=False,
    ),
    Family(  # queries grow every 16 positions
        "ministral3",
        "ministral3",
        {
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e6,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.3,
            },
        },
    ),
    # The answer to a prompt of 7 grows past the 32 of the short factors; mlx_lm has only the long ones.
    Family(
        "phi3",
        "phi3",
        {
            "original_max_position_embeddings": 32,
            "rope_parameters": {
                "rope_type": "longrope",
                "type": "longrope",
                "rope_theta": 1e4,
                "short_factor": [1.0, 1.0, 1.1, 1.2, 1.4, 1.5, 1.7, 2.0],
                "long_factor": [1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 30.0],
            },
        },
        mlx_agrees=False,
    ),
]
