"""How dispatches are cut into command buffers and passes."""

from __future__ import annotations

from typing import Any

import pytest

from py_engine.errors import InputError
from py_engine.graph.submit import GroupedSubmit, SingleSubmit, asked_group


def flat(buffers: list[list[list[Any]]]) -> list[Any]:
    return [d for passes in buffers for dispatches in passes for d in dispatches]


def test_single_is_one_pass() -> None:
    dispatches: Any = list(range(10))
    assert SingleSubmit().cut(dispatches) == [[dispatches]]
    early = SingleSubmit().cut(dispatches * 10, early=True)
    assert [len(d) for passes in early for d in passes] == [16, 32, 10 * len(dispatches) - 48]
    assert [d for [part] in early for d in part] == dispatches * 10


@pytest.mark.parametrize("n", [1, 7, 64, 401])
@pytest.mark.parametrize("group", [1, 8, 32, 1000])
@pytest.mark.parametrize("passes", [1, 3, 64])
def test_grouped_keeps_order_and_limits(n: int, group: int, passes: int) -> None:
    dispatches: Any = list(range(n))
    buffers = GroupedSubmit(group, passes).cut(dispatches)
    assert flat(buffers) == dispatches
    for cut in buffers:
        held = sum(map(len, cut))
        assert held <= group
        assert len(cut) <= passes
        assert all(cut)
        assert max(map(len, cut)) == -(-held // passes), "spread over all the passes"
    assert len(buffers) == -(-n // group), "no more command buffers than need be"


@pytest.mark.parametrize(("group", "passes"), [(0, 1), (1, 0), (-3, 1)])
def test_nonsense_is_refused(group: int, passes: int) -> None:
    with pytest.raises(InputError, match="whole number from 1 to"):
        GroupedSubmit(group, passes)


@pytest.mark.parametrize(
    ("group", "passes", "strategy"),
    [
        (None, None, None),
        (64, None, GroupedSubmit(64, 1)),
        (None, 16, GroupedSubmit(16, 16)),
        (64, 4, GroupedSubmit(64, 4)),
    ],
)
def test_groups_are_asked_for_by_either_number(
    group: int | None, passes: int | None, strategy: GroupedSubmit | None
) -> None:
    assert asked_group(group, passes) == strategy
    with pytest.raises(InputError, match="whole number from 1 to"):
        asked_group(0, passes)
