"""Bytes from outside: ranged fetches, folders, a clock. The weight bytes of a browser stay JavaScript objects.

`Bytes` is the host's own kind of buffer: `bytes`/`memoryview` in CPython, a JS `Uint8Array` in the browser. The engine
passes it on to `Gpu.write` and never looks inside; `to_bytes` copies it into Python where wanted (headers, JSON).
"""

from __future__ import annotations

import abc
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from py_engine.errors import HubError
from py_engine.host.store import BlobStore, Bytes

__all__ = ["Bytes", "Hasher", "Io", "Response", "Sink", "check_headers", "shown"]


def shown(url: str) -> str:
    """An address as messages may show it: without user and password, and without the query, which signs the addresses
    that a hub redirects to."""
    head, mark, _ = url.partition("?")
    scheme, slashes, rest = head.partition("#")[0].partition("://")
    place, slash, path = rest.partition("/")
    plain = f"{scheme}{slashes}{place.rpartition('@')[2]}{slash}{path}"
    plain = plain.encode("utf-8", "backslashreplace").decode()  # so that it can be printed
    return f"{plain}?..." if mark else plain


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise HubError, which does not show the value, for a header that HTTP cannot carry."""
    for name, value in headers.items():
        if not re.fullmatch(r"[\t -~]*", value):
            raise HubError(
                f"the header {name} holds a line feed, or a sign beyond ASCII: it cannot be sent. Check HF_TOKEN.",
                attempts=1,
            )


@dataclass(frozen=True)
class Response:
    """Status, lower-cased headers, and the body of one request that ended."""

    status: int
    headers: Mapping[str, str]
    body: Bytes
    url: str  # after redirects


@dataclass(frozen=True)
class Sink:
    """Takes a body's bytes while they come, when `accept(status, headers)` says yes to the answer's head.

    `put(offset, data)` gets the bytes from `offset` of the body on and is awaited before more are read; no piece goes
    across one of `cuts` (offsets in the body, ascending).
    """

    accept: Callable[[int, Mapping[str, str]], bool]
    put: Callable[[int, Bytes], Awaitable[None]]
    cuts: Sequence[int] = ()


class Hasher(abc.ABC):
    """A sha256 of bytes that come one after the other."""

    @abc.abstractmethod
    async def update(self, data: Bytes) -> None:
        """Add bytes; they may be reused once this returns."""

    @abc.abstractmethod
    async def hexdigest(self) -> str:
        """The sum of everything added, 64 hex digits."""

    def close(self) -> None:  # noqa: B027  (most hosts hold nothing)
        """Give up, or done. A second call does nothing."""


class Io(abc.ABC):
    """What a host gives for network, files and time."""

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
        """One request; `start`..`end` (end exclusive) becomes a Range header. Redirects are followed; the
        Authorization header is not sent to another host. `timeout_s` is the longest silence, not the whole time.
        `on_bytes(n)` is told of each n bytes as they come; `sink` gets them too.
        Raises HubError when no response came (with status None)."""

    @abc.abstractmethod
    async def read_file(self, path: str, start: int = 0, end: int | None = None) -> Bytes:
        """A range of a local file (a path in CPython; in the browser a name that the page handed over).
        Raises FileNotFoundError."""

    @abc.abstractmethod
    async def file_size(self, path: str) -> int | None:
        """Its size in bytes, None when there is no such file."""

    @abc.abstractmethod
    async def list_files(self, path: str) -> list[str]:
        """Names of the files directly in a folder, sorted."""

    @abc.abstractmethod
    async def open_store(self, name: str, *, records: bool = False) -> BlobStore:
        """This device's store `name`: "models" (natively the hub cache that huggingface_hub shares), or any other
        word for a folder of the engine's own. `records`: small files that must be there after a page or machine that
        died; what is flushed or replaced is on the medium, or the store is not `persistent`.
        Raises StorageError where there is none at all."""

    @abc.abstractmethod
    def slice(self, data: Bytes, start: int, end: int) -> Bytes:
        """A view of data[start:end]; no copy."""

    @abc.abstractmethod
    def join(self, parts: Sequence[Bytes]) -> Bytes:
        """One buffer of all parts, copied."""

    @abc.abstractmethod
    def sha256(self) -> Hasher:
        """A new sum."""

    @abc.abstractmethod
    def nbytes(self, data: Bytes) -> int:
        """Its length in bytes."""

    @abc.abstractmethod
    def to_bytes(self, data: Bytes) -> bytes:
        """A copy as Python bytes (small things only)."""

    @abc.abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Let others run."""

    @abc.abstractmethod
    def now(self) -> float:
        """Monotonic seconds."""

    @abc.abstractmethod
    def time(self) -> float:
        """Seconds since 1970, by this device's clock."""

    @abc.abstractmethod
    def env(self, name: str) -> str | None:
        """A setting of the surroundings: an environment variable in CPython; in the browser what the page passed."""

    def close(self) -> None:  # noqa: B027  (most hosts keep nothing open)
        """Close idle connections."""
