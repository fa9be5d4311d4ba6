"""Files that the engine keeps on this device: weights, saved sessions, tunings.

A name is relative, its parts joined by "/" ("a/b.bin"). Files are written in slices at any offset, in any order;
`replace` is for small files that must be old or new and never half. Bytes are the host's own (see host/io.py): those of
a browser stay JavaScript objects.

    files          plain files: CPython
    opfs           the origin private file system, through synchronous handles: browsers' workers
    cache-storage  CacheStorage, in pieces: where a browser has no such handles
    indexed-db     IndexedDB, strictly durable: instead of cache-storage for records (host/io.py, open_store)
    memory         gone with the process: where there is neither (`persistent` is False)
"""

from __future__ import annotations

import abc
from contextlib import AbstractAsyncContextManager
from typing import Any

from py_engine.errors import StorageError

Bytes = Any


def check_name(name: str) -> None:
    """Refuse names that would leave the store, or that no file can have. Raises StorageError."""
    parts = name.split("/")
    try:
        name.encode("utf-8", "surrogateescape")  # which a native folder's own names may need
    except UnicodeEncodeError as error:
        raise StorageError(f"{name!r} holds a lone surrogate: no file has such a name.") from error
    if "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise StorageError(f"{name!r} is not the name of a file in the store.")


class BlobStore(abc.ABC):
    """Files below one root. Every method raises StorageError when the store cannot do its work, and those that write
    StorageFullError when there is no room; a file that was being written then keeps what it had."""

    kind: str  # of the table above
    persistent = True  # outlives the process
    shared = False  # other programs read the same files: a name there promises a whole file (rename, link)

    @abc.abstractmethod
    async def names(self, folder: str = "") -> list[str]:
        """Full names of all files below a folder, at any depth, sorted; of an absent folder none."""

    @abc.abstractmethod
    async def size(self, name: str) -> int | None:
        """A file's bytes; None when there is no such file."""

    @abc.abstractmethod
    async def read(self, name: str, start: int = 0, end: int | None = None) -> Bytes:
        """Bytes start..end (exclusive; None: to the end), fewer where the file ends before.
        Raises FileNotFoundError."""

    @abc.abstractmethod
    async def write(self, name: str, offset: int, data: Bytes) -> None:
        """Put bytes at an offset of a file, which is made or grows as needed. Survives the process once this
        returns, and the machine once `flush` did. `data` is bytes-like or the host's Bytes."""

    @abc.abstractmethod
    async def flush(self, name: str) -> None:
        """Wait until what was written to a file is on the medium."""

    @abc.abstractmethod
    async def replace(self, name: str, data: bytes) -> None:
        """Make a small file hold exactly `data`: whatever ends the process, it is the old or the new one."""

    @abc.abstractmethod
    async def delete(self, name: str) -> None:
        """Remove a file, or a folder with all in it. Absent ones are no error."""

    @abc.abstractmethod
    def lock(
        self, name: str, *, shared: bool = False, wait: bool = True
    ) -> AbstractAsyncContextManager[bool]:
        """Hold the lock `name` for the length of an `async with` block: one holder, or several shared ones, among
        all tabs and processes of this store. A holder's death frees it. The value says whether it is held: always,
        unless `wait` is False and another has it."""

    async def rename(self, name: str, new: str) -> None:
        """Give a file another name, in the place of a file that has it. Only where `shared`."""
        raise StorageError(f"a store of kind {self.kind} renames nothing ({name} to {new}).")

    async def link(self, name: str, target: str) -> None:
        """Let `name` stand for the file `target`. Only where `shared`."""
        raise StorageError(f"a store of kind {self.kind} has no links ({name} to {target}).")

    async def links(self, target: str) -> list[str]:  # noqa: ARG002
        """The links to a file, of those in the folder that holds its folder. None where there are no links."""
        return []

    async def close(self) -> None:  # noqa: B027  (most stores keep nothing open)
        """Close what is open. The store can be used again afterwards."""
