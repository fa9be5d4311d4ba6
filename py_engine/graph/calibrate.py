"""Which groups of dispatches a device takes in one command buffer: what to try next, and what came of it.

The state machine alone; serve/calibration.py runs candidates and keeps the record. A candidate is on record before it
is tried, for it may end the whole tab. Two axes, because WebKit was seen to fail by either: many dispatches in one
pass, and a pass for each dispatch. An axis is climbed until something on it fails; what fails stays out for good, and
so does all beyond it, on this device. What was proven holds for the plans that it was proven with. The floor is tried
first, for the numbers to compare with: plans that end the page even so are left alone from then on.

    begin(candidate, plan) -> confirm()      it ran, and every bit was right
                           -> refuse(why)    it ran, and was wrong or refused
                           -> withdraw()     it was not tried to the end, by nobody's fault
                           -> (death)        `bury` at the next start: as refuse
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from py_engine.graph.submit import FLOOR, GroupedSubmit

LAYOUT = 2  # of the record
GROUPS = (8, 16, 32, 64, 128, 256, 512)  # dispatches a command buffer, in the order of trying
MAX_PLANS = 32  # remembered; the oldest goes first


@dataclass
class Calibration:
    """The record of one device. `failed`: candidates and why. `proven`: by a plan's digest. `trying`: begun by the run
    `by` with the plans `of`, and nothing heard of it yet. `left_alone`: plans that nothing more is tried with."""

    failed: dict[GroupedSubmit, str] = field(default_factory=dict)
    proven: dict[str, GroupedSubmit] = field(default_factory=dict)
    left_alone: list[str] = field(default_factory=list)
    trying: GroupedSubmit | None = None
    of: str = ""
    by: str = ""

    def best(self, plan: str) -> GroupedSubmit:
        """What to submit these plans by: the largest proven group that nothing speaks against since, else the floor."""
        found = self.proven.get(plan, FLOOR)
        return FLOOR if self.ruled_out(found) else found

    def ruled_out(self, candidate: GroupedSubmit) -> bool:
        """Whether it, or a smaller one of its axis, failed or was never heard of again."""
        bad = [*self.failed, *([self.trying] if self.trying not in (None, FLOOR) else [])]
        return any(
            _axis(f) == _axis(candidate) and f.dispatches <= candidate.dispatches for f in bad
        )

    def next(self, plan: str, most: int) -> GroupedSubmit | None:
        """The next candidate for plans of at most `most` dispatches; None when there is nothing left to try."""
        reached = self.best(plan).dispatches
        if plan in self.left_alone or reached >= most:
            return None  # in the latter case everything is in one command buffer already
        group = next((n for n in GROUPS if n > reached), None)
        if group is None:
            return None
        both = GroupedSubmit(group), GroupedSubmit(group, passes=group)
        return next((candidate for candidate in both if not self.ruled_out(candidate)), None)

    def begin(self, candidate: GroupedSubmit, plan: str, by: str) -> None:
        """It is going to be tried with these plans, by a run of this name."""
        self.trying, self.of, self.by = candidate, plan, by

    def confirm(self) -> None:
        """It ran its plans, and every bit was right."""
        assert self.trying is not None
        self.proven.pop(self.of, None)
        self.proven[self.of] = self.trying
        while len(self.proven) > MAX_PLANS:
            del self.proven[next(iter(self.proven))]
        self.withdraw()

    def refuse(self, why: str) -> None:
        """It gave wrong numbers, or the device did not take it."""
        assert self.trying is not None
        if self.trying == FLOOR:
            self.left_alone = [*self.left_alone, self.of][-MAX_PLANS:]
        else:
            self.failed[self.trying] = why
        self.withdraw()

    def withdraw(self) -> None:
        """Nothing is being tried; what was says nothing for or against it."""
        self.trying, self.of, self.by = None, "", ""

    def bury(self) -> GroupedSubmit | None:
        """At a start, when nobody else can be trying: the candidate that ended the run before, from now on failed."""
        dead = self.trying
        if dead is not None:
            self.refuse("ended the page")
        return dead

    def to_dict(self) -> dict[str, Any]:
        """For the record's file."""
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
        """The record of a file's content. Raises ValueError when it is no such thing."""
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
    """{"group": N, "passes": N} of the floor or a candidate. Raises ValueError."""
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
