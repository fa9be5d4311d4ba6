"""ModernBERT as a text encoder: gte-modernbert-base, nomic's modernbert-embed, and similar models.

Paper: Warner et al. 2024, arXiv:2412.13663. Reference: transformers, models/modernbert/modeling_modernbert.py. Norms
stand before the branches, but for the first attention, which reads the normed embeddings. Every third layer attends to
the whole text, the others to local_attention / 2 rows on each side. A cross-encoder (gte-reranker-modernbert-base) has
a classifier, which reads the first row or the mean. Tried with: tiny random checkpoints.
"""

from __future__ import annotations

from py_engine.blocks.classifier import Classifier, classifies, read_classifier
from py_engine.blocks.dense import MAX_VOCAB, Sizes, activation, rope_of
from py_engine.blocks.encoder import (
    Embeddings,
    EncoderModel,
    FeedForward,
    PreNormBlock,
    SelfAttention,
)
from py_engine.errors import ModelError
from py_engine.ops.attention_full import FullHeads
from py_engine.ops.norm import Norm
from py_engine.sources.config import (
    FULL,
    MAX_LAYERS,
    SLIDING,
    Config,
    layer_types,
    require_bool,
    require_int,
    require_str,
)
from py_engine.weights.store import WeightStore

# What transformers' ModernBertConfig assumes.
DEFAULTS = {
    "vocab_size": 50368,
    "hidden_size": 768,
    "intermediate_size": 1152,
    "num_hidden_layers": 22,
    "num_attention_heads": 12,
    "max_position_embeddings": 8192,
    "norm_eps": 1e-5,
    "global_attn_every_n_layers": 3,
    "local_attention": 128,
}


def build(config: Config, store: WeightStore) -> EncoderModel:
    """The model. Raises ModelError."""
    config = _rotary({**DEFAULTS, **config})
    sizes = Sizes.of(config, eps_key="norm_eps", eps=1e-5)
    h, width, count = sizes.hidden_size, sizes.intermediate_size, sizes.num_attention_heads
    if h != count * sizes.head_dim:
        raise ModelError(f"config.json: hidden_size {h} is not a multiple of {count} heads")
    act = activation(config, "hidden_activation", "gelu")
    kinds = _kinds(config)
    ropes = {kind: rope_of(config, sizes, kind) for kind in set(kinds)}
    side = require_int(config, "local_attention", 2, MAX_VOCAB) // 2
    prefix = "model." if store.has_under("model.layers.0.") else ""
    norm_bias, bias, mlp_bias = (
        require_bool(config, key, False) for key in ("norm_bias", "attention_bias", "mlp_bias")
    )

    def norm(name: str) -> Norm:
        at = prefix + name
        shift = store.vector(f"{at}.bias", h) if norm_bias else None
        return Norm(store.vector(f"{at}.weight", h), sizes.rms_norm_eps, centred=True, bias=shift)

    def block(layer: int, kind: str) -> PreNormBlock:
        at = f"layers.{layer}."
        window = (side, side) if kind == SLIDING else None
        heads = FullHeads(count, count, sizes.head_dim, sizes.head_dim**-0.5, window)
        return PreNormBlock(
            norm(f"{at}attn_norm") if layer else None,
            SelfAttention(
                store.linear([f"{prefix}{at}attn.Wqkv"], [3 * h], h, bias=bias),
                store.linear([f"{prefix}{at}attn.Wo"], [h], h, bias=bias),
                heads,
                ropes[kind],
            ),
            norm(f"{at}mlp_norm"),
            FeedForward(
                store.linear([f"{prefix}{at}mlp.Wi"], [2 * width], h, bias=mlp_bias),
                store.linear([f"{prefix}{at}mlp.Wo"], [h], width, bias=mlp_bias),
                act,
                gated=True,
            ),
        )

    words = store.linear([f"{prefix}embeddings.tok_embeddings"], [sizes.vocab_size], h)
    return EncoderModel(
        h,
        sizes.vocab_size,
        sizes.max_position_embeddings,
        Embeddings(words, norm=norm("embeddings.norm")),
        [block(i, kind) for i, kind in enumerate(kinds)],
        norm("final_norm"),
        classifier=_classifier(config, store, h, sizes.rms_norm_eps),
    )


def _classifier(config: Config, store: WeightStore, h: int, eps: float) -> Classifier | None:
    """The head of ModernBertForSequenceClassification."""
    if not classifies(config):
        return None
    bias = store.vector("head.norm.bias", h) if require_bool(config, "norm_bias", False) else None
    return read_classifier(
        config,
        store,
        h,
        "head.dense",
        "classifier",
        pooling="mean"
        if require_str(config, "classifier_pooling", ("cls", "mean"), "cls") == "mean"
        else "first",
        activation=activation(config, "classifier_activation", "gelu"),
        bias=require_bool(config, "classifier_bias", False),
        norm=Norm(store.vector("head.norm.weight", h), eps, centred=True, bias=bias),
    )


def _kinds(config: Config) -> tuple[str, ...]:
    """The kind of each layer: layer_types, or by global_attn_every_n_layers, the first layer being global."""
    if config.get("layer_types") is not None:
        return layer_types(config)
    every = require_int(config, "global_attn_every_n_layers", 1, MAX_LAYERS)
    count = require_int(config, "num_hidden_layers", 1, MAX_LAYERS)
    return tuple(SLIDING if i % every else FULL for i in range(count))


def _rotary(config: Config) -> Config:
    """`config` with the bases of both kinds of layers where sources/rope_config.py looks for them."""
    return {
        **config,
        "rope_theta": config.get("global_rope_theta", 160000.0),
        "rope_local_base_freq": config.get("local_rope_theta", 10000.0),
    }
