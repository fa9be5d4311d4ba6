"""Which groups of dispatches a device can run in one command buffer: what to try next, and the results so far.

This is the state machine alone; serve/calibration.py runs candidates and stores the record. A candidate is on record
before it is tried, since it may end the whole tab. There are two axes, since WebKit was seen to fail on either: many
dispatches in one pass, and a pass for each dispatch. An axis is climbed until a candidate fails. Failed candidates and
larger ones of the axis are never tried again on this device. A proven candidate is proven only for the plans that ran.
The floor runs first, to give the numbers to compare with. Plans that end the page even then are left alone.

    begin(candidate, plan) -> confirm()      it ran, and every bit was right
                           -> refuse(why)    it ran and was wrong, or the device refused it
                           -> withdraw()     it was not tried to the end, for another reason
                           -> (crash)        the next start calls `bury`, which refuses it
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from py_engine.graph.submit import FLOOR, GroupedSubmit

LAYOUT = 2  # version of the record's format
GROUPS = (
    8,
    16,
    32,
    64,
    128,
    256,
    512,
)  # dispatches in a command buffer, in the order of the attempts
MAX_PLANS = 32  # plans in the record; the oldest is dropped first


@dataclass
class Calibration:
    """The record of one device.

    `failed`: candidates, and why they failed. `proven`: by the digest of the plans. `trying`: a candidate that the run
    `by` has begun with the plans `of`, without a result yet. `left_alone`: plans with which nothing more is tried.
    """

    failed: dict[GroupedSubmit, str] = field(default_factory=dict)
    proven: dict[str, GroupedSubmit] = field(default_factory=dict)
    left_alone: list[str] = field(default_factory=list)
    trying: GroupedSubmit | None = None
    of: str = ""
    by: str = ""

    def best(self, plan: str) -> GroupedSubmit:
        """How to submit these plans: the largest proven group, unless a later failure rules it out; else the floor."""
        found = self.proven.get(plan, FLOOR)
        return FLOOR if self.ruled_out(found) else found

    def ruled_out(self, candidate: GroupedSubmit) -> bool:
        """Whether this candidate or a smaller one of its axis has failed, or was begun without a result."""
        bad = [*self.failed, *([self.trying] if self.trying not in (None, FLOOR) else [])]
        return any(
            _axis(f) == _axis(candidate) and f.dispatches <= candidate.dispatches for f in bad
        )

    def next(self, plan: str, most: int) -> GroupedSubmit | None:
        """The next candidate for plans of at most `most` dispatches; None when nothing is left to try."""
        reached = self.best(plan).dispatches
        if plan in self.left_alone or reached >= most:
            return None  # with `most` reached, everything is in one command buffer already
        group = next((n for n in GROUPS if n > reached), None)
        if group is None:
            return None
        both = GroupedSubmit(group), GroupedSubmit(group, passes=group)
        return next((candidate for candidate in both if not self.ruled_out(candidate)), None)

    def begin(self, candidate: GroupedSubmit, plan: str, by: str) -> None:
        """Note that a candidate is about to be tried with these plans, by the run of this name."""
        self.trying, self.of, self.by = candidate, plan, by

    def confirm(self) -> None:
        """Note that the candidate ran its plans and every bit was right."""
        assert self.trying is not None
        self.proven.pop(self.of, None)
        self.proven[self.of] = self.trying
        while len(self.proven) > MAX_PLANS:
            del self.proven[next(iter(self.proven))]
        self.withdraw()

    def refuse(self, why: str) -> None:
        """Note that the candidate gave wrong numbers, or that the device refused it."""
        assert self.trying is not None
        if self.trying == FLOOR:
            self.left_alone = [*self.left_alone, self.of][-MAX_PLANS:]
        else:
            self.failed[self.trying] = why
        self.withdraw()

    def withdraw(self) -> None:
        """Note that the attempt is over without a result."""
        self.trying, self.of, self.by = None, "", ""

    def bury(self) -> GroupedSubmit | None:
        """At a start, when no other run can be trying: refuse the candidate that ended the last run. Returns it."""
        dead = self.trying
        if dead is not None:
            self.refuse("ended the page")
        return dead

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON, for its file."""
        return {
            "layout": LAYOUT,
            "failed": [{**_pair(c), "why": why} for c, why in self.failed.items()],
            "proven": {plan: _pair(c) for plan, c in self.proven.items()},
            "left_alone": self.left_alone,
            "trying": _pair(self.trying) if self.trying else None,
            "of": self.of,
            "by": self.by,
        }

    @classmethod
    def from_dict(cls, data: Any) -> Calibration:
        """The record in a file's content. Raises ValueError when it is something else."""
        if not isinstance(data, Mapping) or data.get("layout") != LAYOUT:
            raise ValueError("not a calibration's record")
        failed, proven, alone = (data.get(key) for key in ("failed", "proven", "left_alone"))
        if not (
            isinstance(failed, list) and isinstance(proven, Mapping) and isinstance(alone, list)
        ):
            raise ValueError("a calibration's record lacks its parts")
        trying = data.get("trying")
        return cls(
            {parse_pair(c): str(c.get("why", "")) for c in failed},
            {str(plan): parse_pair(c) for plan, c in proven.items()},
            [str(plan) for plan in alone],
            parse_pair(trying) if trying is not None else None,
            str(data.get("of", "")),
            str(data.get("by", "")),
        )


def parse_pair(data: Any) -> GroupedSubmit:
    """The floor or the candidate that {"group": N, "passes": N} stands for. Raises ValueError."""
    group, passes = (
        (data.get(k) for k in ("group", "passes")) if isinstance(data, Mapping) else (0, 0)
    )
    if type(group) is not int or type(passes) is not int:
        raise ValueError(f"not a group: {data!r:.80}")
    if group not in (1, *GROUPS) or passes not in (1, group):
        raise ValueError(f"not a group that is tried: {data!r:.80}")
    return GroupedSubmit(group, passes)


def _pair(candidate: GroupedSubmit) -> dict[str, int]:
    return {"group": candidate.dispatches, "passes": candidate.passes}


def _axis(candidate: GroupedSubmit) -> str:
    return "one pass" if candidate.passes == 1 else "passes"
