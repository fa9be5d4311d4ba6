"""Times dispatches on the GPU: by timestamp queries where the device has them, else by the wall clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import chain
from math import gcd

from py_engine.host.gpu import Dispatch, Gpu

MOST_DISPATCHES = 4096  # the most in one timed pass
_ROUNDS = 3


class Clock:
    """Times dispatches by timestamps, or by the wall clock where there are none. `step_ns`: the resolution that was
    seen.

    `enough_s`: how long one measurement repeats its work; Chromium's steps of 0.1 ms are 1 % of the default.
    """

    def __init__(self, gpu: Gpu, enough_s: float = 0.010) -> None:
        self._gpu = gpu
        self._enough_s = enough_s
        self.timestamps = "timestamp-query" in gpu.features
        self.step_ns = 0
        self._wait_s = 0.0  # seconds of a submit without work and its wait, by the wall clock

    async def start(self) -> None:
        """Measure how long an empty wait takes."""
        waits = []
        for _ in range(5):
            started = time.perf_counter()
            await self._gpu.idle()
            waits.append(time.perf_counter() - started)
        self._wait_s = min(waits)

    async def passes(self, passes: Sequence[Sequence[Dispatch]]) -> list[float]:
        """Seconds of each pass; all run once, in one command buffer. Needs timestamps."""
        return self._seconds(await self._gpu.time_passes(self._gpu.record([passes], False)))

    async def each(
        self, dispatches: Sequence[Dispatch], reset: Callable[[], None] = lambda: None
    ) -> float:
        """Seconds of one of these dispatches. They run back to back, again and again, for `enough_s`; the best of three
        such runs counts. `reset` is called before each run."""
        recording = self._gpu.record([[dispatches]], False)
        most = max(1, MOST_DISPATCHES // len(dispatches))
        repeats, best = 1, float("inf")

        async def once() -> float:
            reset()
            if self.timestamps:
                return self._seconds(await self._gpu.time_passes(recording, repeats))[0]
            started = time.perf_counter()
            for _ in range(repeats):
                await self._gpu.replay(recording)
            await self._gpu.idle()
            return max(0.0, time.perf_counter() - started - self._wait_s)

        while (taken := await once()) < self._enough_s and repeats < most:
            repeats = min(
                most, max(2 * repeats, int(1.2 * repeats * self._enough_s / max(taken, 1e-4)))
            )
        for _ in range(_ROUNDS - 1 if taken < 10 * self._enough_s else 0):
            best = min(best, await once())
        return min(best, taken) / repeats / len(dispatches)

    async def compare(self, alternatives: Sequence[Sequence[Dispatch]]) -> list[float]:
        """Seconds of one dispatch of each alternative. The alternatives take turns, so that a drifting clock rate
        affects all alike; all are read back together, since waiting costs more than measuring."""
        if not self.timestamps:
            return [await self.each(dispatches) for dispatches in alternatives]
        recording = self._gpu.record([alternatives], False)
        longest = max(self._seconds(await self._gpu.time_passes(recording)))  # also warms up
        most = max(1, MOST_DISPATCHES // max(map(len, alternatives)))
        repeats = min(most, int(self._enough_s / max(longest, 1e-5)) + 1)
        rounds = [
            self._seconds(await self._gpu.time_passes(recording, repeats)) for _ in range(_ROUNDS)
        ]
        return [
            min(times) / repeats / len(dispatches)
            for *times, dispatches in zip(*rounds, alternatives, strict=True)
        ]

    def _seconds(self, stamps: Sequence[tuple[int, int]]) -> list[float]:
        self.step_ns = gcd(self.step_ns, *chain.from_iterable(stamps))
        return [max(0, end - begin) / 1e9 for begin, end in stamps]
