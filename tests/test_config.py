"""config.json in both styles. Absurd and missing values are refused, and the error names the key."""

from __future__ import annotations

import asyncio
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from py_engine.errors import FormatError, ModelError
from py_engine.host.io_native import NativeIo
from py_engine.sources.address import open_repository
from py_engine.sources.config import (
    FULL,
    SLIDING,
    Packing,
    Part,
    alike,
    eos_ids,
    layer_types,
    normalise,
    part,
    quantization,
    read_config,
    read_generation_config,
    require_bool,
    require_float,
    require_int,
    require_str,
    sliding_window,
    tied,
)
from py_engine.sources.rope_config import RopeConfig, rope

INNER = {
    "hidden_size": 8,
    "eps": 1e-6,
    "act": "gelu",
    "bias": True,
    "empty": None,
    "deep": {"depth": 2},
}
OUTER = normalise({"model_type": "m", "vision_config": INNER})


def test_a_part_is_read_like_the_whole() -> None:
    """A part's own keys override its defaults. null counts as a missing key."""
    vision = part(OUTER, "vision_config", {"hidden_size": 9, "empty": 5, "patch": 16})
    assert [require_int(vision, key, 1, 99) for key in ("hidden_size", "patch", "empty")] == [
        8,
        16,
        5,
    ]
    assert require_float(vision, "eps", 0, 1) == 1e-6 and require_bool(vision, "bias")
    assert require_str(vision, "act", ("gelu",)) == "gelu"
    assert require_int(part(vision, "deep"), "depth", 1, 3) == 2
    assert layer_types(alike(vision, {**vision, "num_hidden_layers": 2})) == (FULL, FULL)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda v: require_int(v, "hidden_size", 9, 99), "config.json: vision_config.hidden_size is 8, expected"),
        (lambda v: require_int(v, "gone", 1, 2), "config.json: vision_config.gone is missing"),
        (lambda v: require_int(v, "empty", 1, 2), "config.json: vision_config.empty is missing"),
        (lambda v: require_float(v, "eps", 1, 2), "config.json: vision_config.eps is 1e-06"),
        (lambda v: require_bool(v, "act"), "config.json: vision_config.act is 'gelu', expected true or false"),
        (lambda v: require_str(v, "act", ("relu",)), "config.json: vision_config.act is 'gelu'; supported: relu"),
        (lambda v: require_int(part(v, "deep"), "depth", 3, 9), "config.json: vision_config.deep.depth is 2"),
        (lambda v: part(v, "act"), "config.json: vision_config.act is 'gelu', expected an object"),
        (lambda v: part(v, "empty"), "config.json: vision_config.empty is missing"),
        (lambda v: part(part(v, "deep"), "more"), "config.json: vision_config.deep.more is missing"),
        (lambda v: require_int(alike(v, {"n": 0}), "n", 1, 2), "config.json: vision_config.n is 0"),
        (lambda v: layer_types({**v}), "config.json: num_hidden_layers is missing"),
    ],
)  # fmt: skip
def test_errors_name_a_key_by_its_path(read: Any, message: str) -> None:
    with pytest.raises(ModelError, match=f"^{re.escape(message)}"):
        read(part(OUTER, "vision_config"))


def test_errors_of_another_file_name_it() -> None:
    given = Part({"deep": {"n": 0}}, file="2_Dense/config.json")
    assert given.folder == "2_Dense" and Part({}).folder == ""
    for config, message in (
        (given, "2_Dense/config.json: n is missing"),
        (Part({}, file="a/config.json"), "a/config.json: n is missing"),
        (part(given, "deep"), "2_Dense/config.json: deep.n is 0"),
        (alike(given, {"n": 3}), "2_Dense/config.json: n is 3"),
    ):
        with pytest.raises(ModelError, match=f"^{re.escape(message)}"):
            require_int(config, "n", 1, 2)


