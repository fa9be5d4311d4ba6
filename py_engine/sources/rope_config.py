"""Reads the rotary positions of a config, in both styles: base and scaling (KINDS) for each kind of layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from py_engine.errors import ModelError
from py_engine.sources.config import (
    FULL,
    SLIDING,
    Config,
    alike,
    missing,
    require_bool,
    require_float,
    require_int,
    short,
)

Kind = Literal["default", "linear", "yarn", "llama3", "longrope"]
_ORIGINAL = "original_max_position_embeddings"
KINDS: tuple[Kind, ...] = ("default", "linear", "yarn", "llama3", "longrope")


@dataclass(frozen=True)
class RopeConfig:
    """Rotary positions of one kind of layer. `partial`: the part of a head that is rotated. cos and sin are multiplied
    by `magnitude`, which differs from 1 for yarn and longrope only. Formulas: transformers' modeling_rope_utils.py."""

    theta: float
    kind: Kind = "default"
    factor: float = 1.0
    partial: float = 1.0
    magnitude: float = 1.0
    original_context: int = 0  # yarn, llama3, longrope: the context before it was stretched
    low: float = 0.0  # yarn: beta_fast; llama3: low_freq_factor
    high: float = 0.0  # yarn: beta_slow; llama3: high_freq_factor
    truncate: bool = True  # yarn: round the correction range to whole pairs
    short_factors: tuple[float, ...] = ()  # longrope: the divisor of each pair's frequency
    long_factors: tuple[float, ...] = ()  # the same in texts longer than original_context

    def frequencies(self, width: int) -> list[float]:
        """Angle of one position for each of `width`/2 pairs, in radians."""
        plain = [self.theta ** (-2.0 * i / width) for i in range(width // 2)]
        if self.kind == "linear":
            return [f / self.factor for f in plain]
        if self.kind == "yarn":
            return self._yarn(plain, width)
        if self.kind == "llama3":
            return [self._llama3(f) for f in plain]
        if self.kind == "longrope":
            return self._divided(plain, self.short_factors, "short_factor")
        return plain

    def long_frequencies(self, width: int) -> list[float]:
        """`frequencies` for texts longer than `original_context`; [] when these have the same as all texts."""
        if self.kind != "longrope":
            return []
        plain = [self.theta ** (-2.0 * i / width) for i in range(width // 2)]
        return self._divided(plain, self.long_factors, "long_factor")

    @staticmethod
    def _divided(plain: list[float], factors: Sequence[float], name: str) -> list[float]:
        """LongRoPE: Ding et al. 2024, arXiv:2402.13753."""
        if len(factors) != len(plain):
            raise ModelError(
                f"config.json: {name} of longrope scaling has {len(factors)} numbers for {len(plain)} pairs."
            )
        return [f / factor for f, factor in zip(plain, factors, strict=True)]

    def _yarn(self, plain: list[float], width: int) -> list[float]:
        """YaRN (Peng et al. 2023, arXiv:2309.00071): interpolates slow pairs, keeps fast ones, with a ramp between."""

        def pair(rotations: float) -> float:
            turns = self.original_context / (rotations * 2 * math.pi)
            return width * math.log(turns) / (2 * math.log(self.theta))

        first, last = pair(self.low), pair(self.high)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, width - 1)
        if first == last:
            last += 0.001
        ramp = [min(max((i - first) / (last - first), 0.0), 1.0) for i in range(width // 2)]
        return [f / self.factor * r + f * (1 - r) for f, r in zip(plain, ramp, strict=True)]

    def _llama3(self, f: float) -> float:
        """Llama 3.1: wavelengths longer than the old context are stretched, short ones stay, with a blend between."""
        wavelength = 2 * math.pi / f
        if wavelength > self.original_context / self.low:
            return f / self.factor
        if wavelength < self.original_context / self.high:
            return f
        blend = (self.original_context / wavelength - self.low) / (self.high - self.low)
        return (1 - blend) * f / self.factor + blend * f


def rope(config: Config, layer_type: str = FULL, theta: float | None = None) -> RopeConfig:
    """The rope of layers of `layer_type`, in either style or a mix. `theta`: the family's default base.

    `rope_scaling` (old style) replaces `rope_parameters` (new style) when it is not empty, as in transformers. The
    `rope_theta` beside them is used when they hold none. Where sliding layers have a rope of their own
    (`rope_local_base_freq`, or rope_parameters by layer type, as in Gemma 3), rope_scaling is for full layers only.
    Raises ModelError, also for kinds of scaling other than KINDS.
    """
    scaling = _object(config.get("rope_scaling") or {}, "rope_scaling")
    parameters = _object(config.get("rope_parameters") or {}, "rope_parameters")
    given: Config = {
        "rope_theta": config.get("rope_theta", theta),
        "partial_rotary_factor": config.get("partial_rotary_factor"),
    }
    nested = FULL in parameters or SLIDING in parameters
    if nested or "rope_local_base_freq" in config:
        if parameters and not nested:
            raise ModelError(
                "config.json: rope_parameters is one object for all layers, where this family has one by layer type"
                f" ({FULL!r}, {SLIDING!r}). Convert the model again."
            )
        own = parameters.get(layer_type)
        if layer_type == SLIDING and "rope_local_base_freq" in config:
            given = {**given, "rope_theta": config["rope_local_base_freq"]}
        if nested and own is None and given["rope_theta"] is None:
            raise missing(f"rope_parameters[{layer_type!r}]", config)
        given = {**given, **_object(own or {}, f"rope_parameters[{layer_type!r}]")}
        given = {**given, **(scaling if layer_type == FULL else {})}
    else:
        given = {**given, **(scaling or parameters)}
    given = alike(config, {key: value for key, value in given.items() if value is not None})

    base = require_float(given, "rope_theta", 1.0, 1e12)
    partial = require_float(given, "partial_rotary_factor", 0.01, 1.0, 1.0)
    # transformers writes rope_type; mlx_lm and old versions of transformers write type.
    kind = given.get("rope_type", given.get("type", "default"))
    if kind not in KINDS:
        raise ModelError(
            f"config.json: rope scaling {short(kind)} is not supported; supported: {', '.join(KINDS)}."
        )
    if kind == "default":
        return RopeConfig(base, partial=partial)
    if kind == "linear":
        factor = require_float(given, "factor", 1.0, 1e4)
        return RopeConfig(base, "linear", factor, partial)
    # A key outside the object wins, as in transformers. Without one, the context was not stretched.
    original = 0
    for source in (config, given):
        if not original and source.get(_ORIGINAL) is not None:
            original = require_int(source, _ORIGINAL, 1, 1 << 30)
    if not original and "max_position_embeddings" not in config:
        raise missing(_ORIGINAL, config)
    original = original or require_int(config, "max_position_embeddings", 1, 1 << 30)
    if kind == "yarn":
        return _yarn(given, base, partial, original, config)
    if kind == "longrope":
        return _longrope(given, base, partial, original, config)
    factor = require_float(given, "factor", 1.0, 1e4)
    low = require_float(given, "low_freq_factor", 1e-3, 1e4)
    high = require_float(given, "high_freq_factor", 1e-3, 1e4)
    if high <= low:
        raise ModelError(
            f"config.json: high_freq_factor {high:g} of llama3 rope scaling is not above"
            f" low_freq_factor {low:g}."
        )
    return RopeConfig(base, "llama3", factor, partial, 1.0, original, low, high)


def _longrope(
    given: Config, base: float, partial: float, original: int, config: Config
) -> RopeConfig:
    if "factor" in given:
        factor = require_float(given, "factor", 1e-3, 1e4)
    else:
        factor = require_int(config, "max_position_embeddings", 1, 1 << 30) / original
    magnitude = 1.0
    if factor > 1.0 and original > 1:
        magnitude = math.sqrt(1.0 + math.log(factor) / math.log(original))
    magnitude = require_float(given, "attention_factor", 1e-3, 1e3, magnitude)
    short, long = (_factors(given, f"{name}_factor") for name in ("short", "long"))
    return RopeConfig(
        base,
        "longrope",
        factor,
        partial,
        magnitude,
        original,
        short_factors=short,
        long_factors=long,
    )


def _factors(given: Config, key: str) -> tuple[float, ...]:
    """A list of divisors of frequencies."""
    value = given.get(key)
    if value is None:
        raise missing(key, given)
    if not isinstance(value, list):
        raise ModelError(f"config.json: {key} is {short(value)}, expected a list of numbers.")
    return tuple(require_float({key: v}, key, 1e-6, 1e6) for v in value)


def _yarn(
    given: Mapping[str, Any], base: float, partial: float, original: int, config: Config
) -> RopeConfig:
    if base <= 1.0:
        raise ModelError("config.json: yarn rope scaling needs a rope_theta above 1.")
    if "factor" in given:
        factor = require_float(given, "factor", 1.0, 1e4)
    else:
        context = require_int(config, "max_position_embeddings", 1, 1 << 30)
        factor = max(1.0, context / original)

    def magnitude(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0

    whole = magnitude(1.0)
    if "attention_factor" in given:
        whole = require_float(given, "attention_factor", 1e-3, 1e3)
    elif given.get("mscale") and given.get("mscale_all_dim"):
        whole = magnitude(require_float(given, "mscale", 1e-3, 1e3)) / magnitude(
            require_float(given, "mscale_all_dim", 1e-3, 1e3)
        )
    return RopeConfig(
        base,
        "yarn",
        factor,
        partial,
        whole,
        original,
        require_float(given, "beta_fast", 1e-3, 1e6, 32.0),
        require_float(given, "beta_slow", 1e-3, 1e6, 1.0),
        require_bool(given, "truncate", True),
    )


def mrope_axes(sections: Sequence[int], interleaved: bool, pairs: int) -> tuple[int, ...]:
    """M-RoPE: for each of `pairs` rotated pairs the axis of the position (0 time, 1 height, 2 width) that turns it.

    `sections` (mrope_section): pairs of each axis. They follow one another (Qwen2-VL, arXiv:2409.12191), or are
    `interleaved` (Qwen3-VL, Qwen3.5): height and width take every third pair within their sections, time the others.
    Raises ModelError.
    """
    if len(sections) != 3 or sum(sections) != pairs or min(sections) < 0:
        raise ModelError(
            f"config.json: mrope_section is {short(list(sections))}, expected three numbers of pairs, {pairs} in all."
        )
    if not interleaved:
        return tuple(axis for axis, n in enumerate(sections) for _ in range(n))
    return tuple(i % 3 if i < 3 * sections[i % 3] else 0 for i in range(pairs))


def grid_axes(pairs: int) -> tuple[int, ...]:
    """For positions of two axes in a vision tower: the first half of the pairs turns with the row (axis 0), the second
    half with the column (axis 1), by the same frequencies (`rot_pos_emb` of Qwen's towers)."""
    return (0,) * (pairs // 2) + (1,) * (pairs - pairs // 2)


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ModelError(f"config.json: {name} is {short(value)}, expected an object.")
    return value
