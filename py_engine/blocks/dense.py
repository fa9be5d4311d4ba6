"""What the dense decoder families share: checked sizes, the names of a checkpoint, embedding and head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from py_engine.blocks.layers import Attention, Block, Mlp, Model, ParallelBlock
from py_engine.blocks.state import Rope
from py_engine.errors import ModelError
from py_engine.graph.matrix import Linear
from py_engine.graph.trace import Tensor
from py_engine.ops.gate import Activation
from py_engine.ops.norm import Norm, PartNorms
from py_engine.sources.config import (
    FULL,
    MAX_LAYERS,
    SLIDING,
    Config,
    layer_types,
    require_float,
    require_int,
    require_str,
    sliding_window,
    tied,
)
from py_engine.sources.rope_config import rope
from py_engine.weights.store import WeightStore

# Prefixes that the text model's tensors may have, each with the name of its head: plain, inside a multimodal wrapper
# (transformers before 5 and MLX; transformers 5), or when the body was saved alone.
HEADS = {
    "model.": "lm_head",
    "language_model.model.": "language_model.lm_head",
    "model.language_model.": "lm_head",
    "": "lm_head",
}
PREFIXES = tuple(HEADS)
MAX_WIDTH = 1 << 17  # no dense model is wider; a larger number means a broken config
MAX_VOCAB = 1 << 21
MAX_CONTEXT = 1 << 24


def depthwise(channels: int, taps: int) -> list[tuple[int, ...]]:
    """Shapes that a depthwise convolution's weight may have: HF's or MLX's. The bytes are the same."""
    return [(channels, 1, taps), (channels, taps, 1)]


# Activations that the kernels have, by transformers' names (ACT2FN).
_ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "relu2": "relu2",
}


def activation(config: Config, key: str, default: str) -> Activation:
    """The activation of the MLP, from the config. Raises ModelError when no kernel has it."""
    return _ACTIVATIONS[require_str(config, key, _ACTIVATIONS, default)]


