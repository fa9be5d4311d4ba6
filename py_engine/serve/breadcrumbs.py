"""What this run is at, written where it outlives it: a browser may end a page without a word, and the next start should
say what happened.

One small file a run, in the store "crumbs", and a lock of the same name, held as long as the run lives: a file that has
something in it and whose lock is free belongs to a run that died at its work. Nothing is written while nothing is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from py_engine.errors import EngineError, FormatError
from py_engine.host.io import Io
from py_engine.host.json_text import parse_json
from py_engine.host.store import BlobStore

STORE = "crumbs"
CRUMB_BYTES = 1024  # of a file, padded with spaces: it is written in place
MAX_MODEL = 120  # characters, of which JSON may make six bytes each


class Breadcrumbs:
    """Of one run. Without a store that outlives it, or when that refuses, all of this does nothing."""

    def __init__(self, io: Io) -> None:
        self._io = io
        self._store: BlobStore | None = None
        self._name = ""
        self._held = AsyncExitStack()
        self._open: list[dict[str, Any]] = []  # of the blocks entered, in that order
        self._written: dict[str, Any] = {}
        self._writing = asyncio.Lock()

    async def open(self, run: str, left: Collection[str]) -> list[dict[str, Any]]:
        """Begin as `run` (a word), and tell what earlier runs died at, which is then forgotten: {"phase", "model",
        "context", "group"} each. `left`: runs that are known to have ended in peace."""
        with contextlib.suppress(EngineError):
            store = await self._io.open_store(STORE, records=True)
            if not store.persistent:
                return []
            found = await self._collect(store, run, left)
            if await self._held.enter_async_context(store.lock(run, wait=False)):
                self._store, self._name = store, f"{run}.json"
            return found
        return []

    async def _collect(
        self, store: BlobStore, run: str, left: Collection[str]
    ) -> list[dict[str, Any]]:
        found = []
        for name in await store.names():
            other = name.removesuffix(".json")
            if other == run:
                continue
            async with store.lock(other, wait=False) as dead:
                if not dead:
                    continue  # another tab, at work
                with contextlib.suppress(FileNotFoundError, FormatError):
                    data = parse_json(self._io.to_bytes(await store.read(name)), name)
                    if isinstance(data, dict) and data.get("phase") and other not in left:
                        found.append(data)
                await store.delete(name)
        return found

    @asynccontextmanager
    async def at(
        self, phase: str, model: str, context: int | None, group: int | None
    ) -> AsyncIterator[None]:
        """For the length of a block, which begins once it is written. Where blocks overlap, what was entered first and
        goes on counts: the others wait for it, or are part of it."""
        crumb = {"phase": phase, "model": model[:MAX_MODEL], "context": context, "group": group}
        self._open.append(crumb)
        try:
            await self._write()
            yield
        finally:
            self._open.remove(crumb)
            await self._write()

    async def close(self) -> None:
        """End in peace."""
        if self._store is not None:
            store, self._store = self._store, None
            with contextlib.suppress(EngineError):
                await store.delete(self._name)
                await store.close()
        await self._held.aclose()

    async def _write(self) -> None:
        """Bring the file in step with the open blocks."""
        async with self._writing:
            crumb = self._open[0] if self._open else {}
            if self._store is None or crumb == self._written:
                return
            self._written = crumb
            with contextlib.suppress(EngineError):
                data = json.dumps(crumb).encode().ljust(CRUMB_BYTES)
                await self._store.write(self._name, 0, data)
                await self._store.flush(self._name)
