"""The size of a decoder's KV cache, which follows the length of the text."""

from __future__ import annotations

from py_engine.blocks.kv_cache import Sizes
from py_engine.blocks.state import State
from py_engine.errors import OutOfMemoryError
from py_engine.graph.programs import Programs


class CacheGrowth:
    """Changes the size of the KV cache of `state`, and tells `programs` which buffers took the place of others."""

    def __init__(self, state: State, programs: Programs, sizes: Sizes) -> None:
        self._state = state
        self._programs = programs
        self.sizes = sizes

    async def fit(self, tokens: int, rows: int, room: int = 0) -> None:
        """Take a cache for `tokens` and, if memory allows, `room` more. The first `rows` stay.

        Raises OutOfMemoryError; then the cache is as it was.
        """
        now = self._state.cache.capacity
        wanted = self.sizes.wanted(now, tokens, rows, room)
        if wanted == now:
            return
        try:
            await self.resize(wanted, rows)
        except OutOfMemoryError as error:
            if now >= tokens:
                return
            raise OutOfMemoryError(
                f"no room on the GPU for a KV cache of {wanted} tokens, which a text of {tokens} needs; the one of "
                f"{now} stays in use: ask for less, or begin a new conversation ({error})"
            ) from error

    async def resize(self, capacity: int, rows: int) -> None:
        """Give the cache room for `capacity` tokens; the first `rows` stay. Raises OutOfMemoryError, HostError; then it
        is as it was."""
        if capacity != self._state.cache.capacity:
            await self._state.cache.resize(
                capacity, rows, self.sizes.context, self._programs.replace
            )
