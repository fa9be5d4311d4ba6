"""Keys and values of all attention layers, with room for a number of tokens that can be changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from py_engine.graph.buffers import Buffers
from py_engine.graph.trace import Tensor
from py_engine.host.gpu import Copy, Gpu

KvDtype = Literal["f32", "f16"]
# Tokens that a cache is made for: a text that stays short pays for little, one that grows is copied a few times only.
CLASSES = (512, 2048, 8192, 32768, 131072)


def classes_up_to(context: int, classes: Sequence[int] = CLASSES) -> tuple[int, ...]:
    """The sizes of a cache on its way to `context` tokens, which is the last."""
    return (*sorted(n for n in set(classes) if 0 < n < context), context)


@dataclass(frozen=True)
class _Layer:
    name: str
    heads: int
    head_dim: int


class KvCache:
    """K and V, [heads, capacity, head_dim] each, of every layer in the order of `add`. Freed by `release`."""

    def __init__(self, gpu: Gpu, dtype: KvDtype, capacity: int) -> None:
        self._gpu = gpu
        self._layers: list[_Layer] = []
        self.tensors: list[tuple[Tensor, Tensor]] = []
        self._buffers = Buffers(gpu)
        self.dtype: KvDtype = dtype
        self.capacity = capacity

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """K and V of a layer."""
        return self.tensors[index]

    @property
    def nbytes(self) -> int:
        """GPU bytes."""
        return self._buffers.nbytes

    def add(self, name: str, heads: int, head_dim: int) -> int:
        """One more layer; its index. Raises OutOfMemoryError."""
        shape = (heads, self.capacity, head_dim)
        k, v = (self._buffers.make(f"{name}.{x}", *shape, dtype=self.dtype) for x in "kv")
        self.tensors.append((k, v))
        self._layers.append(_Layer(name, heads, head_dim))
        return len(self._layers) - 1

    def resized(self, capacity: int) -> KvCache:
        """An empty cache of the same layers. Raises OutOfMemoryError with nothing left behind."""
        made = KvCache(self._gpu, self.dtype, capacity)
        try:
            for layer in self._layers:
                made.add(layer.name, layer.heads, layer.head_dim)
        except BaseException:
            made.release()
            raise
        return made

    def copy_rows(self, source: KvCache, rows: int) -> None:
        """Queue the copy of the first `rows` tokens from a cache of the same layers."""
        copies = []
        for mine, theirs in zip(self.tensors, source.tensors, strict=True):
            for to, of in zip(mine, theirs, strict=True):
                assert to.binding is not None and of.binding is not None
                heads, capacity, _ = to.shape
                row = to.nbytes // (heads * capacity)
                for head in range(heads):
                    at = head * source.capacity * row, head * capacity * row
                    copies.append(Copy(of.binding.buffer, to.binding.buffer, rows * row, *at))
        if rows and copies:
            self._gpu.copy(copies)

    def release(self) -> None:
        """Free every buffer."""
        self._buffers.release()
