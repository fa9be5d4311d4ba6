"""A record of what this run is doing. A browser may end a page without a word; the next start then says what happened.

Each run has a small file in the store "crumbs", and holds a lock of the same name as long as it lives. A file that is
not empty and whose lock is free belongs to a run that crashed while it worked. An idle run writes nothing.
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
CRUMB_BYTES = 1024  # size of a file, which is padded with spaces, since it is written in place
MAX_MODEL = 120  # characters, of which JSON may make six bytes each


class Breadcrumbs:
    """The record of one run. Does nothing when there is no store that outlives the page, or when the store fails."""

    def __init__(self, io: Io) -> None:
        self._io = io
        self._store: BlobStore | None = None
        self._name = ""
        self._held = AsyncExitStack()
        self._open: list[
            dict[str, Any]
        ] = []  # one for each `at` block that was entered, in that order
        self._written: dict[str, Any] = {}
        self._writing = asyncio.Lock()

    async def open(self, run: str, left: Collection[str]) -> list[dict[str, Any]]:
        """Begin a record named `run` (one word). Returns what earlier runs were doing when they crashed, {"phase",
        "model", "context", "group"} each, and deletes their records. `left`: runs that are known to have ended well."""
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
        """Record this for the length of a block, which begins once the record is on the medium. When blocks overlap,
        the record shows the oldest that goes on: the others wait for it or are part of it."""
        crumb = {"phase": phase, "model": model[:MAX_MODEL], "context": context, "group": group}
        self._open.append(crumb)
        try:
            await self._write()
            yield
        finally:
            self._open.remove(crumb)
            await self._write()

    async def close(self) -> None:
        """End well: delete the record."""
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
