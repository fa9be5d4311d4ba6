"""Network, files and time, as the engine sees them: ranged fetches, folders, stores, a clock.

`Bytes` is the host's own kind of buffer: `bytes`/`memoryview` in CPython, a JS `Uint8Array` in the browser. The engine
passes it on to `Gpu.write` without looking inside, so weights never enter Python's heap in a browser. `to_bytes` copies
small things (headers, JSON) into Python.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from py_engine.errors import HubError
from py_engine.host.store import BlobStore, Bytes

__all__ = ["Bytes", "Hasher", "Io", "Response", "Sink", "check_headers", "shown"]

LIST_DEPTH = 3  # folders inside a model's folder that are looked into, one inside the other
LIST_FILES = 10_000  # so many named, no further folder is looked into: it is no model's


def shown(url: str) -> str:
    """An address as messages may show it: without user and password, and without the query, which holds the signature
    where a hub redirects."""
    head, mark, _ = url.partition("?")
    scheme, slashes, rest = head.partition("#")[0].partition("://")
    place, slash, path = rest.partition("/")
    plain = f"{scheme}{slashes}{place.rpartition('@')[2]}{slash}{path}"
    plain = plain.encode("utf-8", "backslashreplace").decode()  # so that it can be printed
    return f"{plain}?..." if mark else plain


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise HubError for a header that HTTP cannot carry. The error does not show the value, which may be a secret."""
    for name, value in headers.items():
        if not re.fullmatch(r"[\t -~]*", value):
            raise HubError(
                f"the header {name} holds a line feed, or a sign beyond ASCII: it cannot be sent. Check HF_TOKEN.",
                attempts=1,
            )


@dataclass(frozen=True)
class Response:
    """The answer to one request: status, headers (names in lower case), body, and the address after redirects."""

    status: int
    headers: Mapping[str, str]
    body: Bytes
    url: str


@dataclass(frozen=True)
class Sink:
    """Gets the bytes of a body while they come, if `accept(status, headers)` is true.

    `put(offset, data)` gets a piece of the body that begins at `offset`; it is awaited before more is read.
    """

    accept: Callable[[int, Mapping[str, str]], bool]
    put: Callable[[int, Bytes], Awaitable[None]]


class Hasher(abc.ABC):
    """Computes the sha256 of bytes that are added piece by piece."""

    @abc.abstractmethod
    async def update(self, data: Bytes) -> None:
        """Add bytes. Their buffer may be reused once this returns."""

    @abc.abstractmethod
    async def hexdigest(self) -> str:
        """The sha256 of everything that was added, as 64 hex digits."""

    def close(self) -> None:  # noqa: B027  (most hosts hold nothing)
        """Free it. A second call does nothing."""


class Io(abc.ABC):
    """Network, files and time of a host."""

    @property
    def handheld(self) -> bool:
        """Whether this is a phone or tablet, whose memory is small."""
        return False

    @abc.abstractmethod
    async def fetch(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        start: int | None = None,
        end: int | None = None,
        timeout_s: float = 30.0,
        method: str = "GET",
        on_bytes: Callable[[int], None] | None = None,
        sink: Sink | None = None,
    ) -> Response:
        """Make one request. `start`..`end` (end exclusive) becomes a Range header; where the server ignores it (status
        200), bytes 0..end are read and no more. Redirects are followed; the Authorization header is not sent to another
        host. `timeout_s` limits the time without any new byte, not the whole time. `on_bytes(n)` is called when n more
        bytes have come; `sink` gets the bytes. Raises HubError, with status None, when no answer came."""

    @abc.abstractmethod
    async def read_file(self, path: str, start: int = 0, end: int | None = None) -> Bytes:
        """A range of a local file (a path in CPython; in the browser a name that the page handed over).
        Raises FileNotFoundError."""

    @abc.abstractmethod
    async def file_size(self, path: str) -> int | None:
        """The size of a local file in bytes; None when there is no such file."""

    @abc.abstractmethod
    async def list_files(self, path: str) -> list[str]:
        """Names of the files in a folder and in the folders inside it, with `/`, sorted. Raises FileNotFoundError.

        Hidden folders are passed over, and so are those that LIST_DEPTH and LIST_FILES exclude."""

    @abc.abstractmethod
    async def open_store(self, name: str, *, records: bool = False) -> BlobStore:
        """Open this device's store `name`: "models" (in CPython the cache that huggingface_hub shares), or any other
        word for a folder that only the engine uses. `records`: for small files that must survive a crash of the page or
        the machine: then a file that is flushed or replaced is on the medium, or the store is not `persistent`.
        Raises StorageError when nothing can be stored at all."""

    @abc.abstractmethod
    def slice(self, data: Bytes, start: int, end: int) -> Bytes:
        """A view of data[start:end], without a copy."""

    @abc.abstractmethod
    def join(self, parts: Sequence[Bytes]) -> Bytes:
        """A new buffer with copies of all parts."""

    def give_back(self, data: Bytes) -> None:  # noqa: B027  (most hosts have fresh memory for nothing)
        """Let the memory of a slice of weights be used for another one. Nobody may read `data` any more."""

    @abc.abstractmethod
    def sha256(self) -> Hasher:
        """A new Hasher, for bytes that come piece by piece."""

    @abc.abstractmethod
    async def digest(self, data: Bytes) -> str:
        """The sha256 of bytes that are all here, as 64 hex digits."""

    @abc.abstractmethod
    def nbytes(self, data: Bytes) -> int:
        """The length of `data` in bytes."""

    @abc.abstractmethod
    def to_bytes(self, data: Bytes) -> bytes:
        """A copy as Python bytes; for small things only."""

    @abc.abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Wait; other tasks run meanwhile."""

    @abc.abstractmethod
    def now(self) -> float:
        """Seconds of a monotonic clock."""

    @abc.abstractmethod
    def time(self) -> float:
        """Seconds since 1970, by this device's clock."""

    @abc.abstractmethod
    def env(self, name: str) -> str | None:
        """An environment variable in CPython; in the browser a setting that the page has passed. None when not set."""

    def close(self) -> None:  # noqa: B027  (most hosts keep nothing open)
        """Close idle connections."""
