"""Qwen3.5: gated DeltaNet layers, every fourth one attention with an output gate and partial rotary positions.
qwen3_5_tower.py has the tower for pictures.

Reference: transformers, models/qwen3_5/modeling_qwen3_5.py; mlx_lm, models/qwen3_5.py. MTP tensors of a checkpoint are
not read. HF stores norm weights as w and uses 1 + w; MLX's conversion stores 1 + w. The conversion also
turns convolutions from [C, 1, taps] to [C, taps, 1]. Their shape tells the two kinds of checkpoint apart, as in mlx_lm.
The norm inside linear attention has no offset in either.
Tried with: tiny random checkpoints (plain, and converted by mlx_lm); the shapes of Qwen3.5-0.8B.
"""

from __future__ import annotations

from dataclasses import replace

from py_engine.blocks.delta_net import DeltaNet
from py_engine.blocks.dense import (
    MAX_WIDTH,
    PREFIXES,
    Checkpoint,
    Sizes,
    activation,
    depthwise,
    rope_of,
)
from py_engine.blocks.layers import Block, Mixer, Model
from py_engine.errors import ModelError
from py_engine.models.qwen3_5_tower import sees
from py_engine.models.qwen3_5_tower import tower as tower  # models/__init__.py finds it here
from py_engine.ops.delta import DeltaShape
from py_engine.sources.config import (
    FULL,
    MAX_LAYERS,
    Config,
    layer_types,
    named,
    part,
    require_bool,
    require_int,
    short,
)
from py_engine.sources.rope_config import mrope_axes
from py_engine.weights.store import WeightStore

ALIASES = ("qwen3_5_text",)  # inside a multimodal wrapper's config
LINEAR = "linear_attention"
# What transformers' Qwen3_5TextConfig assumes.
_DEFAULTS = {
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "partial_rotary_factor": 0.25,
    "max_position_embeddings": 32768,
    "rope_theta": 1e4,
}


def build(config: Config, store: WeightStore) -> Model:
    """The decoder."""
    act = activation(config, "hidden_act", "silu")
    if not require_bool(config, "attn_output_gate", True):
        raise ModelError("config.json: attn_output_gate is false; Qwen3.5 has this gate")
    config = {**_DEFAULTS, **config}
    kinds = _kinds(config)
    sizes = Sizes.of(config)
    shape = DeltaShape(
        require_int(config, "linear_num_key_heads", 1, 1024, 16),
        require_int(config, "linear_num_value_heads", 1, 1024, 32),
        require_int(config, "linear_key_head_dim", 1, MAX_WIDTH, 128),
        require_int(config, "linear_value_head_dim", 1, MAX_WIDTH, 128),
        require_int(config, "linear_conv_kernel_dim", 1, MAX_WIDTH, 4),
    )
    weights = Checkpoint(sizes, store, norm_offset=0.0 if _from_mlx(store, kinds) else 1.0)
    weights.check_kinds(kinds, {LINEAR: "linear_attn", FULL: "self_attn"})
    rope = rope_of(config, sizes, partial=True)
    if sees(config, store):
        rope = replace(rope, axes=_axes(config, rope.width // 2))
    bias = require_bool(config, "attention_bias", False)
    embedding, head = weights.embedding_and_head(config)

    def mixer(i: int, kind: str) -> Mixer:
        if kind == LINEAR:
            return _delta_net(weights, shape, sizes.hidden_size, f"layers.{i}.linear_attn.")
        return weights.attention(
            i, rope, sizes.head_dim**-0.5,
            bias=bias, out_bias=bias, head_norms=True, gated=True,
        )  # fmt: skip

    blocks = [
        Block(
            weights.norm(f"layers.{i}.input_layernorm"),
            mixer(i, kind),
            weights.norm(f"layers.{i}.post_attention_layernorm"),
            weights.mlp(i, act),
        )
        for i, kind in enumerate(kinds)
    ]
    return weights.model(embedding, blocks, head)


def _axes(config: Config, pairs: int) -> tuple[int, ...]:
    """Which axis of a position (time, height, width of a picture's rows) each rotated pair follows; (): positions have
    one axis, as the config names no sections."""
    given = (
        part(config, "rope_parameters") if isinstance(config.get("rope_parameters"), dict) else {}
    )
    sections = given.get("mrope_section")
    if sections is None:
        return ()
    if not isinstance(sections, list) or not all(type(n) is int for n in sections):
        raise ModelError(
            f"{named(given, 'mrope_section')} is {short(sections)}, expected three numbers."
        )
    return mrope_axes(sections, require_bool(given, "mrope_interleaved", True), pairs)


def _kinds(config: Config) -> tuple[str, ...]:
    """The kind of each layer: from layer_types, else every full_attention_interval-th layer attends."""
    if "layer_types" in config:
        return layer_types(config, allowed=(LINEAR, FULL))
    every = require_int(config, "full_attention_interval", 1, MAX_LAYERS, 4)
    count = require_int(config, "num_hidden_layers", 1, MAX_LAYERS)
    return tuple(LINEAR if (i + 1) % every else FULL for i in range(count))


def _from_mlx(store: WeightStore, kinds: tuple[str, ...]) -> bool:
    """Whether MLX converted this checkpoint, which gives convolutions the shape [C, taps, 1]."""
    if LINEAR not in kinds:
        raise ModelError("config.json: no layer is linear_attention, which Qwen3.5 has")
    name = f"layers.{kinds.index(LINEAR)}.linear_attn.conv1d.weight"
    shapes = (store.shape(prefix + name) for prefix in PREFIXES)
    return next((shape[-1] == 1 for shape in shapes if shape), False)


def _delta_net(weights: Checkpoint, shape: DeltaShape, hidden: int, at: str) -> DeltaNet:
    return DeltaNet(
        shape,
        weights.linear(
            [at + "in_proj_qkv", at + "in_proj_z", at + "in_proj_b", at + "in_proj_a"],
            [shape.channels, shape.values, shape.value_heads, shape.value_heads],
            hidden,
        ),
        weights.vectors({at + "conv1d.weight": depthwise(shape.channels, shape.taps)}),
        weights.vectors({at + name: [(shape.value_heads,)] for name in ("A_log", "dt_bias")}),
        weights.norm(at + "norm", shape.value_dim, offset=0.0),
        weights.linear([at + "out_proj"], [hidden], shape.values),
    )
