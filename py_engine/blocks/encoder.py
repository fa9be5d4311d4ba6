"""Blocks that encoder families are wired from: attention to both sides, plain and gated MLPs, embeddings, the loop.

Axes as in blocks/layers.py; the T rows of a pass hold several texts, one after another. A block takes its rows x [T, h]
f32 as a tensor and returns the tensor of its results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from py_engine.blocks.classifier import Classifier
from py_engine.blocks.projections import Projection
from py_engine.blocks.state import Rope
from py_engine.graph.buffers import Buffers
from py_engine.graph.matrix import Linear
from py_engine.graph.trace import NOTHING, Tensor
from py_engine.host.gpu import Gpu
from py_engine.ops.attention_full import FullHeads, HeadRows, full_attention
from py_engine.ops.embed import embed
from py_engine.ops.gate import Activation
from py_engine.ops.linear import gated_linear, linear
from py_engine.ops.norm import Norm, add_norm, apply_norm
from py_engine.ops.rope import Heads, rotate_rows
from py_engine.ops.step import Pass

EVERY = 1 << 24  # as the width of one side of a window: all rows there


class RopeTables:
    """The tables of rotary positions 0 to `positions` - 1, made as layers ask for them."""

    def __init__(self, gpu: Gpu, buffers: Buffers, positions: int) -> None:
        self._gpu, self._buffers, self._positions = gpu, buffers, positions
        self._made: dict[Rope, Tensor] = {}

    def of(self, rope: Rope) -> Tensor:
        """The table of a rope, the same for all layers that share it. Raises OutOfMemoryError."""
        if rope not in self._made:
            data = rope.table(self._positions)
            self._made[rope] = self._buffers.make(f"rope {rope.theta:g}", len(data) // 4)
            self._gpu.write(self._made[rope].buffer, 0, data)
        return self._made[rope]


@dataclass(frozen=True, eq=False)
class EncoderInputs:
    """What a pass reads, all u32. ids, positions within a text, token types: [max rows]. spans [max rows, 2]: for each
    row the first row of its text, and the row after the last one. Beside them the tables of rotary positions."""

    ids: Tensor
    positions: Tensor
    types: Tensor
    spans: Tensor
    ropes: RopeTables


class Part(Protocol):
    """One of the two halves of a block. `width`: how many numbers a row has inside it."""

    @property
    def width(self) -> int: ...

    def forward(
        self,
        trace: Pass,
        inputs: EncoderInputs,
        x: Tensor,
        norm: Norm | None,
        y: Tensor,
        *,
        add: bool = True,
    ) -> None:
        """y [T, h] += this part of norm(x); y = that, where not `add`."""
        ...


@dataclass(frozen=True, eq=False)
class SelfAttention:
    """Each row attends to all rows of its text, or to a window: qkv stacked [(H + 2 Hkv) D, h], o [h, H D].

    `rope`: rotary positions of q and k. `q_norm`, `k_norm`: RMSNorms of their heads, before the rotation. `v_eps`:
    heads of v are normed too, without weights, with this epsilon.
    """

    qkv: Linear
    o: Linear
    heads: FullHeads
    rope: Rope | None = None
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    v_eps: float | None = None

    @property
    def width(self) -> int:
        return self.qkv.rows

    def forward(
        self,
        trace: Pass,
        inputs: EncoderInputs,
        x: Tensor,
        norm: Norm | None,
        y: Tensor,
        *,
        add: bool = True,
    ) -> None:
        heads = self.heads
        qkv = trace.tensor("qkv", trace.rows, self.qkv.rows)
        linear(trace, "qkv", x, self.qkv, qkv, norm=norm)
        if self.rope or self.q_norm or self.k_norm or self.v_eps is not None:
            table, width = (
                (inputs.ropes.of(self.rope), self.rope.width) if self.rope else (NOTHING, 0)
            )
            turned = Heads(
                heads.count, heads.kv_count, heads.dim, table, width, self.q_norm, self.k_norm,
                neighbours=self.rope is not None and self.rope.neighbours,
            )  # fmt: skip
            rotate_rows(trace, turned, qkv, inputs.positions, v_eps=self.v_eps)
        k, v = heads.count * heads.dim, (heads.count + heads.kv_count) * heads.dim
        seen = trace.tensor("attention", trace.rows, heads.count * heads.dim)
        full_attention(
            trace, heads, HeadRows(qkv), HeadRows(qkv, k), HeadRows(qkv, v), inputs.spans, seen
        )
        linear(trace, "o", seen, self.o, y, residual=add)


@dataclass(frozen=True, eq=False)
class FeedForward:
    """down(act(up x)), or down(act(gate x) * up x) where `gated`: up is [I, h] or [2 I, h] (gate; up), down [h, I]."""

    up: Linear
    down: Linear
    activation: Activation
    gated: bool = False

    @property
    def width(self) -> int:
        return self.down.cols

    def forward(
        self,
        trace: Pass,
        inputs: EncoderInputs,  # noqa: ARG002
        x: Tensor,
        norm: Norm | None,
        y: Tensor,
        *,
        add: bool = True,
    ) -> None:
        middle = trace.tensor("mlp", trace.rows, self.down.cols)
        if self.gated:
            gated_linear(trace, "gate_up", x, self.up, middle, self.activation, norm=norm)
        else:
            linear(trace, "up", x, self.up, middle, activation=self.activation, norm=norm)
        linear(trace, "down", middle, self.down, y, residual=add)


class EncoderBlock(Protocol):
    """One layer. `width`: how many numbers a row has in its widest part."""

    @property
    def width(self) -> int: ...

    def forward(self, trace: Pass, inputs: EncoderInputs, x: Tensor, y: Tensor) -> Tensor:
        """Run the layer over x [T, h]. Returns the tensor of the result: x itself, or y."""
        ...


@dataclass(frozen=True, eq=False)
class PostNormBlock:
    """x = norm(x + attention(x)); x = norm(x + mlp(x)) (BERT; Vaswani et al. 2017, arXiv:1706.03762)."""

    attention: Part
    attention_norm: Norm
    mlp: Part
    mlp_norm: Norm

    @property
    def width(self) -> int:
        return max(self.attention.width, self.mlp.width)

    def forward(self, trace: Pass, inputs: EncoderInputs, x: Tensor, y: Tensor) -> Tensor:
        """Run one layer over x, which is overwritten; the result is in y."""
        self.attention.forward(trace, inputs, x, None, x)
        middle = trace.tensor("x", trace.rows, x.shape[-1])
        apply_norm(trace, x, self.attention_norm, middle)
        self.mlp.forward(trace, inputs, middle, None, middle)
        apply_norm(trace, middle, self.mlp_norm, y)
        return y


@dataclass(frozen=True, eq=False)
class PreNormBlock:
    """x += [attention_post](attention(norm(x))); x += [mlp_post](mlp(norm(x))); the post norms are Gemma's.
    ModernBERT's first layer has no norm before its attention."""

    attention_norm: Norm | None
    attention: Part
    mlp_norm: Norm | None
    mlp: Part
    attention_post: Norm | None = None
    mlp_post: Norm | None = None

    @property
    def width(self) -> int:
        return max(self.attention.width, self.mlp.width)

    def forward(self, trace: Pass, inputs: EncoderInputs, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """Run one layer over x, in place."""
        branch(trace, inputs, self.attention, x, self.attention_norm, self.attention_post)
        branch(trace, inputs, self.mlp, x, self.mlp_norm, self.mlp_post)
        return x


def branch(
    trace: Pass,
    inputs: EncoderInputs,
    part: Part,
    x: Tensor,
    norm: Norm | None,
    post: Norm | None,
) -> None:
    """x [T, h] += [post](part(norm(x)))."""
    if post is None:
        part.forward(trace, inputs, x, norm, x)
        return
    made = trace.tensor("branch", trace.rows, x.shape[-1])
    part.forward(trace, inputs, x, norm, made, add=False)
    add_norm(trace, made, post, x)


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Sums table rows: by id, times `scale`, and where the model has such tables by position and by token type; then
    norms the sum."""

    words: Linear
    positions: Linear | None = None
    types: Linear | None = None
    norm: Norm | None = None
    scale: float = 1.0

    def forward(self, trace: Pass, inputs: EncoderInputs) -> Tensor:
        """x [T, h] for the rows of this trace."""
        h = self.words.cols
        x = trace.tensor("x", trace.rows, h)
        embed(trace, inputs.ids, self.words, x, scale=self.scale)
        if self.positions is not None:
            embed(trace, inputs.positions, self.positions, x, add=True, label="positions")
        if self.types is not None:
            embed(trace, inputs.types, self.types, x, add=True, label="token types")
        if self.norm is None:
            return x
        normed = trace.tensor("x", trace.rows, h)
        apply_norm(trace, x, self.norm, normed)
        return normed


@dataclass(frozen=True, eq=False)
class EncoderModel:
    """A text encoder. `max_context`: the most tokens of a text, with special ones. `norm`: after the last block, in
    pre-norm models. `projections`: applied, one after another, to the vectors that are pooled from its rows.
    `first_position`: the position of a text's first token (RoBERTa's models keep some for padding). `classifier`: of a
    cross-encoder, which gives each text a number in the place of a vector."""

    hidden_size: int
    vocab_size: int
    max_context: int
    embeddings: Embeddings
    blocks: Sequence[EncoderBlock]
    norm: Norm | None = None
    projections: Sequence[Projection] = ()
    first_position: int = 0
    classifier: Classifier | None = None

    @property
    def vector_size(self) -> int:
        """Numbers of a text's vector."""
        return self.projections[-1].layer.rows if self.projections else self.hidden_size

    @property
    def token_types(self) -> int:
        """How many token types the model knows; 0: it has no table of them."""
        return self.embeddings.types.rows if self.embeddings.types else 0

    @property
    def widest(self) -> int:
        """How many numbers a row has in the widest layer."""
        return max(block.width for block in self.blocks)

    def forward(self, trace: Pass, inputs: EncoderInputs, out: Tensor) -> None:
        """out [>= T, h] f32 = the last hidden states of the rows of this trace."""
        x, last = self.embeddings.forward(trace, inputs), len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            ends = i == last and self.norm is None
            y = out if ends else trace.tensor("x", trace.rows, self.hidden_size)
            x = block.forward(trace, inputs, x, y)
        if self.norm is not None:
            apply_norm(trace, x, self.norm, out)
