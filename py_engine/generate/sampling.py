"""How the next token is chosen: the caller's settings, checked."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from py_engine.arguments import real, unknown_option, whole

# name: (lowest, highest, whether it is a whole number)
_RANGES: dict[str, tuple[float, float, bool]] = {
    "temperature": (0.0, 100.0, False),
    "top_k": (0, 1 << 30, True),
    "top_p": (0.0, 1.0, False),
    "min_p": (0.0, 1.0, False),
    "repetition_penalty": (1e-3, 100.0, False),
    "presence_penalty": (-100.0, 100.0, False),
    "frequency_penalty": (-100.0, 100.0, False),
    "seed": (0, (1 << 32) - 1, True),
}


@dataclass(frozen=True)
class Sampling:
    """Settings of one generation.

    temperature 0 takes the best token. top_k 0, top_p 1 and min_p 0 are off. repetition_penalty (1 is off) divides or
    multiplies the logits of tokens seen in prompt or answer (Keskar et al. 2019, arXiv:1909.05858); presence and
    frequency penalties (0 is off) are subtracted for tokens of the answer, as in OpenAI's API.
    seed None: a random one.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop_ids: tuple[int, ...] = ()

    @property
    def greedy(self) -> bool:
        """Whether the best token is always taken."""
        return self.temperature == 0.0

    @property
    def penalised(self) -> bool:
        """Whether a penalty needs the history of tokens."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (
            1.0,
            0.0,
            0.0,
        )

    @classmethod
    def make(
        cls, defaults: Sampling, options: Mapping[str, Any], stop_ids: Sequence[int]
    ) -> Sampling:
        """The defaults with the options that the caller gave. Raises InputError naming the option and its range."""
        known = {f.name for f in fields(cls)} - {"stop_ids"}
        changes: dict[str, Any] = {}
        for name, value in options.items():
            if name not in known:
                raise unknown_option(name, known | {"max_tokens", "stop"})
            if value is not None:
                changes[name] = _checked(name, value)
        made = replace(defaults, **changes, stop_ids=tuple(stop_ids))
        return made if made.seed is not None else replace(made, seed=secrets.randbits(32))


def _checked(name: str, value: Any) -> float | int:
    low, high, is_whole = _RANGES[name]
    return whole(name, value, int(low), int(high)) if is_whole else real(name, value, low, high)
