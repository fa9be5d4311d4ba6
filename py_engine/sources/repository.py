"""The files of one model: the interface for all places, and the one for folders.

Other places: sources/hub.py (a hub), kept/repository.py (a hub, with copies on this device).
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from py_engine.errors import FormatError, HubError
from py_engine.host.io import Bytes, Io
from py_engine.host.json_text import parse_json
from py_engine.sources.derived import Derived
from py_engine.sources.jobs import Job, TensorInfo

# Of a file that is read whole. The largest, tokenizer.json, has tens of MB.
MAX_WHOLE_BYTES = 256 << 20


@dataclass(frozen=True)
class Sum:
    """The GPU's checksum (ops/checksum.py) of bytes start..end of a tensor, counted from its first."""

    start: int
    end: int
    value: int


class DerivedTensors(Protocol):
    """Stores what a load quantises (kept/derived_file.py)."""

    table: Derived  # which tensor is where

    @property
    def wanted(self) -> bool:
        """Whether it is still being stored."""

    def steps(self, job: Job) -> list[Job]:
        """The jobs to do for a job: itself, or jobs that upload its result if that is stored already."""

    async def put(self, here: TensorInfo, start: int, data: Bytes) -> None:
        """Write bytes of a tensor from its byte `start` on."""

    async def finish(self, sources: Iterable[TensorInfo], sums: Mapping[TensorInfo, Sum]) -> None:
        """Enter what was made of these tensors of the checkpoint, if all of it is written. `sums`: of the bytes so far,
        theirs and those of what was made of them."""


class Repository(abc.ABC):
    """Files of one model at one revision. Names are relative, with `/`.

    Whoever opened it calls `close`; a load that went well calls `commit` before.
    """

    local = False  # whether the files are on this device, so that small reads are cheap
    wants_sums = False  # whether `check` compares checksums of what was uploaded

    def __init__(self, address: str, io: Io) -> None:
        self.address = address
        self.io = io

    @property
    @abc.abstractmethod
    def revision(self) -> str | None:
        """The commit of a repository on a hub; None for a folder."""

    @property
    def kept(self) -> bool | None:
        """Whether what is read is stored on this device for later loads; None: it was here before."""
        return None

    @abc.abstractmethod
    def files(self) -> list[str]:
        """Names of all files, sorted; of a mirror without a listing, those that were asked for and exist."""

    @abc.abstractmethod
    async def size(self, name: str) -> int:
        """A file's bytes. Raises HubError (status 404) when there is no such file."""

    async def exists(self, name: str) -> bool:
        """Whether there is such a file. Raises HubError when that cannot be found out."""
        try:
            await self.size(name)
        except HubError as error:
            if error.status == 404:
                return False
            raise
        return True

    @abc.abstractmethod
    async def read(
        self,
        name: str,
        start: int = 0,
        end: int | None = None,
        on_bytes: Callable[[int], None] | None = None,
    ) -> Bytes:
        """Bytes start..end (exclusive; None: to the file's end) as the host's own buffer, exactly that many
        (of an empty range: `b""`).

        `on_bytes(n)` is told of each n bytes as they come, and of -n when a failed attempt's bytes are dropped.
        Raises HubError.
        """

    def sha256(self, name: str) -> str | None:
        """The sha256 that the hub gives for a large file, else None."""
        return None

    async def expect(self, jobs: Sequence[Job]) -> DerivedTensors | None:  # noqa: ARG002
        """Announce the jobs of a load, which then calls `check`. Returns the file that stores what they quantise."""
        return None

    async def check(self, sums: Mapping[TensorInfo, Sum]) -> set[str]:  # noqa: ARG002
        """Compare the checksums of what was uploaded. Returns the names of tensors to read and upload again, since
        their bytes on this device were wrong. Raises HubError when the hub's own bytes are wrong."""
        return set()

    async def commit(self) -> None:  # noqa: B027
        """Store what was read for the next load: all of it is right."""

    async def close(self) -> None:  # noqa: B027
        """Close files and free locks. What was stored so far stays."""

    async def bytes(self, name: str, limit: int = MAX_WHOLE_BYTES) -> bytes:
        """A whole small file. Raises HubError; FormatError when it is larger than `limit` bytes."""
        size = await self.size(name)
        if size > limit:
            raise FormatError(
                f"{self.address}: {name} has {size} bytes, more than the {limit} that such a file may have."
                " It is not what its name says; check the repository."
            )
        return self.io.to_bytes(await self.read(name, 0, size)) if size else b""

    async def json(self, name: str) -> Any:
        """A file parsed as JSON. Raises HubError, FormatError."""
        body = await self.bytes(name)
        where = f"{self.address}: {name}"
        if body.lstrip()[:1] == b"<":
            raise HubError(f"{where} is a web page, not JSON: {html_advice()}")
        return parse_json(body, where, lenient=True)

    async def json_object(self, name: str) -> dict[str, Any]:
        """The object in a JSON file, {} where there is no such file. Raises HubError, FormatError."""
        if not await self.exists(name):
            return {}
        value = await self.json(name)
        if not isinstance(value, dict):
            raise FormatError(f"{self.address}: {name} is not a JSON object")
        return value


