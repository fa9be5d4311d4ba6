"""BERT as a text encoder: MiniLM, bge, e5, gte and similar models.

Paper: Devlin et al. 2018, arXiv:1810.04805. Reference: transformers, models/bert/modeling_bert.py. Layers apply their
norms after the residuals; positions are learned; there are token types, and LayerNorm and biases everywhere. The pooler
is read as part of the classifier of a cross-encoder (BertForSequenceClassification: ms-marco-MiniLM), the heads of
pre-training are not. Tried with: all-MiniLM-L6-v2 (real weights).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from py_engine.blocks.classifier import read_classifier
from py_engine.blocks.dense import MAX_CONTEXT, MAX_VOCAB, MAX_WIDTH, activation
from py_engine.blocks.encoder import (
    Embeddings,
    EncoderModel,
    FeedForward,
    PostNormBlock,
    SelfAttention,
)
from py_engine.errors import ModelError
from py_engine.graph.matrix import Linear
from py_engine.ops.attention_full import FullHeads
from py_engine.ops.norm import Norm
from py_engine.sources.config import (
    MAX_LAYERS,
    Config,
    require_bool,
    require_float,
    require_int,
    require_str,
)
from py_engine.weights.store import WeightStore


def build(config: Config, store: WeightStore) -> EncoderModel:
    """The model of a `bert` config, its weights asked for from `store`. Raises ModelError."""
    model = encoder(config, store, "bert.")
    head = read_classifier(config, store, model.hidden_size, "bert.pooler.dense", "classifier")
    return replace(model, classifier=head)


def encoder(
    config: Config, store: WeightStore, prefix: str, first_position: int = 0
) -> EncoderModel:
    """A model of BERT's layers, its tensors with or without `prefix`. The first `first_position` rows of the table of
    positions are of no text. Raises ModelError."""
    if require_bool(config, "is_decoder", False):
        raise ModelError("config.json: is_decoder: a BERT that writes text is not supported")
    require_str(config, "position_embedding_type", ("absolute",), "absolute")
    h = require_int(config, "hidden_size", 1, MAX_WIDTH)
    heads = require_int(config, "num_attention_heads", 1, 1024)
    if h % heads:
        raise ModelError(f"config.json: hidden_size {h} is not a multiple of {heads} heads")
    positions = require_int(config, "max_position_embeddings", 1 + first_position, MAX_CONTEXT)
    vocab = require_int(config, "vocab_size", 2, MAX_VOCAB)
    width = require_int(config, "intermediate_size", 1, MAX_WIDTH)
    act = activation(config, "hidden_act", "gelu")
    full = FullHeads(heads, heads, h // heads, (h // heads) ** -0.5)
    names = _Names(config, store, h, prefix)
    words, places, types = (
        f"embeddings.{name}_embeddings" for name in ("word", "position", "token_type")
    )

    def block(layer: int) -> PostNormBlock:
        at = f"encoder.layer.{layer}."
        qkv = [f"{at}attention.self.{name}" for name in ("query", "key", "value")]
        return PostNormBlock(
            SelfAttention(
                names.linear(qkv, h, h), names.linear([f"{at}attention.output.dense"], h, h), full
            ),
            names.norm(f"{at}attention.output.LayerNorm"),
            FeedForward(
                names.linear([f"{at}intermediate.dense"], width, h),
                names.linear([f"{at}output.dense"], h, width),
                act,
            ),
            names.norm(f"{at}output.LayerNorm"),
        )

    return EncoderModel(
        h,
        vocab,
        positions - first_position,
        Embeddings(
            names.table(words, vocab),
            names.table(places, positions),
            names.table(types, require_int(config, "type_vocab_size", 1, 1024, 2)),
            names.norm("embeddings.LayerNorm"),
        ),
        [block(i) for i in range(require_int(config, "num_hidden_layers", 1, MAX_LAYERS))],
        first_position=first_position,
    )


class _Names:
    """The tensors of a checkpoint, with or without a prefix such as `bert.`. Old files call the tensors of norms gamma
    and beta."""

    def __init__(self, config: Config, store: WeightStore, hidden: int, prefix: str) -> None:
        self._store, self._h = store, hidden
        self._eps = require_float(config, "layer_norm_eps", 1e-14, 1.0, 1e-12)
        self._prefix = prefix if store.has_under(f"{prefix}encoder.") else ""
        for name in ("pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"):
            store.ignore(f"{self._prefix}{name}")

    def linear(self, names: Sequence[str], rows: int, cols: int) -> Linear:
        """Layers with biases, stacked."""
        full = [self._prefix + name for name in names]
        return self._store.linear(full, [rows] * len(names), cols, bias=True)

    def table(self, name: str, rows: int) -> Linear:
        """An embedding."""
        return self._store.linear([self._prefix + name], [rows], self._h)

    def norm(self, name: str) -> Norm:
        """A LayerNorm."""
        at = self._prefix + name
        weight, bias = ("gamma", "beta") if self._store.has(f"{at}.gamma") else ("weight", "bias")
        return Norm(
            self._store.vector(f"{at}.{weight}", self._h),
            self._eps,
            centred=True,
            bias=self._store.vector(f"{at}.{bias}", self._h),
        )
