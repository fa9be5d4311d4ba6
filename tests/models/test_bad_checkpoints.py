"""Hybrids whose config and weights contradict each other: the error names the key or tensor, and nothing is allocated.
No GPU is needed: a load finds these faults before it reads a weight, so a GPU that only counts is enough."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from py_engine.errors import ModelError
from py_engine.host.gpu_counting import CountingGpu
from py_engine.serve.engine import Engine
from tests.checkpoints import Checkpoint, Stored
from tests.conftest import Runner

QWEN, LFM = "qwen3.5-bf16", "lfm2-bf16"
QWEN4, LFM4, MIXED = "qwen3.5-mlx4-g64", "lfm2-mlx4-g64", "qwen3.5-mlx-mixed-vision"
Change = Callable[[Checkpoint], None]


def refused(run: Runner, folder: Path, name: str, change: Change, message: str) -> None:
    """Check that the changed checkpoint raises a ModelError that matches `message`, and that no buffer was made."""
    made = Checkpoint.golden(name)
    change(made)
    gpu = CountingGpu()
    with pytest.raises(ModelError, match=message):
        run(Engine.load(made.write(folder), gpu=gpu, context=64))
    assert gpu.counters.buffers_created == 0


def test_what_is_not_broken_is_not_refused(run: Runner, tmp_path: Path) -> None:
    for name in (QWEN, LFM, QWEN4, LFM4, MIXED):
        folder = Checkpoint.golden(name).write(tmp_path / name)
        assert run(Engine.estimate(folder, gpu=CountingGpu(), context=64)).total_bytes > 0


@pytest.mark.parametrize(
    "name, config, message",
    [
        # The layer's kind does not fit its weights: the error names the layer and the key to check.
        (QWEN, {"full_attention_interval": 2}, "layer 1 full_attention.*layers.1.linear_attn.*layer_types"),
        (QWEN, {"full_attention_interval": 8}, "layer 3 linear_attention.*layers.3.self_attn.*layer_types"),
        (LFM, {"full_attn_idxs": [0, 1, 3]}, "layer 0 full_attention.*layers.0.conv.*layer_types"),
        (LFM, {"full_attn_idxs": [1]}, "layer 3 conv.*layers.3.self_attn.*layer_types"),
        (QWEN, {"layer_types": ["full_attention"] * 3}, "layer_types"),
        (QWEN, {"layer_types": ["sliding_attention"] * 4}, "sliding_attention"),
        (QWEN, {"layer_types": ["full_attention"] * 4}, "no layer is linear_attention"),
        (QWEN, {"layer_types": "linear_attention"}, "layer_types"),
        (QWEN, {"num_hidden_layers": 8}, r"layers\.4\..* is missing"),
        (QWEN, {"linear_conv_kernel_dim": 3}, "conv1d"),
        (QWEN, {"linear_num_value_heads": 4}, "value heads"),
        (QWEN, {"linear_num_value_heads": 6}, r"in_proj_qkv.weight is \[132, 60\], expected \[192, 60\]"),
        (QWEN, {"linear_key_head_dim": 10}, "head size 10"),
        (QWEN, {"linear_value_head_dim": 24}, "in_proj_qkv"),
        (QWEN, {"attn_output_gate": False}, "attn_output_gate"),
        (QWEN, {"max_position_embeddings": 0}, "max_position_embeddings is 0"),
        (LFM, {"full_attn_idxs": [9]}, "full_attn_idxs"),
        (LFM, {"block_multiple_of": 64}, "feed_forward.w1"),
        (LFM, {"conv_bias": True}, "conv.in_proj.bias"),
        (LFM, {"conv_L_cache": 1}, "conv_L_cache"),
        (LFM, {"conv_L_cache": 4}, r"conv.conv.weight is \[60, 1, 3\], expected \[60, 1, 4\]"),
    ],
)  # fmt: skip
def test_config_against_weights(
    run: Runner, tmp_path: Path, name: str, config: dict[str, Any], message: str
) -> None:
    refused(run, tmp_path / "model", name, lambda made: made.text.update(config), message)


@pytest.mark.parametrize(
    "name, drop",
    [
        *((QWEN, f"layers.1.linear_attn.{part}") for part in (
            "conv1d.weight", "A_log", "dt_bias", "norm.weight", "out_proj.weight",
            "in_proj_qkv.weight", "in_proj_z.weight", "in_proj_a.weight", "in_proj_b.weight",
        )),
        *((QWEN, f"layers.3.self_attn.{part}.weight") for part in ("q_proj", "k_norm", "o_proj")),
        (QWEN, "layers.2.mlp.gate_proj.weight"),
        (QWEN, "model.norm.weight"),
        *((LFM, f"layers.0.conv.{part}.weight") for part in ("conv", "in_proj", "out_proj")),
        *((LFM, f"layers.1.self_attn.{part}.weight") for part in ("v_proj", "out_proj", "q_layernorm")),
        (LFM, "embedding_norm.weight"),
        (LFM, "embed_tokens.weight"),
        (QWEN4, "layers.0.linear_attn.in_proj_z.biases"),
        (QWEN4, "layers.0.linear_attn.in_proj_z.weight"),
        (LFM4, "layers.0.conv.in_proj.biases"),
    ],
)  # fmt: skip
def test_a_missing_tensor_is_named(run: Runner, tmp_path: Path, name: str, drop: str) -> None:
    def change(made: Checkpoint) -> None:
        del made.tensors[made.find(drop)]

    refused(run, tmp_path / "model", name, change, f"{drop}.* is missing")


def test_missing_scales_leave_words_that_are_no_floats(run: Runner, tmp_path: Path) -> None:
    def change(made: Checkpoint) -> None:
        del made.tensors[made.find("layers.0.conv.in_proj.scales")]

    message = r"layers.0.conv.in_proj.* U32 and no .*layers.0.conv.in_proj.scales"
    refused(run, tmp_path / "model", LFM4, change, message)


def reshape(end: str, *shape: int) -> Change:
    """Give a tensor another shape; its elements are repeated or cut to fit."""

    def change(made: Checkpoint) -> None:
        name = made.find(end)
        old = made.tensors[name]
        made.tensors[name] = Stored(old.dtype, np.resize(old.array, shape))

    return change


def recast(end: str, dtype: str) -> Change:
    """Give a tensor another dtype."""

    def change(made: Checkpoint) -> None:
        name = made.find(end)
        made.tensors[name] = Stored.of(made.tensors[name].values, dtype)

    return change


@pytest.mark.parametrize(
    "name, change, message",
    [
        (QWEN, reshape("layers.0.linear_attn.A_log", 4), r"A_log is \[4\], expected \[3\]"),
        (QWEN, reshape("layers.0.linear_attn.dt_bias", 3, 1), r"dt_bias is \[3, 1\], expected \[3\]"),
        (QWEN, reshape("layers.0.linear_attn.conv1d.weight", 132, 4), r"conv1d.weight is \[132, 4\]"),
        (LFM, reshape("layers.0.conv.conv.weight", 60, 3), r"conv.conv.weight is \[60, 3\]"),
        (LFM, reshape("embed_tokens.weight", 300, 60), r"embed_tokens.weight is \[300, 60\], expected \[301"),
        (QWEN4, reshape("layers.0.mlp.up_proj.scales", 128, 2), r"layers.0.mlp.up_proj.*not belong together"),
        (QWEN4, recast("layers.0.mlp.up_proj.biases", "F32"), "layers.0.mlp.up_proj.biases has dtype F32"),
        (QWEN4, recast("layers.0.mlp.up_proj.weight", "F32"), "layers.0.mlp.up_proj: weight is F32"),
    ],
)  # fmt: skip
def test_wrong_shapes_and_dtypes(
    run: Runner, tmp_path: Path, name: str, change: Change, message: str
) -> None:
    refused(run, tmp_path / "model", name, change, message)


def declare(**entries: Any) -> Change:
    """Change entries of `quantization`. A layer is given by the end of its path."""

    def change(made: Checkpoint) -> None:
        declared = made.config["quantization"]
        for key, value in entries.items():
            if key not in ("bits", "group_size", "mode"):
                key = made.find(f"{key}.weight").removesuffix(".weight")
            declared[key] = value
        made.config.pop("quantization_config", None)

    return change


def undeclared(made: Checkpoint) -> None:
    """Leave the weights packed, and remove every mention of it from the config."""
    for key in ("quantization", "quantization_config"):
        made.config.pop(key, None)


PROJ = "layers.0.linear_attn.in_proj_qkv"
CONV = "layers.0.conv.in_proj"


@pytest.mark.parametrize(
    "name, change, message",
    [
        (QWEN4, undeclared, r"\.scales is in the weights, but config.json declares no quantization"),
        (LFM4, undeclared, r"\.scales is in the weights, but config.json declares no quantization"),
        (QWEN4, declare(**{PROJ: False}), f"{PROJ}.scales is in the weights.*no quantization for it"),
        (LFM4, declare(**{CONV: False}), f"{CONV}.scales is in the weights.*no quantization for it"),
        (QWEN4, declare(**{PROJ: {"bits": 8, "group_size": 64}}), f"{PROJ}.*not 8 bits in groups of 64"),
        (LFM4, declare(**{CONV: {"bits": 3, "group_size": 64}}), f"{CONV}.*not 3 bits in groups of 64"),
        (QWEN4, declare(**{PROJ: {"bits": 4, "group_size": 32}}), f"{PROJ}.*not 4 bits in groups of 32"),
        # bits * group_size is right, though both are wrong: the width of the weight shows it.
        (QWEN4, declare(**{PROJ: {"bits": 8, "group_size": 32}}), f"{PROJ}.weight is .*8 bits"),
        (QWEN4, declare(bits=8), "not 8 bits in groups of 64"),
        (LFM4, declare(group_size=128), "not 4 bits in groups of 128"),
        (QWEN4, declare(bits=7), "bits 7; supported"),
        (LFM4, declare(group_size=48), "group_size 48; supported"),
        (QWEN4, declare(mode="mxfp4"), "mode 'mxfp4'"),
        (LFM4, declare(**{CONV: {"bits": 4, "group_size": 64, "mode": "nvfp4"}}), "mode 'nvfp4'"),
    ],
)  # fmt: skip
def test_quantisation_that_the_config_does_not_declare(
    run: Runner, tmp_path: Path, name: str, change: Change, message: str
) -> None:
    refused(run, tmp_path / "model", name, change, message)
