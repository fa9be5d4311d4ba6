"""Widths and groups from a checkpoint's shapes and from its config: where they agree, overrides, contradictions."""

from __future__ import annotations

from typing import Any

import pytest

from py_engine.errors import ModelError
from py_engine.sources.config import quantization
from py_engine.sources.jobs import TensorInfo
from py_engine.weights.formats import Quantization
from py_engine.weights.mlx_quant import packed_words, quantization_of


def tensors(
    name: str, rows: int, cols: int, bits: int, group: int, **dtypes: str
) -> dict[str, TensorInfo]:
    shapes = {
        "weight": (rows, cols * bits // 32),
        "scales": (rows, cols // group),
        "biases": (rows, cols // group),
    }
    kinds = {"weight": "U32", "scales": "BF16", "biases": "BF16"} | dtypes
    return {
        f"{name}.{part}": TensorInfo(f"{name}.{part}", kinds[part], shape, "f", 0, 0)
        for part, shape in shapes.items()
    }


def config(**changes: Any) -> Any:
    return quantization({"quantization": {"bits": 4, "group_size": 64} | changes})


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_declared_and_packed_agree(bits: int, group: int) -> None:
    found = tensors("a", 5, 384, bits, group)
    of = quantization_of(found, config(bits=bits, group_size=group))
    assert of("a") == Quantization(bits, group)
    assert packed_words(384, bits) == found["a.weight"].shape[1]


def test_overrides() -> None:
    found = {
        **tensors("m.a", 4, 128, 8, 32),
        **tensors("m.b", 4, 128, 6, 64),
        **tensors("m.c", 4, 128, 4, 64),
        "m.d.weight": TensorInfo("m.d.weight", "BF16", (4, 128), "f", 0, 0),
    }
    of = quantization_of(
        found,
        config(**{"m.a": {"bits": 8, "group_size": 32}, "m.b": {"bits": 6}, "m.d": False}),
    )
    assert of("m.a") == Quantization(8, 32)
    assert of("m.b") == Quantization(6, 64)
    assert of("m.c") == Quantization(4, 64)
    assert of("m.d") is None and of("absent") is None


def test_plain_whatever_the_config_says() -> None:
    plain = {"a.weight": TensorInfo("a.weight", "BF16", (4, 128), "f", 0, 0)}
    assert quantization_of(plain, config())("a") is None
    assert quantization_of(plain, None)("a") is None


def test_contradictions() -> None:
    good = tensors("a", 4, 128, 4, 64)

    def refused(found: dict[str, TensorInfo], declared: Any, words: str) -> None:
        with pytest.raises(ModelError, match=words):
            quantization_of(found, declared)("a")

    refused(good, None, "declares no quantization")
    refused(good, config(a=False), "declares no quantization")
    refused(good, config(bits=8), "not 8 bits in groups of 64")
    refused(good, config(group_size=32), "not 4 bits in groups of 32")
    refused({k: v for k, v in good.items() if k != "a.biases"}, config(), r"a\.biases is missing")
    refused({k: v for k, v in good.items() if k != "a.weight"}, config(), r"a\.weight is missing")
    refused(tensors("a", 4, 128, 4, 64, scales="U8"), config(), "scales are U8")
    refused(tensors("a", 4, 128, 4, 64, weight="I32"), config(), "weight is I32")
    other = tensors("a", 5, 128, 4, 64)
    refused({**good, "a.biases": other["a.biases"]}, config(), "do not belong together")
    refused({**good, "a.weight": other["a.weight"]}, config(), "Config and weights disagree")
