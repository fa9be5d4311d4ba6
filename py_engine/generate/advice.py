"""What generation_config.json advises, read as transformers reads it: defaults of sampling, and keys without effect
here.

Source: transformers, generation/configuration_utils.py (defaults) and generation/utils.py (which values switch a
processor on).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from py_engine.errors import InputError, ModelError
from py_engine.generate.sampling import Sampling
from py_engine.sources.config import Config, short

# transformers' defaults for keys that the file leaves out.
_DEFAULTS: Mapping[str, Any] = {"temperature": 1.0, "top_k": 50}


_HUGE = 1e30


def _above(limit: float) -> Callable[[Any], bool]:
    return lambda value: _number(value) and value > limit


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# What transformers also applies and this engine does not, and which values switch it on.
_NOT_APPLIED: Mapping[str, Callable[[Any], bool]] = {
    "typical_p": lambda value: _number(value) and value < 1,
    "epsilon_cutoff": _above(0),
    "eta_cutoff": _above(0),
    "top_h": lambda value: value is not None,
    "no_repeat_ngram_size": _above(0),
    "min_length": _above(0),
    "min_new_tokens": _above(0),
    "bad_words_ids": bool,
    "suppress_tokens": bool,
    "begin_suppress_tokens": bool,
    "sequence_bias": bool,
    "forced_bos_token_id": lambda value: value is not None,
    "forced_eos_token_id": lambda value: value is not None,
    "exponential_decay_length_penalty": bool,
    "guidance_scale": lambda value: _number(value) and value != 1,
    "penalty_alpha": _above(0),
    "num_beams": _above(1),
}


def sampling_advice(generation: Config) -> Sampling:
    """The default sampling of a model with this generation_config.json: greedy unless do_sample is true. Settings are
    off when they are null, top_k when it is 0 or less, top_p from 1 on, min_p at 0, repetition_penalty at 1.

    Raises ModelError, naming the key, for a value without a meaning.
    """
    sample = generation.get("do_sample", False)
    if not isinstance(sample, bool):
        raise _wrong("do_sample", sample, "expected true or false")
    known = {f.name for f in fields(Sampling)} - {"seed", "stop_ids"}
    if not sample:
        known -= {"temperature", "top_k", "top_p", "min_p"}
    given = {key: value for key, value in generation.items() if key in known and value is not None}
    for key, value in given.items():
        if not _number(value) or not -_HUGE < value < _HUGE:  # nor NaN
            raise _wrong(key, value, "expected a number")
    options = {**(_DEFAULTS if sample else {}), **given}
    if options.get("top_k", 1) < 1:
        options["top_k"] = 0
    if options.get("top_p", 0) > 1:
        options["top_p"] = 1.0
    try:
        return replace(Sampling.make(Sampling(), options, ()), seed=None)
    except InputError as error:
        raise ModelError(f"generation_config.json: {error}") from error


def not_applied(generation: Config) -> list[str]:
    """The keys of generation_config.json that transformers applies and this engine does not."""
    return [key for key, on in _NOT_APPLIED.items() if key in generation and on(generation[key])]


def _wrong(key: str, value: Any, wanted: str) -> ModelError:
    return ModelError(f"generation_config.json: {key} is {short(value)}, {wanted}.")
