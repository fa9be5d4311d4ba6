"""Cuts prompts into chunks that take a GPU a short time, and makes room for wide chunks where they pay."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable

from py_engine.blocks.state import State
from py_engine.errors import OutOfMemoryError
from py_engine.graph.programs import Programs
from py_engine.host.gpu import Gpu

# Chunks end at multiples of this position, so that what a recurrence computes in blocks does not depend on the cut.
_BORDER = 64
# Seconds of a chunk. Drivers reset a GPU that is busy for long (Windows after two seconds), and a stop waits for the
# chunks that were submitted. So slow GPUs get chunks of fewer rows, and only fast ones get wide chunks.
SLOW_S, FAST_S = 1.0, 0.25


class Chunks:
    """The chunks of the program "prefill". The activations of wide chunks take much memory. So there is room for them
    only once a prompt has more rows than the other chunks hold, and these ran fast."""

    def __init__(self, gpu: Gpu, state: State, programs: Programs) -> None:
        self._gpu = gpu
        self._state = state
        self._programs = programs
        self._refused = False  # the device had no room for wide chunks
        # The rows that a chunk may have, from the times of earlier chunks. May be above `most`.
        self._rows = self.most
        self.timed = False  # whether a chunk has run

    @property
    def most(self) -> int:
        """The most rows of a chunk at present."""
        return self._programs.sizes("prefill")[-1]

    async def fit(self, rows: int) -> None:
        """Make room for wide chunks, if `rows` rows need them and the GPU is fast. If there is no memory, chunks stay
        as they are."""
        wanted = rows > self.most and self._rows > self.most
        if wanted and self._programs.later("prefill") and not self._refused:
            try:
                await self.widen()
            except OutOfMemoryError:
                self._refused = True

    async def widen(self) -> None:
        """Make room for wide chunks. Raises OutOfMemoryError, HostError; then all is as it was."""
        later = self._programs.later("prefill")
        assert later is not None
        old, new = self._state.rows, self._state.rows.of(later)
        try:
            await self._gpu.check()
            for before, after in zip(old.tensors, new.tensors, strict=True):
                self._programs.replace(before, after)
            await self._programs.extend("prefill")
        except BaseException:
            for before, after in zip(old.tensors, new.tensors, strict=True):
                self._programs.replace(after, before)
            new.release()
            raise
        self._state.rows = new
        old.release()

    def ran(self, rows: int, seconds: float) -> None:
        """Note the time of a chunk of `rows` rows. In a long context the same number of rows takes longer."""
        self.timed = True
        if seconds > SLOW_S:
            self._rows = max(_BORDER, int(rows * SLOW_S / seconds) // 2)
        elif 0 < seconds < FAST_S and rows > min(self._rows, self.most) - _BORDER:
            self._rows = int(rows * FAST_S / seconds)

    def end(self, start: int, stop: int) -> int:
        """The end of the chunk that begins at row `start`, when rows up to `stop` are to run."""
        end = start + min(self.most, self._rows)
        return stop if end >= stop else end - end % min(_BORDER, self.most)

    def pace(self) -> Pace:
        """For the chunks of a prefill that begins now."""
        return Pace(self._gpu, self)


class Pace:
    """Keeps at most two chunks of a prefill in flight, so that a long prompt can be stopped, and times them. The first
    chunk on a device runs alone: its time says how many rows the next may have."""

    def __init__(self, gpu: Gpu, chunks: Chunks) -> None:
        self._gpu = gpu
        self._chunks = chunks
        # How many rows were submitted together, and what to await until they have run.
        self._running: deque[tuple[int, Callable[[], Awaitable[None]]]] = deque()
        self._rows, self._since = 0, time.perf_counter()

    def submitted(self, rows: int) -> None:
        """Count the rows of a chunk."""
        self._rows += rows

    async def follow(self, left: int) -> None:
        """Wait until another chunk may be submitted; `left`: the rows that still have to run."""
        self._running.append((self._rows, self._gpu.fence()))
        self._rows = 0
        if len(self._running) > self._chunks.timed:
            rows, passed = self._running.popleft()
            await passed()
            now = time.perf_counter()
            self._chunks.ran(rows, now - self._since)
            self._since = now
            await self._chunks.fit(left)
