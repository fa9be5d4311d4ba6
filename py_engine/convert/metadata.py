"""The settings of a GGUF file, each checked as it is read."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from py_engine.errors import ModelError


class Metadata:
    """Settings under `ARCHITECTURE.` of a GGUF file. Every method raises ModelError for a value of the wrong kind."""

    def __init__(self, values: Mapping[str, Any], architecture: str, where: str) -> None:
        self._values, self._prefix, self.where = values, architecture, where

    def get(self, key: str) -> Any:
        """The value as the file has it; None when there is none."""
        return self._values.get(f"{self._prefix}.{key}")

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number from `low` to `high`."""
        value = self._values.get(f"{self._prefix}.{key}", default)
        if type(value) is not int or not low <= value <= high:
            raise self.wrong(key, value, f"a whole number from {low} to {high}")
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """A number from `low` to `high`, as the shortest decimal that is the same float32."""
        value = self._values.get(f"{self._prefix}.{key}", default)
        if type(value) not in (int, float) or not low <= value <= high:
            raise self.wrong(key, value, f"a number from {low:g} to {high:g}")
        return shortest(value)

    def flag(self, key: str, default: bool) -> bool:
        """A bool."""
        value = self._values.get(f"{self._prefix}.{key}", default)
        if type(value) is not bool:
            raise self.wrong(key, value, "true or false")
        return value

    def sliding_layers(self, layers: int, every: int) -> list[str]:
        """`layer_types` of config.json: from the file's pattern (a list, or the distance between full layers), else
        every `every`th layer is full, the last of each group."""
        key = "attention.sliding_window_pattern"
        pattern = self.get(key)
        if isinstance(pattern, list):
            if len(pattern) != layers or not all(type(sliding) is bool for sliding in pattern):
                raise self.wrong(key, pattern, f"true or false for each of {layers} layers")
        else:
            step = self.integer(key, 1, layers + 1, every)
            pattern = [(layer + 1) % step != 0 for layer in range(layers)]
        return ["sliding_attention" if sliding else "full_attention" for sliding in pattern]

    def wrong(self, key: str, value: Any, expected: str) -> ModelError:
        """The error for a value that is not as expected."""
        return ModelError(
            f"{self.where}: {self._prefix}.{key} is {str(value)[:80]!r}, expected {expected}."
        )

    def refuse(self, key: str, why: str) -> ModelError:
        """The error for a setting that is known but not supported."""
        return ModelError(
            f"{self.where}: {self._prefix}.{key} {why}. It is a variant that is not supported; take the model's"
            " safetensors."
        )


def shortest(value: float) -> float:
    """The shortest decimal that is the same float32: 1e-06 for 9.999999974752427e-07."""
    single = struct.pack("<f", value)
    for digits in range(1, 10):
        short = float(f"{value:.{digits}g}")
        if struct.pack("<f", short) == single:
            return short
    return float(value)
