"""Strategies: how the dispatches of a plan are cut into passes and command buffers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from py_engine.arguments import whole
from py_engine.host.gpu import Dispatch
from py_engine.host.profile import NOT_WEBKIT, WEBKIT
from py_engine.host.webkit import on_webkit

_EARLY = 16  # dispatches of the first command buffer of a plan that an idle GPU waits for
_MOST = 64  # and of its longest: drivers end one that keeps a slow GPU busy for seconds


@dataclass(frozen=True)
class SingleSubmit:
    """One pass in one command buffer; a prefill chunk, for which an idle GPU waits, in a few command buffers. The host
    does not wait between submits."""

    await_each = False

    def cut(
        self, dispatches: Sequence[Dispatch], *, early: bool = False
    ) -> list[list[list[Dispatch]]]:
        """Command buffers -> passes -> dispatches. `early`: an idle GPU waits for these. Then the first command buffer
        is short and the next ones longer, so that the GPU begins while the others are being encoded."""
        if not early:
            return [[list(dispatches)]]
        buffers, at, size = [], 0, _EARLY
        while at < len(dispatches):
            buffers.append([list(dispatches[at : at + size])])
            at, size = at + size, min(2 * size, _MOST)
        return buffers


@dataclass(frozen=True)
class GroupedSubmit:
    """Command buffers of `dispatches` in `passes` compute passes. The host waits for each before it submits the next.

    There are two numbers since WebKit was seen to fail by either: many dispatches, or many passes, in a command buffer.
    """

    dispatches: int
    passes: int = 1
    await_each = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "dispatches", whole("group", self.dispatches, 1, 1 << 31))
        object.__setattr__(self, "passes", whole("passes", self.passes, 1, 1 << 31))

    def cut(
        self, dispatches: Sequence[Dispatch], *, early: bool = False
    ) -> list[list[list[Dispatch]]]:
        """Command buffers -> passes -> dispatches. The first one is never long, so `early` changes nothing."""
        buffers = []
        for at in range(0, len(dispatches), self.dispatches):
            group = list(dispatches[at : at + self.dispatches])
            size = -(-len(group) // self.passes)
            buffers.append([group[i : i + size] for i in range(0, len(group), size)])
        return buffers


def asked_group(group: int | None, passes: int | None) -> GroupedSubmit | None:
    """The strategy that a user asks for by one or both of these numbers; None for neither. A `group` is one pass unless
    `passes` is given. With `passes` alone each pass holds one dispatch. Raises InputError for numbers below 1."""
    if group is None:
        return None if passes is None else GroupedSubmit(passes, passes)
    return GroupedSubmit(group, 1 if passes is None else passes)


SubmitStrategy = SingleSubmit | GroupedSubmit

FLOOR = GroupedSubmit(WEBKIT.dispatches)  # the smallest groups, from which calibration climbs


def default_strategy() -> SubmitStrategy:
    """The strategy of this browser's profile. On WebKit larger groups may follow (serve/calibration.py)."""
    profile = WEBKIT if on_webkit() else NOT_WEBKIT
    return FLOOR if profile.dispatches else SingleSubmit()
