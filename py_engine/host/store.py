"""Files that the engine keeps on this device: weights, saved sessions, tunings.

A file's name is relative, with parts joined by "/" ("a/b.bin"). Files are written in slices, at any offset and in any
order. `replace` is for small files that must be whole, old or new, after a crash. Bytes are the host's own
(host/io.py): in a browser they stay JavaScript objects.

    files          plain files: CPython
    opfs           the origin private file system, through synchronous handles: browsers' workers
    cache-storage  CacheStorage, in pieces: browsers without such handles
    indexed-db     IndexedDB, strictly durable: for records (Io.open_store), in place of cache-storage
    memory         gone with the process: where there is none of these (`persistent` is False)
"""

from __future__ import annotations

import abc
from contextlib import AbstractAsyncContextManager
from typing import Any

from py_engine.errors import StorageError

Bytes = Any


def check_name(name: str) -> None:
    """Raise StorageError for a name that would leave the store, or that no file can have."""
    parts = name.split("/")
    try:
        name.encode("utf-8", "surrogateescape")  # names in a native folder may hold surrogates
    except UnicodeEncodeError as error:
        raise StorageError(f"{name!r} holds a lone surrogate: no file has such a name.") from error
    if "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise StorageError(f"{name!r} is not the name of a file in the store.")


class BlobStore(abc.ABC):
    """Files below one root. Every method raises StorageError when the store fails. Methods that write raise
    StorageFullError when there is no room; the file then keeps what it had before."""

    kind: str  # as in the table above
    persistent = True  # what is written outlives the process
    shared = False  # other programs use the same files, so a final name must mean a whole file (rename, link)

    @abc.abstractmethod
    async def names(self, folder: str = "") -> list[str]:
        """Full names of all files below a folder, at any depth, sorted. An absent folder has none."""

    @abc.abstractmethod
    async def size(self, name: str) -> int | None:
        """The size of a file in bytes; None when there is no such file."""

    @abc.abstractmethod
    async def read(self, name: str, start: int = 0, end: int | None = None) -> Bytes:
        """Bytes start..end (exclusive; None: to the end), fewer where the file ends before.
        Raises FileNotFoundError."""

    @abc.abstractmethod
    async def write(self, name: str, offset: int, data: Bytes) -> None:
        """Write bytes at an offset of a file, which is made or grows as needed. When this returns, the bytes survive
        the end of the process; after `flush` also a crash of the machine. `data` is bytes-like or the host's Bytes."""

    @abc.abstractmethod
    async def flush(self, name: str) -> None:
        """Wait until what was written to a file is on the medium."""

    @abc.abstractmethod
    async def replace(self, name: str, data: bytes) -> None:
        """Make a small file hold exactly `data`. After a crash the file is the old one or the new one, never a mix."""

    @abc.abstractmethod
    async def delete(self, name: str) -> None:
        """Delete a file, or a folder with everything in it. It is no error when it is absent."""

    @abc.abstractmethod
    def lock(
        self, name: str, *, shared: bool = False, wait: bool = True
    ) -> AbstractAsyncContextManager[bool]:
        """Hold the lock `name` during an `async with` block. Among all tabs and processes that use this store there is
        one holder, or several with `shared`. A lock is freed when its holder dies. The value says whether the lock is
        held: it is, unless `wait` is False and somebody else holds it."""

    async def rename(self, name: str, new: str) -> None:
        """Rename a file, replacing a file that has the new name. Only in a `shared` store."""
        raise StorageError(f"a store of kind {self.kind} renames nothing ({name} to {new}).")

    async def link(self, name: str, target: str) -> None:
        """Make `name` a link to the file `target`. Only in a `shared` store."""
        raise StorageError(f"a store of kind {self.kind} has no links ({name} to {target}).")

    async def links(self, target: str) -> list[str]:  # noqa: ARG002
        """Names of the links to a file, below the folder that holds the file's folder. [] in a store without links."""
        return []

    async def close(self) -> None:  # noqa: B027  (most stores keep nothing open)
        """Close open files. The store can be used again afterwards."""
