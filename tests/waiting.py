"""Waits of the tests: each has a bound and names what was waited for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

WAIT_S = 120.0  # nothing that is waited for takes so long, on a busy machine either


async def until(
    what: str, reached: Callable[[], object], every_s: float = 0.01, within_s: float = WAIT_S
) -> None:
    """Until `reached()` is true, while the event loop runs; fails after `within_s`."""
    deadline = time.monotonic() + within_s
    while not reached():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {within_s:g} s in vain: {what}")
        await asyncio.sleep(every_s)


def wait_until(
    what: str,
    reached: Callable[[], object],
    pause: Callable[[], object] = lambda: time.sleep(0.05),
    within_s: float = WAIT_S,
    told: Callable[[], object] = lambda: "",
) -> None:
    """The same without an event loop. `pause`: what passes the time between two looks, a page's own timer say; `told`:
    more about it, for the failure."""
    deadline = time.monotonic() + within_s
    while not reached():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {within_s:g} s in vain: {what} {told()}")
        pause()
