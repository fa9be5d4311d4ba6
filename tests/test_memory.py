"""Liveness of tensors and pooling of buffers. No GPU is needed."""

from __future__ import annotations

import random

import pytest

from py_engine.graph.memory import Slots, lifetimes
from py_engine.graph.trace import Call, Tensor, kernel

KERNEL = kernel("none")


def chain(sizes: list[int], reads: list[list[int]]) -> tuple[list[Call], list[Tensor]]:
    """Call i writes tensor i of sizes[i] floats and reads the tensors reads[i]."""
    tensors = [Tensor(f"t{i}", (n,)) for i, n in enumerate(sizes)]
    calls = [
        Call(
            f"c{i}",
            KERNEL,
            [*(tensors[r] for r in reads[i]), tensors[i]],
            frozenset({len(reads[i])}),
            (1, 1, 1),
        )
        for i in range(len(sizes))
    ]
    return calls, tensors


def test_a_chain_needs_two_buffers() -> None:
    calls, tensors = chain([100] * 20, [[]] + [[i] for i in range(19)])
    slots = Slots()
    chosen = slots.assign(calls)
    assert len(slots.sizes) == 2
    assert all(chosen[a] != chosen[b] for a, b in zip(tensors, tensors[1:], strict=False))


def test_reading_before_writing_is_refused() -> None:
    tensor = Tensor("x", (4,))
    with pytest.raises(ValueError, match="before anything wrote"):
        lifetimes([Call("c", KERNEL, [tensor], frozenset(), (1, 1, 1))])


@pytest.mark.parametrize("seed", range(20))
def test_no_two_live_tensors_share_a_slot(seed: int) -> None:
    rng = random.Random(seed)
    n = 40
    reads = [sorted(rng.sample(range(i), k=min(i, rng.randint(0, 3)))) for i in range(n)]
    calls, _ = chain([rng.randint(1, 5000) for _ in range(n)], reads)
    slots = Slots()
    chosen = slots.assign(calls)
    lives = lifetimes(calls)
    for a in lives:
        assert slots.sizes[chosen[a.tensor]] >= a.tensor.nbytes
        for b in lives:
            if a is not b and chosen[a.tensor] == chosen[b.tensor]:
                assert a.last < b.first or b.last < a.first
    assert sum(slots.sizes) <= sum(life.tensor.nbytes for life in lives)


def test_a_second_plan_reuses_the_first_ones_slots() -> None:
    slots = Slots()
    slots.assign(chain([1000] * 5, [[]] + [[i] for i in range(4)])[0])
    before = list(slots.sizes)
    slots.assign(chain([10] * 5, [[]] + [[i] for i in range(4)])[0])
    assert slots.sizes == before


@pytest.mark.parametrize("fixed", [False, True])
def test_a_second_plan_of_larger_tensors_has_room_for_them(fixed: bool) -> None:
    """The planner makes the first plan's slots larger. If those already exist, it adds new ones beside them."""
    slots = Slots()
    slots.assign(chain([10] * 5, [[]] + [[i] for i in range(4)])[0])
    before = list(slots.sizes)
    slots.fixed = len(before) if fixed else 0
    calls, tensors = chain([1000] * 5, [[]] + [[i] for i in range(4)])
    chosen = slots.assign(calls)
    assert all(slots.sizes[chosen[tensor]] >= tensor.nbytes for tensor in tensors)
    assert len(slots.sizes) == (4 if fixed else 2)
    assert not fixed or slots.sizes[:2] == before
