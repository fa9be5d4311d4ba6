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
from py_engine.graph.trace import NOTHING, Tensor
from py_engine.host.gpu import Gpu
from py_engine.ops.attention import attention
from py_engine.ops.embed import embed
from py_engine.ops.gate import Activation
from py_engine.ops.linear import gated_linear, linear
from py_engine.ops.norm import Norm, PartNorms, add_norm, norm_parts
from py_engine.ops.rope import Heads
from py_engine.ops.step import Pass


class Mixer(Protocol):
    """The part of a block that reads other tokens. It owns a slot of the state.

    `recurrent`: the slot holds a summary of all tokens so far, so it cannot go back to fewer tokens.
    """

    @property
    def recurrent(self) -> bool: ...

    def make_state(self, state: State, name: str) -> Any:
        """Allocate the buffers that last between passes."""

    def forward(
        self, trace: Pass, state: State, slot: Any, norm: Norm | None, out: Tensor | None
    ) -> None:
        """Read state.x through `norm`; add the result to state.x, or store it in `out` [T, h]."""


@dataclass(frozen=True, eq=False)
class Attention:
    """Causal attention with grouped queries: qkv stacked [(H+2K) D, h], o [h, H D].

    `window`: key j is visible to query i when i - window < j <= i; None: all before. `gated` (Qwen3.5): qkv is
    [2 (H + K) D, h], the rows of each q head followed by those of a gate: the head's output is multiplied by the
    gate's sigmoid. `rope` None: no positions. `cap`, `norm_last`, `growth`: as in ops/attention.py and ops/rope.py.
    `part_norms`: norms over columns of the projections, before heads are split. The result is multiplied by
    `residual_scale` when it is added to the residual stream.
    """

    recurrent: ClassVar[bool] = False

    qkv: Linear
    o: Linear
    heads: int
    kv_heads: int
    head_dim: int
    rope: Rope | None
    scale: float
    window: int | None = None
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    gated: bool = False
    cap: float = 0.0
    norm_last: bool = False
    growth: tuple[float, int] | None = None
    part_norms: PartNorms | None = None
    residual_scale: float = 1.0

    def make_state(self, state: State, name: str) -> int:
        """Add K and V caches [K, capacity, D]; returns their index in state.cache."""
        return state.kv(name, self.kv_heads, self.head_dim)

    def forward(
        self,
        trace: Pass,
        state: State,
        slot: int,
        norm: Norm | None,
        out: Tensor | None,
    ) -> None:
        cache = state.cache[slot]
        qkv = trace.tensor("qkv", trace.rows, self.qkv.rows)
        linear(trace, "qkv", state.x, self.qkv, qkv, norm=norm)
        if self.part_norms:
            norm_parts(trace, qkv, self.part_norms, "q, k norm")
        table, per_row = state.angles(trace, self.rope) if self.rope else (NOTHING, False)
        heads = Heads(
            self.heads,
            self.kv_heads,
            self.head_dim,
            table,
            self.rope.width if self.rope else 0,
            self.q_norm,
            self.k_norm,
            self.scale,
            self.gated,
            self.rope is not None and self.rope.neighbours,
            self.norm_last,
            self.growth,
            per_row,
        )
        y = trace.tensor("attention", trace.rows, self.heads * self.head_dim)
        attention(
            trace, heads, qkv, cache, y, window=self.window, cap=self.cap, context=state.context
        )
        project(trace, state, "o", y, self.o, out, self.residual_scale)


