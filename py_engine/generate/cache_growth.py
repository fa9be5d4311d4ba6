"""The size of a decoder's KV cache, which follows the length of the text."""

from __future__ import annotations

from collections.abc import Sequence

from py_engine.blocks.state import State
from py_engine.errors import OutOfMemoryError
from py_engine.graph.programs import Programs
from py_engine.host.gpu import Gpu


class CacheGrowth:
    """Replaces the KV cache of `state` by one of another size, and the plans of `programs` that are bound to it.

    `classes`: the sizes to go through, in tokens, ascending.
    """

    def __init__(self, gpu: Gpu, state: State, programs: Programs, classes: Sequence[int]) -> None:
        self._gpu = gpu
        self._state = state
        self._programs = programs
        self._classes = classes

    async def fit(self, tokens: int, rows: int, room: int = 0) -> None:
        """Take the smallest cache for `tokens` and, if memory allows, `room` more. The first `rows` are copied.

        A cache that holds nothing (`rows` 0) may also become smaller.
        Raises OutOfMemoryError; then the old cache stays in use.
        """
        wanted = next((n for n in self._classes if n >= tokens + room), self._classes[-1])
        now = self._state.cache.capacity
        if wanted == now or (rows and wanted < now):
            return
        try:
            await self.replace(wanted, rows)
        except OutOfMemoryError as error:
            if now >= tokens:
                return
            raise OutOfMemoryError(
                f"no room on the GPU for a KV cache of {wanted} tokens, which a text of {tokens} needs; the one of "
                f"{now} stays in use: ask for less, or begin a new conversation ({error})"
            ) from error

    async def replace(self, capacity: int, rows: int) -> None:
        """Take a cache for `capacity` tokens that keeps the first `rows` of the old one, and make its plans.

        Raises OutOfMemoryError, HostError; then everything is as it was.
        """
        old, new = self._state.cache, self._state.cache.resized(capacity)
        try:
            await self._gpu.check()
            self._state.cache = new
            moved = await self._programs.moved()
            await new.copy_rows(old, rows)
        except BaseException:
            self._state.cache = old
            new.release()
            raise
        old.release()
        self._programs.adopt(moved)
