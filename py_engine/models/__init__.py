"""Model families: one file each, named as the `model_type` of config.json. `build_model` finds it by that name.

To add one: a file here with `build(config, store) -> Model`, its name in FAMILIES, a test. See
docs/adding-a-model-family.md.
"""

from __future__ import annotations

import re
from importlib import import_module

from py_engine.blocks.layers import Model
from py_engine.errors import ModelError
from py_engine.sources.config import Config
from py_engine.weights.store import WeightStore

# model_type -> file. Multimodal wrappers name the same text model.
FAMILIES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
    "qwen3_5": "qwen3_5",
    "qwen3_5_text": "qwen3_5",
    "lfm2": "lfm2",
    "cohere2": "cohere2",
    "ernie4_5": "ernie4_5",
    "exaone4": "exaone4",
    "gemma2": "gemma2",
    "glm4": "glm4",
    "helium": "helium",
    "hunyuan_v1_dense": "hunyuan_v1_dense",
    "ministral3": "ministral3",
    "phi3": "phi3",
    "smollm3": "smollm3",
    "mistral": "mistral",
    "olmo2": "olmo2",
    "olmo3": "olmo3",
    "granite": "granite",
    "starcoder2": "starcoder2",
    "stablelm": "stablelm",
    "nemotron": "nemotron",
    "seed_oss": "seed_oss",
}


# What text models' checkpoints hold beside their weights: buffers that are computed, and parts that are not read.
_BUFFERS = re.compile(r"\.(rotary_emb\.inv_freq|masked_bias|rope\.freqs)$")
_OTHER_PARTS = re.compile(
    r"(model\.)?(vision_tower|vision_model|visual|vision_embed_tokens|multi_modal_projector|embed_vision|audio_tower|mtp)\."
)


def build_model(config: Config, store: WeightStore) -> Model:
    """The model that config.json describes, its weights asked for from `store` (allocated, not yet filled).

    Raises ModelError for an unknown family, absurd numbers, tensors that do not fit them, or one that stands beside
    those of a module in use and that nobody asked for.
    """
    kind = str(config.get("model_type"))
    if kind not in FAMILIES:
        raise ModelError(
            f"model_type {kind!r} is not supported. Supported: {', '.join(sorted(FAMILIES))}."
        )
    model: Model = import_module(f"py_engine.models.{FAMILIES[kind]}").build(config, store)
    for name in unread(store):
        module, _, part = name.rpartition(".")
        if store.uses(module):
            raise ModelError(
                f"{kind}: the weights hold {name}, which config.json does not ask for: without it {module} would "
                f"compute something else. {_ADVICE.get(part, 'Config and weights disagree: check the revision.')}"
            )
    return model


# By the last part of the left tensor's name.
_ADVICE = {
    "bias": "Is attention_bias, mlp_bias or conv_bias missing from config.json?",
    "scales": "Is this layer quantised in a format that is not supported?",
    "biases": "Is this layer's .scales missing from the download?",
}


def unread(store: WeightStore) -> list[str]:
    """Names of tensors that no module asked for, less those of other parts of a multimodal model and of buffers that
    are computed; sorted."""
    return [
        name for name in store.unused() if not (_BUFFERS.search(name) or _OTHER_PARTS.match(name))
    ]
