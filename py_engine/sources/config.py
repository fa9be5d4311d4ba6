"""Reads a model's config.json, in the old and the new style, as checked values.

Families read their keys through `require_*`, which refuse absurd values before anything is allocated. There is a
function here for each thing that the two styles say differently (layer types, quantisation, end tokens); rotary
positions are in `rope_config.py`. Styles: transformers < 5 wrote `rope_theta`, `rope_scaling`,
`sliding_window_pattern`, `rope_local_base_freq`; >= 5 writes `rope_parameters` and `layer_types`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from py_engine.errors import ModelError
from py_engine.sources.repository import Repository

Config = Mapping[str, Any]
FILE = "config.json"

MAX_LAYERS = 1024
MAX_TOKEN_ID = (1 << 24) - 1
SLIDING = "sliding_attention"
FULL = "full_attention"

# Where `normalise` keeps the model_type that stands in text_config.
TEXT_MODEL_TYPE = "text_config.model_type"

# Keys under which loading puts what modules.json says of a model: whether its rows are pooled to vectors, and the
# configs of its Dense modules (encode/settings.py).
POOLED = "modules.json: Pooling"
DENSE_MODULES = "modules.json: Dense"

# Keys of the top level of a multimodal config that hold for the text model too. transformers reads all others from
# text_config alone; mlx_lm writes vocab_size beside it.
_TOP_KEYS = ("quantization", "quantization_config", "eos_token_id", "bos_token_id", "pad_token_id")
_INHERITED = (
    "model_type",
    "architectures",
    "tie_word_embeddings",
    "vocab_size",
    "dtype",
    "torch_dtype",
    "downsample_factor",
)
# Ends of the names of configs of other parts, and of ids that stand for them in a prompt (image_token_id).
_INHERITED_ENDS = ("_config", "_token_id")
# How names of keys begin that say what stands between a tower and the text model.
_INHERITED_BEGINNINGS = ("projector_",)
# Keys where null differs from a missing key. It means: as many as query heads; no window; no cap.
_NULLS = (
    "num_key_value_heads",
    "sliding_window",
    "attn_logit_softcapping",
    "final_logit_softcapping",
)


class Part(dict[str, Any]):
    """An object inside config.json, used like the whole; or all of another `file` of this kind. `path` is put before
    the names of its keys in errors: "vision_config."."""

    def __init__(self, values: Config, path: str = "", file: str = FILE) -> None:
        super().__init__(values)
        self.path = path
        self.file = file

    @property
    def folder(self) -> str:
        """Where the file is in the repository."""
        return self.file.rpartition("/")[0]


def part(config: Config, key: str, defaults: Config | None = None) -> Config:
    """config[key], an object, without its nulls. Keys that it leaves out have the family's `defaults`.

    Errors about its keys name them by their path ("vision_config.hidden_size"), also in parts of parts. Raises
    ModelError when it is missing or no object.
    """
    value = config.get(key)
    if value is None:
        raise missing(key, config)
    if not isinstance(value, dict):
        raise ModelError(f"{named(config, key)} is {short(value)}, expected an object.")
    return _inside(config, f"{_path(config)}{key}.", {**(defaults or {}), **_without_nulls(value)})


def alike(config: Config, values: Config) -> Config:
    """A Config of other values for the same place in config.json, so that errors name the same path."""
    return _inside(config, _path(config), values) if isinstance(config, Part) else values


def named(config: Config, key: str) -> str:
    """How errors name a key of `config`."""
    return f"{_file(config)}: {_path(config)}{key}"


def _path(config: Config) -> str:
    return config.path if isinstance(config, Part) else ""


def _file(config: Config) -> str:
    return config.file if isinstance(config, Part) else FILE


def _inside(config: Config, path: str, values: Config) -> Part:
    """Other values of the same file."""
    return Part(values, path, _file(config))


async def read_config(repo: Repository) -> Config:
    """config.json, normalised. Raises HubError, FormatError, ModelError."""
    return normalise(await repo.json("config.json"), f"{repo.address}: config.json")


def normalise(raw: Any, where: str = "config.json") -> Config:
    """One flat mapping that describes the text model: `text_config`, and the keys of the top level that hold for it.

    `model_type` is the top level's: it names the family; text_config's own stands under TEXT_MODEL_TYPE. Configs of
    other parts (vision_config, audio_config) stay as they are, for `part`. Absent and null mean the same, but for the
    keys of _NULLS. Raises ModelError when it is no config.
    """
    if not isinstance(raw, dict):
        raise ModelError(f"{where} is not a JSON object; it is not a model's config.")
    flat = _without_nulls(raw)
    text = flat.pop("text_config", None)
    if text is not None:
        if not isinstance(text, dict):
            raise ModelError(f"{where}: text_config is {short(text)}, expected an object.")
        inner = _without_nulls(text)
        if (kind := inner.pop("model_type", None)) is not None:
            inner[TEXT_MODEL_TYPE] = kind
        outer = {
            key: value
            for key, value in flat.items()
            if key in (*_INHERITED, *_TOP_KEYS)
            or key.endswith(_INHERITED_ENDS)
            or key.startswith(_INHERITED_BEGINNINGS)
        }
        top = {key: flat[key] for key in _TOP_KEYS if key in flat}
        # Multimodal configs repeat defaults in text_config; ids and quantisation of the top level win.
        flat = outer | inner | top
    if not isinstance(flat.get("model_type"), str):
        raise ModelError(
            f"{where} has no model_type, so its family is not known. Is it a transformers or MLX config?"
        )
    return flat


def _without_nulls(given: Config) -> dict[str, Any]:
    return {key: value for key, value in given.items() if value is not None or key in _NULLS}


def require_int(config: Config, key: str, low: int, high: int, default: int | None = None) -> int:
    """config[key], an integer in [low, high]; `default` when it is absent (None: it must be there).
    Raises ModelError."""
    value = config.get(key, default)
    if value is None:
        raise missing(key, config)
    if type(value) is float and value.is_integer():  # 1e6 and the like
        value = int(value)
    if type(value) is not int or not low <= value <= high:
        raise ModelError(
            f"{named(config, key)} is {short(value)}, expected an integer from {low} to {high}."
        )
    return value


def require_float(
    config: Config, key: str, low: float, high: float, default: float | None = None
) -> float:
    """config[key], a finite number in [low, high]; `default` when it is absent. Raises ModelError."""
    value = config.get(key, default)
    if value is None:
        raise missing(key, config)
    if (
        type(value) not in (int, float)
        or (type(value) is float and not math.isfinite(value))
        or not low <= value <= high
    ):
        raise ModelError(
            f"{named(config, key)} is {short(value)}, expected a number from {low:g} to {high:g}."
        )
    return float(value)


def require_bool(config: Config, key: str, default: bool | None = None) -> bool:
    """config[key], true or false; `default` when it is absent. Raises ModelError."""
    value = config.get(key, default)
    if value is None:
        raise missing(key, config)
    if type(value) is not bool:
        raise ModelError(f"{named(config, key)} is {short(value)}, expected true or false.")
    return value


def require_str(
    config: Config, key: str, allowed: Collection[str], default: str | None = None
) -> str:
    """config[key], one of `allowed`; `default` when it is absent. Raises ModelError."""
    value = config.get(key, default)
    if value is None:
        raise missing(key, config)
    if not isinstance(value, str) or value not in allowed:
        raise ModelError(
            f"{named(config, key)} is {short(value)}; supported: {', '.join(sorted(allowed))}."
        )
    return value


def layer_types(
    config: Config, pattern: int | None = None, allowed: Collection[str] = (SLIDING, FULL)
) -> tuple[str, ...]:
    """The kind of each of `num_hidden_layers` layers. `layer_types` wins; else every `sliding_window_pattern`-th layer
    is full and the others slide. `pattern` is the family's default for that key; None: the family does not read it,
    and all layers are full. Raises ModelError."""
    count = require_int(config, "num_hidden_layers", 1, MAX_LAYERS)
    given = config.get("layer_types")
    if given is None:
        if pattern is None:
            return (FULL,) * count
        every = require_int(config, "sliding_window_pattern", 1, MAX_LAYERS, pattern)
        return tuple(FULL if (i + 1) % every == 0 else SLIDING for i in range(count))
    if not isinstance(given, list) or not all(isinstance(kind, str) for kind in given):
        raise ModelError(
            f"{named(config, 'layer_types')} is {short(given)}, expected a list of names."
        )
    if len(given) != count:
        raise ModelError(
            f"{named(config, 'layer_types')} has {len(given)} entries for num_hidden_layers = {count}."
        )
    for kind in given:
        if kind not in allowed:
            raise ModelError(
                f"{named(config, 'layer_types')} holds {short(kind)}; supported: {', '.join(sorted(allowed))}."
            )
    return tuple(given)


def sliding_window(config: Config) -> int:
    """How many keys a token sees in a sliding layer, its own included. Raises ModelError."""
    if config.get("sliding_window") is None:
        raise ModelError(
            "config.json: layer_types has sliding_attention, but there is no sliding_window in use"
            " (sliding_window, use_sliding_window). The file is not complete: fetch it again."
        )
    return require_int(config, "sliding_window", 1, 1 << 24)


def sees_both_sides(config: Config) -> bool:
    """Whether rows see the rows behind them too, as those of text encoders made of decoders do. Raises ModelError."""
    return require_bool(config, "use_bidirectional_attention", False) or not require_bool(
        config, "is_causal", True
    )


def every_layer_slides(config: Config) -> Config:
    """`config` with the layer_types of a family in which all layers slide if there is a sliding_window, else none.
    Raises ModelError when the config's own layer_types say something else."""
    kind = FULL if config.get("sliding_window") is None else SLIDING
    if config.get("layer_types") is not None and set(layer_types(config)) != {kind}:
        raise ModelError(
            f"{named(config, 'layer_types')} has other layers than {kind}, which sliding_window makes all of this"
            " family. Is the config another family's (ministral)?"
        )
    count = require_int(config, "num_hidden_layers", 1, MAX_LAYERS)
    return {**config, "layer_types": [kind] * count}


