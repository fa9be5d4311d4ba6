"""A namespace in the store: its records, and how batches come in and go out. Any number of tabs and processes may use
it at a time; each change takes the namespace's lock, and first reads what others have changed.

Files below the folder of a namespace, where G is its generation:

    head.json    the generation, and which embedder made the vectors. Replaced as a whole
    vectors.G    f16 [rows, dimensions, with zeros up to a multiple of 8]
    texts.G      a line a record (records.py); spaces where a text was forgotten
    journal.G    which of it counts (journal.py)

Clearing, repairing, and getting rid of many forgotten rows write the next generation; only then the head changes.
"""

from __future__ import annotations

import secrets
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager

from py_engine.errors import InputError, StorageError
from py_engine.host.io import Io
from py_engine.host.store import BlobStore
from py_engine.memory.head import Head, folder_of
from py_engine.memory.journal import Batch, Journal, forget_line
from py_engine.memory.records import Identity, Piece, Record
from py_engine.ops.nearest import padded

_KINDS = ("vectors", "texts", "journal")
SLICE_BYTES = 8 << 20  # read at a time
MANY_GONE = 1024  # so many forgotten rows, and half of all, are worth writing a namespace anew


class Namespace:
    """Made by `open`. `records`: by row, the oldest first. `live`: a bit a row, set while it has a record. `version`
    changes whenever records do; `generation` when rows get other numbers. Every method raises StorageError."""

    def __init__(self, store: BlobStore, io: Io, name: str, identity: Identity) -> None:
        self.name, self.identity = name, identity
        self.stride = 2 * padded(identity.dimensions)
        self._store, self._io = store, io
        self._folder = folder_of(name)
        self.version = 0
        self._forget_all(0)

    def _forget_all(self, generation: int) -> None:
        """Begin with nothing known of this generation; 0: there is no namespace yet."""
        self.generation = generation
        self.records: dict[int, Record] = {}
        self.live = bytearray()
        self._by_id: dict[str, Record] = {}
        self._batches: list[Batch] = []
        self._journal = Journal()
        self._seen: int | None = 0  # bytes of the journal when it was last read
        self._to_wipe: list[Record] = []
        self.damaged: list[str] = []
        self.version += 1

    @classmethod
    async def stored(cls, store: BlobStore, io: Io, name: str) -> Namespace:
        """A namespace that is there, without its embedder: to list, and to forget. Raises InputError if there is none,
        StorageError."""
        head = await Head.read(store, io, name)
        if head is None:
            raise InputError(f"there is no namespace {name!r} on this device")
        return await cls.open(store, io, name, head.identity)

    @classmethod
    async def open(
        cls, store: BlobStore, io: Io, name: str, identity: Identity, *, repair: bool = False
    ) -> Namespace:
        """The namespace, as it is in the store now. `repair`: of a damaged one keep what is whole.

        Raises InputError if another embedder wrote it; StorageError if it is damaged, and is not to be repaired."""
        self = cls(store, io, name, identity)
        async with self._locked():
            if repair:
                await self._rewrite([*self.records.values()])
        self._require_whole()
        return self

    @property
    def rows(self) -> int:
        """Rows that are or were in use: records are in rows below it."""
        return self._journal.rows

    def find(self, id: str) -> Record | None:
        """The record with this id."""
        return self._by_id.get(id)

    # -- reading -----------------------------------------------------------------------------------------------------

    async def sync(self) -> None:
        """Read what others have changed. Costs one look at the journal when they have changed nothing. Raises
        StorageError for what is damaged."""
        if await self._store.size(self._file("journal")) != self._seen or not self.generation:
            async with self._locked():
                pass
        self._require_whole()

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        """Hold the namespace's lock, with everything known that is in the store."""
        async with self._store.lock(self._folder):
            try:
                await self._catch_up()
                yield
            finally:
                await self._store.close()  # so that other tabs may open the files

    async def _catch_up(self) -> None:
        head = await Head.read(self._store, self._io, self.name)
        if head is None:
            if self.generation:
                self._forget_all(0)
            return
        if reason := head.identity.refuses(self.identity, self.name):
            raise InputError(reason)
        if head.generation != self.generation:
            self._forget_all(head.generation)
        self._seen = await self._store.size(self._file("journal"))
        if self._seen is None:  # nothing was added yet
            if self._journal.end:
                self.damaged = ["its journal, which is gone"]
            return
        text = await self._read("journal", self._journal.end, self._seen)
        entries = self._journal.read(text)
        if self._journal.damaged:
            self.damaged.append(self._journal.damaged)
        batches = [entry for entry in entries if isinstance(entry, Batch)]
        gone = {row for entry in entries if not isinstance(entry, Batch) for row in entry}
        for group in grouped(batches, lambda b: b.to - b.at):
            await self._take_in(group, gone)
        self._drop(gone)
        if entries:
            self.version += 1

    async def _take_in(self, batches: Sequence[Batch], gone: set[int]) -> None:
        """Read the records of batches that stand one behind another."""
        start = batches[0].at
        text = await self._read("texts", start, batches[-1].to)
        self._batches += batches
        self.live.extend(bytes(-(-batches[-1].end // 8) - len(self.live)))
        for batch in batches:
            lines = text[batch.at - start : batch.to - start].splitlines(keepends=True)
            if len(lines) != batch.end - batch.first:
                self.damaged.append(f"the texts of rows {batch.first} to {batch.end - 1}")
                continue
            at = batch.at
            for row, part in enumerate(lines, batch.first):
                if record := Record.read(part, row, at):
                    self.records[row] = self._by_id[record.id] = record
                    self.live[row // 8] |= 1 << row % 8
                    if row in gone:  # a process ended before it wiped this
                        self._to_wipe.append(record)
                elif row not in gone:
                    self.damaged.append(f"the text of row {row}")
                at += len(part)

    def _drop(self, rows: Iterable[int]) -> None:
        for row in rows:
            if record := self.records.pop(row, None):
                self._by_id.pop(record.id, None)
                self.live[row // 8] &= ~(1 << row % 8)

    def _require_whole(self) -> None:
        if self.damaged:
            more = f" and {len(self.damaged) - 1} more" if len(self.damaged) > 1 else ""
            raise StorageError(
                f"the namespace {self.name!r} is damaged: {self.damaged[0]}{more}. {len(self.records)} of its records "
                "are whole: open it with repair=True to go on with those"
            )

    async def vectors(self, first: int = 0) -> AsyncIterator[tuple[int, bytes]]:
        """The rows from `first` on, in slices: (row, bytes of as many as there are). Forgotten ones are among them.
        Raises StorageError where bytes are not those that were written."""
        batches = [b for b in self._batches if b.end > first]
        for group in grouped(batches, lambda b: (b.end - b.first) * self.stride):
            data, bad = await self._checked(group)
            if bad:
                self.damaged.append(f"the vectors of rows {bad[0].first} to {bad[0].end - 1}")
                self._require_whole()
            skip = max(0, first - group[0].first)
            yield group[0].first + skip, data[skip * self.stride :]

    async def _checked(self, group: Sequence[Batch]) -> tuple[bytes, list[Batch]]:
        """The vectors of a group of batches, and which of these are damaged."""
        start = group[0].first
        data = await self._read("vectors", start * self.stride, group[-1].end * self.stride)
        view = memoryview(data)
        bad = []
        for b in group:
            part = view[(b.first - start) * self.stride : (b.end - start) * self.stride]
            if zlib.crc32(part) != b.crc or len(part) != (b.end - b.first) * self.stride:
                bad.append(b)
        return data, bad

    async def _read(self, kind: str, start: int, end: int) -> bytes:
        if start == end:
            return b""
        try:
            return self._io.to_bytes(await self._store.read(self._file(kind), start, end))
        except FileNotFoundError:
            return b""  # what should be there is then damaged

    def _file(self, kind: str, generation: int | None = None) -> str:
        number = self.generation if generation is None else generation
        return f"{self._folder}/{kind}.{number}"

    # -- writing -----------------------------------------------------------------------------------------------------

    async def add(
        self, pieces: Sequence[Piece], vectors: bytes, ids: Sequence[str] = ()
    ) -> list[str]:
        """Store a batch, whose vectors are rows of `stride` bytes. Returns the ids: those given, else new ones. A
        piece whose given id is there already is left out. Raises StorageFullError; then nothing of it is stored."""
        assert len(vectors) == len(pieces) * self.stride
        names = [*ids] or [secrets.token_hex(8) for _ in pieces]
        async with self._locked():
            self._require_whole()
            if not self.generation:
                await self._begin()
            new = [i for i, id in enumerate(names) if id not in self._by_id]
            if new:
                kept = b"".join(vectors[i * self.stride :][: self.stride] for i in new)
                now = self._io.time()
                lines = [Record.line_of(names[i], pieces[i], now) for i in new]
                await self._append(kept, lines)
        return names

    async def _begin(self) -> None:
        await Head(1, self.identity).write(self._store, self.name)
        self._forget_all(1)

    async def _append(self, vectors: bytes, lines: Sequence[bytes]) -> None:
        first, at, texts = self._journal.rows, self._journal.texts, b"".join(lines)
        batch = Batch(first, first + len(lines), at, at + len(texts), zlib.crc32(vectors))
        await self._wipe()
        for kind, offset, data in (("vectors", first * self.stride, vectors), ("texts", at, texts)):
            await self._store.write(self._file(kind), offset, data)
            await self._store.flush(self._file(kind))
        await self._commit(batch.line(self._journal.lines + 1))

    async def _commit(self, text: bytes) -> None:
        """Add a line to the journal; from then on it counts."""
        await self._store.write(self._file("journal"), self._journal.end, text)
        await self._store.flush(self._file("journal"))
        await self._catch_up()

    async def forget(self, ids: Iterable[str]) -> int:
        """Forget records, and overwrite their texts. Returns how many there were."""
        async with self._locked():
            self._require_whole()
            records = [r for id in dict.fromkeys(ids) if (r := self._by_id.get(id))]
            if records:
                rows = [r.row for r in records]
                await self._commit(forget_line(self._journal.lines + 1, rows))
                self._to_wipe += records
                await self._wipe()
                gone = self.rows - len(self.records)
                if gone >= MANY_GONE and 2 * gone >= self.rows:
                    await self._rewrite([*self.records.values()])
        return len(records)

    async def _wipe(self) -> None:
        """Overwrite the texts that are still there of what was forgotten."""
        for record in self._to_wipe:
            blank = b" " * (record.nbytes - 1) + b"\n"
            await self._store.write(self._file("texts"), record.at, blank)
        if self._to_wipe:
            await self._store.flush(self._file("texts"))
        self._to_wipe.clear()

    async def clear(self) -> int:
        """Forget everything, and give the room back. Returns how many records there were."""
        async with self._locked():
            n = len(self.records)
            if self.generation:
                await self._rewrite([])
        return n

    async def _rewrite(self, keep: Sequence[Record]) -> None:
        """Write the next generation, with these records; of those whose vectors are damaged, none."""
        if not self.generation:
            return
        old, new = self.generation, self.generation + 1
        for kind in _KINDS:
            await self._store.delete(self._file(kind, new))
        journal, rows, at, by_row = b"", 0, 0, {record.row: record for record in keep}
        for group in grouped(self._batches, lambda b: (b.end - b.first) * self.stride):
            start = group[0].first
            if not any(row in by_row for row in range(start, group[-1].end)):
                continue
            data, bad = await self._checked(group)
            good = [b for b in group if b not in bad]
            left = [row for b in good for row in range(b.first, b.end) if row in by_row]
            if not left:
                continue
            vectors = b"".join(data[(row - start) * self.stride :][: self.stride] for row in left)
            texts = b"".join(
                Record.line_of(r.id, r.piece, r.added) for r in map(by_row.get, left) if r
            )
            batch = Batch(rows, rows + len(left), at, at + len(texts), zlib.crc32(vectors))
            await self._store.write(self._file("vectors", new), rows * self.stride, vectors)
            await self._store.write(self._file("texts", new), at, texts)
            journal += batch.line(journal.count(b"\n") + 1)
            rows, at = batch.end, batch.to
        if rows:
            await self._store.write(self._file("journal", new), 0, journal)
            for kind in _KINDS:
                await self._store.flush(self._file(kind, new))
        await Head(new, self.identity).write(self._store, self.name)
        for kind in _KINDS:
            await self._store.delete(self._file(kind, old))
        await self._catch_up()


def grouped(batches: Sequence[Batch], nbytes: Callable[[Batch], int]) -> Iterator[Sequence[Batch]]:
    """Batches that can be read together: one behind another, of at most SLICE_BYTES (or one that is larger)."""
    group: list[Batch] = []
    size = 0
    for batch in batches:
        beside = group and (group[-1].end, group[-1].to) == (batch.first, batch.at)
        if group and (not beside or size + nbytes(batch) > SLICE_BYTES):
            yield group
            group, size = [], 0
        group.append(batch)
        size += nbytes(batch)
    if group:
        yield group
