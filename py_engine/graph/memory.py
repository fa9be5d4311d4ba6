"""Decides which activations of a traced pass share a buffer, by their lifetimes. Needs no GPU.

Greedy by size over fixed lifetimes (Pisarchyk & Lee 2020, arXiv:2001.03288), with one difference: all plans
of a model (decode and every prefill size) share the slots, since only one of them runs at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from py_engine.graph.trace import NOTHING, Call, Tensor


@dataclass(frozen=True)
class Lifetime:
    """The first and the last call (indices) that use an activation."""

    tensor: Tensor
    first: int
    last: int


def lifetimes(calls: Sequence[Call]) -> list[Lifetime]:
    """The lifetime of every activation, in order of first use. Raises ValueError for one that is read first."""
    first: dict[Tensor, int] = {}
    last: dict[Tensor, int] = {}
    for i, call in enumerate(calls):
        for j, tensor in enumerate(call.tensors):
            if tensor.binding is not None or tensor is NOTHING:
                continue
            if tensor not in first:
                if j not in call.writes:
                    raise ValueError(f"{call.label} reads {tensor.name!r} before anything wrote it")
                first[tensor] = i
            last[tensor] = i
    return [Lifetime(t, first[t], last[t]) for t in first]


@dataclass
class Slots:
    """Sizes of the pooled buffers so far. It grows as plans are assigned; the largest plan first wastes least.

    The buffers of the first `fixed` slots exist already: later plans use them as they are, or take new ones.
    """

    sizes: list[int] = field(default_factory=list)
    fixed: int = 0

    def assign(self, calls: Sequence[Call]) -> dict[Tensor, int]:
        """A slot index for each activation. Two that are alive at the same time never share a slot."""
        taken: list[list[Lifetime]] = [[] for _ in self.sizes]
        chosen: dict[Tensor, int] = {}
        for life in sorted(lifetimes(calls), key=lambda x: (-x.tensor.nbytes, x.first)):
            free = [
                s
                for s, others in enumerate(taken)
                if all(life.last < o.first or o.last < life.first for o in others)
            ]
            fits = [s for s in free if self.sizes[s] >= life.tensor.nbytes]
            growable = [s for s in free if s >= self.fixed]
            if fits:
                slot = min(fits, key=lambda s: self.sizes[s])
            elif growable:
                slot = max(growable, key=lambda s: self.sizes[s])
                self.sizes[slot] = life.tensor.nbytes
            else:
                slot = len(self.sizes)
                self.sizes.append(life.tensor.nbytes)
                taken.append([])
            taken[slot].append(life)
            chosen[life.tensor] = slot
        return chosen
