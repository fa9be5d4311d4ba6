"""What lasts between forward passes: KV cache, and the buffers every pass reads (step, ids, RoPE tables)."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from typing import Any, Literal

from py_engine.errors import OutOfMemoryError
from py_engine.graph.step import STEP_BYTES
from py_engine.graph.trace import Tensor
from py_engine.host.gpu import Binding, Buffer, Gpu

KvDtype = Literal["f32", "f16"]
ROPE_BLOCK = 64  # positions in the fine half of a RoPE table


@dataclass(frozen=True)
class Rope:
    """Rotary embedding of one kind of layer: `width` rotated entries of a head, base `theta` (its name).

    `frequencies`: angle of one position for each of width/2 pairs, in radians. cos and sin are multiplied by
    `magnitude` (yarn). Source: Su et al. 2021, arXiv:2104.09864; halves rotated as in transformers.
    """

    width: int
    theta: float
    frequencies: tuple[float, ...]
    magnitude: float = 1.0

    def table(self, context: int) -> bytes:
        """(cos, sin) f32 pairs for positions 0, 64, 128, ... below `context`, then for 0..63; [.., width/2] each.

        Double precision on the CPU: WGSL's cos and sin may be off by 2^-11. The kernel multiplies an entry of the first
        part by one of the second, so the magnitude stands in the first alone.
        """
        out = array("f")
        for positions, magnitude in (
            (range(0, max(context, 1), ROPE_BLOCK), self.magnitude),
            (range(ROPE_BLOCK), 1.0),
        ):
            for p in positions:
                for f in self.frequencies:
                    out.append(magnitude * math.cos(p * f))
                    out.append(magnitude * math.sin(p * f))
        return out.tobytes()


class State:
    """Buffers of one model in one context size. Freed by `release`."""

    def __init__(
        self, gpu: Gpu, context: int, max_rows: int, hidden: int, kv_dtype: KvDtype
    ) -> None:
        self._gpu = gpu
        self._buffers: list[Buffer] = []
        self._ropes: dict[Rope, Tensor] = {}
        self.recurrents: list[Tensor] = []  # what a snapshot is a copy of
        self.context = context
        self.max_rows = max_rows
        self.kv_dtype: KvDtype = kv_dtype
        try:
            self.step = self._make("step", STEP_BYTES // 4, dtype="u32")
            self.ids = self._make("ids", max_rows, dtype="u32")
            # The head reads its last row in a plan of its own.
            self.x = self._make("residual stream", max_rows, hidden)
            self.zeros = self._make("zeros", 64)  # stands in for inputs that a call does not use
        except BaseException:
            self.release()
            raise
        self.layers: list[Any] = []  # a slot a layer, made by its mixer

    @property
    def nbytes(self) -> int:
        """GPU bytes of everything here."""
        return sum(b.nbytes for b in self._buffers)

    def kv(self, name: str, heads: int, head_dim: int) -> tuple[Tensor, Tensor]:
        """A layer's K and V cache, [heads, context, head_dim] each."""
        return (
            self._make(f"{name}.k", heads, self.context, head_dim, dtype=self.kv_dtype),
            self._make(f"{name}.v", heads, self.context, head_dim, dtype=self.kv_dtype),
        )

    def recurrent(self, name: str, *shape: int) -> Tensor:
        """A layer's state of fixed size, f32: no longer with a longer context, and not to be rolled back."""
        self.recurrents.append(self._make(name, *shape))
        return self.recurrents[-1]

    def rope(self, rope: Rope) -> Tensor:
        """The table of a rotary embedding, made once for all layers that share it."""
        if rope not in self._ropes:
            data = rope.table(self.context)
            tensor = self._make(f"rope {rope.theta:g}", len(data) // 4)
            self._gpu.write(self._buffers[-1], 0, data)
            self._ropes[rope] = tensor
        return self._ropes[rope]

    def release(self) -> None:
        """Free every buffer."""
        for buffer in self._buffers:
            self._gpu.destroy_buffer(buffer)
        self._buffers.clear()

    def _make(self, name: str, *shape: int, dtype: Literal["f32", "u32", "f16"] = "f32") -> Tensor:
        plain = Tensor(name, shape, dtype)
        most = self._gpu.limits.max_binding_bytes
        if plain.nbytes > most:
            raise OutOfMemoryError(
                f"{name} {list(shape)} takes {plain.nbytes:,} bytes for a context of {self.context}, more than this "
                f"device binds at a time ({most:,}). Load the model with a smaller context."
            )
        buffer = self._gpu.create_buffer(name, max(plain.nbytes, 256))
        self._buffers.append(buffer)
        return Tensor(name, shape, dtype, Binding(buffer))
