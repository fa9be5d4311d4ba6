"""Waits of the tests. Each has a limit, and its failure names what it waited for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

WAIT_S = 120.0  # longer than any wait takes, on a busy machine too


async def until(
    what: str, reached: Callable[[], object], every_s: float = 0.01, within_s: float = WAIT_S
) -> None:
    """Wait until `reached()` is true, while the event loop runs. Fails after `within_s`."""
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
    """Wait in the same way without an event loop. `pause`: what waits between two checks, such as a page's own
    timer; `told`: more text for the failure."""
    deadline = time.monotonic() + within_s
    while not reached():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {within_s:g} s in vain: {what} {told()}")
        pause()