@dataclass(frozen=True)
class Sizes:
    """Checked sizes of config.json, under its names."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    rms_norm_eps: float
    max_position_embeddings: int

    @classmethod
    def of(cls, config: Config, eps_key: str = "rms_norm_eps", eps: float = 1e-6) -> Sizes:
        """Read and check them. `eps_key`: the family's name of the norms' epsilon; `eps`: its default.
        Raises ModelError, which names the key."""
        h = require_int(config, "hidden_size", 1, MAX_WIDTH)
        heads = require_int(config, "num_attention_heads", 1, 1024)
        kv_heads = heads
        if config.get("num_key_value_heads") is not None:
            kv_heads = require_int(config, "num_key_value_heads", 1, 1024)
        if heads % kv_heads:
            raise ModelError(
                f"config.json: {heads} attention heads cannot share {kv_heads} key/value heads evenly"
                " (num_attention_heads, num_key_value_heads, or the family's defaults for them)"
            )
        if "head_dim" not in config and h % heads:
            raise ModelError(
                f"config.json: no head_dim, and hidden_size {h} is not a multiple of {heads} heads"
            )
        d = require_int(config, "head_dim", 4, 256, h // heads)
        if d % 4:
            raise ModelError(
                f"config.json: head_dim {d} is not a multiple of 4, which the attention kernels need"
            )
        return cls(
            h,
            require_int(config, "num_hidden_layers", 1, MAX_LAYERS),
            heads,
            kv_heads,
            d,
            require_int(config, "intermediate_size", 1, MAX_WIDTH),
            require_int(config, "vocab_size", 2, MAX_VOCAB),
            require_float(config, eps_key, 1e-12, 1.0, eps),
            require_int(config, "max_position_embeddings", 1, MAX_CONTEXT, 2048),
        )


class Checkpoint:
    """The tensors of a dense decoder under their transformers names, wherever the checkpoint's prefix puts them."""

    def __init__(
        self,
        sizes: Sizes,
        store: WeightStore,
        norm_offset: float = 0.0,
        layer_norm: bool = False,
        norm_bias: bool = True,
    ) -> None:
        """`norm_offset`: added to the weights of norms. `layer_norm`: the norms are LayerNorms. `norm_bias`: whether
        they have a bias."""
        self._layer_norm, self._norm_bias = layer_norm, layer_norm and norm_bias
        self._sizes = sizes
        self._store = store
        self._offset = norm_offset
        self._prefix = next((p for p in PREFIXES if store.has_under(f"{p}layers.0.")), PREFIXES[0])

    def check_kinds(self, kinds: Sequence[str], modules: Mapping[str, str]) -> None:
        """Check that every layer has the module of its kind in the config. `modules`: names by kind.

        Raises ModelError, which names the layer, when it has another kind's module instead.
        """
        for i, kind in enumerate(kinds):
            at = f"{self._prefix}layers.{i}."
            if self._store.has_under(f"{at}{modules[kind]}."):
                continue
            for other, module in modules.items():
                if self._store.has_under(f"{at}{module}."):
                    raise ModelError(
                        f"config.json makes layer {i} {kind}, but the weights hold {at}{module}.*, of {other}: "
                        "layer_types (or the pattern it follows from) and weights disagree. They are of different "
                        "models or revisions: fetch both again."
                    )

    def norm(self, name: str, n: int | None = None, offset: float | None = None) -> Norm:
        """`<prefix><name>.weight` [n, default hidden_size] as the family's norm; `offset` if not the family's."""
        name, n = self._prefix + name, n or self._sizes.hidden_size
        return Norm(
            self._store.vector(f"{name}.weight", n),
            self._sizes.rms_norm_eps,
            self._offset if offset is None else offset,
            self._layer_norm,
            self._store.vector(f"{name}.bias", n) if self._norm_bias else None,
        )

    def whole_norms(self, layer: int) -> PartNorms:
        """q_norm and k_norm of a layer over all of q's and k's columns, before heads are split (OLMo 2)."""
        s, at = self._sizes, f"layers.{layer}.self_attn."
        q, kv = s.num_attention_heads * s.head_dim, s.num_key_value_heads * s.head_dim
        weight = self.vectors({f"{at}q_norm.weight": [(q,)], f"{at}k_norm.weight": [(kv,)]})
        return PartNorms(weight, (1, q), (1, kv), s.rms_norm_eps)

    def norms_by_head(self, layer: int) -> PartNorms:
        """LayerNorms without bias of q's and k's heads, each with weights of its own (StableLM)."""
        s, at = self._sizes, f"layers.{layer}.self_attn."
        q, kv = s.num_attention_heads, s.num_key_value_heads
        names = [f"q_layernorm.norms.{i}.weight" for i in range(q)]
        names += [f"k_layernorm.norms.{i}.weight" for i in range(kv)]
        weight = self.vectors({at + name: [(s.head_dim,)] for name in names})
        return PartNorms(weight, (q, s.head_dim), (kv, s.head_dim), s.rms_norm_eps, centred=True)

    def vectors(self, shapes: Mapping[str, Sequence[tuple[int, ...]]]) -> Tensor:
        """`<prefix><name>` for each name, as f32, one after another. `shapes`: those that each may have in the file."""
        return self._store.vectors({self._prefix + name: s for name, s in shapes.items()})

    def linear(
        self, names: Sequence[str], rows: Sequence[int], cols: int, bias: bool = False
    ) -> Linear:
        """`<prefix><name>` for each name, stacked."""
        return self._store.linear([self._prefix + name for name in names], rows, cols, bias=bias)

    def attention(
        self,
        layer: int,
        rope: Rope | None,
        scale: float,
        *,
        bias: bool = False,
        out_bias: bool = False,
        head_norms: bool = False,
        window: int | None = None,
        gated: bool = False,
        out: str = "o_proj",
        norm: str = "norm",
    ) -> Attention:
        """self_attn of a layer: q, k and v stacked here, or already in the file (qkv_proj), each with a `bias`; o, with
        `out_bias`; and norms of q's and k's heads, where the family has them. `out`, `norm`: names of the last
        projection and of these norms."""
        s = self._sizes
        at = f"layers.{layer}.self_attn."
        q, kv = s.num_attention_heads * s.head_dim, s.num_key_value_heads * s.head_dim
        return Attention(
            self._stacked(
                at + "qkv_proj",
                [at + "q_proj", at + "k_proj", at + "v_proj"],
                [q * (1 + gated), kv, kv],
                bias,
            ),
            self.linear([at + out], [s.hidden_size], q, out_bias),
            s.num_attention_heads,
            s.num_key_value_heads,
            s.head_dim,
            rope,
            scale,
            window,
            self.norm(f"{at}q_{norm}", s.head_dim) if head_norms else None,
            self.norm(f"{at}k_{norm}", s.head_dim) if head_norms else None,
            gated,
        )

    def mlp(
        self,
        layer: int,
        activation: Activation,
        names: tuple[str, str, str] = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
        bias: bool = False,
    ) -> Mlp:
        """mlp of a layer: gate and up stacked here, or already in the file (gate_up_proj); and down."""
        s = self._sizes
        gate, up, down = (f"layers.{layer}.{name}" for name in names)
        return Mlp(
            self._stacked(
                f"layers.{layer}.mlp.gate_up_proj", [gate, up], [s.intermediate_size] * 2, bias
            ),
            self.linear([down], [s.hidden_size], s.intermediate_size, bias),
            activation,
        )

    def _stacked(self, fused: str, names: Sequence[str], rows: Sequence[int], bias: bool) -> Linear:
        """The stacked layers `names`, which read the residual stream; or `fused`, if the file has them as one."""
        if self._store.has(f"{self._prefix}{fused}.weight"):
            names, rows = [fused], [sum(rows)]
        return self.linear(names, rows, self._sizes.hidden_size, bias)

    def plain_mlp(
        self, layer: int, activation: Activation, names: tuple[str, str], bias: bool = False
    ) -> Mlp:
        """mlp of a layer without a gate: up and down."""
        s = self._sizes
        up, down = (f"layers.{layer}.mlp.{name}" for name in names)
        return Mlp(
            self.linear([up], [s.intermediate_size], s.hidden_size, bias),
            self.linear([down], [s.hidden_size], s.intermediate_size, bias),
            activation,
            gated=False,
        )

    def embedding_and_head(self, config: Config) -> tuple[Linear, Linear]:
        """embed_tokens and lm_head, each [vocab_size, hidden_size]. If they are tied, both are one matrix, which the
        file may have under either name."""
        s = self._sizes
        shape = ([s.vocab_size], s.hidden_size)
        embedding, usual = f"{self._prefix}embed_tokens", HEADS[self._prefix]
        found = (name for name in (usual, *HEADS.values()) if self._store.has(f"{name}.weight"))
        head = next(found, usual)
        has_head = self._store.has(f"{head}.weight")
        if not tied(config, has_head):
            return self._store.linear([embedding], *shape), self._store.linear([head], *shape)
        if has_head and not self._store.has(f"{embedding}.weight"):
            embedding = head
        else:
            self._store.leave(head)  # the same values again (sources/heads.py compares them)
        matrix = self._store.linear([embedding], *shape)
        return matrix, matrix

    def model(
        self,
        embedding: Linear,
        blocks: Sequence[Block | ParallelBlock],
        head: Linear,
        *,
        norm: str = "norm",
        embedding_scale: float = 1.0,
        logit_scale: float = 1.0,
        logit_cap: float = 0.0,
    ) -> Model:
        """The decoder of these parts and `<prefix><norm>`, the norm before the head. Scales and cap: see Model."""
        s = self._sizes
        return Model(
            s.hidden_size,
            s.vocab_size,
            s.max_position_embeddings,
            embedding,
            embedding_scale,
            blocks,
            self.norm(norm),
            head,
            logit_scale,
            logit_cap,
        )


