"""Model families: one file each, named as the `model_type` of config.json. `build_model` finds it by that name.

To add one: a file here with `build(config, store) -> Model`, its name in FAMILIES, a test. See
docs/adding-a-model-family.md.
"""

from __future__ import annotations

from importlib import import_module

from py_engine.errors import ModelError
from py_engine.models.layers import Model
from py_engine.weights.config import Config
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
}


def build_model(config: Config, store: WeightStore) -> Model:
    """The model that config.json describes, its weights asked for from `store` (allocated, not yet filled).

    Raises ModelError for an unknown family, absurd numbers, or tensors that do not fit them.
    """
    kind = str(config.get("model_type"))
    if kind not in FAMILIES:
        raise ModelError(
            f"model_type {kind!r} is not supported. Supported: {', '.join(sorted(FAMILIES))}."
        )
    model: Model = import_module(f"py_engine.models.{FAMILIES[kind]}").build(config, store)
    return model
