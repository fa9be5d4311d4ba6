"""LFM2-VL and LFM2.5-VL: the text model of LFM2 behind a SigLIP2 tower (NaFlex: any grid of patches).

Reference: transformers, models/lfm2_vl/modeling_lfm2_vl.py, models/siglip2/modeling_siglip2.py. A patch's numbers come
y, x, channel; patches come row by row. Blocks of 2 x 2 of them make a row for the text model.
Tried with: a tiny random checkpoint; the shapes of LFM2.5-VL-450M. No real weights were at hand.
"""

from __future__ import annotations

from py_engine.blocks.dense import activation
from py_engine.blocks.layers import Model
from py_engine.blocks.tower_checkpoint import (
    TowerCheckpoint,
    found_prefix,
    square_side,
    tower_heads,
    width_of,
)
from py_engine.blocks.vision import PatchPositions, Projector, Tower, TowerBlock
from py_engine.models import lfm2
from py_engine.sources.config import (
    MAX_LAYERS,
    Config,
    part,
    require_bool,
    require_float,
    require_int,
)
from py_engine.weights.store import WeightStore

# What transformers' Siglip2VisionConfig assumes.
_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "num_patches": 256,
    "patch_size": 16,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh",
}
_TOWERS = (
    "model.vision_tower.vision_model.",
    "vision_tower.vision_model.",
    "model.vision_tower.",
    "vision_tower.",
)
_PROJECTORS = ("model.multi_modal_projector.", "multi_modal_projector.")


def build(config: Config, store: WeightStore) -> Model:
    """The decoder."""
    return lfm2.build(config, store)


def tower(config: Config, store: WeightStore) -> Tower | None:
    """The tower and the projector; None: the checkpoint has none. Raises ModelError."""
    at = found_prefix(store, _TOWERS, "encoder.")
    beside = found_prefix(store, _PROJECTORS, "linear_1.")
    if config.get("vision_config") is None or at is None or beside is None:
        return None
    given = part(config, "vision_config", _DEFAULTS)
    h, width = width_of(given, "hidden_size"), width_of(given, "intermediate_size")
    names = TowerCheckpoint(store, at, h, require_float(given, "layer_norm_eps", 1e-12, 1.0))
    side = square_side(given, "num_patches")
    numbers = (
        require_int(given, "num_channels", 1, 16) * require_int(given, "patch_size", 1, 64) ** 2
    )

    def block(i: int) -> TowerBlock:
        layer = f"encoder.layers.{i}."
        return TowerBlock(
            names.norm(f"{layer}layer_norm1"),
            names.linear([f"{layer}self_attn.{n}_proj" for n in "qkv"], h, h),
            names.linear([f"{layer}self_attn.out_proj"], h, h),
            names.norm(f"{layer}layer_norm2"),
            names.linear([f"{layer}mlp.fc1"], width, h),
            names.linear([f"{layer}mlp.fc2"], h, width),
        )

    return Tower(
        names.linear(["embeddings.patch_embedding"], h, numbers, plain=True),
        PatchPositions(
            names.positions("embeddings.position_embedding.weight", side * side), side, "triangle"
        ),
        [block(i) for i in range(require_int(given, "num_hidden_layers", 1, MAX_LAYERS))],
        tower_heads(given, "num_attention_heads", h),
        activation(given, "hidden_act", "gelu_pytorch_tanh"),
        names.norm("post_layernorm"),
        _projector(config, TowerCheckpoint(store, beside, h, 1e-5)),
    )


def _projector(config: Config, names: TowerCheckpoint) -> Projector:
    side = require_int(config, "downsample_factor", 1, 8, 2)
    inside = width_of(config, "projector_hidden_size", 2560)
    bias = require_bool(config, "projector_bias", True)
    whole = side * side * names.hidden
    return Projector(
        side,
        names.linear(["linear_1"], inside, whole, bias=bias),
        names.linear(["linear_2"], width_of(config, "hidden_size"), inside, bias=bias),
        activation(config, "projector_hidden_act", "gelu"),
        names.norm("layer_norm", whole)
        if require_bool(config, "projector_use_layernorm", True)
        else None,
    )
