"""A traced forward pass: tensor handles without data, and the list of kernel calls that a family's file wrote down."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Literal

from py_engine.host.gpu import AdapterInfo, Binding, Buffer

Access = Literal["r", "w"]  # of a kernel to a tensor; "w" covers read_write as well
ITEMSIZE = {"f32": 4, "u32": 4, "f16": 2, "bf16": 2}


@dataclass(frozen=True, eq=False)
class Tensor:
    """A row-major array on the GPU, known by shape and dtype.

    `binding` is set for what outlives a forward pass (weights, KV cache, step, ids); an activation has none
    until `graph.memory` gives it a pooled buffer.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Literal["f32", "u32", "f16", "bf16"] = "f32"
    binding: Binding | None = None

    @property
    def nbytes(self) -> int:
        """Size in bytes, rounded up to 4."""
        return (prod(self.shape) * ITEMSIZE[self.dtype] + 3) & ~3

    @property
    def buffer(self) -> Buffer:
        """Where a tensor that outlives a forward pass lies."""
        assert self.binding is not None, f"{self.name} is no persistent tensor"
        return self.binding.buffer


def exact(tensor: Tensor) -> Tensor:
    """The persistent tensor bound to its own bytes only: kernels read its size from the binding's length."""
    if tensor.binding is None:
        return tensor
    return replace(
        tensor, binding=Binding(tensor.binding.buffer, tensor.binding.offset, tensor.nbytes)
    )


# Bound where a call leaves an input out: 64 words of zeros, which the planner owns.
NOTHING = Tensor("nothing", (64,))


@dataclass(frozen=True)
class Kernel:
    """Which pipeline a call wants: a shader file, library files put before it, override constants.

    `uses` names the shared library files (`shaders/lib/<name>.wgsl`) put before the kernel, in order;
    `features` the WebGPU features it was written for ("shader-f16", "subgroups"): the host adds the enable lines.
    """

    stem: str  # shaders/<stem>.wgsl
    uses: tuple[str, ...] = ()
    constants: tuple[tuple[str, float], ...] = ()  # sorted by name
    features: frozenset[str] = frozenset()

    @property
    def label(self) -> str:
        """For errors and profiles: stem plus what tells it from its siblings."""
        return (
            self.stem
            + "("
            + ", ".join([*self.uses, *(f"{k}={v:g}" for k, v in self.constants)])
            + ")"
        )


@dataclass(frozen=True, eq=False)
class Call:
    """One dispatch to be: kernel, tensors in binding order, which of them it writes, workgroup counts."""

    label: str
    kernel: Kernel
    tensors: Sequence[Tensor]
    writes: frozenset[int]  # indices into `tensors`
    groups: tuple[int, int, int]
    task: Hashable = (
        None  # what it computes, if other forms of the kernel could do the same; key of Trace.forms
    )


def kernel(
    stem: str,
    uses: Sequence[str] = (),
    constants: Mapping[str, float | int | bool] | None = None,
    features: frozenset[str] = frozenset(),
) -> Kernel:
    """A Kernel with its constants in one order, so that equal kernels share a pipeline."""
    items = sorted((k, float(v)) for k, v in (constants or {}).items())
    return Kernel(stem, tuple(uses), tuple(items), features)


@dataclass(eq=False)
class Trace:
    """Collects the calls of one pass over `rows` rows."""

    rows: int
    features: frozenset[str] = frozenset()  # what kernels may use here
    info: AdapterInfo = AdapterInfo()  # kernels choose their form by it, never their result
    forms: Mapping[Hashable, Any] = field(
        default_factory=dict
    )  # measured here; the ops choose the rest
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
        """Append a dispatch. Tensors in binding order."""
        if min(groups) < 1 or max(groups) > 65535:
            raise ValueError(f"{label}: workgroup counts {groups} are outside 1..65535")
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
