"""Keys and values of all attention layers, with room for a number of tokens that can be changed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from py_engine.errors import HostError
from py_engine.graph.buffers import Buffers
from py_engine.graph.trace import Tensor
from py_engine.graph.transfer import Span
from py_engine.host.gpu import Copy, Gpu

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


# The most groups of layers. A large cache moves group by group, to need little extra memory.
_GROUPS = 8


@dataclass(frozen=True)
class _Layer:
    name: str
    heads: int
    head_dim: int
    buffers: Buffers  # shared by the layers of a group
    tensors: tuple[Tensor, Tensor]


# Called with each replaced tensor, before its buffer is freed, and the tensor that takes its place.
Replaced = Callable[[Tensor, Tensor], object]


class KvCache:
    """K and V of every layer, each [heads, capacity, head_dim], in the order of `add`. Freed by `release`.

    At first each layer has one buffer. After `resize` each group of layers has one, or several if one would be larger
    than the device allows.
    """

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
        return sum(buffers.nbytes for buffers in {layer.buffers for layer in self._layers})

    def add(self, name: str, heads: int, head_dim: int) -> int:
        """Add a layer; returns its index. Raises OutOfMemoryError."""
        self._layers += self._make([(name, heads, head_dim)], self._first)
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
        """Give all layers room for `capacity` tokens, and keep the first `rows`. Calls `replaced` for each tensor. As
        many groups of layers move at a time as fit, beside all old buffers, into the memory of a cache for `most`
        tokens, since a browser takes milliseconds to say whether there is memory; but at least one.

        Raises OutOfMemoryError, HostError; then layers have their old size, or the new one where moving back fails too.
        """
        before = self.capacity
        done: list[list[int]] = []
        try:
            for groups in self._steps(capacity, most):
                await self._move(groups, capacity, rows, replaced)
                done += groups
        except HostError:
            for group in done:
                try:
                    await self._move([group], before, rows, replaced)
                except HostError:
                    break
            raise

    def parts(self, capacity: int, most_bytes: int | None = None) -> list[list[int]]:
        """The layers that have another capacity than this, by index, in parts that `move` takes: an eighth of all
        layers each, or fewer where those would take more than `most_bytes`. All in one part if they take no more."""
        others = [i for i, (k, _) in enumerate(self.tensors) if k.shape[1] != capacity]
        each = -(-len(self._layers) // _GROUPS) or 1
        if most_bytes is not None and others:
            each = len(others) if self._bytes(others, capacity) <= most_bytes else each
            while each > 1 and self._bytes(others[:each], capacity) > most_bytes:
                each -= 1
        return [others[at : at + each] for at in range(0, len(others), each)]

    async def move(self, part: Sequence[int], capacity: int, rows: int, replaced: Replaced) -> None:
        """Give these layers room for `capacity` tokens, and keep the first `rows`. Calls `replaced` for each tensor.
        Raises OutOfMemoryError, HostError; then they are as they were."""
        await self._move([part], capacity, rows, replaced)

    def spans(self, rows: int) -> list[Span]:
        """Where the first `rows` tokens are: for each layer K, then V, head by head."""
        return [span for pair in self.tensors for tensor in pair for span in _spans(tensor, rows)]

    def release(self) -> None:
        """Free every buffer."""
        for layer in self._layers:
            layer.buffers.release()
        self._layers.clear()

    def _steps(self, capacity: int, most: int) -> Iterator[list[list[int]]]:
        """Parts of the layers that move together: a list for each step. A step must be done before the next is asked
        for."""
        groups = deque(self.parts(capacity))
        full = self._bytes(range(len(self._layers)), most)
        while groups:
            step = [groups.popleft()]
            held = self.nbytes + self._bytes(step[0], capacity)
            while groups and (held := held + self._bytes(groups[0], capacity)) <= full:
                step.append(groups.popleft())
            yield step

    def _bytes(self, indices: Sequence[int], capacity: int) -> int:
        """Bytes of these layers with room for so many tokens."""
        layers = (self._layers[i] for i in indices)
        shapes = ((layer.heads, capacity, layer.head_dim) for layer in layers)
        return 2 * sum(Tensor("", shape, self.dtype).nbytes for shape in shapes)

    async def _move(
        self, groups: Sequence[Sequence[int]], capacity: int, rows: int, replaced: Replaced
    ) -> None:
        """Move groups of layers to buffers of another size; none of them when it raises."""
        indices = [i for group in groups for i in group]
        old = [self._layers[i] for i in indices]
        new: list[_Layer] = []
        try:
            for group in groups:
                layers = [self._layers[i] for i in group]
                new += self._make([(x.name, x.heads, x.head_dim) for x in layers], capacity)
            await self._gpu.check()
            await self._copy(old, new, rows)
        except BaseException:
            for layer in new:
                layer.buffers.release()
            raise
        for i, layer, made in zip(indices, old, new, strict=True):
            self._layers[i] = made
            for tensor, other in zip(layer.tensors, made.tensors, strict=True):
                replaced(tensor, other)
        used = {layer.buffers for layer in self._layers}
        for buffers in {layer.buffers for layer in old} - used:
            buffers.release()

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

    def _make(self, layers: Sequence[tuple[str, int, int]], capacity: int) -> list[_Layer]:
        """New layers of zeros (each name, heads, head_dim) in buffers that they share. Raises OutOfMemoryError; then
        nothing stays allocated."""
        buffers = Buffers(self._gpu)
        try:
            plain = [
                buffers.require_bindable(f"{name}.{x}", heads, capacity, dim, dtype=self.dtype)
                for name, heads, dim in layers
                for x in "kv"
            ]
            made = iter(buffers.pack(plain))
        except BaseException:
            buffers.release()
            raise
        return [
            _Layer(*layer, buffers, pair)
            for layer, pair in zip(layers, zip(made, made, strict=True), strict=True)
        ]


def _spans(tensor: Tensor, rows: int) -> list[Span]:
    """Where the first `rows` tokens of K or V of a layer are, head by head."""
    heads, capacity, _ = tensor.shape
    row = tensor.nbytes // (heads * capacity)
    assert tensor.binding is not None
    buffer, start = tensor.binding.buffer, tensor.binding.offset
    return [Span(buffer, start + head * capacity * row, rows * row) for head in range(heads)]
