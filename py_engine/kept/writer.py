"""What a load writes to this device's store: bytes while they come, a line in the journal for what is there, and at the
end the index. A store that is full loses older models first; if that does not help, the load goes on without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from py_engine.errors import StorageError, StorageFullError
from py_engine.host.io import Bytes, Io
from py_engine.host.store import BlobStore
from py_engine.kept.library import Library
from py_engine.kept.lock import Note, RepositoryLock
from py_engine.kept.manifest import Manifest, Stored
from py_engine.sources.derived import Derived, is_current, sums_of
from py_engine.sources.jobs import Job, TensorInfo
from py_engine.sources.repository import Sum
from py_engine.sources.spans import Spans

JOURNAL_BYTES = 4 << 20  # of a large tensor are noted at a time
FLUSH_BYTES = 32 << 20  # written between two waits for the medium
ROOM_BYTES = 64 << 10  # made at least: the index needs some
_PIECE_BYTES = 4 << 20


class Keeper:
    """One load's writing. Without a library, or once `kept` is False, nothing is written."""

    def __init__(
        self,
        manifest: Manifest,
        library: Library | None,
        io: Io,
        note: Note,
        lock: RepositoryLock | None = None,
        asked: str = "",
        index: bytes = b"",
    ) -> None:
        """`asked`: the revision, as the user said it. `index`: what an earlier load that was finished has left."""
        self.kept = library is not None
        self.complete = bool(index)
        self.cuts: dict[str, list[int]] = {}  # file -> ends of its tensors
        self.fresh: dict[str, Spans] = {}  # what this load brought
        self.derived: DerivedFile | None = None
        # Files of which nothing is kept from this byte on: the derived file has what the model needs of them.
        self.passing: dict[str, int] = {}
        self._manifest = manifest
        self._library = library
        self._io = io
        self._note = note
        self._lock = lock
        self._asked = asked
        self._index = index
        # Here when this load began: what another stores meanwhile is taken over, what was found damaged is not.
        self._seen = {stored.blob: Spans(stored.spans.ranges) for stored in manifest.files.values()}
        self._pending: dict[str, tuple[int, int]] = {}  # written, not yet in the journal
        self._unflushed: set[str] = set()
        self._unmarked = 0
        self._journal_end: int | None = None
        self._closed = False
        self._expecting = False  # it is known which files of weights this load wants
        self._turn = asyncio.Lock()  # whoever writes to the store
        self._taking = asyncio.Lock()

    @property
    def _store(self) -> BlobStore:
        assert self._library is not None
        return self._library.store

    def _writes(self) -> bool:
        return self.kept and self._library is not None and not self._closed

    async def take_over(self) -> None:
        """Hold the lock for writing; what another load has stored meanwhile is here then."""
        async with self._taking:
            if self._lock is None or self._lock.exclusive:
                return
            await self._store.close()  # files that are open here cannot be written elsewhere
            await self._lock.take(shared=False)
            assert self._library is not None
            manifest = self._manifest
            other, complete = await self._library.load(manifest.repository, manifest.commit)
            if other is None:
                return
            self._take_in(other)
            if complete:
                self.complete, self._index = True, other.index()
            await self._library.settle(manifest)

    def _take_in(self, other: Manifest) -> None:
        """What another load has stored since this one began."""
        manifest = self._manifest
        for name, theirs in other.files.items():
            mine = manifest.files.setdefault(name, theirs)
            if mine is theirs or mine.blob != theirs.blob:
                continue
            seen = self._seen.get(mine.blob, Spans())
            for start, end in theirs.spans.ranges:
                for a, b, old in seen.cut(start, end):
                    if not old:
                        mine.spans.add(a, b)
            if mine.spans.ranges == theirs.spans.ranges:
                mine.sum, mine.checked = theirs.sum, theirs.checked
        manifest.sums |= other.sums
        manifest.refs |= other.refs

    # -- files of the hub --------------------------------------------------------------------------------------------

    async def keep(self, name: str, stored: Stored, place: int, piece: Bytes) -> None:
        """Write a piece of a file, and note it in the journal at a tensor's end."""
        end = place + self._io.nbytes(piece)
        async with self._turn:
            if not self._writes() or stored.spans.cover(place, end):
                return
            if place >= self.passing.get(name, end):
                return
            blob = self._manifest.blob(stored)
            if not await self._attempt(lambda: self._store.write(blob, place, piece)):
                return
            begun, reached = self._pending.get(name, (place, place))
            if reached != place:
                await self._note_written(name, stored)
                begun = place
            self._pending[name] = (begun, end)
            if end - begun >= JOURNAL_BYTES or end in self.cuts.get(name, ()):
                await self._note_written(name, stored)

    async def note_written(self, name: str, stored: Stored) -> None:
        """Journal what was written of a file since the last time."""
        async with self._turn:
            await self._note_written(name, stored)

    async def _note_written(self, name: str, stored: Stored) -> None:
        pending = self._pending.pop(name, None)
        if pending is not None and self._writes():
            line = self._manifest.journal_line(name, stored, *pending)
            if await self._attempt(lambda: self._journal(line)):
                await self._count(name, stored, *pending)

    async def _journal(self, line: bytes) -> None:
        if self._journal_end is None:
            head = self._manifest.journal()
            await self._store.replace(self._manifest.name("journal"), head)
            self._journal_end = len(head)
        await self._store.write(self._manifest.name("journal"), self._journal_end, line)
        self._journal_end += len(line)

    async def _count(self, name: str, stored: Stored, start: int, end: int) -> None:
        """Bytes of a file are written and noted."""
        stored.spans.add(start, end)
        self._unflushed.add(name)
        self._unmarked += end - start
        if self._unmarked >= FLUSH_BYTES:
            await self._attempt(self._flush)

    async def _flush(self) -> None:
        """Wait until everything written is on the medium, and say so in the journal."""
        for name in sorted(self._unflushed):
            await self._store.flush(self._manifest.blob(self._manifest.files[name]))
        if self._journal_end is not None:
            await self._journal(self._manifest.MARK)
        self._unflushed.clear()
        self._unmarked = 0

    async def forget(self, name: str, stored: Stored) -> None:
        """A file's bytes are wrong: neither they nor what was made from them count any more."""
        stored.spans, stored.checked = Spans(), False
        self._pending.pop(name, None)
        if self.derived is not None:
            for here in self.derived.table.from_file(name):
                self.derived.remove(here)
        if not self._writes():
            return
        await self.take_over()

        async def write() -> None:
            manifest = self._manifest
            await self._store.delete(manifest.blob(stored))
            stored.final = not self._store.shared
            # Before anything is written anew: what is missing must not be taken for stored.
            if self.complete:
                await self._store.replace(manifest.name("json"), manifest.index())
            head = manifest.journal()
            await self._store.replace(manifest.name("journal"), head)
            self._journal_end = len(head)

        async with self._turn:
            await self._attempt(write)

    def differs(self, tensor: TensorInfo, sum_: Sum | None) -> bool:
        """Whether bytes that were uploaded are not those of the load before, by their checksum."""
        old = self._manifest.sums.get(tensor.name)
        comparable = old and sum_ and (old.start, old.end) == (sum_.start, sum_.end)
        return bool(comparable) and old != sum_

    def good(self, tensor: TensorInfo, sum_: Sum | None) -> bool:
        """Whether they are, or came from the hub now; those that were never summed are good."""
        fresh = self.fresh.get(tensor.file, Spans())
        return not self.differs(tensor, sum_) or (
            sum_ is not None and fresh.cover(tensor.start + sum_.start, tensor.start + sum_.end)
        )

    # -- the derived file --------------------------------------------------------------------------------------------

    async def derive(self, jobs: Sequence[Job]) -> DerivedFile | None:
        """The file for what these jobs quantise, with what is there of it; None if they do not, or without a store."""
        self._expecting = True
        table = Derived.of(jobs, lambda file: self._manifest.files[file].blob)
        if table is None or self._library is None:
            return None
        try:
            stored = await self._find(table, self._library)
        except StorageError as error:
            self._note(f"The quantised weights are not kept: {error}")
            return None
        self.derived = DerivedFile(table, stored, self)
        self.cuts[table.name] = []
        if not self._store.shared:
            for source, _ in table.pairs:
                first = self.passing.get(source.file, source.start)
                self.passing[source.file] = min(first, source.start)
        return self.derived

    async def _find(self, table: Derived, library: Library) -> Stored:
        """What is there of a derived file; unless that is all, the lock is held for writing."""
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
        """Write bytes of the derived file."""
        if not self._writes() or file.given_up:
            return
        await self.take_over()
        blob = self._manifest.blob(file.stored)
        async with self._turn:
            if self._writes():
                await self._attempt(lambda: self._store.write(blob, place, data), file)

    async def finish(self, file: DerivedFile, done: Mapping[TensorInfo, Sum]) -> None:
        """All bytes of these tensors of the derived file were written; they have these checksums."""
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
            if not await self._attempt(lambda: self._journal(b"".join(lines)), file):
                return
            stored.sum, stored.checked = None, False
            for here, sum_ in done.items():
                self._manifest.sums[here.name] = sum_
                self.fresh.setdefault(name, Spans()).add(here.start, here.end)
                await self._count(name, stored, here.start, here.end)

    async def _drop(self, name: str) -> None:
        """Delete a derived file."""
        stored = self._manifest.files.pop(name)
        self._unflushed.discard(name)
        if self.derived is not None and self.derived.stored is stored:
            self.derived.given_up = True
        if all(other.form != stored.form for other in self._manifest.files.values()):
            for tensor in sums_of(self._manifest.sums, stored.form):
                del self._manifest.sums[tensor]
        await self._store.delete(self._manifest.blob(stored))

    def _superseded(self) -> list[str]:
        """Derived files that no load will use again: of another layout, or of other tensors in this load's form."""
        used = self.derived.table if self.derived is not None else None
        return [
            name
            for name, stored in self._manifest.files.items()
            if stored.form
            and (not is_current(name) or used and used.form == stored.form and used.name != name)
        ]

    # -- room --------------------------------------------------------------------------------------------------------

    async def _attempt(
        self, work: Callable[[], Awaitable[None]], derived: DerivedFile | None = None
    ) -> bool:
        """Do something in the store; when there is no room make some and try again; when that fails go on without the
        store. Whether it was done. `derived`: it is for this file; beside whole files it can be done without."""
        assert self._library is not None
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
                await self._library.delete(self._manifest)
        elif full and self.derived is not None and not self.derived.stored.whole:
            with suppress(StorageError):
                await self._drop(self.derived.table.name)
        self.kept = False
        for stored in self._manifest.files.values():
            if not self.complete:
                stored.spans = Spans()
        self._pending.clear()
        return False

    async def _make_room(self, work: Callable[[], Awaitable[None]]) -> None:
        """Delete what this model has in other forms, then other models for what this load still writes, then one by one
        (stores set more aside than is written), until the work succeeds. Raises StorageFullError when none is left."""
        assert self._library is not None
        for name in list(self._manifest.files) if self._expecting else ():
            if await self._spare(name):
                with suppress(StorageFullError):
                    return await work()
        wanted = max(self._missing(), ROOM_BYTES)
        while await self._library.make_room(wanted, self._manifest):
            try:
                return await work()
            except StorageFullError:
                wanted = 1
        raise StorageFullError("there is no room, and no older model to delete.")

    async def _spare(self, name: str) -> bool:
        """Delete a file's bytes if this load does without them: another form's; those that the quantised form stands
        for. Whether any were."""
        stored = self._manifest.files[name]
        if stored.form:
            used = self.derived is not None and self.derived.stored is stored
            if not used:
                await self._drop(name)
            return not used
        header = self.passing.get(name)
        if header is None or not any(end > header for _, end in stored.spans.ranges):
            return False
        blob = self._manifest.blob(stored)
        head = await self._store.read(blob, 0, header) if stored.spans.cover(0, header) else b""
        await self._store.delete(blob)
        stored.spans, stored.checked = Spans(), False
        if nbytes := self._io.nbytes(head):
            await self._store.write(blob, 0, head)
            stored.spans.add(0, nbytes)
        return True

    def _missing(self) -> int:
        """Bytes that this load will still write."""
        files = [self._manifest.files.get(name) for name in self.cuts if name not in self.passing]
        return sum(stored.size - stored.spans.nbytes for stored in files if stored is not None)

    # -- ending ------------------------------------------------------------------------------------------------------

    async def commit(self) -> None:
        """Names for whole files, then the index, then what it replaces goes."""
        if self._library is None or not self.kept:
            return
        library, store, manifest = self._library, self._store, self._manifest
        superseded = self._superseded()
        changed = bool(
            superseded or manifest.index() != self._index or self._journal_end is not None
        )
        if changed:
            await self.take_over()
        async with self._turn:

            async def publish() -> None:
                await self._flush()
                for name in superseded:
                    if name in manifest.files:
                        await self._drop(name)
                for name, stored in manifest.files.items() if store.shared else ():
                    if stored.form:
                        await self._sum(stored)
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
            with suppress(StorageError, FileNotFoundError):  # another may be writing it too
                await library.touch(manifest)
        if self._asked != manifest.commit and await library.superseded(manifest, self._asked):
            await self.take_over()  # meanwhile another may have gone, or got another name
            for other in await library.superseded(manifest, self._asked):
                with suppress(StorageError):
                    await library.delete(other)
                    self._note(
                        f"{other.repository}@{other.commit[:12]} was replaced and is deleted here."
                    )

    async def _sum(self, stored: Stored) -> None:
        """The sha256 of a new derived file, for `cache verify`: browsers have no such command, and no need of it."""
        if stored.sum is not None or not stored.whole:
            return
        hasher = self._io.sha256()
        try:
            for start in range(0, stored.size, _PIECE_BYTES):
                end = min(start + _PIECE_BYTES, stored.size)
                await hasher.update(await self._store.read(self._manifest.blob(stored), start, end))
            stored.sum, stored.checked = await hasher.hexdigest(), True
        finally:
            hasher.close()

    async def close(self) -> None:
        """Write nothing more, and give the lock back."""
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


