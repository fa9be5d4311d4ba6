"""Makes config.json of a GGUF file: the keys of all families, the scaling of positions, and what the family adds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from py_engine.convert.family import (
    LONG_FACTORS,
    ROPE_FACTORS,
    Config,
    Family,
    Tensors,
    embedding,
)
from py_engine.convert.gguf import Gguf
from py_engine.convert.gguf_blocks import dequantise
from py_engine.convert.metadata import Metadata, shortest
from py_engine.errors import ModelError
from py_engine.sources.rope_config import rope

Floats = NDArray[np.float32]

# Settings that change what a model computes, and that config.json has only for some families.
NOT_CARRIED = (
    "attn_logit_softcapping", "final_logit_softcapping", "expert_count", "logit_scale", "attention.scale",
    "residual_scale", "embedding_scale", "attention.clamp_kqv", "attention.temperature_scale",
)  # fmt: skip


def config_of(
    gguf: Gguf, architecture: str, family: Family, names: Tensors, data: Any, where: str
) -> Config:
    """config.json without tokens and quantisation. `names`: Hugging Face name -> tensor. Raises ModelError for a
    setting that the family's config.json cannot express."""
    metadata = Metadata(gguf.metadata, architecture, where)
    for key in NOT_CARRIED:
        if metadata.get(key) and key not in family.carries:
            raise metadata.refuse(key, f"is set, which {family.model_type} models do not have")
    config = _common(metadata, family, names, where)
    scaling = _scaling(metadata)
    if ROPE_FACTORS in gguf.tensors:
        factors = dequantise(gguf.tensors[ROPE_FACTORS], data).reshape(-1)
        scaling = _llama3(factors, config, where)
    elif LONG_FACTORS[0] in gguf.tensors:
        if any(name not in gguf.tensors for name in LONG_FACTORS):
            raise ModelError(f"{where}: {LONG_FACTORS[1]} is missing. Fetch the file again.")
        short, long = (
            [shortest(f) for f in dequantise(gguf.tensors[name], data).reshape(-1).tolist()]
            for name in LONG_FACTORS
        )
        scaling = {"rope_type": "longrope", "short_factor": short, "long_factor": long}
    if scaling is not None:
        config["rope_scaling"] = scaling
    more = family.config(metadata, config, names)  # may also remove keys from `config`
    return {**config, **more}


def _common(metadata: Metadata, family: Family, names: Tensors, where: str) -> Config:
    hidden = metadata.integer("embedding_length", 1, 1 << 16)
    heads = metadata.integer("attention.head_count", 1, 1024)
    keys = metadata.integer("attention.head_count_kv", 1, 1024, heads)
    if heads % keys:
        raise ModelError(f"{where}: {heads} heads do not share their key/value heads evenly.")
    head_dim = metadata.integer("attention.key_length", 1, 4096, hidden // heads)
    eps = "layer_norm_epsilon" if family.layer_norm else "layer_norm_rms_epsilon"
    config: Config = {
        "architectures": [family.hf_class],
        "model_type": family.model_type,
        "hidden_size": hidden,
        "num_hidden_layers": metadata.integer("block_count", 1, 1024),
        "intermediate_size": metadata.integer("feed_forward_length", 1, 1 << 20),
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "head_dim": head_dim,
        family.eps: metadata.number(f"attention.{eps}", 0.0, 1.0),
        "rope_theta": metadata.number("rope.freq_base", 1.0, 1e12, 10000.0),
        "max_position_embeddings": metadata.integer("context_length", 1, 1 << 30),
        "vocab_size": embedding(names, where).shape[0],
        "tie_word_embeddings": "lm_head.weight" not in names,
        "torch_dtype": "float16",
        "attention_bias": any(".self_attn." in n and n.endswith(".bias") for n in names),
        "attention_dropout": 0.0,
        **family.fixed,
    }
    rotated = metadata.integer("rope.dimension_count", 1, 4096, head_dim)
    if rotated != head_dim and not (family.partial and rotated < head_dim):
        raise metadata.refuse(
            "rope.dimension_count",
            f"rotates a part of each head only, which {family.model_type} models do not do",
        )
    if family.partial:
        config["partial_rotary_factor"] = rotated / head_dim
    return config


def _scaling(metadata: Metadata) -> dict[str, Any] | None:
    """`rope_scaling` of config.json; None where positions are not scaled."""
    kind = metadata.get("rope.scaling.type")
    if kind in (None, "none"):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": metadata.number("rope.scaling.factor", 1.0, 1e4)}
    if kind == "yarn":
        scaling = {
            "rope_type": "yarn",
            "factor": metadata.number("rope.scaling.factor", 1.0, 1e4),
            "original_max_position_embeddings": metadata.integer(
                "rope.scaling.original_context_length", 1, 1 << 30
            ),
        }
        if metadata.get("rope.scaling.attn_factor") is not None:
            scaling["attention_factor"] = metadata.number("rope.scaling.attn_factor", 0.0, 1e4)
        return scaling
    raise metadata.refuse("rope.scaling.type", f"is {str(kind)[:40]!r}")


def _llama3(factors: Floats, config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The rope scaling that gives these factors. It is Llama 3's: only its models' files have them."""
    scaling = {
        "rope_type": "llama3",
        "factor": shortest(float(factors.max())),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    width = config["head_dim"]
    plain = rope({"rope_theta": config["rope_theta"]}).frequencies(width)
    scaled = rope({**config, "rope_scaling": scaling}).frequencies(width)
    wanted = np.array(plain, np.float64) / np.array(scaled, np.float64)
    if factors.shape != wanted.shape or not np.allclose(factors, wanted, rtol=1e-4):
        raise ModelError(
            f"{where}: {ROPE_FACTORS} is not the scaling of Llama 3.1 or 3.2. It is a variant that is not"
            " supported; take the model's safetensors."
        )
    return scaling


def sampling(gguf: Gguf) -> dict[str, Any]:
    """Sampling defaults for generation_config.json, if the file has any."""
    found: dict[str, Any] = {}
    for key, name in (("temp", "temperature"), ("top_k", "top_k"), ("top_p", "top_p")):
        value = gguf.metadata.get(f"general.sampling.{key}")
        if type(value) is int:
            found[name] = value
        elif type(value) is float and math.isfinite(value):
            found[name] = shortest(value)
    return found | ({"do_sample": True} if found.get("temperature") else {})