def tied(config: Config, has_lm_head: bool) -> bool:
    """Whether the logits use the embedding. If the weights have no `lm_head.weight` (`has_lm_head`) they do, whatever
    the config says; else where `tie_word_embeddings` is true."""
    if not has_lm_head:
        return True
    return require_bool(config, "tie_word_embeddings", False)


# -- quantisation ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packing:
    """The bits and group size that a config declares for packed layers; None where an override leaves one out."""

    bits: int | None
    group_size: int | None


@dataclass(frozen=True)
class QuantizationConfig:
    """MLX's `quantization`: the default, and layers that differ, by module path without wrapper and `.weight`. An
    override of None is a layer that was left plain (`false` in the file)."""

    default: Packing
    overrides: Mapping[str, Packing | None]

    def of(self, path: str) -> Packing | None:
        """What is declared for a module; None: it is plain. Prefixes of wrappers in `path` make no difference."""
        return self.overrides.get(bare(path), self.default)


# Prefixes of a text model's module paths in files of HF and MLX, the longest first.
_WRAPPERS = ("language_model.model.", "model.language_model.", "language_model.", "model.")


def bare(path: str) -> str:
    """A name inside the text model, without the prefix of a wrapper."""
    return next((path[len(w) :] for w in _WRAPPERS if path.startswith(w)), path)


BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)


def quantization(config: Config) -> QuantizationConfig | None:
    """The MLX affine quantisation of a config, None for a plain model. `quantization` wins over `quantization_config`.
    Other modes (mxfp4, nvfp4, ...) and other tools' formats (gptq, awq, ...) are refused by name. Raises ModelError."""
    key = "quantization" if config.get("quantization") is not None else "quantization_config"
    given = config.get(key)
    if given is None:
        return None
    if not isinstance(given, dict):
        raise ModelError(f"config.json: {key} is {short(given)}, expected an object.")
    method = given.get("quant_method")
    if method is not None and method != "mlx":
        raise ModelError(
            f"config.json: {key} has quant_method {short(method)}; only MLX affine quantisation is supported."
            " Take the model's MLX conversion, or the plain one."
        )
    default = _packing(given, key, required=True)
    overrides: dict[str, Packing | None] = {}
    for path, value in given.items():
        if isinstance(value, dict):
            overrides[bare(path)] = _packing(value, f"{key}[{path!r}]", required=False)
        elif value is False:
            overrides[bare(path)] = None
    return QuantizationConfig(default, overrides)


def _packing(given: Mapping[str, Any], where: str, *, required: bool) -> Packing:
    mode = given.get("mode")
    if mode not in (None, "affine"):
        raise ModelError(
            f"config.json: {where} has mode {short(mode)}; only affine is supported."
            " Take an affine conversion of the model (mlx_lm.convert -q)."
        )
    numbers: list[int | None] = []
    for key, allowed in (("bits", BITS), ("group_size", GROUP_SIZES)):
        value = given.get(key)
        if value is None and not required:
            numbers.append(None)
            continue
        if type(value) is not int or value not in allowed:
            raise ModelError(
                f"config.json: {where} has {key} {short(value)}; supported: {', '.join(map(str, allowed))}."
            )
        numbers.append(value)
    return Packing(*numbers)


# -- generation ------------------------------------------------------------------------------------


async def read_generation_config(repo: Repository) -> Config:
    """generation_config.json, empty when there is none. Raises HubError, FormatError."""
    raw = await repo.json_object("generation_config.json")
    return {key: value for key, value in raw.items() if value is not None}


def eos_ids(config: Config, generation: Config, vocab_size: int) -> tuple[int, ...]:
    """The ids that end an answer: those of generation_config.json, then those of config.json. Each may have one id or a
    list. Raises ModelError."""
    found: dict[int, None] = {}
    for source, name in ((generation, "generation_config.json"), (config, "config.json")):
        value = source.get("eos_token_id")
        for token in value if isinstance(value, list) else [] if value is None else [value]:
            if type(token) is not int or not 0 <= token <= MAX_TOKEN_ID:
                raise ModelError(
                    f"{name}: eos_token_id is {short(value)}, expected an id or a list of ids."
                )
            if token < vocab_size:  # a larger id can never be sampled
                found[token] = None
    return tuple(found)


def missing(key: str, config: Config | None = None) -> ModelError:
    """The error for a key of `config` that is missing."""
    return ModelError(
        f"{named({} if config is None else config, key)} is missing. The file is not complete: fetch it again."
    )


def short(value: Any) -> str:
    """A value as it is shown in an error message."""
    if type(value) is int and abs(value) >= 10**30:
        return "a huge number"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
