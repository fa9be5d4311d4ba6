"""All manifests in a store: listed, deleted, made room among. kept/manifest.py has the names of the files."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from py_engine.host.io import Io
from py_engine.host.store import BlobStore
from py_engine.kept.manifest import (
    DERIVED,
    INCOMPLETE,
    OURS,
    Manifest,
    Stored,
    folder,
    ref,
    repository_of,
)
from py_engine.sources.hub import COMMIT

_PIECE_BYTES = 4 << 20  # read at a time for a sum


class Library:
    """All manifests of one store. A caller that deletes holds the repository's lock, named `folder(repository)`."""

    def __init__(self, store: BlobStore, io: Io) -> None:
        self.store = store
        self.io = io

    async def _read(self, name: str) -> bytes | None:
        try:
            return self.io.to_bytes(await self.store.read(name))
        except FileNotFoundError:
            return None

    async def load(self, repository: str, commit: str) -> tuple[Manifest | None, bool]:
        """The manifest of a commit (None: nothing is stored), and whether a load of it was finished once."""
        empty = Manifest(repository, commit)
        index, journal = (
            await self._read(empty.name("json")),
            await self._read(empty.name("journal")),
        )
        found = Manifest.from_index(index) if index else None
        begun = Manifest.from_journal(journal) if journal else None
        if found is None or found.commit != commit:
            return begun, False
        if begun is not None:  # a later load, which wanted more, was cut off
            for name, stored in begun.files.items():
                kept = found.files.setdefault(name, stored)
                if kept.blob == stored.blob:
                    for start, end in stored.spans.ranges:
                        kept.spans.add(start, end)
            found.sums.update(begun.sums)
        return found, True

    async def manifests(self, repository: str | None = None) -> list[tuple[Manifest, bool]]:
        """Every manifest (of one repository), each with whether it is complete."""
        place = f"{folder(repository)}/{OURS}" if repository else ""
        keys = set()
        for name in await self.store.names(place):
            parts = name.split("/")
            stem = parts[-1].partition(".")[0]
            if len(parts) == 3 and parts[1] == OURS and COMMIT.fullmatch(stem):
                keys.add((repository_of(name), stem))
        loaded = [await self.load(*key) for key in sorted(keys)]
        return [(manifest, complete) for manifest, complete in loaded if manifest is not None]

    async def commit_of(self, repository: str, revision: str) -> str | None:
        """The commit that a branch or tag meant when it was last loaded."""
        text = (
            (await self._read(ref(repository, revision)) or b"").decode("ascii", "replace").strip()
        )
        return text if COMMIT.fullmatch(text) else None

    async def used(self, manifest: Manifest) -> float:
        """Seconds since 1970 of the last load; 0 when unknown."""
        with suppress(ValueError):
            return float(await self._read(manifest.name("used")) or 0)
        return 0.0

    async def touch(self, manifest: Manifest) -> None:
        """Note that a manifest is used now."""
        await self.store.replace(manifest.name("used"), f"{self.io.time():.3f}".encode())

    async def settle(self, manifest: Manifest) -> None:
        """Find where the bytes lie. Forget those that are gone, because somebody cut or removed the file."""
        for stored in manifest.files.values():
            stored.final = True
            if not stored.spans.ranges:
                stored.final = not self.store.shared
                continue
            size = await self.store.size(manifest.blob(stored))
            if size is None and self.store.shared:
                stored.final = False
                size = await self.store.size(manifest.blob(stored))
            if size != stored.size:
                stored.spans.remove(size or 0, stored.size)
                stored.checked = False

    async def adopt(self, manifest: Manifest) -> None:
        """Use files of the same content that are here already: from other commits, or (in a store that other programs
        use) written by huggingface_hub."""
        known = {}
        for other, _ in await self.manifests(manifest.repository):
            if other.commit != manifest.commit:
                known.update({s.blob: (s, other) for s in other.files.values() if s.spans.ranges})
        for stored in manifest.files.values():
            if stored.spans.ranges:
                continue
            if stored.blob in known:
                same, other = known[stored.blob]
                stored.spans.ranges = list(same.spans.ranges)
                stored.sum, stored.ours = same.sum, same.ours
                # The blob's name of a derived file says that it was made of the same weights.
                alike = bool(stored.form) or manifest.has_weights_of(other)
                if alike:
                    manifest.sums = other.sums | manifest.sums
                # Otherwise no checksums of its tensors are known, so the file's sha256 is compared once more.
                stored.checked = same.checked and alike
            elif (
                self.store.shared
                and not stored.form
                and await self.store.size(manifest.blob(stored, True)) == stored.size
            ):
                stored.spans.add(0, stored.size)
                stored.ours = False

    async def delete_bytes(self, manifest: Manifest, stored: Stored) -> None:
        """Delete a file's bytes, under the final name and under that of an incomplete one: `settle` would take what is
        left under the other name for them."""
        for final in (True, False):
            await self.store.delete(manifest.blob(stored, final))
        stored.final = not self.store.shared

    async def sha256(self, manifest: Manifest, stored: Stored) -> str:
        """The sha256 of a whole file, read from the store."""
        hasher = self.io.sha256()
        try:
            for start in range(0, stored.size, _PIECE_BYTES):
                end = min(stored.size, start + _PIECE_BYTES)
                await hasher.update(await self.store.read(manifest.blob(stored), start, end))
            return await hasher.hexdigest()
        finally:
            hasher.close()

    async def note_sha256(self, manifest: Manifest, stored: Stored) -> None:
        """Note the sha256 of a new derived file, for `cache verify` (which browsers have not, so they need none)."""
        if stored.sum is None and stored.whole:
            stored.sum, stored.checked = await self.sha256(manifest, stored), True

    async def delete(self, manifest: Manifest, keep: Manifest | None = None) -> int:
        """Delete all of a manifest; returns the bytes that this freed.

        Blobs stay that another manifest, `keep` (which may not be written down yet) or another program still uses. The
        index and the journal are deleted last: if this is cut off, they still list every file that is left."""
        others = [m for m, _ in await self.manifests(manifest.repository)]
        used = {
            stored.blob
            for other in (*others, *([keep] if keep else []))
            if (other.repository, other.commit) != (manifest.repository, manifest.commit)
            for stored in other.files.values()
        }
        freed = 0
        for name, stored in manifest.files.items():
            if not stored.ours:
                continue
            await self.store.delete(manifest.snapshot(name))
            if stored.blob in used or await self.store.links(manifest.blob(stored, True)):
                continue
            await self.delete_bytes(manifest, stored)
            freed += stored.spans.nbytes
        if not await self.store.names(manifest.snapshot("").rstrip("/")):
            for revision in manifest.refs - {manifest.commit}:
                if await self.commit_of(manifest.repository, revision) == manifest.commit:
                    await self.store.delete(manifest.ref(revision))
        about = await self.store.names(f"{folder(manifest.repository)}/{OURS}")
        for name in sorted(about, key=lambda name: name.endswith((".json", ".journal"))):
            if name.startswith(manifest.name("")):
                await self.store.delete(name)
        return freed

    async def sweep(self) -> int:
        """Delete blobs of ours that no manifest has, because a process ended before it could note their first bytes. In
        a store that other programs use, only incomplete and derived files. Returns the bytes that this freed."""
        known = {
            name
            for manifest, _ in await self.manifests()
            for stored in manifest.files.values()
            for name in (manifest.blob(stored, True), manifest.blob(stored, False))
        }
        freed = 0
        for name in await self.store.names():
            ours = name.endswith(INCOMPLETE) or f"/{DERIVED}/" in name
            ours = ours or "/blobs/" in name and not self.store.shared
            if not ours or name in known or not (repository := repository_of(name)):
                continue
            async with self.store.lock(folder(repository), wait=False) as held:
                if held:
                    freed += await self.store.size(name) or 0
                    await self.store.delete(name)
        return freed

    async def make_room(self, wanted: int, keep: Manifest) -> int:
        """Delete manifests until `wanted` bytes are free or none is left; returns the bytes that this freed. Other
        commits of the same repository go first, then the least recently used; never `keep`, nor one that is in use."""
        mine = (keep.repository, keep.commit)
        others = [m for m, _ in await self.manifests() if (m.repository, m.commit) != mine]
        order = [(m.repository != keep.repository, await self.used(m), m) for m in others]
        freed = 0
        for elsewhere, _, victim in sorted(order, key=lambda item: item[:2]):
            if freed >= wanted:
                break
            freed += await (self.delete_unused(victim) if elsewhere else self.delete(victim, keep))
        return freed

    async def delete_unused(self, manifest: Manifest) -> int:
        """`delete`, unless somebody is loading the repository: then nothing happens, and 0 is returned."""
        async with self.store.lock(folder(manifest.repository), wait=False) as held:
            return await self.delete(manifest) if held else 0

    async def superseded(self, manifest: Manifest, revision: str) -> list[Manifest]:
        """Manifests that were asked for as `revision` only. That name means the commit of `manifest` now."""
        return [
            other
            for other, _ in await self.manifests(manifest.repository)
            if other.commit != manifest.commit and not other.refs - {revision}
        ]


def total(manifests: Iterable[Manifest]) -> int:
    """Bytes of several manifests; a blob that they share counts once."""
    blobs = {(m.repository, s.blob): s.spans.nbytes for m in manifests for s in m.files.values()}
    return sum(blobs.values())
