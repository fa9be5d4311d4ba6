"""What a load writes to this device's store: bytes while they come, lines of the journal, and at the end the index.

When the store is full, older models are deleted; if that does not help, the load goes on and writes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

from py_engine.errors import StorageError, StorageFullError
from py_engine.host.io import Bytes
from py_engine.host.store import BlobStore
from py_engine.kept.derived_file import DerivedFile
from py_engine.kept.journal import Journal
from py_engine.kept.library import Library
from py_engine.kept.lock import Note, RepositoryLock
from py_engine.kept.manifest import Manifest, Stored
from py_engine.kept.sums import TensorSums
from py_engine.sources.derived import Derived, sums_of
from py_engine.sources.jobs import Job, TensorInfo
from py_engine.sources.repository import Sum
from py_engine.sources.spans import Spans

JOURNAL_BYTES = 4 << 20  # written of a file between two lines in the journal
ROOM_BYTES = 64 << 10  # the least room to make: the index needs some


class Writer:
    """Writes for one load, whose repository (kept/repository.py) calls the public methods.

    Without a library, and once `kept` is False, nothing is written.
    """

    def __init__(
        self,
        manifest: Manifest,
        sums: TensorSums,
        library: Library | None,
        note: Note,
        lock: RepositoryLock | None = None,
        asked: str = "",
        index: bytes = b"",
    ) -> None:
        """`asked`: the revision, as the user said it. `index`: the index that an earlier, finished load has left."""
        self.kept = library is not None  # what comes is written to the store
        self.complete = bool(index)  # a load of this commit was finished
        self._derived: DerivedFile | None = None
        self._files: set[str] = set()  # of weights, that this load reads
        self._passing: dict[str, int] = {}  # see `passes_by`
        self._forgotten: set[str] = set()  # files of which this load found wrong bytes
        self._manifest = manifest
        self._sums = sums
        self._library = library
        self._note = note
        self._lock = lock
        self._asked = asked
        self._index = index
        # What was here when this load began. What another load stores meanwhile is taken over; but what this load has
        # found damaged is not taken over again.
        self._seen = {stored.blob: Spans(stored.spans.ranges) for stored in manifest.files.values()}
        # By file: bytes that are written, but not yet in the journal.
        self._pending: dict[str, tuple[int, int]] = {}
        self._made_journal: Journal | None = None
        self._closed = False
        self._expecting = False  # it is known which files of weights this load wants
        self._turn = asyncio.Lock()  # held while the store is written to
        self._taking = asyncio.Lock()  # held by `take_over`

    @property
    def _library_here(self) -> Library:
        assert self._library is not None  # else nothing is written
        return self._library

    @property
    def _store(self) -> BlobStore:
        return self._library_here.store

    @property
    def _journal(self) -> Journal:
        if self._made_journal is None:
            self._made_journal = Journal(self._manifest, self._store)
        return self._made_journal

    def _writes(self) -> bool:
        return self.kept and self._library is not None and not self._closed

    async def take_over(self) -> None:
        """Take the lock for writing, and take over what another load has stored meanwhile."""
        async with self._taking:
            if self._lock is None or self._lock.exclusive:
                return
            await self._store.close()  # a file that is open here cannot be written by another tab
            await self._lock.take(shared=False)
            manifest = self._manifest
            other, complete = await self._library_here.load(manifest.repository, manifest.commit)
            if other is None:
                return
            manifest.take_in(other, self._seen)
            if complete:
                self.complete, self._index = True, other.index()
            await self._library_here.settle(manifest)

    # -- files of the hub --------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def writing(
        self, name: str, stored: Stored
    ) -> AsyncIterator[Callable[[int, Bytes], Awaitable[None]]]:
        """While bytes of a file come from the hub: gives the function that writes a piece at its place in the file. In
        the end what was written is noted in the journal."""
        if self.kept:
            await self.take_over()
        try:
            yield partial(self._write_piece, name, stored)
        finally:
            async with self._turn:
                await self._note_written(name, stored)

    async def _write_piece(self, name: str, stored: Stored, place: int, piece: Bytes) -> None:
        end = place + self._library_here.io.nbytes(piece)
        async with self._turn:
            not_wanted = stored.spans.cover(place, end) or place >= self._passing.get(name, end)
            if not_wanted or not self._writes():
                return
            blob = self._manifest.blob(stored)
            if not await self._attempt(lambda: self._store.write(blob, place, piece)):
                return
            begun, reached = self._pending.get(name, (place, place))
            if reached != place:
                await self._note_written(name, stored)
                begun = place
            self._pending[name] = (begun, end)
            if end - begun >= JOURNAL_BYTES:
                await self._note_written(name, stored)

    async def _note_written(self, name: str, stored: Stored) -> None:
        pending = self._pending.pop(name, None)
        if pending is not None and self._writes():
            line = self._manifest.journal_line(name, stored, *pending)
            if await self._attempt(lambda: self._journal.append(line)):
                await self._count(name, stored, *pending)

    async def _count(self, name: str, stored: Stored, start: int, end: int) -> None:
        """Bytes of a file are written and noted."""
        stored.spans.add(start, end)
        self._journal.count(name, end - start)
        if self._journal.flush_due:
            await self._attempt(self._journal.flush)

    async def forget(self, name: str, stored: Stored) -> None:
        """Forget a file's bytes, and what was made from them: they are wrong."""
        stored.spans, stored.checked = Spans(), False
        self._pending.pop(name, None)
        self._forgotten.add(name)
        if self._derived is not None:
            self._derived.forget(name)
        if not self._writes():
            return
        await self.take_over()

        async def write() -> None:
            manifest = self._manifest
            await self._library_here.delete_bytes(manifest, stored)
            # This comes before anything is written again: the index must not claim bytes that are missing.
            if self.complete:
                await self._store.replace(manifest.name("json"), manifest.index())
            await self._journal.begin()

        async with self._turn:
            await self._attempt(write)

    # -- the derived file --------------------------------------------------------------------------------------------

    async def expect(self, jobs: Sequence[Job]) -> DerivedFile | None:
        """This load will do these jobs. The derived file for what they quantise; None if they quantise nothing, or
        where nothing is stored."""
        self._expecting = True
        self._files |= {job.tensor.file for job in jobs}
        table = Derived.of(jobs, lambda file: self._manifest.files[file].blob)
        if table is None or self._library is None:
            return None
        try:
            stored = await self._find(table, self._library)
        except StorageError as error:
            self._note(f"The quantised weights are not kept: {error}")
            return None
        self._derived = DerivedFile(table, stored, self, self._sums)
        for name in self._forgotten:
            self._derived.forget(name)
        self._files.add(table.name)
        if not self._store.shared:
            for source, _ in table.pairs:
                first = self._passing.get(source.file, source.start)
                self._passing[source.file] = min(first, source.start)
        return self._derived

    def passes_by(self, name: str) -> int | None:
        """The byte from which on nothing of a file is kept, because the derived file has what the model needs of it;
        None when the file is kept."""
        return self._passing.get(name)

    async def _find(self, table: Derived, library: Library) -> Stored:
        """What is here of a derived file. Unless that is all of it, the lock is held for writing afterwards."""
        manifest = self._manifest
        while True:
            fresh = Stored(table.size, table.blob, form=table.form)
            stored = manifest.files.setdefault(table.name, fresh)
            await library.adopt(manifest)
            await library.settle(manifest)
            if stored.whole or not self.kept or self._lock is None or self._lock.exclusive:
                return stored
            await self.take_over()  # another may have made it, or other forms, meanwhile

    async def put(self, file: DerivedFile, place: int, data: Bytes) -> None:
        """Write bytes at a place of the derived file."""
        if not self._writes() or file.given_up:
            return
        await self.take_over()
        blob = self._manifest.blob(file.stored)
        async with self._turn:
            if self._writes():
                await self._attempt(lambda: self._store.write(blob, place, data), file)

    async def finish(self, file: DerivedFile, done: Mapping[TensorInfo, Sum]) -> None:
        """Note that all bytes of these tensors of the derived file are written, and their checksums."""
        name, stored = file.table.name, file.stored
        async with self._turn:
            if not done or not self._writes() or file.given_up:
                return
            lines = [
                self._manifest.journal_line(
                    name, stored, here.start, here.end, here.name, sum_.value
                )
                for here, sum_ in done.items()
            ]
            if not await self._attempt(lambda: self._journal.append(b"".join(lines)), file):
                return
            stored.sum, stored.checked = None, False
            for here, sum_ in done.items():
                self._manifest.sums[here.name] = sum_
                self._sums.brought(name, here.start, here.end)
                await self._count(name, stored, here.start, here.end)

    async def _drop(self, name: str) -> None:
        """Delete a derived file."""
        stored = self._manifest.files.pop(name)
        self._journal.forget(name)
        if self._derived is not None and self._derived.stored is stored:
            self._derived.given_up = True
        if all(other.form != stored.form for other in self._manifest.files.values()):
            for tensor in sums_of(self._manifest.sums, stored.form):
                del self._manifest.sums[tensor]
        await self._store.delete(self._manifest.blob(stored))

    # -- room --------------------------------------------------------------------------------------------------------

    async def _attempt(
        self, work: Callable[[], Awaitable[None]], derived: DerivedFile | None = None
    ) -> bool:
        """Do `work` in the store. When there is no room, make some and try again; when that fails, store nothing more.
        Whether the work was done. `derived`: the work is for this file, which is given up alone if whole files are
        kept.
        """
        try:
            try:
                await work()
            except StorageFullError:
                await self._make_room(work)
            return True
        except (StorageError, FileNotFoundError) as error:
            full = isinstance(error, StorageFullError)
            if derived is not None and self._store.shared:
                self._note(f"The quantised weights are not kept, the files are: {error}")
                with suppress(StorageError):
                    await self._drop(derived.table.name)
                return False
            self._note(f"The model is not kept on this device: {error}")
        if full and not self.complete:
            with suppress(StorageError):
                await self._library_here.delete(self._manifest)
        elif full and self._derived is not None and not self._derived.stored.whole:
            with suppress(StorageError):
                await self._drop(self._derived.table.name)
        self.kept = False
        for stored in self._manifest.files.values():
            if not self.complete:
                stored.spans = Spans()
        self._pending.clear()
        return False

    async def _make_room(self, work: Callable[[], Awaitable[None]]) -> None:
        """Delete until the work succeeds: what this model has in other forms; then other models, as many as this load
        will write bytes; then one by one, since stores set more aside than is written. Raises StorageFullError when
        nothing is left to delete."""
        for name in list(self._manifest.files) if self._expecting else ():
            if await self._spare(name):
                with suppress(StorageFullError):
                    return await work()
        wanted = max(self._missing(), ROOM_BYTES)
        while await self._library_here.make_room(wanted, self._manifest):
            try:
                return await work()
            except StorageFullError:
                wanted = 1
        raise StorageFullError("there is no room, and no older model to delete.")

    async def _spare(self, name: str) -> bool:
        """Delete a file's bytes if this load does not need them: those of another form, and those for which the derived
        file stands. Whether any were deleted."""
        stored = self._manifest.files[name]
        if stored.form:
            used = self._derived is not None and self._derived.stored is stored
            if not used:
                await self._drop(name)
            return not used
        header = self._passing.get(name)
        if header is None or not any(end > header for _, end in stored.spans.ranges):
            return False
        blob = self._manifest.blob(stored)
        head = await self._store.read(blob, 0, header) if stored.spans.cover(0, header) else b""
        await self._store.delete(blob)
        stored.spans, stored.checked = Spans(), False
        if nbytes := self._library_here.io.nbytes(head):
            await self._store.write(blob, 0, head)
            stored.spans.add(0, nbytes)
        return True

    def _missing(self) -> int:
        """Bytes that this load will still write."""
        files = [self._manifest.files.get(name) for name in self._files - self._passing.keys()]
        return sum(stored.size - stored.spans.nbytes for stored in files if stored is not None)

    # -- ending ------------------------------------------------------------------------------------------------------

    async def commit(self) -> None:
        """End a load that went well: give whole files their names, write the index, delete what is superseded."""
        if self._library is None or not self.kept:
            return
        library, store, manifest = self._library, self._store, self._manifest
        superseded = manifest.superseded_forms(self._derived.table if self._derived else None)
        changed = bool(superseded or manifest.index() != self._index or self._journal.begun)
        if changed:
            await self.take_over()
        async with self._turn:

            async def publish() -> None:
                await self._journal.flush()
                for name in superseded:
                    if name in manifest.files:
                        await self._drop(name)
                for name, stored in manifest.files.items() if store.shared else ():
                    if stored.form:
                        await library.note_sha256(manifest, stored)
                    elif stored.whole and stored.size and (stored.checked or stored.sum is None):
                        if not stored.final:
                            await store.rename(manifest.blob(stored), manifest.blob(stored, True))
                            stored.final = True
                        await store.link(manifest.snapshot(name), manifest.blob(stored))

            async def write() -> None:
                if changed:
                    await store.replace(manifest.name("json"), manifest.index())
                    await store.delete(manifest.name("journal"))
                if self._asked != manifest.commit:
                    if await library.commit_of(manifest.repository, self._asked) != manifest.commit:
                        await store.replace(manifest.ref(self._asked), manifest.commit.encode())

            done = not changed or await self._attempt(publish)
            if not done or not await self._attempt(write):
                return
            self.complete = True
            with suppress(StorageError, FileNotFoundError):  # another load may be writing it too
                await library.touch(manifest)
        if self._asked != manifest.commit and await library.superseded(manifest, self._asked):
            await self.take_over()  # another load may have deleted one, or given it another name
            for other in await library.superseded(manifest, self._asked):
                with suppress(StorageError):
                    await library.delete(other)
                    self._note(
                        f"{other.repository}@{other.commit[:12]} was replaced and is deleted here."
                    )

    async def close(self) -> None:
        """Write nothing more, and free the lock."""
        async with self._turn:
            self._closed = True
            try:
                # What could not be written is not in the journal either.
                with suppress(StorageError):
                    if self._library is not None:
                        await self._store.close()
            finally:
                if self._lock is not None:
                    await self._lock.free()
