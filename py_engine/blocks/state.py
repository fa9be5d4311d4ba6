"""What lasts between forward passes: KV cache, and the buffers every pass reads (step, ids, RoPE tables)."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from typing import Any

from py_engine.blocks.kv_cache import KvCache, KvDtype
from py_engine.graph.buffers import Buffers
from py_engine.graph.trace import Tensor
from py_engine.host.gpu import Gpu
from py_engine.ops.rope import rope_angles
from py_engine.ops.step import STEP_BYTES, Pass

ROPE_BLOCK = 64  # positions in the fine half of a RoPE table


@dataclass(frozen=True)
class Rope:
    """Rotary embedding of one kind of layer. `width`: rotated entries of a head. `theta`: its base, for labels.

    `frequencies`: angle of one position for each of width/2 pairs, in radians. cos and sin are multiplied by
    `magnitude` (yarn). Pairs are entries i and i + width/2 (halves), or with `neighbours` 2 i and 2 i + 1.
    `long`: the frequencies for all positions of a text of more than `border` tokens (longrope).
    `axes`: where positions have several (time, height, width of an image's rows), which of them each pair follows;
    (): one position, the row's number. Source: Su et al. 2021, arXiv:2104.09864.
    """

    width: int
    theta: float
    frequencies: tuple[float, ...]
    magnitude: float = 1.0
    neighbours: bool = False
    long: tuple[float, ...] = ()
    border: int = 0
    axes: tuple[int, ...] = ()

    def table(self, context: int, long: bool = False) -> bytes:
        """(cos, sin) f32 pairs for positions 0, 64, 128, ... below `context`, then for 0..63; [.., width/2] each.

        They are computed in double precision on the CPU, since WGSL's cos and sin may be off by 2^-11. The kernel
        multiplies an entry of the first part by one of the second, so only the first part has the magnitude.
        """
        out = array("f")
        frequencies = self.long if long and self.long else self.frequencies
        for positions, magnitude in (
            (range(0, max(context, 1), ROPE_BLOCK), self.magnitude),
            (range(ROPE_BLOCK), 1.0),
        ):
            for p in positions:
                for f in frequencies:
                    out.append(magnitude * math.cos(p * f))
                    out.append(magnitude * math.sin(p * f))
        return out.tobytes()


class Rows:
    """Buffers with an entry for each row of a chunk of at most `count`: `ids` [count] u32, the residual stream `x`
    [count, h], and `positions` [count, axes] u32 where rotary positions have several axes. Freed by `release`.

    Nothing in them lasts from one chunk to the next, but for the last row of `x`, which the head reads.
    """

    def __init__(self, gpu: Gpu, count: int, hidden: int, axes: int = 0) -> None:
        """`axes`: 0 for no positions. Raises OutOfMemoryError; then nothing stays allocated."""
        self._gpu = gpu
        self._buffers = Buffers(gpu)
        self.count = count
        self.positions: Tensor | None = None
        try:
            self.ids = self._buffers.make("ids", count, dtype="u32")
            # The head reads the last row of it, in a plan of its own.
            self.x = self._buffers.make("residual stream", count, hidden)
            if axes:
                self.make_positions(axes)
        except BaseException:
            self.release()
            raise

    @property
    def nbytes(self) -> int:
        """GPU bytes."""
        return self._buffers.nbytes

    @property
    def tensors(self) -> list[Tensor]:
        """All of them."""
        return [self.ids, self.x, *([self.positions] if self.positions else [])]

    def make_positions(self, axes: int) -> None:
        """Add `positions`. Raises OutOfMemoryError."""
        self.positions = self._buffers.make("positions", self.count, axes, dtype="u32")

    def of(self, count: int) -> Rows:
        """New buffers of the same kinds for chunks of so many rows. Raises OutOfMemoryError."""
        axes = self.positions.shape[1] if self.positions else 0
        return Rows(self._gpu, count, self.x.shape[1], axes)

    def release(self) -> None:
        """Free every buffer."""
        self._buffers.release()


class State:
    """Buffers of one model. Freed by `release`.

    `context`: the most tokens of a text. `cache` has room for fewer, until a text needs more, and `rows` for short
    chunks. Code that replaces one of the two must make new plans, since plans are bound to its buffers.
    """

    def __init__(
        self,
        gpu: Gpu,
        context: int,
        capacity: int,
        max_rows: int,
        hidden: int,
        kv_dtype: KvDtype,
    ) -> None:
        self._gpu = gpu
        self._buffers = Buffers(gpu)
        self._ropes: dict[Rope, Tensor] = {}
        self._axes: dict[tuple[int, ...], Tensor] = {}
        self._long = False  # whether the tables are for long texts
        self.recurrents: list[Tensor] = []  # what a snapshot copies
        self.context = context
        self.cache = KvCache(gpu, kv_dtype, capacity)
        try:
            self.step = self._buffers.make("step", STEP_BYTES // 4, dtype="u32")
            self.rows = Rows(gpu, max_rows, hidden)
        except BaseException:
            self._buffers.release()
            raise
        self.layers: list[Any] = []  # one slot for each layer, made by its mixer

    @property
    def nbytes(self) -> int:
        """GPU bytes of everything here."""
        return self._buffers.nbytes + self.rows.nbytes + self.cache.nbytes

    @property
    def ids(self) -> Tensor:
        """The ids of a chunk."""
        return self.rows.ids

    @property
    def x(self) -> Tensor:
        """The residual stream of a chunk."""
        return self.rows.x

    @property
    def positions(self) -> Tensor | None:
        """The rotary positions of a chunk, if they have several axes."""
        return self.rows.positions

    def kv(self, name: str, heads: int, head_dim: int) -> int:
        """Add a layer to the KV cache; returns its index. Raises OutOfMemoryError, also if the whole context would not
        fit."""
        dtype = self.cache.dtype
        self._buffers.require_bindable(f"{name}.k", heads, self.context, head_dim, dtype=dtype)
        return self.cache.add(name, heads, head_dim)

    def recurrent(self, name: str, *shape: int) -> Tensor:
        """Make a recurrent layer's state, f32. Its size does not depend on the context; it cannot be rolled back."""
        self.recurrents.append(self._buffers.make(name, *shape))
        return self.recurrents[-1]

    def rope(self, rope: Rope) -> Tensor:
        """The table of a rotary embedding for the whole context, made once for all layers that share it."""
        if rope not in self._ropes:
            data = rope.table(self.context, self._long)
            tensor = self._buffers.make(f"rope {rope.theta:g}", len(data) // 4)
            self._gpu.write(tensor.buffer, 0, data)
            self._ropes[rope] = tensor
            if rope.axes:
                self._make_axes(rope)
        return self._ropes[rope]

    def angles(self, trace: Pass, rope: Rope) -> tuple[Tensor, bool]:
        """The table of angles for a pass, and whether it has an entry for each row; if not, the position is the index.
        A token after the prompt has the same position on all axes."""
        table = self.rope(rope)
        if not rope.axes or trace.rows == 1:
            return table, False
        if rope not in trace.shared:
            assert self.positions is not None
            trace.shared[rope] = rope_angles(trace, self.positions, self._axes[rope.axes], table)
        return trace.shared[rope], True

    def _make_axes(self, rope: Rope) -> None:
        """Put the axes of a rope's pairs on the GPU, and make room for the positions of a chunk."""
        count = max(rope.axes) + 1
        if len(rope.axes) != len(rope.frequencies):
            raise ValueError(f"{len(rope.axes)} axes for {len(rope.frequencies)} pairs")
        if rope.axes not in self._axes:
            axes = self._buffers.make("rope axes", len(rope.axes), dtype="u32")
            self._gpu.write(axes.buffer, 0, array("I", rope.axes).tobytes())
            self._axes[rope.axes] = axes
        if self.positions is None:
            self.rows.make_positions(count)
        elif self.positions.shape[1] != count:
            raise ValueError(f"ropes of {self.positions.shape[1]} and of {count} axes in a model")

    @property
    def border(self) -> int | None:
        """The most tokens of a text that uses the tables for short texts; None: there is one set of tables."""
        return min((rope.border for rope in self._ropes if rope.long), default=None)

    def turns_behind(self, tokens: int) -> int | None:
        """How many tokens can follow these before the tables for long texts are needed; None: any number."""
        border = self.border
        return None if border is None or self._long else border - tokens

    def turned_for(self, tokens: int) -> bool:
        """Whether the tables are right for a text of so many tokens."""
        border = self.border
        return border is None or self._long == (tokens > border)

    def turn_for(self, tokens: int) -> bool:
        """Load the tables for a text of so many tokens. True when they changed: the keys in the KV cache were rotated
        with the old ones and must not be used again."""
        if self.turned_for(tokens):
            return False
        self._long = not self._long
        for rope, tensor in self._ropes.items():
            if rope.long:
                self._gpu.write(tensor.buffer, 0, rope.table(self.context, self._long))
        return True

    def release(self) -> None:
        """Free every buffer."""
        self._buffers.release()
        self.rows.release()
        self.cache.release()
