"""Time in whole milliseconds, by functions that only MicroPython has (the type checker knows CPython's)."""

import asyncio
import time


def now_ms():
    """Return the current time, for since_ms. The number means nothing by itself: it wraps around after some days."""
    return time.ticks_ms()  # type: ignore[attr-defined]


def since_ms(before, now=None):
    """Return the milliseconds from one time of now_ms to another (`now`: the current time by default)."""
    return time.ticks_diff(now_ms() if now is None else now, before)  # type: ignore[attr-defined]


def sleep_ms(ms):
    """Wait; to be awaited."""
    return asyncio.sleep_ms(ms)  # type: ignore[attr-defined]
