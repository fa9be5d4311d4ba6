"""Keys and values of all attention layers, with room for a number of tokens that can be changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from py_engine.errors import HostError
from py_engine.graph.buffers import Buffers
from py_engine.graph.trace import Tensor
from py_engine.graph.transfer import Span
from py_engine.host.gpu import Buffer, Copy, Gpu

KvDtype = Literal["f32", "f16", "q8"]
KV_DTYPES: tuple[KvDtype, ...] = ("f32", "f16", "q8")
# Packed f16 pairs and bytes in the KV cache. They are listed with the features of devices, because a model can do
# without them when their kernels fail (checks/self_check.py).
F16_KV = "f16-kv"
Q8_KV = "q8-kv"


def plainer(dtype: KvDtype, without: frozenset[str]) -> KvDtype:
    """The dtype for a KV cache that must do without these features: `dtype`, or a plainer one."""
    if dtype == "q8" and Q8_KV in without:
        dtype = "f16"
    if dtype == "f16" and F16_KV in without:
        dtype = "f32"
    return dtype


_STEPS = 8  # the most steps in which a large cache moves, to need little extra memory


@dataclass(frozen=True)
class _Layer:
    name: str
    heads: int
    head_dim: int
    buffers: Buffers
    tensors: tuple[Tensor, Tensor]


# Called with each replaced buffer, before it is freed, and the tensor that takes its place.
Replaced = Callable[[Buffer, Tensor], object]


class KvCache:
    """K and V of every layer, each [heads, capacity, head_dim], in the order of `add`. Freed by `release`."""

    def __init__(self, gpu: Gpu, dtype: KvDtype, capacity: int) -> None:
        self._gpu = gpu
        self._layers: list[_Layer] = []
        self._first = capacity  # the capacity of layers that are added
        self.dtype: KvDtype = dtype

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """K and V of a layer."""
        return self._layers[index].tensors

    @property
    def tensors(self) -> list[tuple[Tensor, Tensor]]:
        """K and V of every layer."""
        return [layer.tensors for layer in self._layers]

    @property
    def capacity(self) -> int:
        """Tokens that every layer has room for."""
        return min((k.shape[1] for k, _ in self.tensors), default=self._first)

    @property
    def nbytes(self) -> int:
        """GPU bytes."""
        return sum(layer.buffers.nbytes for layer in self._layers)

    def add(self, name: str, heads: int, head_dim: int) -> int:
        """Add a layer; returns its index. Raises OutOfMemoryError."""
        self._layers.append(self._make(name, heads, head_dim, self._first))
        return len(self._layers) - 1

    def in_dtype(self, dtype: KvDtype) -> KvCache:
        """A new, empty cache of the same layers and capacity. When it raises OutOfMemoryError, nothing stays
        allocated."""
        made = KvCache(self._gpu, dtype, self.capacity)
        try:
            for layer in self._layers:
                made.add(layer.name, layer.heads, layer.head_dim)
        except BaseException:
            made.release()
            raise
        return made

    async def resize(self, capacity: int, rows: int, most: int, replaced: Replaced) -> None:
        """Give all layers room for `capacity` tokens, and keep the first `rows`. Calls `replaced` for each buffer. If
        the old and the new cache together have room for at most `most` tokens, all layers move at once, since a browser
        takes milliseconds to say whether there is memory; else they move in steps.

        Raises OutOfMemoryError, HostError; then layers have their old size, or the new one where moving back fails too.
        """
        before = self.capacity
        done: list[list[int]] = []
        try:
            for group in self._groups(1 if before + capacity <= most else _STEPS):
                await self._move(group, capacity, rows, replaced)
                done.append(group)
        except HostError:
            for group in done:
                try:
                    await self._move(group, before, rows, replaced)
                except HostError:
                    break
            raise

    def spans(self, rows: int) -> list[Span]:
        """Where the first `rows` tokens are: for each layer K, then V, head by head."""
        return [span for pair in self.tensors for tensor in pair for span in _spans(tensor, rows)]

    def release(self) -> None:
        """Free every buffer."""
        for layer in self._layers:
            layer.buffers.release()
        self._layers.clear()

    def _groups(self, steps: int) -> Iterator[list[int]]:
        """Indices of the layers that move together: a list for each step, at most `steps` lists."""
        count = len(self._layers)
        each = -(-count // steps)
        for at in range(0, count, each or 1):
            yield [*range(at, min(at + each, count))]

    async def _move(
        self, indices: Sequence[int], capacity: int, rows: int, replaced: Replaced
    ) -> None:
        """Move some layers to buffers of another size; none of them when it raises."""
        old = [self._layers[i] for i in indices]
        new: list[_Layer] = []
        try:
            for layer in old:
                new.append(self._make(layer.name, layer.heads, layer.head_dim, capacity))
            await self._gpu.check()
            await self._copy(old, new, rows)
        except BaseException:
            for layer in new:
                layer.buffers.release()
            raise
        for i, layer, made in zip(indices, old, new, strict=True):
            self._layers[i] = made
            for tensor, other in zip(layer.tensors, made.tensors, strict=True):
                replaced(tensor.buffer, other)
            layer.buffers.release()

    async def _copy(self, old: Sequence[_Layer], new: Sequence[_Layer], rows: int) -> None:
        if not rows:
            return
        copies = []
        for layer, made in zip(old, new, strict=True):
            for tensor, other in zip(layer.tensors, made.tensors, strict=True):
                copies += [
                    Copy(a.buffer, b.buffer, a.nbytes, a.offset, b.offset)
                    for a, b in zip(_spans(tensor, rows), _spans(other, rows), strict=True)
                ]
        await self._gpu.copy(copies)

    def _make(self, name: str, heads: int, head_dim: int, capacity: int) -> _Layer:
        """A layer with buffers of zeros. Raises OutOfMemoryError; then nothing stays allocated."""
        buffers = Buffers(self._gpu)
        try:
            k, v = (
                buffers.make(f"{name}.{x}", heads, capacity, head_dim, dtype=self.dtype)
                for x in "kv"
            )
        except BaseException:
            buffers.release()
            raise
        return _Layer(name, heads, head_dim, buffers, (k, v))


def _spans(tensor: Tensor, rows: int) -> list[Span]:
    """Where the first `rows` tokens of K or V of a layer are, head by head."""
    heads, capacity, _ = tensor.shape
    row = tensor.nbytes // (heads * capacity)
    return [Span(tensor.buffer, head * capacity * row, rows * row) for head in range(heads)]
