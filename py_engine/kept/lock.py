"""The lock of a repository in a store: several loads may read at the same time, or one writes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

from py_engine.host.store import BlobStore

Note = Callable[[str], None]


class RepositoryLock:
    """The repository's lock, held while a load runs. `exclusive`: it is held for writing."""

    def __init__(self, store: BlobStore, name: str, note: Note) -> None:
        self._store = store
        self._name = name
        self._note = note
        self._stack = AsyncExitStack()
        self.exclusive = False

    async def take(self, *, shared: bool) -> None:
        """Take the lock, for reading (`shared`) or for writing. A lock that is held already is freed before."""
        await self._stack.aclose()
        now = self._store.lock(self._name, shared=shared, wait=False)
        if not await self._stack.enter_async_context(now):
            await self._stack.aclose()
            self._note("Another tab or process is loading this model: waiting for it.")
            await self._stack.enter_async_context(self._store.lock(self._name, shared=shared))
        self.exclusive = not shared

    async def free(self) -> None:
        """Free the lock."""
        await self._stack.aclose()
        self.exclusive = False
