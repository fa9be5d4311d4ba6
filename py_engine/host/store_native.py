"""BlobStore in CPython: plain files below a folder, locks by flock."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from py_engine.errors import StorageError, StorageFullError
from py_engine.host.store import BlobStore, Bytes, check_name

if sys.platform != "win32":
    import fcntl

LOCKS = ".locks"  # a folder below the root; huggingface_hub has its own locks in it, and does not take it for a model
LOCK_POLL_S = 0.05
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class FileStore(BlobStore):
    """Files below the folder `root`, which the first write makes."""

    kind = "files"

    def __init__(self, root: Path, *, shared: bool = False) -> None:
        self.root = root
        self.shared = shared

    def _place(self, name: str) -> Path:
        check_name(name)
        return self.root / name

    async def names(self, folder: str = "") -> list[str]:
        return await asyncio.to_thread(self._names, self._place(folder) if folder else self.root)

    def _names(self, folder: Path) -> list[str]:
        with _errors(str(folder)):
            found = [p.relative_to(self.root) for p in folder.rglob("*") if p.is_file()]
        return sorted(p.as_posix() for p in found if p.parts[0] != LOCKS)

    async def size(self, name: str) -> int | None:
        with _errors(name):
            place = self._place(name)
            return place.stat().st_size if place.is_file() else None

    async def read(self, name: str, start: int = 0, end: int | None = None) -> Bytes:
        return await asyncio.to_thread(_read, self._place(name), start, end)

    async def write(self, name: str, offset: int, data: Bytes) -> None:
        await asyncio.to_thread(_write, self._place(name), offset, data)

    async def flush(self, name: str) -> None:
        await asyncio.to_thread(_flush, self._place(name))

    async def replace(self, name: str, data: bytes) -> None:
        await asyncio.to_thread(_replace, self._place(name), data)

    async def delete(self, name: str) -> None:
        """Delete a file, or a folder with everything in it, and then every folder above it that is empty."""
        await asyncio.to_thread(self._delete, self._place(name))

    def _delete(self, place: Path) -> None:
        with _errors(str(place)):
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)
        for folder in place.parents:
            if folder == self.root:
                break
            try:
                folder.rmdir()
            except OSError:  # not empty, or not there
                break

    async def rename(self, name: str, new: str) -> None:
        with _errors(name):
            target = self._place(new)
            target.parent.mkdir(parents=True, exist_ok=True)
            self._place(name).replace(target)

    async def link(self, name: str, target: str) -> None:
        """Make a relative symbolic link; a hard link where the system allows no symbolic ones."""
        place, wanted = self._place(name), self._place(target)
        with _errors(name):
            place.parent.mkdir(parents=True, exist_ok=True)
            relative = os.path.relpath(wanted, place.parent)
            if place.is_symlink() and os.readlink(place) == relative:
                return
            beside = _beside(place)
            try:
                beside.symlink_to(relative)
            except OSError as error:
                if error.errno in _FULL:
                    raise
                os.link(wanted, beside)  # Windows without the right to make symbolic links
            beside.replace(place)

    async def links(self, target: str) -> list[str]:
        return await asyncio.to_thread(self._links, self._place(target))

    def _links(self, target: Path) -> list[str]:
        wanted = target.resolve()
        with _errors(str(target)):
            found = (p for p in target.parent.parent.rglob("*") if p.is_symlink())
            return sorted(
                p.relative_to(self.root).as_posix() for p in found if p.resolve() == wanted
            )

    @contextlib.asynccontextmanager
    async def lock(
        self, name: str, *, shared: bool = False, wait: bool = True
    ) -> AsyncIterator[bool]:
        """Hold a lock, by flock; the kernel frees it when the process ends. Where there is no flock (Windows, some
        network disks), and where nothing can be written, every caller gets the lock."""
        place = self._place(f"{LOCKS}/{name}/jerboa.lock")
        try:
            with _errors(name):
                place.parent.mkdir(parents=True, exist_ok=True)
                file = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
        except StorageError as error:
            if not _is_read_only(error.__cause__):
                raise
            yield True
            return
        try:
            held = _try_lock(file, shared)
            while not held and wait:
                await asyncio.sleep(LOCK_POLL_S)
                held = _try_lock(file, shared)
            yield held
        finally:
            os.close(file)


def default_root(name: str) -> tuple[Path, bool]:
    """(folder, shared) of the store `name`. For models it is the Hugging Face cache, found by the variables that
    huggingface_hub reads (HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME). For others it is JERBOA_HOME/NAME, and without that
    variable ~/.cache/jerboa/NAME. Raises StorageError when the path needs a home folder that is not known."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if name == "models":
        hub = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
        home = os.environ.get("HF_HOME") or caches / "huggingface"
        return _at_home(Path(hub or Path(home) / "hub"), "HF_HUB_CACHE"), True
    root = Path(os.environ.get("JERBOA_HOME") or caches / "jerboa")
    return _at_home(root, "JERBOA_HOME") / name, False


def _at_home(folder: Path, variable: str) -> Path:
    try:
        return folder.expanduser()
    except (
        RuntimeError
    ) as error:  # a process without HOME whose user has no entry; an unknown ~user
        raise StorageError(
            f"{folder}: the home folder is not known. Set {variable} to a folder without ~."
        ) from error


def _is_read_only(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)


def _try_lock(file: int, shared: bool) -> bool:
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _read(place: Path, start: int, end: int | None) -> Bytes:
    with _errors(str(place)), place.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        body = bytearray(max(0, (size if end is None else min(end, size)) - start))
        file.seek(start)
        filled = file.readinto(body)
    return memoryview(body)[:filled]


def _write(place: Path, offset: int, data: Bytes) -> None:
    view = memoryview(data).cast("B")
    with _errors(str(place)):
        place.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(place, os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        try:
            os.lseek(file, offset, os.SEEK_SET)
            while view:
                view = view[os.write(file, view) :]
        finally:
            os.close(file)


def _flush(place: Path) -> None:
    with _errors(str(place)):
        file = os.open(place, os.O_RDWR)
        try:
            getattr(os, "fdatasync", os.fsync)(file)
        finally:
            os.close(file)


def _beside(place: Path) -> Path:
    """A name for a new file that will replace another. It is unique, since several threads and machines may write."""
    return place.with_name(f"{place.name}.{secrets.token_hex(4)}.new")


def _replace(place: Path, data: bytes) -> None:
    beside = _beside(place)
    with _errors(str(place)):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(place)
        except OSError:
            beside.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def _errors(what: str) -> Iterator[None]:
    """Turn an OSError into a StorageError that names the file; FileNotFoundError stays as it is."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFullError(f"{what}: there is no room left on this disk.") from error
        raise StorageError(f"{what}: {error.strerror or error}.") from error
