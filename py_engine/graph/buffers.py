"""Persistent tensors that are made and freed together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from py_engine.errors import OutOfMemoryError
from py_engine.graph.trace import Tensor
from py_engine.host.gpu import Binding, Buffer, Gpu

Dtype = Literal["f32", "u32", "f16", "q8"]

_ALIGNED = 256  # offsets of bindings are multiples of this, and no buffer is smaller


class Buffers:
    """Makes tensors. `release` frees all of them."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._made: list[Buffer] = []

    @property
    def nbytes(self) -> int:
        """GPU bytes."""
        return sum(buffer.nbytes for buffer in self._made)

    def make(self, name: str, *shape: int, dtype: Dtype = "f32") -> Tensor:
        """A new tensor of zeros, with a buffer of its own. Raises OutOfMemoryError."""
        plain = self.require_bindable(name, *shape, dtype=dtype)
        return replace(plain, binding=Binding(self._create(name, plain.nbytes)))

    def pack(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """New tensors of zeros like these, which have no buffers, in as few buffers as the device's limit allows.

        A driver may take a millisecond to make a large buffer, so many of them would be a pause. Each tensor is bound
        to its own bytes only. Raises OutOfMemoryError.
        """
        most = self._gpu.limits.max_buffer_bytes
        # For each buffer the tensors, and where they begin.
        parts: list[list[tuple[Tensor, int]]] = []
        end = 0
        for tensor in tensors:
            start = -(-end // _ALIGNED) * _ALIGNED
            if not parts or start + tensor.nbytes > most:
                parts.append([])
                start = 0
            parts[-1].append((tensor, start))
            end = start + tensor.nbytes
        packed = []
        for part in parts:
            first, (last, start) = part[0][0], part[-1]
            name = first.name if first is last else f"{first.name} to {last.name}"
            buffer = self._create(name, start + last.nbytes)
            packed += [replace(t, binding=Binding(buffer, at, t.nbytes)) for t, at in part]
        return packed

    def _create(self, name: str, nbytes: int) -> Buffer:
        buffer = self._gpu.create_buffer(name, max(nbytes, _ALIGNED))
        self._made.append(buffer)
        return buffer

    def require_bindable(self, name: str, *shape: int, dtype: Dtype = "f32") -> Tensor:
        """The same tensor without a buffer. Raises OutOfMemoryError when it is larger than a kernel can bind."""
        tensor = Tensor(name, shape, dtype)
        most = self._gpu.limits.max_binding_bytes
        if tensor.nbytes > most:
            raise OutOfMemoryError(
                f"{name} {list(shape)} takes {tensor.nbytes:,} bytes, more than this device binds at a time "
                f"({most:,}). Load the model with a smaller context."
            )
        return tensor

    def release(self) -> None:
        """Free every buffer."""
        for buffer in self._made:
            self._gpu.destroy_buffer(buffer)
        self._made.clear()