def html_advice() -> str:
    """The part of an error that explains a web page in the place of a file."""
    return "a login wall, a proxy, or an HF_ENDPOINT that is no hub. Check the address."


def check_name(address: str, name: str) -> None:
    """Raise FormatError for a name that leads out of the repository."""
    parts = name.split("/")
    if not name or "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise FormatError(f"{address}: {name!r} is not a file name inside a repository.")


class Subfolder(Repository):
    """The files of one folder of a repository, named as they are in it. Whoever opened the repository closes it.
    Raises FormatError for a folder outside of it."""

    def __init__(self, whole: Repository, folder: str) -> None:
        check_name(whole.address, folder)
        super().__init__(f"{whole.address}: {folder}", whole.io)
        self.local = whole.local
        self._whole = whole
        self._prefix = f"{folder}/"

    @property
    def revision(self) -> str | None:
        return self._whole.revision

    def files(self) -> list[str]:
        """Names of the files in this folder and in those inside it, sorted."""
        names = self._whole.files()
        return [n.removeprefix(self._prefix) for n in names if n.startswith(self._prefix)]

    async def size(self, name: str) -> int:
        return await self._whole.size(self._prefix + name)

    async def read(
        self,
        name: str,
        start: int = 0,
        end: int | None = None,
        on_bytes: Callable[[int], None] | None = None,
    ) -> Bytes:
        return await self._whole.read(self._prefix + name, start, end, on_bytes)


class FolderRepository(Repository):
    """A local folder, or files picked in the page."""

    local = True

    def __init__(self, address: str, path: str, names: list[str], io: Io) -> None:
        super().__init__(address, io)
        self._path = path.rstrip("/") or "/"
        self._names = names

    @property
    def revision(self) -> str | None:
        """None: a folder has no commits."""
        return None

    def files(self) -> list[str]:
        """Names of the files in the folder and in those inside it, sorted (host/io.py says which)."""
        return list(self._names)

    def _place(self, name: str) -> str:
        check_name(self.address, name)
        return f"{self._path}/{name}"

    async def size(self, name: str) -> int:
        """A file's bytes. Raises HubError (status 404) when there is no such file."""
        size = await self.io.file_size(self._place(name))
        if size is None:
            raise HubError(f"{self.address}: there is no file {name} in this folder.", 404)
        return size

    async def read(
        self,
        name: str,
        start: int = 0,
        end: int | None = None,
        on_bytes: Callable[[int], None] | None = None,
    ) -> Bytes:
        """Bytes start..end, as Repository.read gives them. Raises HubError."""
        try:
            body = await self.io.read_file(self._place(name), start, end)
        except FileNotFoundError as error:
            raise HubError(f"{self.address}: there is no file {name} ({error}).", 404) from error
        except OSError as error:
            raise HubError(f"{self.address}: {name} cannot be read ({error}).") from error
        got = self.io.nbytes(body)
        if end is not None and got != end - start:
            raise HubError(
                f"{self.address}: {name} ends at byte {start + got}, before byte {end} that was asked for."
                " It was cut or changed; copy it again."
            )
        if on_bytes is not None and got:
            on_bytes(got)
        return body