@dataclass(frozen=True, eq=False)
class Mlp:
    """down(act(gate x) * up x): gate and up stacked [2 I, h], down [h, I].

    Not `gated`: down(act(up x)), with up alone [I, h] as `gate_up`. The result is multiplied by
    `residual_scale` when it is added to the residual stream.
    """

    gate_up: Linear
    down: Linear
    activation: Activation
    gated: bool = True
    residual_scale: float = 1.0

    def forward(self, trace: Pass, state: State, norm: Norm | None, out: Tensor | None) -> None:
        """Read state.x through `norm`; add to state.x, or store in `out`."""
        self.end(trace, state, self.inside(trace, state, norm), out)

    def inside(self, trace: Pass, state: State, norm: Norm | None) -> Tensor:
        """act(gate x) * up x [T, I], or act(up x), of state.x through `norm`."""
        y = trace.tensor("mlp", trace.rows, self.down.cols)
        if self.gated:
            gated_linear(trace, "gate_up", state.x, self.gate_up, y, self.activation, norm=norm)
        else:
            linear(trace, "up", state.x, self.gate_up, y, norm=norm, activation=self.activation)
        return y

    def end(self, trace: Pass, state: State, y: Tensor, out: Tensor | None) -> None:
        """Add down(y) to the residual stream, or store it in `out`."""
        project(trace, state, "down", y, self.down, out, self.residual_scale)


def project(
    trace: Pass,
    state: State,
    label: str,
    y: Tensor,
    layer: Linear,
    out: Tensor | None,
    scale: float = 1.0,
) -> None:
    """The last layer of a branch. Its result is multiplied by `scale` and added to the residual stream, or stored in
    `out` for a norm that follows."""
    if out is None:
        linear(trace, label, y, layer, state.x, residual=True, scale=scale)
    else:
        linear(trace, label, y, layer, out)


@dataclass(frozen=True, eq=False)
class Block:
    """x += [mixer_post](mixer(mixer_norm(x))); x += [mlp_post](mlp(mlp_norm(x))); the post norms are Gemma's.
    A norm of None, before a branch, leaves x as it is (OLMo 2, EXAONE 4)."""

    mixer_norm: Norm | None
    mixer: Mixer
    mlp_norm: Norm | None
    mlp: Mlp
    mixer_post: Norm | None = None
    mlp_post: Norm | None = None

    def forward(self, trace: Pass, state: State, slot: Any) -> None:
        """Run one layer over state.x."""
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
class ParallelBlock:
    """x += mixer(norm(x)) + mlp(norm(x)), both of the x before either was added (Cohere)."""

    norm: Norm
    mixer: Mixer
    mlp: Mlp

    def forward(self, trace: Pass, state: State, slot: Any) -> None:
        """Run one layer over state.x."""
        y = self.mlp.inside(trace, state, self.norm)
        self.mixer.forward(trace, state, slot, self.norm, None)
        self.mlp.end(trace, state, y, None)


@dataclass(frozen=True, eq=False)
class Model:
    """A decoder: embedding, blocks, final norm, head. `max_context`: the tokens that it was trained for. Logits are
    multiplied by `logit_scale` and capped to +-`logit_cap` (0: no cap)."""

    hidden_size: int
    vocab_size: int
    max_context: int
    embedding: Linear
    embedding_scale: float
    blocks: Sequence[Block | ParallelBlock]
    norm: Norm
    lm_head: Linear
    logit_scale: float = 1.0
    logit_cap: float = 0.0

    @property
    def recurrent(self) -> bool:
        """Whether the state can only grow or begin anew, because a layer is recurrent."""
        return any(block.mixer.recurrent for block in self.blocks)

    def make_state(
        self, gpu: Gpu, context: int, capacity: int, max_rows: int, kv_dtype: KvDtype
    ) -> State:
        """Make all buffers that last between passes. The KV cache has room for `capacity` tokens, and can grow up to
        `context`. When it raises OutOfMemoryError, nothing stays allocated."""
        state = State(gpu, context, capacity, max_rows, self.hidden_size, kv_dtype)
        try:
            for i, block in enumerate(self.blocks):
                state.layers.append(block.mixer.make_state(state, f"layer {i}"))
                if isinstance(block.mixer, Attention) and block.mixer.rope:
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
        linear(
            trace, "lm_head", state.x, self.lm_head, logits, norm=self.norm, last_row=True,
            scale=self.logit_scale, cap=self.logit_cap,
        )  # fmt: skip
