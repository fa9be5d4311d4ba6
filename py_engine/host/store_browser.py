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

# The exceptions for a full disk: of a write to a file or a cache, and of createWritable (Chromium).
_FULL = {"QuotaExceededError", "AbortError"}
_ABSENT = {"NotFoundError", "TypeMismatchError"}


class BrowserStore(BlobStore):
    """`handle`: an object of public/blobs.mjs. Only one call of it runs at a time."""

    def __init__(self, root: str, handle: Any) -> None:
        self.root = root
        self.kind = str(handle.kind)
        self.persistent = bool(handle.persistent)
        self._handle = handle
        self._turn = asyncio.Lock()

    async def names(self, folder: str = "") -> list[str]:
        if folder:
            check_name(folder)
        names = await self._call(folder or self.root, self._handle.list, folder)
        return [str(name) for name in names.to_py()]

    async def size(self, name: str) -> int | None:
        check_name(name)
        size = await self._call(name, self._handle.size, name)
        # JavaScript's null is None in Pyodide 0.27, and an object of its own in later versions.
        return int(size) if isinstance(size, (int, float)) else None

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Bytes:
        check_name(name)
        return await self._call(name, self._handle.read, name, start, end)

    async def write(self, name: str, offset: int, data: Bytes) -> None:
        check_name(name)
        await self._call(name, self._handle.write, name, offset, _to_array(data))

    async def flush(self, name: str) -> None:
        await self._call(name, self._handle.flush, name)

    async def replace(self, name: str, data: bytes) -> None:
        check_name(name)
        await self._call(name, self._handle.replace, name, _to_array(data))

    async def delete(self, name: str) -> None:
        check_name(name)
        await self._call(name, self._handle.remove, name)

    @contextlib.asynccontextmanager
    async def lock(
        self, name: str, *, shared: bool = False, wait: bool = True
    ) -> AsyncIterator[bool]:
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
        """Close open files, so that other tabs can write them."""
        await self._call(self.root, self._handle.close)

    async def _call(self, what: str, method: Any, *arguments: Any) -> Any:
        async with self._turn:
            with _errors(what):
                return await method(*arguments)


async def open_browser_store(name: str, records: bool) -> BrowserStore:
    """Open the best kind of store that works here. `records`: as in Io.open_store."""
    return BrowserStore(name, await js.jerboa.blobs.openStore(name, records))


def _to_array(data: Bytes) -> Any:
    return to_js(data) if isinstance(data, (bytes, bytearray, memoryview)) else data


@contextlib.contextmanager
def _errors(what: str) -> Iterator[None]:
    """Turn a JavaScript exception into a StorageError that names the file, or into FileNotFoundError."""
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
