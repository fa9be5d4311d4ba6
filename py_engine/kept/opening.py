"""Opens a hub's repository through this device's store: finds the commit, and what is here of it."""

from __future__ import annotations

from collections.abc import Callable

from py_engine.errors import FormatError, HubError, StorageError
from py_engine.host.io import Io
from py_engine.host.store import BlobStore
from py_engine.kept.library import Library
from py_engine.kept.lock import Note, RepositoryLock
from py_engine.kept.manifest import Manifest, folder
from py_engine.kept.repository import KeptRepository
from py_engine.kept.sums import TensorSums
from py_engine.kept.writer import Writer
from py_engine.sources.hub import COMMIT, HubRepository
from py_engine.sources.hub_client import ATTEMPTS, TIMEOUT_S, Waiting
from py_engine.sources.repository import Repository

# For asking which commit a branch is, when an older commit is here to fall back to.
CHECK_ATTEMPTS = 1
CHECK_TIMEOUT_S = 5.0


async def open_kept(
    name: str,
    revision: str,
    io: Io,
    note: Note,
    *,
    read_only: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Repository:
    """`name` at `revision` (a branch, a tag or a commit) of the hub, through this device's store.

    `note` gets a sentence about each unusual thing. `read_only`: store nothing; use what an earlier load finished, else
    the hub. `check` raises when the caller wants to stop. Raises HubError.
    """
    waiting = Waiting(note, check)
    try:
        store = await io.open_store("models")
        if store.persistent:
            return await _open_in(store, name, revision, io, waiting, read_only)
        note("This browser keeps nothing for the site: the model will be fetched anew each time.")
    except StorageError as error:
        note(f"Nothing is kept on this device: {error}")
    if _offline(io):
        raise HubError(f"HF_HUB_OFFLINE forbids to ask the hub for {name}@{revision}.")
    hub = await HubRepository.open(name, revision, io, waiting)
    return _kept_nowhere(hub, hub.revision or revision, note)


async def _open_in(
    store: BlobStore, name: str, revision: str, io: Io, waiting: Waiting, read_only: bool
) -> Repository:
    library, note = Library(store, io), waiting.note
    try:
        hub, commit = await _resolve(name, revision, io, library, waiting)
        complete = COMMIT.fullmatch(commit) is not None and (await library.load(name, commit))[1]
    finally:
        # A file that is open here could not be written by the holder of the lock.
        await store.close()
    if not COMMIT.fullmatch(commit):
        note(
            f"{hub.client.endpoint} names no commit of {name}: nothing of it is kept on this device."
        )
        return _kept_nowhere(hub, commit, note)
    if read_only and not complete:
        return hub
    held = RepositoryLock(store, folder(name), note)
    try:
        await held.take(shared=complete)
        # Read again: another load may have finished it meanwhile.
        manifest, complete = await library.load(name, commit)
        manifest = manifest or Manifest(name, commit)
        index = manifest.index() if complete else b""
        manifest.learn(hub.listing(), hub.complete)
        # A complete manifest that is asked for by its commit needs no further name.
        if revision != commit or not complete:
            manifest.refs.add(revision)
        await library.adopt(manifest)
        await library.settle(manifest)
        sums = TensorSums(manifest)
        writer = Writer(manifest, sums, library, note, held, revision, index)
        return KeptRepository(hub, manifest, sums, library, writer, note)
    except BaseException:
        await store.close()
        await held.free()
        raise


def _offline(io: Io) -> bool:
    """Whether the user forbids to ask the hub, by the variable that huggingface_hub reads too."""
    return (io.env("HF_HUB_OFFLINE") or "0").lower() in ("1", "on", "yes", "true")


def _kept_nowhere(hub: HubRepository, commit: str, note: Note) -> KeptRepository:
    """The repository when nothing is stored. Hashes are compared nevertheless."""
    manifest = Manifest(hub.name, commit)
    sums = TensorSums(manifest)
    return KeptRepository(hub, manifest, sums, None, Writer(manifest, sums, None, note), note)


async def _resolve(
    name: str, revision: str, io: Io, library: Library, waiting: Waiting
) -> tuple[HubRepository, str]:
    """The hub's client, and the commit to use. The hub is not asked when the revision is a commit that is here. When it
    does not answer, the commit is the one that the branch meant the last time."""
    here = revision if COMMIT.fullmatch(revision) else await library.commit_of(name, revision)
    if here is not None and not (await library.load(name, here))[1]:
        here = None
    if here == revision:
        return HubRepository(name, revision, io, waiting=waiting), revision
    if _offline(io):
        if here is None:
            raise HubError(
                f"{name}@{revision} is not kept on this device, and HF_HUB_OFFLINE forbids to ask the hub."
            )
        return HubRepository(name, here, io, waiting=waiting), here
    if here is None:
        hub = await HubRepository.open(name, revision, io, waiting)
        return hub, hub.revision or revision
    hub = HubRepository(name, revision, io, CHECK_ATTEMPTS, CHECK_TIMEOUT_S, waiting)
    try:
        await hub.resolve()
    except (HubError, FormatError) as error:  # FormatError: a captive portal answered
        waiting.note(
            f"The hub does not tell what {name}@{revision} is now ({error}); using the copy here."
        )
        return HubRepository(name, here, io, waiting=waiting), here
    hub.client.attempts, hub.client.timeout_s = ATTEMPTS, TIMEOUT_S
    return hub, hub.revision or here
