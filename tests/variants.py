"""Tiny checkpoints that differ in config.json: in a setting, in the place of a setting, or not at all. transformers
(tests/goldens/make_variants.py) and the engine (tests/models/test_config_variants.py) read the same files.

Weights are not stored. They are computed from their names by integer arithmetic, so that every machine makes the same.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

Shapes = dict[str, tuple[int, ...]]

IDS = [(11 * i * i + 5 * i + 3) % 64 for i in range(40)]
ABSENT = object()  # a change with this value removes the key

H, HEADS, KV, D, MLP, VOCAB, LAYERS = 32, 4, 2, 8, 48, 64, 2
SLIDING, FULL, LINEAR, CONV = "sliding_attention", "full_attention", "linear_attention", "conv"
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LINEAR_2 = {"rope_type": "linear", "factor": 2.0}
YARN = {"rope_type": "yarn", "factor": 4.0}

SHORT, LONG = [1.0, 1.2, 1.5, 2.0], [2.0, 3.0, 5.0, 9.0]
COMMON: dict[str, Any] = {
    "hidden_size": H,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV,
    "intermediate_size": MLP,
    "vocab_size": VOCAB,
    "num_hidden_layers": LAYERS,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": None,
}
BASES: dict[str, dict[str, Any]] = {
    "llama": {**COMMON, "model_type": "llama", "rope_theta": 5e3},
    "qwen2": {**COMMON, "model_type": "qwen2", "rope_theta": 5e3},
    "qwen3": {**COMMON, "model_type": "qwen3", "head_dim": D, "rope_theta": 5e3},
    "gemma3": {
        **COMMON,
        "model_type": "gemma3_text",
        "head_dim": D,
        "query_pre_attn_scalar": 10,
        "sliding_window": 8,
        "layer_types": [SLIDING, FULL],
    },
    "qwen3_5": {
        **COMMON,
        "model_type": "qwen3_5_text",
        "head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "layer_types": [LINEAR, FULL],
    },
    "lfm2": {
        **{k: v for k, v in COMMON.items() if k not in ("rms_norm_eps", "intermediate_size")},
        "model_type": "lfm2",
        "block_ff_dim": MLP,
        "block_auto_adjust_ff_dim": False,
        "norm_eps": 1e-5,
        "layer_types": [CONV, FULL],
    },
    "mistral": {**COMMON, "model_type": "mistral", "sliding_window": 8, "rope_theta": 5e3},
    "olmo2": {**COMMON, "model_type": "olmo2", "rope_theta": 5e3},
    "olmo3": {
        **COMMON,
        "model_type": "olmo3",
        "sliding_window": 8,
        "layer_types": [SLIDING, FULL],
    },
    "granite": {
        **COMMON,
        "model_type": "granite",
        "rope_theta": 5e3,
        "attention_multiplier": 0.3,
        "residual_multiplier": 0.5,
        "embedding_multiplier": 2.0,
        "logits_scaling": 2.0,
    },
    "starcoder2": {**COMMON, "model_type": "starcoder2", "rope_theta": 5e3},
    "stablelm": {**COMMON, "model_type": "stablelm", "rope_theta": 50.0},
    "nemotron": {**COMMON, "model_type": "nemotron", "rope_theta": 50.0},
    "seed_oss": {**COMMON, "model_type": "seed_oss", "head_dim": D, "rope_theta": 5e3},
    "phi3": {
        **COMMON,
        "model_type": "phi3",
        "rope_theta": 5e3,
        "original_max_position_embeddings": 32,
        "rope_scaling": {"type": "longrope", "short_factor": SHORT, "long_factor": LONG},
    },
    "smollm3": {**COMMON, "model_type": "smollm3", "rope_theta": 5e3},
    "ministral3": {**COMMON, "model_type": "ministral3", "head_dim": D},
    "helium": {**COMMON, "model_type": "helium", "head_dim": D, "rope_theta": 5e3},
    "gemma2": {
        **COMMON,
        "model_type": "gemma2",
        "head_dim": D,
        "query_pre_attn_scalar": 10,
        "sliding_window": 8,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 4.0,
        "rope_theta": 5e3,
    },
    "cohere2": {
        **COMMON,
        "model_type": "cohere2",
        "layer_norm_eps": 1e-5,
        "sliding_window": 8,
        "layer_types": [SLIDING, FULL],
        "rope_theta": 50.0,
    },
    "glm4": {
        **COMMON,
        "model_type": "glm4",
        "head_dim": D,
        "rope_theta": 50.0,
        "rms_norm_eps": ABSENT,
    },
    "ernie4_5": {**COMMON, "model_type": "ernie4_5", "head_dim": D, "rope_theta": 50.0},
    "hunyuan": {
        **COMMON,
        "model_type": "hunyuan_v1_dense",
        "head_dim": D,
        "rope_theta": 50.0,
        "use_qk_norm": True,
        "rope_scaling": {"type": "dynamic", "alpha": 50.0, "factor": 1.0},
    },
    "exaone4": {
        **COMMON,
        "model_type": "exaone4",
        "head_dim": D,
        "rope_theta": 5e3,
        "sliding_window": 8,
        "sliding_window_pattern": "LG",
        "layer_types": [SLIDING, FULL],
    },
}


@dataclass(frozen=True)
class Variant:
    """`change` of the family's base config, and what happens to the tensors. With `outer`, which is then the top
    level, the change is made in text_config. `like`: another variant that means the same; without it, the logits
    must differ from the base's. `refused`: words of the engine's error, where transformers cannot load the variant
    or takes it for something else."""

    name: str
    family: str
    change: Mapping[str, Any]
    tensors: Callable[[Shapes], Shapes] | None = None
    outer: Mapping[str, Any] | None = None
    like: str | None = None
    refused: str | None = None

    @property
    def config(self) -> dict[str, Any]:
        """Returns config.json."""
        text = {**BASES[self.family], **self.change}
        text = {key: value for key, value in text.items() if value is not ABSENT}
        return text if self.outer is None else {**self.outer, "text_config": text}

    def write(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        shapes = base_shapes(self.family)
        if self.tensors is not None:
            shapes = self.tensors(shapes)
        if self.outer is not None:
            shapes = {n.replace("model.", "model.language_model.", 1): s for n, s in shapes.items()}
        values = {name: weights(name, shape, self.family) for name, shape in shapes.items()}
        save_file(values, folder / "model.safetensors", metadata={"format": "pt"})


def base_shapes(family: str) -> Shapes:
    """Tensors of the base config, including a separate head."""
    d = 16 if family == "qwen3_5" else D
    shapes: Shapes = {"model.embed_tokens.weight": (VOCAB, H), "lm_head.weight": (VOCAB, H)}
    for i, kind in enumerate(BASES[family].get("layer_types", [FULL] * LAYERS)):
        at = f"model.layers.{i}."
        if kind == LINEAR:
            linear = at + "linear_attn."
            shapes |= {
                linear + "in_proj_qkv.weight": (48, H), linear + "in_proj_z.weight": (16, H),
                linear + "in_proj_b.weight": (2, H), linear + "in_proj_a.weight": (2, H),
                linear + "conv1d.weight": (48, 1, 4), linear + "A_log": (2,), linear + "dt_bias": (2,),
                linear + "norm.weight": (8,), linear + "out_proj.weight": (H, 16),
            }  # fmt: skip
        elif kind == CONV:
            shapes |= {
                at + "conv.in_proj.weight": (3 * H, H), at + "conv.conv.weight": (H, 1, 3),
                at + "conv.out_proj.weight": (H, H),
            }  # fmt: skip
        else:
            shapes |= attention_shapes(at, family, HEADS, KV, d)
        if family == "lfm2":
            shapes |= {
                at + "feed_forward.w1.weight": (MLP, H), at + "feed_forward.w3.weight": (MLP, H),
                at + "feed_forward.w2.weight": (H, MLP),
                at + "operator_norm.weight": (H,), at + "ffn_norm.weight": (H,),
            }  # fmt: skip
            continue
        shapes |= {
            at + "mlp.gate_proj.weight": (MLP, H), at + "mlp.up_proj.weight": (MLP, H),
            at + "mlp.down_proj.weight": (H, MLP),
            at + "input_layernorm.weight": (H,), at + "post_attention_layernorm.weight": (H,),
        }  # fmt: skip
        if family == "starcoder2":
            for ours, theirs in (("up_proj", "c_fc"), ("down_proj", "c_proj")):
                shapes[f"{at}mlp.{theirs}.weight"] = shapes.pop(f"{at}mlp.{ours}.weight")
        if family in ("starcoder2", "nemotron"):
            del shapes[at + "mlp.gate_proj.weight"]
        if family in ("olmo2", "olmo3", "exaone4"):
            shapes[at + "post_feedforward_layernorm.weight"] = shapes.pop(
                at + "input_layernorm.weight"
            )
        if family == "cohere2":
            del shapes[at + "post_attention_layernorm.weight"]
        if family == "glm4":
            shapes |= {
                at + f"post_{which}_layernorm.weight": (H,) for which in ("self_attn", "mlp")
            }
        if family in ("gemma2", "gemma3"):
            shapes |= {
                at + f"{which}_feedforward_layernorm.weight": (H,) for which in ("pre", "post")
            }
    shapes["model.embedding_norm.weight" if family == "lfm2" else "model.norm.weight"] = (H,)
    if family in ("starcoder2", "stablelm", "nemotron"):
        shapes = biases("norm")(shapes)  # LayerNorm
    if family == "starcoder2":
        shapes = EVERY_LINEAR(without_head(shapes))
    return shapes


def attention_shapes(at: str, family: str, heads: int, kv: int, d: int) -> Shapes:
    """Tensors of a layer's self_attn."""
    at += "self_attn."
    out, norm = ("out_proj", "layernorm") if family == "lfm2" else ("o_proj", "norm")
    shapes: Shapes = {
        at + "q_proj.weight": (heads * d * (2 if family == "qwen3_5" else 1), H),
        at + "k_proj.weight": (kv * d, H),
        at + "v_proj.weight": (kv * d, H),
        f"{at}{out}.weight": (H, heads * d),
    }
    if family in ("olmo2", "olmo3"):
        shapes |= {at + "q_norm.weight": (heads * d,), at + "k_norm.weight": (kv * d,)}
    elif family in ("qwen2", "seed_oss", "glm4"):
        shapes |= {at + f"{p}_proj.bias": shapes[at + f"{p}_proj.weight"][:1] for p in "qkv"}
    elif family == "hunyuan":
        shapes |= {at + f"{part}_layernorm.weight": (d,) for part in ("query", "key")}
    elif family in ("qwen3", "gemma3", "qwen3_5", "lfm2", "exaone4"):
        shapes |= {f"{at}{p}_{norm}.weight": (d,) for p in "qk"}
    return shapes


