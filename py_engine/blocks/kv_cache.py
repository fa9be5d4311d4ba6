"""Keys and values of all attention layers, with room for a number of tokens that can be changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from py_engine.errors import InputError
from py_engine.graph.buffers import Buffers
from py_engine.graph.trace import Tensor
from py_engine.graph.transfer import Span
from py_engine.host.gpu import Copy, Gpu

KvDtype = Literal["f32", "f16"]
# Packed f16 pairs in the KV cache. It is listed with the features of devices, because a model can do without it when
# its kernels fail (checks/self_check.py).
F16_KV = "f16-kv"
# Sizes of a cache, in tokens: a short text takes little memory, and one that grows is copied only a few times.
CLASSES = (512, 2048, 8192, 32768, 131072)


def classes_up_to(context: int, classes: Sequence[int] = CLASSES) -> tuple[int, ...]:
    """The sizes that a cache grows through; the last one is `context`. Raises InputError for what is no size."""
    bad = next((n for n in classes if isinstance(n, bool) or not isinstance(n, int) or n < 1), None)
    if bad is not None:
        raise InputError(f"context_classes: {bad!r} is not a number of tokens")
    return (*sorted(n for n in set(classes) if n < context), context)


@dataclass(frozen=True)
class _Layer:
    name: str
    heads: int
    head_dim: int


class KvCache:
    """K and V of every layer, each [heads, capacity, head_dim], in the order of `add`. Freed by `release`."""

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
        """Add a layer; returns its index. Raises OutOfMemoryError."""
        shape = (heads, self.capacity, head_dim)
        k, v = (self._buffers.make(f"{name}.{x}", *shape, dtype=self.dtype) for x in "kv")
        self.tensors.append((k, v))
        self._layers.append(_Layer(name, heads, head_dim))
        return len(self._layers) - 1

    def resized(self, capacity: int, dtype: KvDtype | None = None) -> KvCache:
        """A new, empty cache of the same layers, in another dtype if one is given. When it raises OutOfMemoryError,
        nothing stays allocated."""
        made = KvCache(self._gpu, dtype or self.dtype, capacity)
        try:
            for layer in self._layers:
                made.add(layer.name, layer.heads, layer.head_dim)
        except BaseException:
            made.release()
            raise
        return made

    def spans(self, rows: int) -> list[Span]:
        """Where the first `rows` tokens are: for each layer K, then V, head by head."""
        found = []
        for tensor in (tensor for pair in self.tensors for tensor in pair):
            assert tensor.binding is not None
            heads, capacity, _ = tensor.shape
            row = tensor.nbytes // (heads * capacity)
            found += [
                Span(tensor.binding.buffer, head * capacity * row, rows * row)
                for head in range(heads)
            ]
        return found

    async def copy_rows(self, source: KvCache, rows: int) -> None:
        """Copy the first `rows` tokens from a cache of the same layers."""
        if rows:
            pairs = zip(source.spans(rows), self.spans(rows), strict=True)
            await self._gpu.copy(
                [Copy(a.buffer, b.buffer, a.nbytes, a.offset, b.offset) for a, b in pairs]
            )

    def release(self) -> None:
        """Free every buffer."""
        self._buffers.release()
