"""The vision tower of Qwen3.5: Qwen3-VL's without deepstack.

Reference: transformers, models/qwen3_5/modeling_qwen3_5.py. A patch's numbers come channel, time, y, x; patches come in
blocks of 2 x 2, which the merger makes one row of. Heads turn by row and column of the patch. mlx_vlm's conversion has
the channels of the patch embedding last.
Tried with: tiny random checkpoints (plain, and with mlx_vlm's names); the shapes of Qwen3.5-0.8B. No real weights were
at hand.
"""

from __future__ import annotations

from math import prod

from py_engine.blocks.dense import activation
from py_engine.blocks.state import Rope
from py_engine.blocks.tower_checkpoint import (
    TowerCheckpoint,
    found_prefix,
    square_side,
    tower_heads,
    width_of,
)
from py_engine.blocks.vision import PatchPositions, Projector, Tower, TowerBlock
from py_engine.errors import ModelError
from py_engine.graph.matrix import Linear
from py_engine.sources.config import (
    MAX_LAYERS,
    Config,
    named,
    part,
    require_float,
    require_int,
    short,
)
from py_engine.sources.rope_config import grid_axes
from py_engine.weights.store import WeightStore

_EPS = 1e-6  # transformers has no key for it
_PREFIXES = ("model.visual.", "vision_tower.", "visual.")


def sees(config: Config, store: WeightStore) -> bool:
    """Whether the checkpoint has the tower."""
    return (
        config.get("vision_config") is not None
        and found_prefix(store, _PREFIXES, "blocks.") is not None
    )


def tower(config: Config, store: WeightStore) -> Tower | None:
    """The tower and its merger; None: the checkpoint has none. Raises ModelError."""
    prefix = found_prefix(store, _PREFIXES, "blocks.")
    if config.get("vision_config") is None or prefix is None:
        return None
    given = part(config, "vision_config")
    if given.get("deepstack_visual_indexes"):
        raise ModelError(
            f"{named(given, 'deepstack_visual_indexes')} is {short(given['deepstack_visual_indexes'])}: rows of"
            " middle layers (deepstack) are Qwen3-VL's, and Qwen3.5 has none. Load with vision='off' for text alone."
        )
    h, width = width_of(given, "hidden_size"), width_of(given, "intermediate_size")
    out, hidden = width_of(given, "out_hidden_size"), width_of(config, "hidden_size")
    if out != hidden:
        raise ModelError(
            f"{named(given, 'out_hidden_size')} is {out}, but rows of the text model have {hidden} numbers. The file is"
            " of another model: fetch it again."
        )
    names = TowerCheckpoint(store, prefix, h, _EPS)
    side = square_side(given, "num_position_embeddings")
    heads = tower_heads(given, "num_heads", h)
    merge = require_int(given, "spatial_merge_size", 1, 8, 2)
    whole = merge * merge * h

    def block(i: int) -> TowerBlock:
        at = f"blocks.{i}."
        return TowerBlock(
            names.norm(f"{at}norm1"),
            names.linear([f"{at}attn.qkv"], 3 * h, h),
            names.linear([f"{at}attn.proj"], h, h),
            names.norm(f"{at}norm2"),
            names.linear([f"{at}mlp.linear_fc1"], width, h),
            names.linear([f"{at}mlp.linear_fc2"], h, width),
        )

    return Tower(
        _patch_embedding(given, names),
        PatchPositions(names.positions("pos_embed.weight", side * side), side, "corners"),
        [block(i) for i in range(require_int(given, "depth", 1, MAX_LAYERS))],
        heads,
        activation(given, "hidden_act", "gelu_pytorch_tanh"),
        names.norm("merger.norm"),
        Projector(
            merge,
            names.linear(["merger.linear_fc1"], whole, whole),
            names.linear(["merger.linear_fc2"], out, whole),
            "gelu",
        ),
        _rope(given, heads.dim),
        by_blocks=True,
    )


def _patch_embedding(config: Config, names: TowerCheckpoint) -> Linear:
    """Its rows come channel, time, y, x, as the patches."""
    channels = require_int(config, "in_channels", 1, 16, 3)
    patch = require_int(config, "patch_size", 1, 64, 16)
    inside = (require_int(config, "temporal_patch_size", 1, 16, 2), patch, patch)
    name = f"{names.prefix}patch_embed.proj"
    shape = names.store.shape(f"{name}.weight")
    last = shape == (names.hidden, *inside, channels) and shape[1:] != (channels, *inside)
    return names.store.linear(
        [name], [names.hidden], channels * prod(inside), bias=True, plain=True,
        axes=(*inside, channels) if last else (channels, *inside), channels_first=last,
    )  # fmt: skip


def _rope(config: Config, dim: int) -> Rope:
    if dim % 4:
        raise ModelError(
            f"{named(config, 'num_heads')}: heads of {dim} numbers cannot turn by row and column"
        )
    given = part(config, "rope_parameters") if "rope_parameters" in config else {}
    theta = require_float(given, "rope_theta", 1.0, 1e12, 1e4)
    pairs = dim // 4  # of each axis
    frequencies = tuple(theta ** (-i / pairs) for i in range(pairs))
    return Rope(dim, theta, 2 * frequencies, axes=grid_axes(2 * pairs))
