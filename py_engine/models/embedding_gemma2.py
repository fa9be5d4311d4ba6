"""EmbeddingGemma 2's text part: an encoder whose layers also get a signal of their own from the embeddings.

Reference: transformers, models/embedding_gemma2. Norms stand before and after each branch, heads of values are normed
without weights, scores are not scaled, layers alternate between windows and whole texts, with wider heads there. Behind
a layer's MLP a third branch takes the layer's part of a projection of the embeddings, normed (per-layer embeddings
without a table, after Gemma 3n); then the residual stream is multiplied by a number. Pictures and sound are not read.
Tried with: tiny random checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from py_engine.blocks.dense import MAX_CONTEXT, MAX_VOCAB, MAX_WIDTH, activation
from py_engine.blocks.encoder import (
    Embeddings,
    EncoderInputs,
    EncoderModel,
    FeedForward,
    PreNormBlock,
    SelfAttention,
)
from py_engine.blocks.projections import Projection
from py_engine.blocks.state import Rope
from py_engine.errors import ModelError
from py_engine.graph.matrix import Linear
from py_engine.graph.trace import Tensor
from py_engine.ops.attention_full import FullHeads
from py_engine.ops.embed import embed
from py_engine.ops.gate import Activation
from py_engine.ops.linear import linear
from py_engine.ops.norm import Norm
from py_engine.ops.per_layer import end_layer, gate_by_signal
from py_engine.ops.rope import MAX_FULL_HEAD_DIM
from py_engine.ops.step import Pass
from py_engine.sources.config import (
    FULL,
    SLIDING,
    Config,
    alike,
    layer_types,
    require_bool,
    require_float,
    require_int,
    short,
)
from py_engine.sources.rope_config import rope
from py_engine.weights.store import WeightStore

ALIASES = ("embedding_gemma2_text",)  # the text part alone
# What transformers' EmbeddingGemma2TextConfig assumes.
DEFAULTS = {
    "vocab_size": 262144,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "global_head_dim": 512,
    "num_global_key_value_heads": 1,
    "max_position_embeddings": 262144,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "hidden_size_per_layer_input": 512,
    "embedding_dim": 768,
}
_THETA = {FULL: 1e6, SLIDING: 1e4}
_GLOBAL = {"head_dim": "global_head_dim", "num_key_value_heads": "num_global_key_value_heads"}
_PREFIXES = ("", "language_model.", "model.", "model.language_model.")
_EMBEDDED = "embeddings, as they were before the first layer"  # the key of Pass.shared


def build(config: Config, store: WeightStore) -> EncoderModel:
    """The model. Raises ModelError."""
    config = {**DEFAULTS, **config}
    weights = _Weights(config, store)
    h, kinds = weights.h, list(layer_types(config, pattern=6))
    kinds[-1] = FULL  # whatever the config says, as in transformers
    signal = require_int(config, "hidden_size_per_layer_input", 1, MAX_WIDTH)
    out = require_int(config, "embedding_dim", 1, MAX_WIDTH)
    act = activation(config, "hidden_activation", "gelu_pytorch_tanh")
    projections = weights.slices("ple.per_layer_model_projection", len(kinds), signal)
    signal_norm = weights.norm("ple.per_layer_projection_norm", signal)
    vocab = require_int(config, "vocab_size", 2, MAX_VOCAB)
    blocks = [
        _Block(
            weights.norm(f"layers.{i}.input_layernorm"),
            weights.attention(i, kind),
            weights.norm(f"layers.{i}.pre_feedforward_layernorm"),
            weights.mlp(i, act),
            weights.norm(f"layers.{i}.post_attention_layernorm"),
            weights.norm(f"layers.{i}.post_feedforward_layernorm"),
            weights.signal(i, projections[i], signal_norm, act),
        )
        for i, kind in enumerate(kinds)
    ]
    return EncoderModel(
        h,
        vocab,
        require_int(config, "max_position_embeddings", 1, MAX_CONTEXT),
        _Embeddings(weights.linear(["embed_tokens"], [vocab], h), scale=h**0.5),
        blocks,
        weights.norm("norm"),
        # The reference projects rows before they are pooled, which gives the same.
        (Projection(weights.linear(["embedding_projection"], [out], h)),),
    )


@dataclass(frozen=True, eq=False)
class _Embeddings(Embeddings):
    def forward(self, trace: Pass, inputs: EncoderInputs) -> Tensor:
        """x [T, h]; and a copy of it for the signals of all layers."""
        copy = trace.tensor("embedded", trace.rows, self.words.cols)
        embed(trace, inputs.ids, self.words, copy, scale=self.scale)
        trace.shared[_EMBEDDED] = copy
        return super().forward(trace, inputs)


@dataclass(frozen=True, eq=False)
class _Signal:
    """x = (x + post(up(act(gate x) * norm(projection e)))) * factor, where e are the embeddings. projection and gate
    are [P, h], up is [h, P], factor is [1]."""

    projection: Linear
    norm: Norm
    gate: Linear
    activation: Activation
    up: Linear
    post: Norm
    factor: Tensor

    def forward(self, trace: Pass, x: Tensor) -> None:
        """Run it over x [T, h], in place."""
        width, h = self.gate.rows, x.shape[-1]
        signal, gated = (trace.tensor(name, trace.rows, width) for name in ("signal", "gated"))
        linear(trace, "signal", trace.shared[_EMBEDDED], self.projection, signal, scale=h**-0.5)
        linear(trace, "signal gate", x, self.gate, gated, activation=self.activation)
        gate_by_signal(trace, signal, self.norm, gated)
        branch = trace.tensor("branch", trace.rows, h)
        linear(trace, "signal up", gated, self.up, branch)
        end_layer(trace, branch, self.post, self.factor, x)


@dataclass(frozen=True, eq=False)
class _Block(PreNormBlock):
    signal: _Signal | None = None

    def forward(self, trace: Pass, inputs: EncoderInputs, x: Tensor, y: Tensor) -> Tensor:
        """Run one layer over x, in place."""
        assert self.signal is not None
        super().forward(trace, inputs, x, y)
        self.signal.forward(trace, x)
        return x


class _Weights:
    """The tensors of a checkpoint under transformers' names, wherever its prefix puts them."""

    def __init__(self, config: Config, store: WeightStore) -> None:
        self._config, self._store = config, store
        self.h = require_int(config, "hidden_size", 1, MAX_WIDTH)
        self._eps = require_float(config, "rms_norm_eps", 1e-12, 1.0, 1e-6)
        self._bias = require_bool(config, "attention_bias", False)
        found = (p for p in _PREFIXES if store.has_under(f"{p}layers.0."))
        self._prefix = next(found, "")

    def norm(self, name: str, n: int | None = None) -> Norm:
        """An RMSNorm [n, hidden_size by default]."""
        return Norm(self._store.vector(f"{self._prefix}{name}.weight", n or self.h), self._eps)

    def linear(self, names: list[str], rows: list[int], cols: int, bias: bool = False) -> Linear:
        """Layers, stacked."""
        return self._store.linear([self._prefix + name for name in names], rows, cols, bias=bias)

    def slices(self, name: str, count: int, rows: int) -> list[Linear]:
        """A layer [count * rows, h], in slices."""
        return self._store.slices(self._prefix + name, count, rows, self.h)

    def attention(self, layer: int, kind: str) -> SelfAttention:
        """self_attn of a layer."""
        at, count = (
            f"layers.{layer}.self_attn.",
            require_int(self._config, "num_attention_heads", 1, 1024),
        )
        kv, d = self._heads(layer, kind)
        if count % kv:
            raise ModelError(
                f"config.json: {count} attention heads cannot share {kv} key/value heads of layer {layer} evenly"
            )
        window = None
        if kind == SLIDING:
            window = 2 * (require_int(self._config, "sliding_window", 1, MAX_CONTEXT),)
        turns = rope(self._config, kind, _THETA[kind])
        return SelfAttention(
            self.linear(
                [f"{at}{name}_proj" for name in "qkv"],
                [count * d, kv * d, kv * d],
                self.h,
                self._bias,
            ),
            self.linear([f"{at}o_proj"], [self.h], count * d, self._bias),
            FullHeads(count, kv, d, 1.0, window),
            Rope(d, turns.theta, tuple(turns.frequencies(d)), turns.magnitude),
            self.norm(f"{at}q_norm", d),
            self.norm(f"{at}k_norm", d),
            self._eps,
        )

    def _heads(self, layer: int, kind: str) -> tuple[int, int]:
        """Key/value heads of a layer, and the size of its heads."""
        config = self._config
        layers = config.get("per_layer_config")
        given: Any = {}
        if layers is not None:
            given = layers.get(str(layer), {}) if isinstance(layers, dict) else None
        elif kind == FULL:
            given = {name: config[key] for name, key in _GLOBAL.items()}
        if not isinstance(given, dict):
            raise ModelError(
                f"config.json: per_layer_config is {short(layers)}, expected an object of objects."
            )
        here = alike(config, {**config, **given})
        d = require_int(here, "head_dim", 4, MAX_FULL_HEAD_DIM)
        if d % 4:
            raise ModelError(
                f"config.json: head_dim {d} of layer {layer} is not a multiple of 4, which the attention kernels need"
            )
        return require_int(here, "num_key_value_heads", 1, 1024), d

    def mlp(self, layer: int, act: Activation) -> FeedForward:
        """mlp of a layer."""
        at, width = (
            f"layers.{layer}.mlp.",
            require_int(self._config, "intermediate_size", 1, MAX_WIDTH),
        )
        return FeedForward(
            self.linear([f"{at}gate_proj", f"{at}up_proj"], [width, width], self.h),
            self.linear([f"{at}down_proj"], [self.h], width),
            act,
            gated=True,
        )

    def signal(self, layer: int, projection: Linear, norm: Norm, act: Activation) -> _Signal:
        """ple_block of a layer, and its factor."""
        at = f"layers.{layer}."
        return _Signal(
            projection,
            norm,
            self.linear([f"{at}ple_block.per_layer_input_gate"], [projection.rows], self.h),
            act,
            self.linear([f"{at}ple_block.per_layer_projection"], [self.h], projection.rows),
            self.norm(f"{at}ple_block.post_per_layer_input_norm"),
            self._store.vector(f"{self._prefix}{at}layer_scalar", 1),
        )
