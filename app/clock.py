"""Time in whole milliseconds, by functions that only MicroPython has (the type checker knows CPython's)."""

import asyncio
import time


def now_ms():
    """A moment, for since_ms. The number by itself means nothing: it begins anew after some days."""
    return time.ticks_ms()  # type: ignore[attr-defined]


def since_ms(before, now=None):
    """Milliseconds from one moment of now_ms to another, which is now if it is not given."""
    return time.ticks_diff(now_ms() if now is None else now, before)  # type: ignore[attr-defined]


def sleep_ms(ms):
    """To be awaited."""
    return asyncio.sleep_ms(ms)  # type: ignore[attr-defined]
