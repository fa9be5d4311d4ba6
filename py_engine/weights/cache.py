"""A hub's repository, kept on this device: what was read once is not asked for again.

Bytes are written while they come, tensor by tensor, and each range is then noted in a journal, so that a load that was
cut off goes on at the missing tensor, within a large one at the missing range. The index, written last, makes the
namespace valid; with it a load needs no network. Three things are compared:

    a whole file's sha256, with the hub's (a small file's git object id), when its last byte has come
    the GPU's checksum of each tensor, with the one of the load before: what differs is fetched again
    a small file's sha256, with the one of the load before

A store that is full loses older models first; if that does not help, the load goes on and nothing is kept.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress

from py_engine.errors import HubError, StorageError, StorageFullError
from py_engine.host.io import Bytes, Hasher, Io
from py_engine.host.store import BlobStore
from py_engine.weights.hub import (
    ATTEMPTS,
    COMMIT,
    TIMEOUT_S,
    Extent,
    HubRepository,
    Repository,
    Sum,
    check_name,
)
from py_engine.weights.library import Library
from py_engine.weights.manifest import Manifest, Stored, folder
from py_engine.weights.spans import Spans

Note = Callable[[str], None]
JOURNAL_BYTES = 4 << 20  # of a large tensor are noted at a time
FLUSH_BYTES = 32 << 20  # written between two waits for the medium
REST = 8  # a file is fetched to its end to be compared when at most an eighth of it is missing
CATCH_UP_BYTES = 4 << 20
ROOM_BYTES = 64 << 10  # made at least: the index needs some
GIT_BYTES = 16 << 20  # of a file that is read into Python to compare it; larger ones have a sha256
CHECK_ATTEMPTS = 1  # at asking which commit a branch is, when there is one to fall back to
CHECK_TIMEOUT_S = 5.0


async def open_kept(
    name: str, revision: str, io: Io, note: Note, *, look: bool = False
) -> Repository:
    """`name` at `revision` (a branch, a tag or a commit) of the hub, through this device's store.

    `note` is told, in a sentence, of what is out of the ordinary. `look`: nothing is to be stored; what an earlier load
    finished is used, else the hub. Raises HubError.
    """
    try:
        store = await io.open_store("models")
        if store.persistent:
            return await _open_in(store, name, revision, io, note, look)
        note("This browser keeps nothing for the site: the model will be fetched anew each time.")
    except StorageError as error:
        note(f"Nothing is kept on this device: {error}")
    hub = await HubRepository.open(name, revision, io)
    return KeptRepository(hub, Manifest(name, hub.revision or revision), None, io, note)


async def _open_in(
    store: BlobStore, name: str, revision: str, io: Io, note: Note, look: bool
) -> Repository:
    library = Library(store, io)
    hub, commit = await _resolve(name, revision, io, library, note)
    if not COMMIT.fullmatch(commit):
        note(f"{hub.endpoint} names no commit of {name}: nothing of it is kept on this device.")
        return KeptRepository(hub, Manifest(name, commit), None, io, note)
    _, complete = await library.load(name, commit)
    if look and not complete:
        return hub
    held = _Lock(store, folder(name), note)
    try:
        await held.take(shared=complete)
        # Read again: another may have finished it meanwhile.
        manifest, complete = await library.load(name, commit)
        manifest = manifest or Manifest(name, commit)
        index = manifest.index() if complete else b""
        manifest.learn(hub.listing(), hub.complete)
        if (
            revision != commit or not complete
        ):  # asked for again by its commit, it needs no further name
            manifest.refs.add(revision)
        await library.adopt(manifest)
        await library.settle(manifest)
        return KeptRepository(hub, manifest, library, io, note, held, revision, index)
    except BaseException:
        await held.free()
        await store.close()
        raise


async def _resolve(
    name: str, revision: str, io: Io, library: Library, note: Note
) -> tuple[HubRepository, str]:
    """The hub's client and the commit to use. Not asked at all when the revision is a commit that is here; when the hub
    does not answer, the commit that the branch was the last time."""
    here = revision if COMMIT.fullmatch(revision) else await library.commit_of(name, revision)
    if here is not None and not (await library.load(name, here))[1]:
        here = None
    if here == revision:
        return HubRepository(name, revision, io), revision
    if (io.env("HF_HUB_OFFLINE") or "0").lower() in ("1", "on", "yes", "true"):
        if here is None:
            raise HubError(
                f"{name}@{revision} is not kept on this device, and HF_HUB_OFFLINE forbids to ask the hub."
            )
        return HubRepository(name, here, io), here
    if here is None:
        hub = await HubRepository.open(name, revision, io)
        return hub, hub.revision or revision
    hub = HubRepository(name, revision, io, CHECK_ATTEMPTS, CHECK_TIMEOUT_S)
    try:
        await hub.resolve()
    except HubError as error:
        note(f"The hub does not tell what {name}@{revision} is now ({error}); using the copy here.")
        return HubRepository(name, here, io), here
    hub.attempts, hub.timeout_s = ATTEMPTS, TIMEOUT_S
    return hub, hub.revision or here


class _Lock:
    """The repository's lock, taken for the length of a load."""

    def __init__(self, store: BlobStore, name: str, note: Note) -> None:
        self._store = store
        self._name = name
        self._note = note
        self._stack = AsyncExitStack()
        self.exclusive = False

    async def take(self, *, shared: bool) -> None:
        """Hold it; another way than before, if need be."""
        await self._stack.aclose()
        now = self._store.lock(self._name, shared=shared, wait=False)
        if not await self._stack.enter_async_context(now):
            await self._stack.aclose()
            self._note("Another tab or process is loading this model: waiting for it.")
            await self._stack.enter_async_context(self._store.lock(self._name, shared=shared))
        self.exclusive = not shared

    async def free(self) -> None:
        """Give it back."""
        await self._stack.aclose()
        self.exclusive = False