def weights(name: str, shape: tuple[int, ...], family: str) -> np.ndarray:
    """float32 values of a tensor, which depend on its name only: spread evenly around 0 (around 1 for norms)."""
    if name.endswith(".inv_freq"):
        return np.ones(shape, np.float32)
    key = name.replace("language_model.", "").removeprefix("model.")
    n = int(np.prod(shape))
    word = np.arange(n, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(
        zlib.crc32(key.encode())
    )
    for shift in (15, 13, 16):  # a 32-bit hash
        word = (word ^ (word >> np.uint64(shift))) * np.uint64(2246822519) & np.uint64(0xFFFFFFFF)
    unit = (word / 2.0**31 - 1.0).reshape(shape)
    if name.endswith("A_log"):
        values = -2.0 + unit
    elif name.endswith("norm.weight") or "layernorm" in name:
        neutral = family in ("gemma2", "gemma3", "nemotron") or (
            family == "qwen3_5" and "linear_attn" not in name
        )
        values = (0.0 if neutral else 1.0) + 0.4 * unit
        if re.search(r"\b(q|k|query|key)_", name):
            values = values + 0.7
    elif len(shape) == 1:
        values = 0.5 * unit
    elif "embed_tokens" in key:
        values = (0.15 if family in ("gemma2", "gemma3") else 0.5) * unit
    else:
        values = 2.6 * unit / np.sqrt(shape[-1])
    return values.astype(np.float32)


def fused(shapes: Shapes) -> Shapes:
    """q, k and v in one tensor, gate and up in another, as in Phi-3's files."""
    made: Shapes = {}
    for name, shape in shapes.items():
        for part, whole in (
            ("self_attn.[qkv]_proj", "qkv_proj"),
            ("mlp.(gate|up)_proj", "gate_up_proj"),
        ):
            if re.search(part, name):
                name = re.sub(r"(q|k|v|gate|up)_proj", whole, name)
                shape = (made.get(name, (0,))[0] + shape[0], *shape[1:])
        made[name] = shape
    return made


# -- what becomes of the tensors ----------------------------------------------------------------


def fused_mlp(shapes: Shapes) -> Shapes:
    """Gate and up in one tensor, as in GLM-4's files."""
    made = {
        name: s
        for name, s in shapes.items()
        if not name.endswith(("gate_proj.weight", "up_proj.weight"))
    }
    return made | {f"model.layers.{i}.mlp.gate_up_proj.weight": (2 * MLP, H) for i in range(LAYERS)}


def without_head(shapes: Shapes) -> Shapes:
    """Remove lm_head."""
    return {name: shape for name, shape in shapes.items() if name != "lm_head.weight"}


def only_head(shapes: Shapes) -> Shapes:
    """Remove the embedding."""
    return {name: shape for name, shape in shapes.items() if "embed_tokens" not in name}


def body_names(shapes: Shapes) -> Shapes:
    """The names in a file that holds the body alone."""
    return {name.removeprefix("model."): shape for name, shape in without_head(shapes).items()}


def biases(*ends: str) -> Callable[[Shapes], Shapes]:
    """Add a bias to every weight of these modules."""

    def add(shapes: Shapes) -> Shapes:
        made = dict(shapes)
        for name, shape in shapes.items():
            stem = name.removesuffix(".weight")
            if stem.endswith(ends):
                made[f"{stem}.bias"] = shape[:1]
        return made

    return add


QKV = biases("q_proj", "k_proj", "v_proj")
EVERY_LINEAR = biases("q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj")
QKVO = biases("q_proj", "k_proj", "v_proj", "o_proj")
GATE_UP_DOWN = biases("gate_proj", "up_proj", "down_proj")
QKVO_GATE_UP_DOWN = biases(
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
)


def attention_of(family: str, heads: int, kv: int, d: int) -> Callable[[Shapes], Shapes]:
    """Change the number or the width of the heads."""

    def change(shapes: Shapes) -> Shapes:
        made = dict(shapes)
        for i in range(LAYERS):
            made |= attention_shapes(f"model.layers.{i}.", family, heads, kv, d)
        return made

    return change


def with_buffers(shapes: Shapes) -> Shapes:
    """Add the buffers that older versions of transformers wrote."""
    return shapes | {
        f"model.layers.{i}.self_attn.rotary_emb.inv_freq": (D // 2,) for i in range(LAYERS)
    }


def without_linear_biases(shapes: Shapes) -> Shapes:
    """Keep only the biases of norms."""
    return {n: s for n, s in shapes.items() if not n.endswith(("_proj.bias", "c_fc.bias"))}


def with_head(shapes: Shapes) -> Shapes:
    """Add a separate head, which the family's own files do not have."""
    return {**shapes, "lm_head.weight": (VOCAB, H)}


def per_head_norms(shapes: Shapes) -> Shapes:
    """StableLM's: a weight for each head of q and k, and no norm of the MLP."""
    made = {n: s for n, s in shapes.items() if "post_attention" not in n}
    for i in range(LAYERS):
        at = f"model.layers.{i}.self_attn."
        made |= {f"{at}q_layernorm.norms.{j}.weight": (D,) for j in range(HEADS)}
        made |= {f"{at}k_layernorm.norms.{j}.weight": (D,) for j in range(KV)}
    return made


def with_mtp(shapes: Shapes) -> Shapes:
    """Add a draft head."""
    return shapes | {"mtp.fc.weight": (H, 2 * H), "mtp.norm.weight": (H,)}


def narrow(shapes: Shapes) -> Shapes:
    """A conv layer's MLP has another width: 48 * 2 / 3 = 32, rounded up to a multiple of 20."""
    made = dict(shapes)
    for i in range(LAYERS):
        at = f"model.layers.{i}.feed_forward."
        made |= {at + "w1.weight": (40, H), at + "w3.weight": (40, H), at + "w2.weight": (H, 40)}
    return made


VISION = {
    "model_type": "siglip_vision_model", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 1, "image_size": 28, "patch_size": 14,
}  # fmt: skip
GEMMA = {
    "model_type": "gemma3", "vision_config": VISION, "image_token_index": 3, "boi_token_index": 4,
    "eoi_token_index": 5, "mm_tokens_per_image": 4,
}  # fmt: skip
QWEN = {
    "model_type": "qwen3_5",
    "vision_config": {"model_type": "qwen3_5", "depth": 1, "hidden_size": 8},
}
# Keys of the text model on a level where transformers does not read them.
ASTRAY = {
    "rope_theta": 77.0, "rms_norm_eps": 0.5, "head_dim": 4, "attention_bias": True, "sliding_window": 2,
    "rope_scaling": {"rope_type": "linear", "factor": 9.0}, "layer_types": [FULL, FULL], "hidden_size": 999,
}  # fmt: skip

PIXTRAL = {
    "model_type": "pixtral", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 1, "head_dim": 8, "image_size": 28, "patch_size": 14,
}  # fmt: skip
MISTRAL3 = {"model_type": "mistral3", "vision_config": PIXTRAL, "tie_word_embeddings": False}

VARIANTS = [
    # -- llama: which head
    Variant("llama", "llama", {}),
    Variant("llama-tied", "llama", {"tie_word_embeddings": True}, without_head),
    Variant("llama-tied-yet-a-head", "llama", {"tie_word_embeddings": True}, like="llama"),
    Variant("llama-untied", "llama", {"tie_word_embeddings": False}, like="llama"),
    Variant("llama-tied-only-head", "llama", {"tie_word_embeddings": True}, only_head),
    Variant(
        "llama-body-names", "llama", {"tie_word_embeddings": True}, body_names, like="llama-tied"
    ),
    # -- biases
    Variant("llama-attention-bias", "llama", {"attention_bias": True}, QKVO),
    Variant("llama-mlp-bias", "llama", {"mlp_bias": True}, GATE_UP_DOWN),
    Variant("llama-bias-not-asked-for", "llama", {}, QKVO, refused=r"_proj\.bias.*attention_bias"),
    Variant(
        "llama-bias-not-there",
        "llama",
        {"attention_bias": True},
        refused=r"q_proj\.bias' is missing",
    ),
    # -- numbers
    Variant("llama-head-dim-null", "llama", {"head_dim": None}, like="llama"),
    Variant("llama-head-dim-12", "llama", {"head_dim": 12}, attention_of("llama", HEADS, KV, 12)),
    Variant(
        "llama-kv-absent",
        "llama",
        {"num_key_value_heads": ABSENT},
        attention_of("llama", HEADS, HEADS, D),
    ),
    Variant(
        "llama-kv-null",
        "llama",
        {"num_key_value_heads": None},
        attention_of("llama", HEADS, HEADS, D),
        like="llama-kv-absent",
    ),
    Variant("llama-eps-absent", "llama", {"rms_norm_eps": ABSENT}, like="llama"),
    Variant("llama-eps", "llama", {"rms_norm_eps": 0.05}),
    Variant("llama-act-absent", "llama", {"hidden_act": ABSENT}, like="llama"),
    Variant("llama-act-swish", "llama", {"hidden_act": "swish"}, like="llama"),
    Variant("llama-act-gelu-tanh", "llama", {"hidden_act": "gelu_pytorch_tanh"}),
    Variant(
        "llama-act-quick",
        "llama",
        {"hidden_act": "quick_gelu"},
        refused=r"hidden_act is 'quick_gelu'",
    ),
    Variant(
        "llama-irrelevant",
        "llama",
        {"use_sliding_window": True, "sliding_window": 4, "pretraining_tp": 2, "x": [1]},
        like="llama",
    ),
    Variant(
        "llama-layer-types",
        "llama",
        {"layer_types": [FULL, SLIDING], "sliding_window": 4, "sliding_window_pattern": 2},
        like="llama",
    ),
    Variant("llama-inv-freq", "llama", {}, with_buffers, like="llama"),
    # -- positions
    Variant("llama-theta-absent", "llama", {"rope_theta": ABSENT}),
    Variant(
        "llama-theta-within",
        "llama",
        {"rope_theta": 50.0, "rope_parameters": {"rope_type": "default", "rope_theta": 5e3}},
        like="llama",
    ),
    Variant(
        "llama-theta-outside", "llama", {"rope_parameters": {"rope_type": "default"}}, like="llama"
    ),
    Variant("llama-scaling-null", "llama", {"rope_scaling": None}, like="llama"),
    Variant(
        "llama-scaling-empty",
        "llama",
        {"rope_scaling": {}, "rope_parameters": {"rope_type": "default", "rope_theta": 5e3}},
        like="llama",
    ),
    Variant("llama-linear", "llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    Variant(
        "llama-linear-new",
        "llama",
        {"rope_theta": ABSENT, "rope_parameters": {**LINEAR_2, "rope_theta": 5e3}},
        like="llama-linear",
    ),
    Variant(
        "llama-scaling-and-parameters",
        "llama",
        {"rope_scaling": LINEAR_2, "rope_parameters": {"rope_type": "default", "rope_theta": 70.0}},
        like="llama-linear",
    ),
    Variant(
        "llama-llama3",
        "llama",
        {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 32}},
    ),
    Variant("llama-llama3-no-original", "llama", {"rope_scaling": LLAMA3}),
    Variant(
        "llama-original-outside",
        "llama",
        {"rope_scaling": LLAMA3, "original_max_position_embeddings": 32},
        like="llama-llama3",
    ),
    Variant(
        "llama-original-twice",
        "llama",
        {
            "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 64},
            "original_max_position_embeddings": 32,
        },
        like="llama-llama3",
    ),
    Variant(
        "llama-yarn", "llama", {"rope_scaling": {**YARN, "original_max_position_embeddings": 32}}
    ),
    Variant("llama-yarn-no-original", "llama", {"rope_scaling": YARN}),
    Variant(
        "llama-yarn-factor-null",
        "llama",
        {
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": None,
                "original_max_position_embeddings": 32,
            }
        },
        like="llama-yarn",
    ),
    Variant("llama-partial", "llama", {"partial_rotary_factor": 0.5}, like="llama"),
    Variant(
        "llama-dynamic",
        "llama",
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        refused="'dynamic' is not supported",
    ),
    # -- qwen2
    Variant("qwen2", "qwen2", {}),
    Variant("qwen2-tied", "qwen2", {"tie_word_embeddings": True}, without_head),
    Variant(
        "qwen2-window-off",
        "qwen2",
        {"sliding_window": 8, "max_window_layers": 0, "use_sliding_window": False},
        like="qwen2",
    ),
    Variant(
        "qwen2-window",
        "qwen2",
        {"sliding_window": 8, "max_window_layers": 1, "use_sliding_window": True},
    ),
    Variant(
        "qwen2-window-null",
        "qwen2",
        {"sliding_window": None, "max_window_layers": 0, "use_sliding_window": True},
        like="qwen2",
    ),
    Variant(
        "qwen2-window-layer-types",
        "qwen2",
        {"sliding_window": 8, "use_sliding_window": True, "layer_types": [FULL, SLIDING]},
        like="qwen2-window",
    ),
    Variant(
        "qwen2-window-contradicted",
        "qwen2",
        {"sliding_window": 8, "layer_types": [FULL, SLIDING]},
        refused="sliding_window",
    ),
    Variant("qwen2-pattern", "qwen2", {"sliding_window_pattern": 2}, like="qwen2"),
    Variant("qwen2-theta-absent", "qwen2", {"rope_theta": ABSENT}),
    Variant(
        "qwen2-kv-absent", "qwen2", {"num_key_value_heads": ABSENT}, refused="num_key_value_heads"
    ),
    # -- qwen3
    Variant("qwen3", "qwen3", {}),
    Variant("qwen3-attention-bias", "qwen3", {"attention_bias": True}, QKVO),
    Variant(
        "qwen3-head-dim-absent",
        "qwen3",
        {"head_dim": ABSENT, "num_attention_heads": 2, "num_key_value_heads": 1},
        attention_of("qwen3", 2, 1, 128),
    ),
    Variant(
        "qwen3-head-dim-else",
        "qwen3",
        {"head_dim": ABSENT},
        refused=r"q_proj\.weight is \[32, 32\]",
    ),
    Variant(
        "qwen3-window",
        "qwen3",
        {"sliding_window": 8, "max_window_layers": 1, "use_sliding_window": True},
    ),
    Variant("qwen3-yarn-no-original", "qwen3", {"rope_scaling": YARN}),
    # -- gemma3
    Variant("gemma3", "gemma3", {}),
    Variant("gemma3-tied", "gemma3", {}, without_head),
    Variant("gemma3-attention-bias", "gemma3", {"attention_bias": True}, QKVO),
    Variant(
        "gemma3-old-style",
        "gemma3",
        {"rope_theta": 5e3, "rope_local_base_freq": 70.0, "rope_scaling": LINEAR_2},
    ),
    Variant(
        "gemma3-new-style",
        "gemma3",
        {
            "rope_parameters": {
                SLIDING: {"rope_type": "default", "rope_theta": 70.0},
                FULL: {**LINEAR_2, "rope_theta": 5e3},
            }
        },
        like="gemma3-old-style",
    ),
    Variant(
        "gemma3-both-styles",
        "gemma3",
        {
            "rope_scaling": LINEAR_2,
            "rope_theta": 5e3,
            "rope_local_base_freq": 70.0,
            "rope_parameters": {SLIDING: {"rope_type": "default"}, FULL: {"rope_type": "default"}},
        },
        like="gemma3-old-style",
    ),
    Variant(
        "gemma3-one-kind-left-out",
        "gemma3",
        {"rope_parameters": {SLIDING: {"rope_type": "default", "rope_theta": 70.0}}},
    ),
    Variant(
        "gemma3-flat-parameters",
        "gemma3",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e3}},
        refused="rope_parameters is one object",
    ),
    Variant(
        "gemma3-pattern",
        "gemma3",
        {"layer_types": ABSENT, "sliding_window_pattern": 2},
        like="gemma3",
    ),
    Variant("gemma3-pattern-absent", "gemma3", {"layer_types": ABSENT}),
    Variant("gemma3-scalar-absent", "gemma3", {"query_pre_attn_scalar": ABSENT}),
    Variant("gemma3-window-null", "gemma3", {"sliding_window": None}, refused="sliding_window"),
    Variant(
        "gemma3-softcap",
        "gemma3",
        {"final_logit_softcapping": 30.0},
        refused="final_logit_softcapping",
    ),
    Variant(
        "gemma3-nested", "gemma3", {}, without_head, outer={**GEMMA, **ASTRAY}, like="gemma3-tied"
    ),
    Variant(
        "gemma3-nested-tied-outside",
        "gemma3",
        {"tie_word_embeddings": False},
        without_head,
        outer={**GEMMA, "tie_word_embeddings": True},
        like="gemma3-tied",
    ),
    # -- qwen3_5
    Variant("qwen3_5", "qwen3_5", {}),
    Variant("qwen3_5-tied", "qwen3_5", {"tie_word_embeddings": True}, without_head),
    Variant("qwen3_5-attention-bias", "qwen3_5", {"attention_bias": True}, QKVO),
    Variant("qwen3_5-theta", "qwen3_5", {"rope_theta": 50.0}),
    Variant(
        "qwen3_5-partial",
        "qwen3_5",
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 50.0,
                "partial_rotary_factor": 0.5,
            }
        },
    ),
    Variant("qwen3_5-nested", "qwen3_5", {}, with_mtp, outer={**QWEN, **ASTRAY}, like="qwen3_5"),
    # -- lfm2
    Variant("lfm2", "lfm2", {}),
    Variant("lfm2-tied", "lfm2", {}, without_head),
    Variant(
        "lfm2-tie-embedding",
        "lfm2",
        {"tie_embedding": True, "tie_word_embeddings": False},
        without_head,
        like="lfm2-tied",
    ),
    Variant(
        "lfm2-conv-bias",
        "lfm2",
        {"conv_bias": True},
        biases("conv.in_proj", "conv.conv", "conv.out_proj"),
    ),
    Variant(
        "lfm2-conv-bias-not-asked-for", "lfm2", {}, biases("conv.conv"), refused=r"conv\.conv\.bias"
    ),
    Variant(
        "lfm2-width", "lfm2", {"block_auto_adjust_ff_dim": ABSENT, "block_multiple_of": 20}, narrow
    ),
    Variant("lfm2-eps", "lfm2", {"norm_eps": ABSENT, "rms_norm_eps": 0.5}, like="lfm2"),
    Variant("lfm2-theta", "lfm2", {"rope_theta": 50.0}),
    Variant("lfm2-attn-idxs", "lfm2", {"layer_types": ABSENT, "full_attn_idxs": [1]}, like="lfm2"),
    # -- mistral
    Variant("mistral", "mistral", {}),
    Variant("mistral-window-null", "mistral", {"sliding_window": None}),
    Variant(
        "mistral-window-absent", "mistral", {"sliding_window": ABSENT}, like="mistral-window-null"
    ),
    Variant("mistral-layer-types", "mistral", {"layer_types": [FULL, FULL]}, refused="layer_types"),
    Variant(
        "mistral-kv-absent",
        "mistral",
        {"num_key_value_heads": ABSENT},
        refused="num_key_value_heads",
    ),
    # -- olmo2, olmo3
    Variant("olmo2", "olmo2", {}),
    Variant("olmo2-eps", "olmo2", {"rms_norm_eps": 0.5}),
    Variant("olmo2-attention-bias", "olmo2", {"attention_bias": True}, QKVO),
    Variant(
        "olmo2-sliding",
        "olmo2",
        {"sliding_window": 4, "layer_types": [SLIDING, FULL]},
        like="olmo2",
    ),
    Variant("olmo3", "olmo3", {}),
    Variant("olmo3-types-absent", "olmo3", {"layer_types": ABSENT}),
    Variant(
        "olmo3-pattern",
        "olmo3",
        {"layer_types": ABSENT, "sliding_window_pattern": 2},
        like="olmo3-types-absent",
    ),
    Variant("olmo3-theta", "olmo3", {"rope_theta": 50.0}),
    Variant(
        "olmo3-yarn",
        "olmo3",
        {"rope_scaling": {**YARN, "original_max_position_embeddings": 32}, "rope_theta": 50.0},
    ),
    Variant(
        "olmo3-yarn-new",
        "olmo3",
        {
            "rope_parameters": {
                SLIDING: {"rope_type": "default", "rope_theta": 5e5},
                FULL: {**YARN, "original_max_position_embeddings": 32, "rope_theta": 50.0},
            }
        },
        like="olmo3-yarn",
    ),
    # -- granite
    Variant("granite", "granite", {}),
    Variant("granite-tied", "granite", {"tie_word_embeddings": True}, without_head),
    Variant(
        "granite-defaults",
        "granite",
        {
            "attention_multiplier": ABSENT,
            "residual_multiplier": ABSENT,
            "embedding_multiplier": ABSENT,
            "logits_scaling": ABSENT,
        },
    ),
    Variant("granite-mlp-bias", "granite", {"mlp_bias": True}, GATE_UP_DOWN),
    Variant("granite-attention-bias", "granite", {"attention_bias": True}, QKVO),
    # -- starcoder2
    Variant("starcoder2", "starcoder2", {}),
    Variant("starcoder2-untied", "starcoder2", {"tie_word_embeddings": False}, with_head),
    Variant("starcoder2-window", "starcoder2", {"sliding_window": 8}),
    Variant("starcoder2-eps", "starcoder2", {"norm_epsilon": 0.5}),
    Variant("starcoder2-rms-eps", "starcoder2", {"rms_norm_eps": 0.5}, like="starcoder2"),
    Variant("starcoder2-no-bias", "starcoder2", {"use_bias": False}, without_linear_biases),
    Variant("starcoder2-relu", "starcoder2", {"hidden_act": "relu"}),
    # -- stablelm
    Variant("stablelm", "stablelm", {}),
    Variant("stablelm-partial", "stablelm", {"partial_rotary_factor": 0.5}),
    Variant(
        "stablelm-partial-new",
        "stablelm",
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 50.0,
                "partial_rotary_factor": 0.5,
            }
        },
        like="stablelm-partial",
    ),
    Variant("stablelm-qkv-bias", "stablelm", {"use_qkv_bias": True}, QKV),
    Variant(
        "stablelm-12b",
        "stablelm",
        {"qk_layernorm": True, "use_parallel_residual": True},
        per_head_norms,
    ),
    # -- nemotron
    Variant("nemotron", "nemotron", {}),
    Variant("nemotron-whole", "nemotron", {"partial_rotary_factor": 1.0}),
    Variant("nemotron-eps", "nemotron", {"norm_eps": 0.5}),
    Variant("nemotron-attention-bias", "nemotron", {"attention_bias": True}, QKVO),
    Variant("nemotron-mlp-bias", "nemotron", {"mlp_bias": True}, biases("up_proj", "down_proj")),
    # -- seed_oss
    Variant("seed_oss", "seed_oss", {}),
    Variant("seed_oss-no-bias", "seed_oss", {"attention_bias": False}, without_linear_biases),
    Variant(
        "seed_oss-out-bias", "seed_oss", {"attention_out_bias": True}, biases("self_attn.o_proj")
    ),
    Variant(
        "seed_oss-head-dim-absent",
        "seed_oss",
        {"head_dim": ABSENT},
        refused=r"q_proj\.weight is \[32, 32\]",
    ),
    # -- phi3: 40 tokens, more than the 32 of the short factors
    Variant("phi3", "phi3", {}, fused),
    Variant("phi3-short", "phi3", {"original_max_position_embeddings": 64}, fused),
    Variant(
        "phi3-su",
        "phi3",
        {
            "rope_scaling": {
                "type": "su",
                "original_max_position_embeddings": 32,
                "short_factor": SHORT,
                "long_factor": LONG,
            }
        },
        fused,
        like="phi3",
    ),
    Variant(
        "phi3-partial",
        "phi3",
        {
            "partial_rotary_factor": 0.5,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": SHORT[:2],
                "long_factor": LONG[:2],
            },
        },
        fused,
    ),
    Variant("phi3-plain", "phi3", {"rope_scaling": ABSENT}, fused),
    Variant("phi3-window", "phi3", {"sliding_window": 8}, fused),
    Variant(
        "phi3-factors-too-few",
        "phi3",
        {"rope_scaling": {"type": "longrope", "short_factor": SHORT, "long_factor": LONG[:3]}},
        fused,
        refused="long_factor",
    ),
    # -- smollm3
    Variant("smollm3", "smollm3", {}),
    Variant("smollm3-list", "smollm3", {"no_rope_layers": [0, 1], "no_rope_layer_interval": 1}),
    Variant("smollm3-interval", "smollm3", {"no_rope_layer_interval": 1}),
    Variant(
        "smollm3-window",
        "smollm3",
        {"no_rope_layers": [1, 0], "use_sliding_window": True, "sliding_window": 8},
    ),
    Variant(
        "smollm3-layer-types",
        "smollm3",
        {"sliding_window": 8, "layer_types": [SLIDING, FULL]},
    ),
    # -- ministral3
    Variant("ministral3", "ministral3", {}),
    Variant(
        "ministral3-growth",
        "ministral3",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 5e3,
                "factor": 4.0,
                "original_max_position_embeddings": 8,
                "llama_4_scaling_beta": 0.4,
            }
        },
    ),
    Variant("ministral3-window", "ministral3", {"sliding_window": 8}),
    Variant("ministral3-nested", "ministral3", {}, outer={**MISTRAL3, **ASTRAY}, like="ministral3"),
    Variant("mistral-nested", "mistral", {}, outer=MISTRAL3, like="mistral"),
    Variant(
        "mistral-nested-unnamed", "mistral", {"model_type": ABSENT}, outer=MISTRAL3, like="mistral"
    ),
    Variant(
        "mistral3-of-something-else",
        "llama",
        {},
        outer=MISTRAL3,
        refused=r"text_config\.model_type is 'llama'",
    ),
    # -- helium
    Variant("helium", "helium", {}),
    Variant("helium-theta", "helium", {"rope_theta": ABSENT}),
    Variant(
        "helium-bias", "helium", {"attention_bias": True}, biases("q_proj", "k_proj", "v_proj")
    ),
    # -- gemma2
    Variant("gemma2", "gemma2", {}),
    Variant("gemma2-tied", "gemma2", {}, without_head),
    Variant(  # the 27B model
        "gemma2-scalar", "gemma2", {"query_pre_attn_scalar": 144}
    ),
    Variant("gemma2-scalar-absent", "gemma2", {"query_pre_attn_scalar": ABSENT}),
    Variant(
        "gemma2-no-caps",
        "gemma2",
        {
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
        },
    ),  # fmt: skip
    Variant("gemma2-layer-types", "gemma2", {"layer_types": [SLIDING, FULL]}, like="gemma2"),
    Variant("gemma2-all-full", "gemma2", {"layer_types": [FULL, FULL]}),
    Variant("gemma2-pattern", "gemma2", {"sliding_window_pattern": 1}, like="gemma2"),
    Variant("gemma2-cache", "gemma2", {"cache_implementation": "hybrid"}, like="gemma2"),
    Variant("gemma2-act-old", "gemma2", {"hidden_act": "relu"}, like="gemma2"),
    Variant("gemma2-attention-bias", "gemma2", {"attention_bias": True}, QKVO),
    # -- cohere2
    Variant("cohere2", "cohere2", {}),
    Variant("cohere2-tied", "cohere2", {}, without_head),
    Variant(
        "cohere2-pattern",
        "cohere2",
        {
            "layer_types": ABSENT,
            "sliding_window_pattern": 2,
            "order_of_interleaved_layers": "local_attn_first",
            "position_embedding_type": "rope_gptj",
            "rotary_pct": 1.0,
            "use_qk_norm": False,
            "use_gated_activation": True,
            "use_parallel_block": True,
            "use_parallel_embedding": False,
            "use_embedding_sharing": True,
        },
        like="cohere2",
    ),  # fmt: skip
    Variant("cohere2-pattern-absent", "cohere2", {"layer_types": ABSENT}),
    Variant("cohere2-logit-scale", "cohere2", {"logit_scale": 0.25}),
    Variant("cohere2-eps", "cohere2", {"layer_norm_eps": 0.5}),
    Variant("cohere2-rms-eps", "cohere2", {"rms_norm_eps": 0.5}, like="cohere2"),
    Variant(
        "cohere2-head-dim", "cohere2", {"head_dim": 16}, attention_of("cohere2", HEADS, KV, 16)
    ),
    Variant("cohere2-attention-bias", "cohere2", {"attention_bias": True}, QKVO),
    Variant(
        "cohere2-kv-absent",
        "cohere2",
        {"num_key_value_heads": ABSENT},
        attention_of("cohere2", HEADS, HEADS, D),
    ),
    # -- glm4
    Variant("glm4", "glm4", {}, fused_mlp),
    Variant("glm4-partial", "glm4", {"partial_rotary_factor": 1.0}, fused_mlp),
    Variant("glm4-partial-same", "glm4", {"partial_rotary_factor": 0.5}, fused_mlp, like="glm4"),
    Variant(
        "glm4-no-bias",
        "glm4",
        {"attention_bias": False},
        lambda shapes: fused_mlp(without_linear_biases(shapes)),
    ),
    Variant(
        "glm4-tied",
        "glm4",
        {"tie_word_embeddings": True},
        lambda shapes: fused_mlp(without_head(shapes)),
    ),
    Variant("glm4-eps", "glm4", {"rms_norm_eps": 0.5}, fused_mlp),
    # -- ernie4_5
    Variant("ernie4_5", "ernie4_5", {}),
    Variant("ernie4_5-tied", "ernie4_5", {}, without_head),
    Variant("ernie4_5-bias", "ernie4_5", {"use_bias": True}, QKVO_GATE_UP_DOWN),
    Variant("ernie4_5-theta-absent", "ernie4_5", {"rope_theta": ABSENT}),
    Variant(  # as in Baidu's own files
        "ernie4_5-compression",
        "ernie4_5",
        {"compression_ratio": 1.0, "layer_types": [SLIDING, FULL], "sliding_window": 4},
        like="ernie4_5",
    ),  # fmt: skip
    # -- hunyuan
    Variant("hunyuan", "hunyuan", {}),
    Variant("hunyuan-tied", "hunyuan", {"tie_word_embeddings": True}, without_head),
    Variant("hunyuan-no-alpha", "hunyuan", {"rope_scaling": ABSENT}),
    Variant(
        "hunyuan-new",
        "hunyuan",
        {
            "rope_scaling": ABSENT,
            "rope_theta": ABSENT,
            "rope_parameters": {
                "rope_type": "dynamic",
                "alpha": 50.0,
                "factor": 1.0,
                "rope_theta": 50.0,
            },
        },
        like="hunyuan",
    ),  # fmt: skip
    Variant(
        "hunyuan-published",
        "hunyuan",
        {
            "attention_head_dim": D,
            "use_cla": False,
            "cla_share_factor": 2,
            "mlp_bias": False,
            "norm_type": "rms",
            "position_embedding_xdrope": False,
            "use_rotary_pos_emb": True,
            "num_experts": 1,
            "add_classification_head": False,
            "org_vocab_size": VOCAB,
            "rope_scaling": {
                "alpha": 50.0,
                "beta_fast": 32,
                "beta_slow": 1,
                "factor": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "type": "dynamic",
            },
        },
        like="hunyuan",
    ),  # fmt: skip
    Variant("hunyuan-attention-bias", "hunyuan", {"attention_bias": True}, QKVO),
    # -- exaone4
    Variant("exaone4", "exaone4", {}),
    Variant("exaone4-tied", "exaone4", {"tie_word_embeddings": True}, without_head),
    Variant(
        "exaone4-global",
        "exaone4",
        {  # the 1.2B model: no window, every layer rotates
            "sliding_window": None,
            "sliding_window_pattern": None,
            "layer_types": [FULL, FULL],
        },
    ),  # fmt: skip
    Variant("exaone4-full-beside-a-window", "exaone4", {"layer_types": [FULL, FULL]}),
    Variant(
        "exaone4-number",
        "exaone4",
        {"layer_types": ABSENT, "sliding_window_pattern": 2},
        like="exaone4",
    ),
    Variant(
        "exaone4-llama3",
        "exaone4",
        {
            "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 16},
            "rope_theta": 50.0,
        },
    ),  # fmt: skip
]
