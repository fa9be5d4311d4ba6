"""The options of every call that generates text, as types: type checkers find a misspelt one before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict


class Options(TypedDict, total=False):
    """max_tokens: the most tokens of the answer; None: as many as the context has room for. stop: texts that end the
    answer. ignore_eos: go on to max_tokens even when the model ends its answer. seed: of the random choice, 0 to
    2**32 - 1. Sampling (generate/sampling.py) says what the others mean. None: the model's own default."""

    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    ignore_eos: bool
