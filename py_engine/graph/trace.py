"""A traced forward pass: tensors without data, and the list of kernel calls that a family's file makes of them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Literal

from py_engine.host.gpu import MAX_GROUPS, AdapterInfo, Binding, Buffer

Access = Literal["r", "w"]  # how a kernel uses a tensor; "w" is read_write too
ITEMSIZE = {"f32": 4, "u32": 4, "f16": 2, "bf16": 2}
Q8_GROUP = 64  # elements of a row of "q8" that share a pair of f16 (shaders/lib/kv_q8.wgsl)


@dataclass(frozen=True, eq=False)
class Tensor:
    """A row-major array on the GPU: a name, a shape and a dtype.

    "q8": rows of a KV cache as affine bytes, each followed by what they are scaled with (shaders/lib/kv_q8.wgsl).
    A tensor that outlives a forward pass (weights, KV cache, step, ids) has a `binding`. An activation has none; the
    planner gives it a pooled buffer (graph/memory.py).
    """

    name: str
    shape: tuple[int, ...]
    dtype: Literal["f32", "u32", "f16", "bf16", "q8"] = "f32"
    binding: Binding | None = None

    @property
    def nbytes(self) -> int:
        """Size in bytes, rounded up to 4."""
        if self.dtype == "q8":
            *rows, width = self.shape
            return prod(rows) * (width + 4 * -(-width // Q8_GROUP))
        return (prod(self.shape) * ITEMSIZE[self.dtype] + 3) & ~3

    @property
    def buffer(self) -> Buffer:
        """The buffer of a tensor that outlives a forward pass."""
        assert self.binding is not None, f"{self.name} is no persistent tensor"
        return self.binding.buffer


def exact(tensor: Tensor) -> Tensor:
    """A persistent tensor bound to its own bytes only, for kernels that read the length of the binding."""
    if tensor.binding is None:
        return tensor
    return replace(
        tensor, binding=Binding(tensor.binding.buffer, tensor.binding.offset, tensor.nbytes)
    )


# Stands for an input that a call leaves out: 64 words of zeros, which the planner owns.
NOTHING = Tensor("nothing", (64,))


@dataclass(frozen=True)
class Kernel:
    """The pipeline that a call needs: a shader file, library files before it, override constants.

    `uses`: names of library files (`shaders/lib/<name>.wgsl`) that stand before the kernel, in order. `features`: the
    WebGPU features that it needs ("shader-f16", "subgroups"); the host adds the enable lines.
    """

    stem: str  # shaders/<stem>.wgsl
    uses: tuple[str, ...] = ()
    constants: tuple[tuple[str, float], ...] = ()  # sorted by name
    features: frozenset[str] = frozenset()

    @property
    def label(self) -> str:
        """A name for errors and profiles: the stem, libraries and constants."""
        return (
            self.stem
            + "("
            + ", ".join([*self.uses, *(f"{k}={v:g}" for k, v in self.constants)])
            + ")"
        )


@dataclass(frozen=True, eq=False)
class Call:
    """A dispatch to be made: kernel, tensors in binding order, which of them it writes, workgroup counts."""

    label: str
    kernel: Kernel
    tensors: Sequence[Tensor]
    writes: frozenset[int]  # indices into `tensors`
    groups: tuple[int, int, int]
    # What it computes, where other forms of the kernel could do the same: a key of Trace.forms.
    task: Hashable = None


def kernel(
    stem: str,
    uses: Sequence[str] = (),
    constants: Mapping[str, float | int | bool] | None = None,
    features: frozenset[str] = frozenset(),
) -> Kernel:
    """A Kernel with sorted constants, so that equal kernels share a pipeline."""
    items = sorted((k, float(v)) for k, v in (constants or {}).items())
    return Kernel(stem, tuple(uses), tuple(items), features)


@dataclass(eq=False)
class Trace:
    """Collects the calls of one pass over `rows` rows."""

    rows: int
    features: frozenset[str] = frozenset()  # features that kernels may use
    info: AdapterInfo = AdapterInfo()  # may decide the form of a kernel, never its result
    # Forms that were measured on this device; the ops choose the others.
    forms: Mapping[Hashable, Any] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)

    def tensor(self, name: str, *shape: int, dtype: Literal["f32", "u32", "f16"] = "f32") -> Tensor:
        """A new activation."""
        return Tensor(name, shape, dtype)

    def call(
        self,
        label: str,
        kernel: Kernel,
        reads_and_writes: Sequence[tuple[Tensor, Access]],
        groups: tuple[int, int, int],
        task: Hashable = None,
    ) -> None:
        """Append a dispatch, its tensors in binding order. Raises ValueError for counts outside 1..MAX_GROUPS."""
        if min(groups) < 1 or max(groups) > MAX_GROUPS:
            raise ValueError(f"{label}: workgroup counts {groups} are outside 1..{MAX_GROUPS}")
        self.calls.append(
            Call(
                label,
                kernel,
                [t for t, _ in reads_and_writes],
                frozenset(i for i, (_, m) in enumerate(reads_and_writes) if m == "w"),
                groups,
                task,
            )
        )
