"""Persistent tensors, each with a buffer of its own, that are made and freed together."""

from __future__ import annotations

from typing import Literal

from py_engine.errors import OutOfMemoryError
from py_engine.graph.trace import Tensor
from py_engine.host.gpu import Binding, Buffer, Gpu

Dtype = Literal["f32", "u32", "f16", "q8"]


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
        """A new tensor of zeros. Raises OutOfMemoryError."""
        plain = self.require_bindable(name, *shape, dtype=dtype)
        buffer = self._gpu.create_buffer(name, max(plain.nbytes, 256))
        self._made.append(buffer)
        return Tensor(name, shape, dtype, Binding(buffer))

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