def test_nested_text_config() -> None:
    config = normalise(
        {
            "model_type": "gemma3",
            "quantization": {"bits": 4, "group_size": 64},
            "eos_token_id": [1, 106],
            "vision_config": {"hidden_size": 1152},
            "tie_word_embeddings": True,
            "text_config": {
                "model_type": "gemma3_text",
                "hidden_size": 640,
                "eos_token_id": 1,
                "head_dim": None,
                "tie_word_embeddings": False,
            },
        }
    )
    assert config["model_type"] == "gemma3"
    assert config["hidden_size"] == 640 and "head_dim" not in config
    assert config["eos_token_id"] == [1, 106]
    assert config["tie_word_embeddings"] is False  # the text part decides about its own matrix
    assert quantization(config) is not None


@pytest.mark.parametrize(
    "raw", [[], 3, None, "x", {}, {"model_type": 3}, {"model_type": "a", "text_config": 1}]
)
def test_not_a_config(raw: Any) -> None:
    with pytest.raises(ModelError):
        normalise(raw)


@pytest.mark.parametrize(
    "value",
    [10**12, -4, 0, 2.5, "640", True, [640], {}, math.nan, math.inf, 10**4000],
)
def test_absurd_integers_name_the_key(value: Any) -> None:
    with pytest.raises(ModelError, match="hidden_size is .*expected an integer from 1 to 65536"):
        require_int({"hidden_size": value}, "hidden_size", 1, 65536)


def test_require() -> None:
    config = {"n": 5, "x": 1e-6, "b": False, "act": "silu", "whole": 4.0}
    assert require_int(config, "n", 1, 5) == 5 and require_int(config, "m", 1, 9, 7) == 7
    assert require_int(config, "whole", 1, 9) == 4
    assert require_float(config, "x", 0, 1) == 1e-6 and require_float(config, "n", 0, 9) == 5.0
    assert require_bool(config, "b", True) is False
    assert require_str(config, "act", {"silu"}) == "silu"
    for value in (math.nan, math.inf, -math.inf, "1", True, None, 10**400):
        with pytest.raises(ModelError):
            require_float({"x": value}, "x", 0, 1e30)
    with pytest.raises(ModelError, match="b is 1, expected true or false"):
        require_bool({"b": 1}, "b")
    with pytest.raises(ModelError, match="act is 'swish'; supported: gelu, silu"):
        require_str({"act": "swish"}, "act", {"silu", "gelu"})
    for missing in (
        lambda: require_int({}, "k", 0, 1),
        lambda: require_float({}, "k", 0, 1),
        lambda: require_bool({}, "k"),
        lambda: require_str({}, "k", {"a"}),
    ):
        with pytest.raises(ModelError, match="k is missing"):
            missing()