class KeptRepository(Repository):
    """See the head of this file. `library` None: nothing is kept, hashes are compared all the same."""

    wants_sums = True

    def __init__(
        self,
        hub: HubRepository,
        manifest: Manifest,
        library: Library | None,
        io: Io,
        note: Note,
        lock: _Lock | None = None,
        revision: str = "",
        index: bytes = b"",
    ) -> None:
        """`index`: what an earlier load that was finished has left; b"": there was none."""
        super().__init__(hub.address, io)
        self.local = bool(index)
        self.kept = library is not None
        self._closed = False
        self._hub = hub
        self._manifest = manifest
        self._library = library
        self._note = note
        self._lock = lock
        self._asked = revision
        self._complete = bool(index)
        self._index = index
        self._tensors: list[Extent] = []
        self._cuts: dict[str, list[int]] = {}  # file -> ends of its tensors
        self._fresh: dict[str, Spans] = {}  # what came from the hub in this load
        self._pending: dict[str, tuple[int, int]] = {}  # written, not yet in the journal
        self._unflushed: set[str] = set()
        self._unmarked = 0
        self._hashers: dict[str, tuple[Hasher, int]] = {}  # and how many bytes they have seen
        self._refused: set[str] = set()  # files whose sha256 was wrong once
        self._journal_end: int | None = None
        self._turn = asyncio.Lock()  # whoever writes to the store
        self._taking = asyncio.Lock()
        if library is None:
            manifest.learn(hub.listing(), hub.complete)

    @property
    def revision(self) -> str | None:
        """See Repository.revision."""
        return self._manifest.commit

    def files(self) -> list[str]:
        """See Repository.files."""
        return sorted(self._manifest.files)

    def sha256(self, name: str) -> str | None:
        """See Repository.sha256."""
        stored = self._manifest.files.get(name)
        return stored.sum if stored else None

    async def exists(self, name: str) -> bool:
        """See Repository.exists."""
        try:
            await self._find(name)
        except HubError as error:
            if error.status == 404:
                return False
            raise
        return True

    async def size(self, name: str) -> int:
        """See Repository.size."""
        return (await self._find(name)).size

    async def _find(self, name: str) -> Stored:
        check_name(self.address, name)
        manifest = self._manifest
        if name not in manifest.files:
            if manifest.listed or name in manifest.absent:
                raise HubError(
                    f"{self.address} has no file {name}; check the name and revision.", 404
                )
            try:
                await self._hub.size(name)
            finally:
                manifest.learn(self._hub.listing(), False)
                if self._library and name in manifest.files:
                    manifest.files[name].final = not self._library.store.shared
        return manifest.files[name]

    # -- reading -----------------------------------------------------------------------------------------------------

    async def read(
        self,
        name: str,
        start: int = 0,
        end: int | None = None,
        on_bytes: Callable[[int], None] | None = None,
    ) -> Bytes:
        """See Repository.read: from the store what is there, from the hub the rest, which is kept."""
        stored = await self._find(name)
        if end is None:
            end = stored.size
        if not 0 <= start <= end <= stored.size:
            raise HubError(
                f"{self.address}: {name} has {stored.size} bytes; {start} to {end} is no range."
            )
        if start == end:
            return b""
        whole = start == 0 and end == stored.size
        while True:
            data = await self._gather(name, stored, start, end, on_bytes)
            if not whole or await self._sound(name, stored, data):
                return data
            if on_bytes is not None:
                on_bytes(start - end)

    async def _gather(
        self,
        name: str,
        stored: Stored,
        start: int,
        end: int,
        on_bytes: Callable[[int], None] | None,
    ) -> Bytes:
        parts = []
        for a, b, here in list(stored.spans.cut(start, end)):
            part = await self._take(name, stored, a, b) if here else None
            if part is None:
                part = await self._fetch(name, stored, a, b, on_bytes)
            elif on_bytes is not None:
                on_bytes(b - a)
            parts.append(part)
        data = parts[0] if len(parts) == 1 else self.io.join(parts)
        if end - start < stored.size:
            await self._hash(name, stored, start, data)
        return data

    async def _take(self, name: str, stored: Stored, start: int, end: int) -> Bytes | None:
        """Bytes of the store; None, and they count as missing, when it does not give them."""
        assert self._library is not None
        blob = self._manifest.blob(stored)
        try:
            data = await self._library.store.read(blob, start, end)
            if self.io.nbytes(data) == end - start:
                return data
            reason = "it was cut short"
        except FileNotFoundError:
            reason = "it was removed"
        except StorageError as error:
            reason = str(error)
        self._note(f"{name} in this device's store cannot be read ({reason}): fetching it again.")
        stored.spans.remove(start, stored.size)
        stored.checked = False
        return None

    async def _fetch(
        self,
        name: str,
        stored: Stored,
        start: int,
        end: int,
        on_bytes: Callable[[int], None] | None,
    ) -> Bytes:
        """Bytes of the hub, written to the store while they come."""
        if self.kept:
            await self._take_over()

        async def keep(place: int, piece: Bytes) -> None:
            await self._keep(name, stored, place, piece)

        try:
            data = await self._hub.stream(
                name, start, end, on_bytes, keep if self.kept else None, self._cuts.get(name, ())
            )
        finally:
            async with self._turn:
                await self._note_written(name, stored)
        self._fresh.setdefault(name, Spans()).add(start, end)
        return data

    async def _take_over(self) -> None:
        """Hold the lock for writing."""
        async with self._taking:
            if self._lock is not None and not self._lock.exclusive:
                await self._lock.take(shared=False)

    # -- comparing ---------------------------------------------------------------------------------------------------

    def expect(self, tensors: Sequence[Extent]) -> None:
        """See Repository.expect."""
        self._tensors = list(tensors)
        for tensor in tensors:
            self._cuts.setdefault(tensor.file, []).append(tensor.end)
        for cuts in self._cuts.values():
            cuts.sort()

    async def _hash(self, name: str, stored: Stored, start: int, data: Bytes) -> None:
        """Add bytes to the file's sha256 when they follow on those before."""
        if stored.checked or self._complete:
            return
        if start == 0 and name not in self._hashers:
            self._hashers[name] = (self.io.sha256(), 0)
        hasher, seen = self._hashers.get(name, (None, 0))
        end = start + self.io.nbytes(data)
        if hasher is not None and start <= seen < end:
            await hasher.update(self.io.slice(data, seen - start, end - start))
            self._hashers[name] = (hasher, end)

    async def _sound(self, name: str, stored: Stored, data: Bytes) -> bool:
        """Compare a file that was read whole; False: it is to be read again. Raises HubError."""
        hasher = self.io.sha256()
        try:
            await hasher.update(data)
            sum_ = await hasher.hexdigest()
        finally:
            hasher.close()
        if stored.sum is None and await self._is_git_object(name, data):
            stored.sum = sum_
        stored.checked = stored.sum == sum_
        if not stored.checked:
            await self._refuse(name, stored)
        return stored.checked

    async def _is_git_object(self, name: str, data: Bytes) -> bool:
        """Whether a small file has the git object id that the hub gives; yes where it gives none."""
        listed = self._hub.listing().get(name)
        size = self.io.nbytes(data)
        if listed is None or listed.git_oid is None or size > GIT_BYTES:
            return True
        head = f"blob {size}\0".encode()
        return hashlib.sha1(head + self.io.to_bytes(data)).hexdigest() == listed.git_oid

    async def _refuse(self, name: str, stored: Stored) -> None:
        """A file's bytes are not what they should be: forget them. Raises HubError the second time, for then the hub
        itself gives them."""
        self._fresh.pop(name, None)
        if name in self._refused or not self.kept:
            await self._forget(name, stored)
            raise HubError(
                f"{self.address}: {name} as it was fetched does not have the sha256 that its hub gives"
                f" ({stored.sum}). The hub, or a proxy on the way, changes files; check HF_ENDPOINT, or try later."
            )
        self._refused.add(name)
        self._note(f"{name} does not have the sha256 that it should have: fetching it again.")
        await self._forget(name, stored)

    async def _forget(self, name: str, stored: Stored) -> None:
        hasher, _ = self._hashers.pop(name, (None, 0))
        if hasher is not None:
            hasher.close()
        stored.spans, stored.checked = Spans(), False
        self._pending.pop(name, None)
        self._hub.begin_anew(name)
        if self._library is None or not self.kept:
            return
        await self._take_over()
        store, manifest = self._library.store, self._manifest
        async with self._turn:

            async def write() -> None:
                await store.delete(manifest.blob(stored))
                stored.final = not store.shared
                # Before anything is written anew: what is missing must not be taken for stored.
                if self._complete:
                    await store.replace(manifest.name("json"), manifest.index())
                head = manifest.journal()
                await store.replace(manifest.name("journal"), head)
                self._journal_end = len(head)

            await self._attempt(write)

    async def check(self, sums: Mapping[str, Sum]) -> set[str]:
        """See Repository.check."""
        again: set[str] = set()
        for file in sorted(self._cuts):
            if not await self._verified(file, self._manifest.files[file]):
                again |= {tensor.name for tensor in self._tensors if tensor.file == file}
        known = self._manifest.sums
        for tensor in self._tensors:
            new, old = sums.get(tensor.name), known.get(tensor.name)
            if new is None or tensor.name in again:
                continue
            fresh = self._fresh.get(tensor.file, Spans())
            first, last = tensor.start + new.start, tensor.start + new.end
            comparable = old is not None and (old.start, old.end) == (new.start, new.end)
            if old is None or not comparable or old.value == new.value or fresh.cover(first, last):
                known[tensor.name] = new
                continue
            self._note(f"{tensor.name} was damaged in this device's store: fetching it again.")
            self._manifest.files[tensor.file].spans.remove(tensor.start, tensor.end)
            again.add(tensor.name)
        for name in again:
            known.pop(name, None)
        return again

    async def _verified(self, name: str, stored: Stored) -> bool:
        """Compare a file's sha256 with the hub's, if it is here whole or nearly; False: it is to be read again. Where
        the hub gives none, it is noted for `cache verify`."""
        if stored.checked or self._complete and name not in self._fresh:
            return True
        if self.kept and stored.sum and (stored.size - stored.spans.nbytes) * REST <= stored.size:
            for a, b, here in list(stored.spans.cut(0, stored.size)):
                for start in range(a, b, CATCH_UP_BYTES) if not here else ():
                    await self._gather(name, stored, start, min(b, start + CATCH_UP_BYTES), None)
        hasher, seen = self._hashers.pop(name, (None, 0))
        hasher = hasher or self.io.sha256()
        try:
            while seen < stored.size:
                end = min(stored.size, seen + CATCH_UP_BYTES)
                part = None
                if stored.spans.cover(seen, end):
                    part = await self._take(name, stored, seen, end)
                if part is None:
                    return True  # not all of it is here
                await hasher.update(part)
                seen = end
            sum_ = await hasher.hexdigest()
        finally:
            hasher.close()
        stored.sum = stored.sum or sum_
        stored.checked = stored.sum == sum_
        if not stored.checked:
            await self._refuse(name, stored)
        return stored.checked

    # -- writing -----------------------------------------------------------------------------------------------------

    async def _keep(self, name: str, stored: Stored, place: int, piece: Bytes) -> None:
        """Write a piece of a file, and note it in the journal at a tensor's end."""
        end = place + self.io.nbytes(piece)
        async with self._turn:
            if self._closed or not self.kept or self._library is None:
                return
            if stored.spans.cover(place, end):
                return
            store, blob = self._library.store, self._manifest.blob(stored)
            if not await self._attempt(lambda: store.write(blob, place, piece)):
                return
            begun, reached = self._pending.get(name, (place, place))
            if reached != place:
                await self._note_written(name, stored)
                begun = place
            self._pending[name] = (begun, end)
            if end - begun >= JOURNAL_BYTES or end in self._cuts.get(name, ()):
                await self._note_written(name, stored)

    async def _note_written(self, name: str, stored: Stored) -> None:
        """Journal what was written of a file since the last time."""
        pending = self._pending.pop(name, None)
        if pending is None or self._closed or not self.kept or self._library is None:
            return
        store, manifest = self._library.store, self._manifest
        line = manifest.journal_line(name, stored, *pending)

        async def write() -> None:
            if self._journal_end is None:
                head = manifest.journal()
                await store.replace(manifest.name("journal"), head)
                self._journal_end = len(head)
            await store.write(manifest.name("journal"), self._journal_end, line)

        if await self._attempt(write):
            assert self._journal_end is not None
            self._journal_end += len(line)
            stored.spans.add(*pending)
            self._unflushed.add(name)
            self._unmarked += pending[1] - pending[0]
            if self._unmarked >= FLUSH_BYTES:
                await self._attempt(self._flush)

    async def _flush(self) -> None:
        """Wait until everything written is on the medium, and say so in the journal."""
        assert self._library is not None
        store, manifest = self._library.store, self._manifest
        for name in sorted(self._unflushed):
            await store.flush(manifest.blob(manifest.files[name]))
        if self._journal_end is not None:
            await store.write(manifest.name("journal"), self._journal_end, manifest.MARK)
            self._journal_end += len(manifest.MARK)
        self._unflushed.clear()
        self._unmarked = 0

    async def _attempt(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do something in the store; when there is no room make some and try again; when that fails go on without the
        store. Whether it was done."""
        assert self._library is not None
        try:
            try:
                await work()
            except StorageFullError:
                await self._make_room(work)
            return True
        except StorageFullError as error:
            self._note(f"The model is not kept on this device: {error}")
            if not self._complete:
                with suppress(StorageError):
                    await self._library.delete(self._manifest)
        except (StorageError, FileNotFoundError) as error:
            self._note(f"The model is not kept on this device: {error}")
        self.kept = False
        for stored in self._manifest.files.values():
            if not self._complete:
                stored.spans = Spans()
        self._pending.clear()
        return False

    async def _make_room(self, work: Callable[[], Awaitable[None]]) -> None:
        """Delete other models for what this load still writes, then one by one (stores set more aside than is
        written), until the work succeeds. Raises StorageFullError when none is left."""
        assert self._library is not None
        wanted = max(self._missing(), ROOM_BYTES)
        while await self._library.make_room(wanted, self._manifest):
            try:
                return await work()
            except StorageFullError:
                wanted = 1
        raise StorageFullError("there is no room, and no older model to delete.")

    def _missing(self) -> int:
        """Bytes that this load will still write."""
        files = {name: self._manifest.files[name] for name in self._cuts}
        return sum(stored.size - stored.spans.nbytes for stored in files.values())

    # -- ending ------------------------------------------------------------------------------------------------------

    async def commit(self) -> None:
        """See Repository.commit: names for whole files, then the index, then what it replaces goes."""
        if self._library is None or not self.kept:
            return
        library, store, manifest = self._library, self._library.store, self._manifest
        changed = manifest.index() != self._index or self._journal_end is not None
        if changed:
            await self._take_over()
        async with self._turn:

            async def publish() -> None:
                await self._flush()
                for name, stored in manifest.files.items() if store.shared else ():
                    if stored.whole and (stored.checked or stored.sum is None):
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
            self._complete = True
            with suppress(StorageError, FileNotFoundError):  # another may be writing it too
                await library.touch(manifest)
        if self._lock is not None and self._lock.exclusive and self._asked != manifest.commit:
            for commit in await library.supersede(manifest, self._asked):
                self._note(f"{manifest.repository}@{commit[:12]} was replaced and is deleted here.")

    async def close(self) -> None:
        """See Repository.close."""
        async with self._turn:
            self._closed = True
            for hasher, _ in self._hashers.values():
                hasher.close()
            self._hashers.clear()
            if self._lock is not None:
                await self._lock.free()
            if self._library is not None:
                await self._library.store.close()
