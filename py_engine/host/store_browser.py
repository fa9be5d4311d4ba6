"""BlobStore in a browser's worker, over public/blobs.mjs; locks are Web Locks. Bytes are JS Uint8Arrays."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import js
from pyodide.ffi import JsException, to_js

from py_engine.errors import StorageError, StorageFullError
from py_engine.host.store import BlobStore, Bytes, check_name

# What browsers throw when there is no room: a file's or a cache's write; and createWritable's (Chromium).
_FULL = {"QuotaExceededError", "AbortError"}
_ABSENT = {"NotFoundError", "TypeMismatchError"}


class BrowserStore(BlobStore):
    """`handle`: an object of public/blobs.mjs. Its calls take turns."""

    def __init__(self, root: str, handle: Any) -> None:
        self.root = root
        self.kind = str(handle.kind)
        self.persistent = bool(handle.persistent)
        self._handle = handle
        self._turn = asyncio.Lock()

    async def names(self, folder: str = "") -> list[str]:
        """See BlobStore.names."""
        if folder:
            check_name(folder)
        names = await self._call(folder or self.root, self._handle.list, folder)
        return [str(name) for name in names.to_py()]

    async def size(self, name: str) -> int | None:
        """See BlobStore.size."""
        check_name(name)
        size = await self._call(name, self._handle.size, name)
        # JavaScript's null is None in Pyodide 0.27 and an object of its own later.
        return int(size) if isinstance(size, (int, float)) else None

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Bytes:
        """See BlobStore.read."""
        check_name(name)
        return await self._call(name, self._handle.read, name, start, end)

    async def write(self, name: str, offset: int, data: Bytes) -> None:
        """See BlobStore.write."""
        check_name(name)
        await self._call(name, self._handle.write, name, offset, _to_array(data))

    async def flush(self, name: str) -> None:
        """See BlobStore.flush."""
        await self._call(name, self._handle.flush, name)

    async def replace(self, name: str, data: bytes) -> None:
        """See BlobStore.replace."""
        check_name(name)
        await self._call(name, self._handle.replace, name, _to_array(data))

    async def delete(self, name: str) -> None:
        """See BlobStore.delete."""
        check_name(name)
        await self._call(name, self._handle.remove, name)

    @contextlib.asynccontextmanager
    async def lock(
        self, name: str, *, shared: bool = False, wait: bool = True
    ) -> AsyncIterator[bool]:
        """See BlobStore.lock."""
        controller = js.AbortController.new()
        try:
            with _errors(name):
                give_back = await js.jerboa.blobs.lock(
                    f"{self.root}:{name}", shared, wait, controller.signal
                )
        except BaseException:
            controller.abort()
            raise
        held = callable(give_back)
        try:
            yield held
        finally:
            if held:
                await give_back()

    async def close(self) -> None:
        """See BlobStore.close: other tabs may write the files from now on."""
        await self._call(self.root, self._handle.close)

    async def _call(self, what: str, method: Any, *arguments: Any) -> Any:
        async with self._turn:
            with _errors(what):
                return await method(*arguments)


async def open_browser_store(name: str, records: bool) -> BrowserStore:
    """The best store that works here; `records` as in Io.open_store."""
    return BrowserStore(name, await js.jerboa.blobs.openStore(name, records))


def _to_array(data: Bytes) -> Any:
    return to_js(data) if isinstance(data, (bytes, bytearray, memoryview)) else data


@contextlib.contextmanager
def _errors(what: str) -> Iterator[None]:
    """A JavaScript exception as a StorageError that names the file, or FileNotFoundError."""
    try:
        yield
    except JsException as error:
        name = str(getattr(error, "name", ""))
        if name in _ABSENT:
            raise FileNotFoundError(f"{what} is not in the store") from error
        if name in _FULL:
            raise StorageFullError(
                f"{what}: this browser gives the site no more room ({error})."
            ) from error
        if name == "NoModificationAllowedError":
            raise StorageError(
                f"{what} is in use by another tab; close it and try again."
            ) from error
        raise StorageError(f"{what}: the browser's store refused ({error}).") from error