def test_rope_styles() -> None:
    old = {
        "rope_theta": 1e6,
        "rope_scaling": {"type": "linear", "factor": 8.0},
        "rope_local_base_freq": 1e4,
    }
    new = {
        "rope_parameters": {
            FULL: {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            SLIDING: {"rope_type": "default", "rope_theta": 1e4},
        }
    }
    for config in (old, new):
        assert rope(config) == RopeConfig(1e6, "linear", 8.0)
        assert rope(config, SLIDING) == RopeConfig(1e4)
    assert rope({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}) == RopeConfig(5e5)
    assert rope({"rope_theta": 3.0, "rope_scaling": None}) == RopeConfig(3.0)
    assert rope({}, theta=1e4) == RopeConfig(1e4)
    assert rope({"rope_theta": 7.0}, SLIDING) == RopeConfig(7.0)
    partial = rope({"rope_parameters": {"rope_theta": 1e7, "partial_rotary_factor": 0.25}})
    assert partial.partial == 0.25
    assert RopeConfig(1e4, "linear", 2.0).frequencies(8) == pytest.approx(
        [0.5, 0.05, 0.005, 0.0005]
    )


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({}, "rope_theta is missing"),
        ({"rope_theta": -1}, "rope_theta is -1"),
        ({"rope_theta": math.nan}, "rope_theta"),
        (
            {"rope_theta": 1e4, "rope_scaling": {"rope_type": "proportional"}},
            "'proportional' is not supported",
        ),
        ({"rope_theta": 1e4, "rope_scaling": {"rope_type": ["a"]}}, "not supported"),
        ({"rope_theta": 1e4, "rope_scaling": {"rope_type": "linear"}}, "factor is missing"),
        ({"rope_theta": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 0}}, "factor is 0"),
        ({"rope_theta": 1e4, "rope_scaling": {"rope_type": "yarn", "factor": 4}}, "original_max"),
        ({"rope_theta": 1e4, "rope_scaling": 8}, "rope_scaling is 8"),
        ({"rope_parameters": [1]}, "rope_parameters is"),
        ({"rope_parameters": {SLIDING: {"rope_theta": 1e4}}}, r"rope_parameters\['full"),
        (
            {
                "rope_theta": 1e4,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8,
                    "original_max_position_embeddings": 64,
                    "low_freq_factor": 4,
                    "high_freq_factor": 4,
                },
            },
            "is not above",
        ),
    ],
)
def test_rope_refused(config: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelError, match=text):
        rope(config)


# Computed by transformers 5.23 (ROPE_INIT_FUNCTIONS, float32), for head_dim 16 and the parameters given here.
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
ROPE_GOLDENS: list[tuple[dict[str, Any], list[float], float]] = [
    (
        YARN,
        [
            1.0,
            0.237170815,
            0.049999997,
            0.00790569466,
            0.00249999994,
            0.000790569466,
            0.000250000012,
            7.90569466e-05,
        ],
        1.138629436111989,
    ),
    (
        YARN | {"truncate": False, "beta_fast": 16, "beta_slow": 2, "attention_factor": 1.5},
        [
            1.0,
            0.14849025,
            0.0250000004,
            0.00790569466,
            0.00249999994,
            0.000790569466,
            0.000250000012,
            7.90569466e-05,
        ],
        1.5,
    ),
    (
        LLAMA3,
        [
            1.0,
            0.079403013,
            0.00470075384,
            0.000911583134,
            0.000176776681,
            3.42810235e-05,
            6.64786967e-06,
            1.28917316e-06,
        ],
        1.0,
    ),
]


@pytest.mark.parametrize(("parameters", "frequencies", "magnitude"), ROPE_GOLDENS)
def test_stretched_rope(
    parameters: dict[str, Any], frequencies: list[float], magnitude: float
) -> None:
    made = rope({"rope_parameters": parameters})
    assert made.frequencies(16) == pytest.approx(frequencies, rel=2e-6)
    assert made.magnitude == pytest.approx(magnitude, rel=1e-7)


def test_layer_types() -> None:
    assert layer_types({"num_hidden_layers": 2}) == (FULL, FULL)
    assert layer_types({"num_hidden_layers": 4}, pattern=2) == (SLIDING, FULL, SLIDING, FULL)
    unread = {"num_hidden_layers": 2, "sliding_window_pattern": 2}
    assert layer_types(unread) == (FULL, FULL)  # Gemma's key in another family's config
    six = layer_types({"num_hidden_layers": 7, "sliding_window_pattern": 6}, pattern=2)
    assert [i for i, kind in enumerate(six) if kind == FULL] == [5]
    given = {"num_hidden_layers": 2, "layer_types": [FULL, SLIDING], "sliding_window_pattern": 2}
    assert layer_types(given) == (FULL, SLIDING)
    wrongs: tuple[Any, ...] = ([FULL], [FULL, 3], [FULL, "linear_attention"], "full", {})
    for wrong in wrongs:
        with pytest.raises(ModelError, match="layer_types"):
            layer_types({"num_hidden_layers": 2, "layer_types": wrong})
    with pytest.raises(ModelError, match="num_hidden_layers"):
        layer_types({"num_hidden_layers": 10**9})
    with pytest.raises(ModelError, match="sliding_window_pattern"):
        layer_types({"num_hidden_layers": 2, "sliding_window_pattern": 0}, pattern=6)
    assert sliding_window({"sliding_window": 512}) == 512
    with pytest.raises(ModelError, match="sliding_window is -1"):
        sliding_window({"sliding_window": -1})


