"""Model families: one file each, named as the `model_type` of config.json. `build_model` finds it by that name.

To add one: a file here with `build(config, store) -> Model` (and ALIASES, other `model_type`s that it takes, such as
those of multimodal wrappers; SETS, see `sets_of`; `tower`, see `build_tower`), and a test. See
docs/adding-a-model-family.md.
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
from py_engine.blocks.vision import Tower
from py_engine.errors import ModelError
from py_engine.sources.config import DENSE_MODULES, POOLED, Config, sees_both_sides
from py_engine.weights.store import WeightStore

# What checkpoints of text models hold beside weights: buffers that the engine computes, and parts that it does not
# read.
_BUFFERS = re.compile(r"\.(rotary_emb\.inv_freq|masked_bias|rope\.freqs)$")
_OTHER_PARTS = re.compile(
    r"(model\.)?(vision_tower|vision_model|visual|vision_embed_tokens|multi_modal_projector|embed_vision|audio_tower|embed_audio|mtp)\."
)
_TOWERS = re.compile(r"(model\.)?(vision_tower|visual|multi_modal_projector)\.")


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
    """Whether a model of this config is an encoder of texts: of a family of encoders, or a decoder's layers whose rows
    are pooled, as modules.json says, or see both sides. Raises ModelError."""
    built = _builds(config)
    if built == EncoderModel.__name__:
        return True
    return built == Model.__name__ and (config.get(POOLED) is True or sees_both_sides(config))


def is_tower(config: Config) -> bool:
    """Whether models of this config are towers by themselves: encoders of pictures, without texts."""
    return _builds(config) == Tower.__name__


def _builds(config: Config) -> str | None:
    """What `build` of the family makes, by its declared return type; None: there is no such family."""
    family = _family(str(config.get("model_type")))
    return family.build.__annotations__.get("return") if family is not None else None


def sets_of(config: Config) -> Sequence[str]:
    """The sets of weights that a family reads beside the checkpoint's own: SETS of its file, in the form that
    read_sets (sources/safetensors.py) takes."""
    return getattr(_family(str(config.get("model_type"))), "SETS", ())


def build_model(config: Config, store: WeightStore) -> Model | EncoderModel | Tower:
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
    model: Model | EncoderModel | Tower
    if encodes(config) and _builds(config) == Model.__name__:
        decoder: Model = family.build({**config, "tie_word_embeddings": True}, store)  # no head
        model = encoder_of(decoder, kind, both_sides=sees_both_sides(config))
    else:
        model = family.build(config, store)
    if isinstance(model, EncoderModel):
        more = projections(config.get(DENSE_MODULES, ()), store, model.vector_size)
        model = replace(model, projections=[*model.projections, *more])
    _check_unread(kind, store, unread(store))
    return model


def build_tower(config: Config, store: WeightStore) -> Tower | None:
    """The vision tower beside a text model, with its projector: what `tower` of the family's file makes of the config
    and of a store of its own. None: the family, the config or the checkpoint has none. Raises ModelError as
    build_model."""
    kind = str(config.get("model_type"))
    make = getattr(_family(kind), "tower", None)
    tower: Tower | None = make(config, store) if make is not None else None
    if tower is not None:
        _check_unread(kind, store, unread_of_tower(store))
    return tower


def _check_unread(kind: str, store: WeightStore, left: Sequence[str]) -> None:
    for name in left:
        module, _, part = name.rpartition(".")
        if store.uses(module):
            raise ModelError(
                f"{kind}: the weights hold {name}, which config.json does not ask for: without it {module} would "
                f"compute something else. {_ADVICE.get(part, 'Config and weights disagree: check the revision.')}"
            )


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


def unread_of_tower(store: WeightStore) -> list[str]:
    """Names of tensors of the picture's part of a checkpoint that nobody asked for from the tower's store, sorted."""
    return [name for name in store.unused() if _TOWERS.match(name) and not _BUFFERS.search(name)]
