"""The models that are kept on this device, as people see them: listed, verified by their hashes, deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from py_engine.arguments import shown
from py_engine.errors import InputError
from py_engine.host.io import Io
from py_engine.kept.library import Library, total
from py_engine.kept.manifest import Manifest, Stored, folder
from py_engine.sources.address import HUB_ID


@dataclass(frozen=True)
class StoredModel:
    """A repository at a commit. `refs`: the branches and tags that it was asked for by. `nbytes`: bytes of it that are
    here. `complete`: a load of it was finished. `used`: when it was last loaded, in seconds since 1970."""

    model: str
    commit: str
    refs: list[str]
    nbytes: int
    complete: bool
    used: float


@dataclass(frozen=True)
class Inventory:
    """What a store holds. `kind`: as in host/store.py. `nbytes`: of all models; a file that commits share counts once.
    `models`: the last used one first."""

    kind: str
    nbytes: int
    models: list[StoredModel]

    def to_dict(self) -> dict[str, Any]:
        """As plain dicts and lists, for the page and for --json."""
        return asdict(self)


@dataclass(frozen=True)
class Deleted:
    """What `delete` did. `nbytes`: freed. `models`: deleted. `busy`: not deleted, because somebody is loading them."""

    nbytes: int
    models: list[str]
    busy: list[str]

    def to_dict(self) -> dict[str, Any]:
        """As plain dicts and lists, for the page and for --json."""
        return asdict(self)


@dataclass(frozen=True)
class Compared:
    """The state of one file: "good"; "damaged" (it has another sha256); "missing"; or "part" (only the bytes that the
    model needs are here; every load compares those)."""

    model: str
    file: str
    state: str


@asynccontextmanager
async def _library(io: Io) -> AsyncIterator[Library]:
    store = await io.open_store("models")
    try:
        yield Library(store, io)
    finally:
        await store.close()


async def _chosen(library: Library, model: str | None) -> list[tuple[Manifest, bool]]:
    """The manifests of `org/name`, of `org/name@revision`, or all. Raises InputError when there is none."""
    found = await library.manifests()
    if model is None:
        return found
    name, _, revision = model.partition("@")
    if not HUB_ID.fullmatch(model):
        raise InputError(f"{shown(model)} is not a hub id (org/name or org/name@revision).")
    found = [
        (m, complete)
        for m, complete in found
        if m.repository == name and (not revision or revision in m.refs or m.commit == revision)
    ]
    if not found:
        raise InputError(f"{shown(model)} is not kept on this device.")
    return found


async def inventory(io: Io) -> Inventory:
    """Everything that is kept. Raises StorageError."""
    async with _library(io) as library:
        found = await library.manifests()
        models = [
            StoredModel(
                m.repository, m.commit, sorted(m.refs - {m.commit}), m.nbytes, complete,
                await library.used(m),
            )
            for m, complete in found
        ]  # fmt: skip
        models.sort(key=lambda model: -model.used)
        return Inventory(library.store.kind, total(m for m, _ in found), models)


async def delete(io: Io, model: str | None = None) -> Deleted:
    """Delete a model (all commits of `org/name`, or the one of `org/name@revision`), or all models. Files that this
    engine did not write stay. Raises InputError, StorageError."""
    async with _library(io) as library:
        done = Deleted(0, [], [])
        for manifest, _ in await _chosen(library, model):
            name = f"{manifest.repository}@{manifest.commit}"
            async with library.store.lock(folder(manifest.repository), wait=False) as held:
                if held:
                    freed = await library.delete(manifest)
                    done = replace(done, nbytes=done.nbytes + freed, models=[*done.models, name])
                else:
                    done = replace(done, busy=[*done.busy, name])
        if model is None:
            done = replace(done, nbytes=done.nbytes + await library.sweep())
        return done


async def verify(
    io: Io, model: str | None = None, tell: Callable[[Compared], None] = lambda _: None
) -> list[Compared]:
    """Read every file of a model, or of all models, and compare its sha256. `tell` gets each result at once. Nothing is
    changed: the next load fetches again what is damaged. Raises InputError, StorageError."""
    found = []
    async with _library(io) as library:
        for manifest, _ in await _chosen(library, model):
            for name, stored in sorted(manifest.files.items()):
                if not stored.spans.ranges:
                    continue
                state = await _compare(library, manifest, stored)
                result = Compared(f"{manifest.repository}@{manifest.commit}", name, state)
                tell(result)
                found.append(result)
    return found


async def _compare(library: Library, manifest: Manifest, stored: Stored) -> str:
    expected = stored.spans.nbytes
    await library.settle(replace(manifest, files={"": stored}))
    if stored.spans.nbytes != expected:
        return "missing"
    if not stored.whole or stored.sum is None:
        return "part"
    return "good" if await library.sha256(manifest, stored) == stored.sum else "damaged"