def test_tied() -> None:
    assert tied({"tie_word_embeddings": False}, has_lm_head=False) is True
    assert tied({"tie_word_embeddings": False}, has_lm_head=True) is False
    assert tied({"tie_word_embeddings": True}, has_lm_head=True) is True
    assert tied({}, has_lm_head=True) is False


def test_quantization() -> None:
    assert quantization({"quantization": {"bits": 4, "group_size": 64, "mode": None}}) is not None
    assert quantization({}) is None
    both = {
        "quantization": {
            "group_size": 64,
            "bits": 4,
            "a.b": {"group_size": 32, "bits": 8, "mode": "affine"},
            "a.c": False,
            "a.d": True,
            "a.e": {"bits": 6},
        },
        "quantization_config": {"quant_method": "gptq"},
    }
    made = quantization(both)
    assert made is not None
    assert made.of("x") == made.of("a.d") == Packing(4, 64)
    assert made.of("a.b") == Packing(8, 32) and made.of("a.c") is None
    assert made.of("a.e") == Packing(6, None)
    named = quantization({"quantization_config": {"group_size": 32, "bits": 3, "mode": "affine"}})
    assert named is not None and named.default == Packing(3, 32)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"bits": 4, "group_size": 32, "mode": "mxfp4"}, "mode 'mxfp4'; only affine"),
        ({"bits": 4, "group_size": 16, "mode": "nvfp4"}, "nvfp4"),
        ({"bits": 4, "group_size": 64, "x": {"mode": "mxfp8"}}, r"\['x'\] has mode 'mxfp8'"),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, "quant_method 'awq'"),
        ({"bits": 7, "group_size": 64}, "bits 7"),
        ({"bits": 4, "group_size": 48}, "group_size 48"),
        ({"bits": 4}, "group_size None"),
        ({"bits": True, "group_size": 64}, "bits True"),
        ({"bits": 4, "group_size": 64, "x": {"bits": 99}}, "bits 99"),
        ([4, 64], "expected an object"),
    ],
)
def test_quantization_refused(given: Any, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        quantization({"quantization": given})


def test_eos() -> None:
    assert eos_ids({"eos_token_id": 5}, {"eos_token_id": [7, 5]}, 100) == (7, 5)
    assert eos_ids({"eos_token_id": [248046, 1]}, {}, 100) == (1,)
    assert eos_ids({}, {}, 100) == ()
    for wrong in ("5", 5.0, [None], [[1]], -1, True, 1 << 40):
        with pytest.raises(ModelError, match="eos_token_id"):
            eos_ids({"eos_token_id": wrong}, {}, 100)


def test_from_files(tmp_path: Path) -> None:
    async def go() -> None:
        repo = await open_repository(str(tmp_path), NativeIo())
        assert (await read_config(repo))["model_type"] == "qwen3"
        assert await read_generation_config(repo) == {"top_k": 20}

    (tmp_path / "config.json").write_text('{"model_type": "qwen3", "x": Infinity}')
    (tmp_path / "generation_config.json").write_text(json.dumps({"top_k": 20, "top_p": None}))
    asyncio.run(go())
    (tmp_path / "generation_config.json").write_text("[]")
    with pytest.raises(ModelError, match="generation_config"):
        asyncio.run(go())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(FormatError, match=r"config\.json is not valid JSON"):
        asyncio.run(go())
