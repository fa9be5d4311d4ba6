"""Blocks that decoder families are wired from: attention with rotary positions, gated MLP, the loop over layers.

Axes: T tokens of this pass, h hidden size, H query heads, K key/value heads, D head size, I MLP width, V vocabulary.
The residual stream x [T, h] is `state.x`; blocks add to it in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from py_engine.blocks.kv_cache import KvDtype
from py_engine.blocks.state import Rope, State
from py_engine.graph.matrix import Linear
from py_engine.graph.trace import Tensor
from py_engine.host.gpu import Gpu
from py_engine.ops.attention import attention
from py_engine.ops.embed import embed
from py_engine.ops.gate import Activation
from py_engine.ops.linear import gated_linear, linear
from py_engine.ops.norm import Norm, add_norm
from py_engine.ops.rope import Heads
from py_engine.ops.step import Pass


class Mixer(Protocol):
    """The part of a block that looks at other tokens; it owns a slot of the state.

    `recurrent`: the slot holds what all tokens so far left there, so it cannot go back to fewer of them.
    """

    @property
    def recurrent(self) -> bool: ...

    def make_state(self, state: State, name: str) -> Any:
        """Allocate what lasts between passes."""

    def forward(self, trace: Pass, state: State, slot: Any, norm: Norm, out: Tensor | None) -> None:
        """Read state.x through `norm`; add the result to state.x, or store it in `out` [T, h]."""


@dataclass(frozen=True, eq=False)
class Attention:
    """Causal attention with grouped queries: qkv stacked [(H+2K) D, h], o [h, H D].

    `window`: key j is visible to query i when i - window < j <= i; None: all before. `gated` (Qwen3.5): qkv is
    [2 (H + K) D, h], the rows of each q head followed by those of a gate: the head's output is multiplied by the
    gate's sigmoid.
    """

    recurrent: ClassVar[bool] = False

    qkv: Linear
    o: Linear
    heads: int
    kv_heads: int
    head_dim: int
    rope: Rope
    scale: float
    window: int | None = None
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    gated: bool = False

    def make_state(self, state: State, name: str) -> int:
        """K and V caches [K, capacity, D]: their place in state.cache."""
        return state.kv(name, self.kv_heads, self.head_dim)

    def forward(
        self,
        trace: Pass,
        state: State,
        slot: int,
        norm: Norm,
        out: Tensor | None,
    ) -> None:
        cache = state.cache[slot]
        qkv = trace.tensor("qkv", trace.rows, self.qkv.rows)
        linear(trace, "qkv", state.x, self.qkv, qkv, norm=norm)
        heads = Heads(
            self.heads, self.kv_heads, self.head_dim, state.rope(self.rope), self.rope.width,
            self.q_norm, self.k_norm, self.scale, self.gated,
        )  # fmt: skip
        y = trace.tensor("attention", trace.rows, self.heads * self.head_dim)
        attention(trace, heads, qkv, cache, y, window=self.window)
        project(trace, state, "o", y, self.o, out)


@dataclass(frozen=True, eq=False)
class Mlp:
    """down(act(gate x) * up x): gate and up stacked [2 I, h], down [h, I]."""

    gate_up: Linear
    down: Linear
    activation: Activation

    def forward(self, trace: Pass, state: State, norm: Norm, out: Tensor | None) -> None:
        """Read state.x through `norm`; add to state.x, or store in `out`."""
        y = trace.tensor("mlp", trace.rows, self.gate_up.rows // 2)
        gated_linear(trace, "gate_up", state.x, self.gate_up, y, self.activation, norm=norm)
        project(trace, state, "down", y, self.down, out)


def project(
    trace: Pass, state: State, label: str, y: Tensor, layer: Linear, out: Tensor | None
) -> None:
    """The last layer of a branch: into the residual stream in place, or into `out` for a norm that follows."""
    if out is None:
        linear(trace, label, y, layer, state.x, residual=True)
    else:
        linear(trace, label, y, layer, out)


@dataclass(frozen=True, eq=False)
class Block:
    """x += [mixer_post](mixer(mixer_norm(x))); x += [mlp_post](mlp(mlp_norm(x))); the post norms are Gemma's."""

    mixer_norm: Norm
    mixer: Mixer
    mlp_norm: Norm
    mlp: Mlp
    mixer_post: Norm | None = None
    mlp_post: Norm | None = None

    def forward(self, trace: Pass, state: State, slot: Any) -> None:
        """One layer over state.x."""
        h = state.x.shape[1]
        out = trace.tensor("branch", trace.rows, h) if self.mixer_post else None
        self.mixer.forward(trace, state, slot, self.mixer_norm, out)
        if out is not None and self.mixer_post:
            add_norm(trace, out, self.mixer_post, state.x)
        out = trace.tensor("branch", trace.rows, h) if self.mlp_post else None
        self.mlp.forward(trace, state, self.mlp_norm, out)
        if out is not None and self.mlp_post:
            add_norm(trace, out, self.mlp_post, state.x)


@dataclass(frozen=True, eq=False)
class Model:
    """A decoder: embedding, blocks, final norm, head. `max_context` is what it was trained for."""

    hidden_size: int
    vocab_size: int
    max_context: int
    embedding: Linear
    embedding_scale: float
    blocks: Sequence[Block]
    norm: Norm
    lm_head: Linear

    @property
    def recurrent(self) -> bool:
        """Whether the state can only be extended or begun anew."""
        return any(block.mixer.recurrent for block in self.blocks)

    def make_state(
        self, gpu: Gpu, context: int, capacity: int, max_rows: int, kv_dtype: KvDtype
    ) -> State:
        """All buffers that last between passes, the KV cache with `capacity` tokens of the `context` that it can grow
        to. Raises OutOfMemoryError with nothing left behind."""
        state = State(gpu, context, capacity, max_rows, self.hidden_size, kv_dtype)
        try:
            for i, block in enumerate(self.blocks):
                state.layers.append(block.mixer.make_state(state, f"layer {i}"))
                if isinstance(block.mixer, Attention):
                    state.rope(block.mixer.rope)
        except BaseException:
            state.release()
            raise
        return state

    def forward(self, trace: Pass, state: State) -> None:
        """ids -> state.x after all blocks, for the rows of this trace."""
        embed(trace, state.ids, self.embedding, state.x, scale=self.embedding_scale)
        for block, slot in zip(self.blocks, state.layers, strict=True):
            block.forward(trace, state, slot)

    def head(self, trace: Pass, state: State, logits: Tensor) -> None:
        """logits [V] of the last valid row of state.x."""
        linear(trace, "lm_head", state.x, self.lm_head, logits, norm=self.norm, last_row=True)
