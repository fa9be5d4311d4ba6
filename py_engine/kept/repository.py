"""A hub's repository, kept on this device: what was read once is not fetched again.

Bytes are written while they come (kept/writer.py), and each range is noted in a journal. So a load that was cut off
continues at the first missing range. The index is written last and makes the manifest complete; then a load needs no
network. Three things are compared:

    the sha256 of a whole file, with the hub's (of a small file: its git object id), once its last byte has come
    the GPU's checksum of each tensor, with that of the load before: a tensor that differs is fetched again
    the sha256 of a small file, with that of the load before

Where a load quantises, and no other program uses the store, a file of weights "passes by": it is not kept, only what
was made of it. Its sha256 is then compared if one load has read all its bytes in order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

from py_engine.errors import HubError, StorageError
from py_engine.host.io import Bytes, Hasher
from py_engine.kept.derived_file import DerivedFile
from py_engine.kept.library import Library
from py_engine.kept.lock import Note
from py_engine.kept.manifest import Manifest, Stored
from py_engine.kept.sums import TensorSums
from py_engine.kept.writer import Writer
from py_engine.sources.hub import ChangedError, HubRepository
from py_engine.sources.jobs import Job, TensorInfo
from py_engine.sources.repository import Repository, Sum, check_name

# A file of which at most this part (one REST-th) is missing is fetched to its end, so that its sha256 can be compared.
REST = 8
CATCH_UP_BYTES = 4 << 20  # read at a time for that
# The largest file whose git object id is compared, in Python; larger files have a sha256.
GIT_BYTES = 16 << 20


class KeptRepository(Repository):
    """A Repository that keeps what it reads. Without a `library` nothing is kept, but hashes are compared."""

    wants_sums = True

    def __init__(
        self,
        hub: HubRepository,
        manifest: Manifest,
        sums: TensorSums,
        library: Library | None,
        writer: Writer,
        note: Note,
    ) -> None:
        super().__init__(hub.address, hub.io)
        self.local = writer.complete
        self._hub = hub
        self._manifest = manifest
        self._library = library
        self._sums = sums
        self._writer = writer
        self._note = note
        self._tensors: set[TensorInfo] = set()  # that this load reads
        self._derived: DerivedFile | None = None
        self._hashers: dict[
            str, tuple[Hasher, int]
        ] = {}  # by file, with how many bytes each has got
        self._refused: set[str] = set()  # files whose sha256 was wrong once
        if library is None:
            manifest.learn(hub.listing(), hub.complete)

    @property
    def kept(self) -> bool:
        return self._writer.kept

    @property
    def revision(self) -> str | None:
        return self._manifest.commit

    def files(self) -> list[str]:
        return sorted(name for name, stored in self._manifest.files.items() if not stored.form)

    def sha256(self, name: str) -> str | None:
        stored = self._manifest.files.get(name)
        return stored.sum if stored else None

    async def size(self, name: str) -> int:
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
        """Bytes of a file: what is here comes from the store, the rest from the hub, and is then kept. Raises HubError,
        and StorageError for a derived file that is no longer here."""
        stored = await self._find(name)
        if end is None:
            end = stored.size
        if not 0 <= start <= end <= stored.size:
            raise HubError(
                f"{self.address}: {name} has {stored.size} bytes; {start} to {end} is no range."
            )
        if start == end:
            return b""
        whole = start == 0 and end == stored.size and not stored.form
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
        if self.kept and not stored.form and not stored.spans.cover(start, end):
            await self._writer.take_over()  # another load may have stored it meanwhile
        for a, b, here in list(stored.spans.cut(start, end)):
            part = await self._take(name, stored, a, b) if here else None
            if part is None:
                if stored.form:
                    raise StorageError(f"{name} is not in this device's store.")
                part = await self._fetch(name, stored, a, b, on_bytes)
            elif on_bytes is not None:
                on_bytes(b - a)
            parts.append(part)
        data = parts[0] if len(parts) == 1 else self.io.join(parts)
        if end - start < stored.size and not stored.form:
            await self._hash(name, stored, start, data)
        return data

    async def _take(self, name: str, stored: Stored, start: int, end: int) -> Bytes | None:
        """Bytes of the store. None when it does not give them; then they count as missing."""
        assert self._library is not None
        blob = self._manifest.blob(stored)
        try:
            data = await self._library.store.read(blob, start, end)
            if self.io.nbytes(data) == end - start:
                return data
            reason = "it was cut short"
        except FileNotFoundError:
            reason, start = "it was removed", 0
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
        async with self._writer.writing(name, stored) as write:

            async def put(place: int, piece: Bytes) -> None:
                stored.etag = self._hub.etag(name)
                await write(place, piece)

            if stored.etag and stored.spans.ranges:
                self._hub.expect_etag(name, stored.etag)
            try:
                data = await self._hub.stream(
                    name, start, end, on_bytes, put if self.kept else None
                )
            except HubError as error:
                # A file without a sha256 has changed on the hub (status 416: it is shorter now).
                if isinstance(error, ChangedError) or error.status == 416 and stored.etag:
                    self._hub.begin_anew(name)
                    self._manifest.files.pop(name, None)  # its size is not known any more
                    await self._writer.forget(name, stored)
                raise
        self._sums.brought(name, start, end)
        return data

    # -- comparing ---------------------------------------------------------------------------------------------------

    async def expect(self, jobs: Sequence[Job]) -> DerivedFile | None:
        self._tensors = {job.tensor for job in jobs}
        self._derived = await self._writer.expect(jobs)
        return self._derived

    async def _hash(self, name: str, stored: Stored, start: int, data: Bytes) -> None:
        """Add bytes to the file's sha256 if they follow those that were added before."""
        header = self._writer.passes_by(name)
        if stored.checked or self._writer.complete and header is None:
            return
        if start == 0 and name not in self._hashers:
            self._hashers[name] = (self.io.sha256(), 0)
        elif name not in self._hashers and start == header and start <= CATCH_UP_BYTES:
            derived = self._derived
            if derived is not None and not any(map(derived.has, derived.table.from_file(name))):
                # The header first, since all the rest will pass by.
                await self._gather(name, stored, 0, start, None)
        hasher, seen = self._hashers.get(name, (None, 0))
        end = start + self.io.nbytes(data)
        if hasher is not None and start <= seen < end:
            await hasher.update(self.io.slice(data, seen - start, end - start))
            self._hashers[name] = (hasher, end)
        elif hasher is not None and start > seen and header is not None:
            hasher.close()  # the bytes between will not come any more
            del self._hashers[name]

    async def _sound(self, name: str, stored: Stored, data: Bytes) -> bool:
        """Compare a file that was read whole. False: it must be read again. Raises HubError."""
        sum_ = await self.io.digest(data)
        if stored.sum is None and await self._is_git_object(name, data):
            stored.sum = sum_
        stored.checked = stored.sum == sum_
        if not stored.checked:
            await self._refuse(name, stored)
        return stored.checked

    async def _is_git_object(self, name: str, data: Bytes) -> bool:
        """Whether a small file has the git object id that the hub gives. True where the hub gives none."""
        listed = self._hub.listing().get(name)
        size = self.io.nbytes(data)
        if listed is None or listed.git_oid is None or size > GIT_BYTES:
            return True
        head = f"blob {size}\0".encode()
        return hashlib.sha1(head + self.io.to_bytes(data)).hexdigest() == listed.git_oid

    async def _refuse(self, name: str, stored: Stored) -> None:
        """Forget a file's bytes, which have the wrong sha256. Raises HubError the second time: then it is the hub that
        gives them."""
        self._sums.forget(name)
        again = name not in self._refused and self.kept
        if again:
            self._refused.add(name)
            self._note(f"{name} does not have the sha256 that it should have: fetching it again.")
        hasher, _ = self._hashers.pop(name, (None, 0))
        if hasher is not None:
            hasher.close()
        self._hub.begin_anew(name)
        await self._writer.forget(name, stored)
        if not again:
            raise HubError(
                f"{self.address}: {name} as it was fetched does not have the sha256 that its hub gives"
                f" ({stored.sum}). The hub, or a proxy on the way, changes files; check HF_ENDPOINT, or try later."
            )

    async def check(self, sums: Mapping[TensorInfo, Sum]) -> set[str]:
        again: set[str] = set()
        known, derived = self._manifest.sums, self._derived
        for tensor, new in sums.items():
            self._sums.doubt(tensor, new)
        for file in sorted({tensor.file for tensor in self._tensors}):
            if not await self._verified(file, self._manifest.files[file]):
                again |= {tensor.name for tensor in self._tensors if tensor.file == file}
        for name in again:
            known.pop(name, None)
        for tensor, new in sums.items():
            if tensor.name in again:
                continue
            if derived and tensor.file == derived.table.name and not derived.has(tensor):
                continue  # not kept; what it was made from has a checksum of its own
            if self._sums.good(tensor, new):
                known[tensor.name] = new
                continue
            self._note(f"{tensor.name} was damaged in this device's store: fetching it again.")
            self._manifest.files[tensor.file].spans.remove(tensor.start, tensor.end)
            again.add(tensor.name)
        return again

    async def _verified(self, name: str, stored: Stored) -> bool:
        """Compare a file's sha256 with the hub's, if all or nearly all of it is here. False: it must be read again.
        Where the hub gives none, the sha256 is noted for `cache verify`."""
        if self._writer.passes_by(name) is not None:
            return await self._passed(name, stored)
        if stored.checked or self._writer.complete and not self._sums.is_fresh(name):
            return True
        nearly = (stored.size - stored.spans.nbytes) * REST <= stored.size
        if self.kept and stored.sum and (nearly or name in self._refused):
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

    async def _passed(self, name: str, stored: Stored) -> bool:
        """As `_verified`, for a file that passed by, if its bytes came in order."""
        while name in self._hashers and (seen := self._hashers[name][1]) < stored.size:
            if (stored.size - seen) * REST > stored.size:
                break
            await self._gather(name, stored, seen, min(stored.size, seen + CATCH_UP_BYTES), None)
        hasher, seen = self._hashers.pop(name, (None, 0))
        if hasher is None:
            return True
        try:
            if seen < stored.size:
                return True
            sum_ = await hasher.hexdigest()
        finally:
            hasher.close()
        if stored.sum in (None, sum_):
            return True
        await self._refuse(name, stored)
        return False

    # -- ending ------------------------------------------------------------------------------------------------------

    async def commit(self) -> None:
        await self._writer.commit()

    async def close(self) -> None:
        for hasher, _ in self._hashers.values():
            hasher.close()
        self._hashers.clear()
        await self._writer.close()
