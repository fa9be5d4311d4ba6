"""The journal of a load: which bytes are written, noted line by line until the index takes its place.

kept/manifest.py has the form of the lines.
"""

from __future__ import annotations

from py_engine.host.store import BlobStore
from py_engine.kept.manifest import Manifest

FLUSH_BYTES = 32 << 20  # written between two waits for the medium


class Journal:
    """Written by one load, into the store of its library. Every method raises StorageError."""

    def __init__(self, manifest: Manifest, store: BlobStore) -> None:
        self._manifest = manifest
        self._store = store
        self._end: int | None = None  # its bytes; None: this load has written none
        self._unflushed: set[str] = set()  # files with bytes that may not be on the medium
        self._unmarked = 0  # bytes since the last mark

    @property
    def begun(self) -> bool:
        """Whether this load has written a journal."""
        return self._end is not None

    @property
    def flush_due(self) -> bool:
        """Whether so much was written that `flush` should be called."""
        return self._unmarked >= FLUSH_BYTES

    async def begin(self) -> None:
        """Write the first line, which says what is here now. What stood in the journal before is gone."""
        head = self._manifest.journal()
        await self._store.replace(self._manifest.name("journal"), head)
        self._end = len(head)

    async def append(self, lines: bytes) -> None:
        """Add lines; the first call begins the journal."""
        if self._end is None:
            await self.begin()
        assert self._end is not None
        await self._store.write(self._manifest.name("journal"), self._end, lines)
        self._end += len(lines)

    def count(self, file: str, nbytes: int) -> None:
        """Bytes of a file were written and noted; they may not be on the medium yet."""
        self._unflushed.add(file)
        self._unmarked += nbytes

    def forget(self, file: str) -> None:
        """The file was deleted: it needs no flush."""
        self._unflushed.discard(file)

    async def flush(self) -> None:
        """Wait until everything written is on the medium, and note that."""
        for name in sorted(self._unflushed):
            await self._store.flush(self._manifest.blob(self._manifest.files[name]))
        if self.begun:
            await self.append(self._manifest.MARK)
        self._unflushed.clear()
        self._unmarked = 0
