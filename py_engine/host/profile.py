"""What kinds of device get where the caller does not say: one row each. app/device.py has the page's copy of the budget
(a test holds them equal). How commands are submitted on WebKit is graph/submit.py's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """Defaults of a kind of device.

    memory_budget: GPU bytes of all its models together; None: any. context: tokens. dtype: what "auto" is, of
    Engine.load's. losses: how many losses of the GPU a load or an answer bears.
    """

    memory_budget: int | None
    context: int
    dtype: str
    losses: int


DESKTOP = Profile(memory_budget=None, context=4096, dtype="auto", losses=5)
# Phones and tablets. iPadOS and iOS close a page between 1.5 and 2 GB, and Python's heap, the page and the pieces that
# are on their way count too. They lose the GPU for want of memory: then a smaller setting helps, not patience.
HANDHELD = Profile(memory_budget=1_200_000_000, context=4096, dtype="q4", losses=1)
IOS = Profile(memory_budget=HANDHELD.memory_budget, context=512, dtype="q4", losses=1)


def profile_of(handheld: bool, ios: bool = False) -> Profile:
    """The row of a device."""
    return IOS if ios else HANDHELD if handheld else DESKTOP
