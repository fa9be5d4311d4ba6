"""Model families: one file each, named as the `model_type` of config.json. `build_model` finds it by that name.

To add one: a file here with `build(config, store) -> Model` (and ALIASES, other `model_type`s that it takes, such as
those of multimodal wrappers; SETS, see `sets_of`), and a test. See docs/adding-a-model-family.md.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import Any

from py_engine.blocks.decoder_encoder import encoder_of
from py_engine.blocks.encoder import EncoderModel
from py_engine.blocks.layers import Model
from py_engine.blocks.projections import projections
from py_engine.errors import ModelError
from py_engine.sources.config import DENSE_MODULES, POOLED, Config, sees_both_sides
from py_engine.weights.store import WeightStore

# What checkpoints of text models hold beside weights: buffers that the engine computes, and parts that it does not
# read.
_BUFFERS = re.compile(r"\.(rotary_emb\.inv_freq|masked_bias|rope\.freqs)$")
_OTHER_PARTS = re.compile(
    r"(model\.)?(vision_tower|vision_model|visual|vision_embed_tokens|multi_modal_projector|embed_vision|audio_tower|embed_audio|mtp)\."
)


@cache
def _files() -> frozenset[str]:
    """Names of the files here, in a folder or a zip."""
    return frozenset(info.name for info in pkgutil.iter_modules(__path__))


@cache
def families() -> dict[str, str]:
    """model_type -> file, for all families here and their ALIASES."""
    modules = {name: import_module(f"{__name__}.{name}") for name in sorted(_files())}
    found = {name: name for name, module in modules.items() if hasattr(module, "build")}
    for name in [*found]:
        for alias in getattr(modules[name], "ALIASES", ()):
            found.setdefault(alias, name)
    return found


def _family(kind: str) -> Any:
    """The module of this `model_type`, or None. Files are imported until one takes it. Files whose name is a prefix
    of it are tried first (gemma3 for gemma3_text), and longer names before shorter ones."""
    for name in sorted(_files(), key=lambda name: (not kind.startswith(name), -len(name))):
        module = import_module(f"{__name__}.{name}")
        if hasattr(module, "build") and (name == kind or kind in getattr(module, "ALIASES", ())):
            return module
    return None


def encodes(config: Config) -> bool:
    """Whether a model of this config is an encoder: of a family of encoders, or a decoder's layers whose rows are
    pooled, as modules.json says, or see both sides. Raises ModelError."""
    family = _family(str(config.get("model_type")))
    if family is None:
        return False
    return _of_encoders(family) or config.get(POOLED) is True or sees_both_sides(config)


def _of_encoders(family: Any) -> bool:
    """Whether a family's models are encoders. The declared return type of its `build` says so."""
    return bool(family.build.__annotations__.get("return") == EncoderModel.__name__)


def sets_of(config: Config) -> Sequence[str]:
    """The sets of weights that a family reads beside the checkpoint's own: SETS of its file, in the form that
    read_sets (sources/safetensors.py) takes."""
    return getattr(_family(str(config.get("model_type"))), "SETS", ())


def build_model(config: Config, store: WeightStore) -> Model | EncoderModel:
    """The model that config.json describes, its weights asked for from `store` (allocated, not yet filled).

    Raises ModelError for an unknown family, absurd numbers, tensors that do not fit them, or a tensor that nobody asked
    for in a module of which other tensors are in use.
    """
    kind = str(config.get("model_type"))
    family = _family(kind)
    if family is None:
        raise ModelError(
            f"model_type {kind!r} is not supported. Supported: {', '.join(sorted(families()))}."
        )
    model: Model | EncoderModel
    if encodes(config) and not _of_encoders(family):
        decoder: Model = family.build({**config, "tie_word_embeddings": True}, store)  # no head
        model = encoder_of(decoder, kind, both_sides=sees_both_sides(config))
    else:
        model = family.build(config, store)
    if isinstance(model, EncoderModel):
        more = projections(config.get(DENSE_MODULES, ()), store, model.vector_size)
        model = replace(model, projections=[*model.projections, *more])
    for name in unread(store):
        module, _, part = name.rpartition(".")
        if store.uses(module):
            raise ModelError(
                f"{kind}: the weights hold {name}, which config.json does not ask for: without it {module} would "
                f"compute something else. {_ADVICE.get(part, 'Config and weights disagree: check the revision.')}"
            )
    return model


# Advice by the last part of the unread tensor's name.
_ADVICE = {
    "bias": "Is attention_bias, mlp_bias or conv_bias missing from config.json?",
    "scales": "Is this layer quantised in a format that is not supported?",
    "biases": "Is this layer's .scales missing from the download?",
}


def unread(store: WeightStore) -> list[str]:
    """Names of tensors that no module asked for, sorted. Other parts of a multimodal model and buffers that the
    engine computes are left out."""
    return [
        name for name in store.unused() if not (_BUFFERS.search(name) or _OTHER_PARTS.match(name))
    ]