def rope_of(
    config: Config,
    sizes: Sizes,
    kind: str = FULL,
    theta: float | None = None,
    partial: bool = False,
    neighbours: bool = False,
) -> Rope:
    """The rotary embedding of layers of one kind. `partial`: the family reads partial_rotary_factor; other families
    rotate whole heads whatever the config says, as in transformers. `neighbours`: as in Rope (blocks/state.py)."""
    r = rope(config, kind, theta)
    width = int(sizes.head_dim * (r.partial if partial else 1.0))
    if width < 2 or width % 2:
        raise ModelError(
            f"config.json: {width} rotated entries of {sizes.head_dim}: not an even number"
        )
    return Rope(
        width, r.theta, tuple(r.frequencies(width)), r.magnitude, neighbours,
        tuple(r.long_frequencies(width)), r.original_context,
    )  # fmt: skip


# Changes the attention of one layer: for a family that differs from the plain decoder only in this.
Refine = Callable[[Checkpoint, int, Attention], Attention]


def decoder(
    config: Config,
    store: WeightStore,
    *,
    bias: bool = False,
    out_bias: bool = False,
    mlp_bias: bool = False,
    head_norms: bool = False,
    partial: bool = False,
    neighbours: bool = False,
    rotates: Sequence[bool] | None = None,
    refine: Refine | None = None,
) -> Model:
    """The plain pre-norm decoder (Llama, Qwen2, Qwen3): RMSNorm, attention with rotary positions, RMSNorm, SwiGLU.

    `bias`: of q, k and v; `out_bias`: of o; `mlp_bias`: of gate, up and down; `head_norms`: q and k are normalised per
    head. Layers slide as `layer_types` says. `partial`, `neighbours`: as for rope_of. `rotates`: which layers have
    positions (None: all). `refine`: changes the attention of a layer as the family needs it.
    """
    act = activation(config, "hidden_act", "silu")
    sizes = Sizes.of(config)
    weights = Checkpoint(sizes, store)
    rope = rope_of(config, sizes, partial=partial, neighbours=neighbours)
    embedding, head = weights.embedding_and_head(config)

    def attention(i: int, kind: str) -> Attention:
        made = weights.attention(
            i, rope, sizes.head_dim**-0.5, bias=bias, out_bias=out_bias, head_norms=head_norms,
            window=sliding_window(config) if kind == SLIDING else None,
        )  # fmt: skip
        if rotates is not None and not rotates[i]:
            made = replace(made, rope=None)
        return refine(weights, i, made) if refine else made

    blocks = [
        Block(
            weights.norm(f"layers.{i}.input_layernorm"),
            attention(i, kind),
            weights.norm(f"layers.{i}.post_attention_layernorm"),
            weights.mlp(i, act, bias=mlp_bias),
        )
        for i, kind in enumerate(layer_types(config))
    ]
    return weights.model(embedding, blocks, head)