class DerivedFile:
    """`table`: what lies where. `stored`: what is there of it."""

    def __init__(self, table: Derived, stored: Stored, keeper: Keeper) -> None:
        self.table = table
        self.stored = stored
        self.given_up = False  # there was no room for it
        self._keeper = keeper

    @property
    def wanted(self) -> bool:
        """Whether it is still being kept."""
        return self._keeper.kept and not self.given_up

    def has(self, here: TensorInfo) -> bool:
        """Whether a tensor's bytes are there."""
        return not self.given_up and self.stored.spans.cover(here.start, here.end)

    def steps(self, job: Job) -> list[Job]:
        """What is done for a job: itself, or, if what it would make is there, that is uploaded."""
        return self.table.jobs(job) if self.has(self.table.here(job.tensor)) else [job]

    def remove(self, here: TensorInfo) -> None:
        """A tensor's bytes are not what they should be."""
        self.stored.spans.remove(here.start, here.end)

    async def put(self, here: TensorInfo, start: int, data: Bytes) -> None:
        """Write bytes of a tensor from its byte `start` on."""
        if not self.has(here):
            await self._keeper.put(self, here.start + start, data)

    async def finish(self, sources: Iterable[TensorInfo], sums: Mapping[TensorInfo, Sum]) -> None:
        """Count what was made of these tensors of the checkpoint, where all of it was written by now. `sums`: of the
        bytes so far, theirs and those of what was made. It counts only if what it was made from was good."""
        done = {}
        for source in sources:
            here = self.table.here(source)
            sum_ = sums.get(here if here.name != source.name else source)
            if sum_ is None or (sum_.start, sum_.end) != (0, here.nbytes) or self.has(here):
                continue
            if self._keeper.good(source, sums.get(source)):
                done[here] = sum_
        await self._keeper.finish(self, done)
