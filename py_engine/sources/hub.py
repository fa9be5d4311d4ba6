"""A model's files on a hub: which there are at one commit, and ranges of them. Nothing is kept on this device
(kept/repository.py does that).

The hub's protocol is that of huggingface.co: `/api/models/ID/revision/REV?blobs=true` lists files with sizes,
`/ID/resolve/REV/NAME` gives (redirects to) a file and answers ranges.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from py_engine.errors import HubError
from py_engine.host.io import Bytes, Io, Response, Sink
from py_engine.host.json_text import parse_json
from py_engine.sources.hub_client import (
    ATTEMPTS,
    SILENTLY,
    TIMEOUT_S,
    HubClient,
    Waiting,
    refuse_html,
)
from py_engine.sources.repository import Repository, check_name, html_advice

# A server that ignores ranges sends a file from its beginning; up to here that is borne.
MAX_IGNORED_RANGE_BYTES = 32 << 20

COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Listed:
    """What a hub says of a file: its size in bytes, the sha256 if it is large (LFS), else git's object id."""

    size: int | None = None
    sha256: str | None = None
    git_oid: str | None = None


class ChangedError(HubError):
    """A file has changed on the hub since parts of it were read."""


class HubRepository(Repository):
    """`name` on a hub, pinned to one commit when it was opened. `attempts`, `timeout_s`, `waiting`: as HubClient has
    them."""

    def __init__(
        self,
        name: str,
        revision: str,
        io: Io,
        attempts: int = ATTEMPTS,
        timeout_s: float = TIMEOUT_S,
        waiting: Waiting = SILENTLY,
    ) -> None:
        super().__init__(f"{name}@{revision}", io)
        self.name = name
        self.client = HubClient(io, attempts, timeout_s, waiting)
        self._revision = revision
        self._listed: dict[str, Listed | None] = {}  # None: known to be absent
        self.complete = False  # whether all files are known
        self._etags: dict[str, str] = {}

    @classmethod
    async def open(
        cls, name: str, revision: str, io: Io, waiting: Waiting = SILENTLY
    ) -> HubRepository:
        """Ask the hub which commit `revision` is and which files it has. Raises HubError."""
        repository = cls(name, revision, io, waiting=waiting)
        await repository.resolve()
        return repository

    @property
    def revision(self) -> str | None:
        """The commit that the given revision meant when the repository was opened."""
        return self._revision

    def files(self) -> list[str]:
        """Names of all files, sorted; of a mirror without a listing, those that were asked for and exist."""
        return sorted(name for name, entry in self._listed.items() if entry is not None)

    def listing(self) -> dict[str, Listed | None]:
        """What is known of each file by name. None: there is no such file."""
        return dict(self._listed)

    def sha256(self, name: str) -> str | None:
        """The sha256 that the hub gives for a large file, else None."""
        entry = self._listed.get(name)
        return entry.sha256 if entry else None

    async def resolve(self) -> None:
        """Ask which commit the revision is and which files it has. Where there is no listing, check that the repository
        exists. Raises HubError."""
        revision = urllib.parse.quote(self._revision, safe="")
        url = f"{self.client.endpoint}/api/models/{self.name}/revision/{revision}?blobs=true"
        where = f"{self.address}: the listing of {self.client.endpoint}"

        def accept(response: Response) -> None:
            if response.status == 200:
                refuse_html(response, self.io, where)

        try:
            response = await self.client.get(
                url, f"{self.address}: its listing", self._revision, accept
            )
        except HubError as error:
            if error.status not in (404, 405, 501):
                raise
            # A plain file mirror has no API; its files say whether the repository is there.
            if not await self.exists("config.json"):
                raise error from None
            return
        listing = parse_json(self.io.to_bytes(response.body), where)
        siblings = listing.get("siblings") if isinstance(listing, Mapping) else None
        if not isinstance(siblings, list):
            raise HubError(f"{where} holds no list of files. {html_advice()}")
        for sibling in siblings:
            name = sibling.get("rfilename") if isinstance(sibling, Mapping) else None
            if not isinstance(name, str):
                continue
            size, lfs = sibling.get("size"), sibling.get("lfs")
            sha = lfs.get("sha256") if isinstance(lfs, Mapping) else None
            oid = sibling.get("blobId")
            self._listed[name] = Listed(
                size if type(size) is int and size >= 0 else None,
                sha if isinstance(sha, str) and SHA256.fullmatch(sha) else None,
                oid if isinstance(oid, str) and COMMIT.fullmatch(oid) and not sha else None,
            )
        self.complete = True
        self._pin(listing.get("sha"))

    def _pin(self, commit: Any) -> None:
        if isinstance(commit, str) and COMMIT.fullmatch(commit):
            self._revision = commit
            self.address = f"{self.name}@{commit[:12]}"

    def _url(self, name: str) -> str:
        check_name(self.address, name)
        revision = urllib.parse.quote(self._revision, safe="")
        return f"{self.client.endpoint}/{self.name}/resolve/{revision}/{urllib.parse.quote(name)}"

    async def _get(
        self, name: str, accept: Callable[[Response], None], start: int, end: int, **options: Any
    ) -> Response:
        """Bytes start..end of a file. Options and errors as for HubClient.get."""
        what = f"{self.address}: {name}"
        return await self.client.get(
            self._url(name), what, self._revision, accept, start=start, end=end, **options
        )

    async def size(self, name: str) -> int:
        """A file's bytes, from the listing; without one, from the Content-Range of its first byte. Raises HubError."""
        entry = self._listed.get(name)
        if entry is not None and entry.size is not None:
            return entry.size
        if entry is None and (self.complete or name in self._listed):
            raise HubError(f"{self.address} has no file {name}; check the name and revision.", 404)
        size = 0

        def accept(response: Response) -> None:
            nonlocal size
            refuse_html(response, self.io, f"{self.address}: {name}", name)
            total = response.headers.get("content-range", "").rpartition("/")[2]
            if response.status != 206:  # no ranges here: the length of the whole body
                packed = response.headers.get("content-encoding", "identity") != "identity"
                total = "" if packed else response.headers.get("content-length", "")
            if response.status == 416 and not total:
                total = "0"
            if not total.isdigit():
                raise HubError(f"{self.address}: the server does not say how large {name} is.")
            size = int(total)

        try:
            response = await self._get(name, accept, 0, 1, also={416})
        except HubError as error:
            if error.status == 404:
                self._listed[name] = None
            raise
        if not self.complete:
            self._pin(response.headers.get("x-repo-commit"))
        self._listed[name] = Listed(size)
        return size

    async def read(
        self,
        name: str,
        start: int = 0,
        end: int | None = None,
        on_bytes: Callable[[int], None] | None = None,
    ) -> Bytes:
        """Bytes start..end, as Repository.read gives them. A failed attempt starts the range anew. Raises HubError."""
        if end is None:
            end = await self.size(name)
        return await self.stream(name, start, end, on_bytes)

    async def stream(
        self,
        name: str,
        start: int,
        end: int,
        on_bytes: Callable[[int], None] | None = None,
        put: Callable[[int, Bytes], Awaitable[None]] | None = None,
    ) -> Bytes:
        """As `read`. While the bytes come, `put(place, data)` is awaited for pieces of them that begin at `place` in
        the file. After a failed attempt, its pieces come again. Raises HubError."""
        where = f"{self.address}: {name}"
        if not 0 <= start <= end:
            raise HubError(f"{where}: bytes {start} to {end} are not a range.")
        if start == end:
            return b""
        body: Bytes = None

        def accept(response: Response) -> None:
            nonlocal body
            refuse_html(response, self.io, where, name)
            body = self._part(response, name, where, start, end)

        sink = None
        streamed = False

        def ranged(status: int, headers: Mapping[str, str]) -> bool:
            nonlocal streamed
            streamed = (
                status == 206
                and _starts_at(headers.get("content-range", ""), start)
                and "content-encoding" not in headers
                and not headers.get("content-type", "").startswith("text/html")
                and self._same_file(name, headers)
            )
            return streamed

        if put is not None:
            give = put
            sink = Sink(ranged, lambda offset, data: give(start + offset, data))
        await self._get(name, accept, start, end, on_bytes=on_bytes, sink=sink)
        if (
            put is not None and not streamed
        ):  # for example the whole file, from a server without ranges
            await put(start, body)
        return body

    def begin_anew(self, name: str) -> None:
        """Forget the ETag of a file: its next answer counts as the first, and earlier parts are not used."""
        self._etags.pop(name, None)

    def etag(self, name: str) -> str:
        """The ETag of a file's bytes; "" where the hub gives a sha256, and before the first answer."""
        return "" if self.sha256(name) else self._etags.get(name, "")

    def expect_etag(self, name: str, etag: str) -> None:
        """Set the ETag under which parts of a file came in an earlier load."""
        self._etags.setdefault(name, etag)

    def _same_file(self, name: str, headers: Mapping[str, str]) -> bool:
        """Whether the ETag is that of the file's first answer. Always true where the hub gives a sha256, which is
        compared instead."""
        etag = headers.get("etag")
        return not etag or bool(self.sha256(name)) or self._etags.setdefault(name, etag) == etag

    def _part(self, response: Response, name: str, where: str, start: int, end: int) -> Bytes:
        """Bytes start..end of the file, from the body of a response. Raises HubError."""
        got = self.io.nbytes(response.body)
        coding = response.headers.get("content-encoding", "identity")
        if response.status == 206 and coding != "identity":
            raise HubError(
                f"{where}: the server compressed a range ({coding}), unasked. Try again."
            )
        if not self._same_file(name, response.headers):
            raise ChangedError(
                f"{where} changed on the hub since parts of it were read (another ETag). Load it again."
            )
        if response.status == 206:
            given = response.headers.get("content-range", "")
            if given and not _starts_at(given, start):
                raise HubError(
                    f"{where}: asked for byte {start} on, was given {given!r}. Try again."
                )
            first = 0
        else:  # the whole file, from a server that ignores ranges
            if end > MAX_IGNORED_RANGE_BYTES:
                raise HubError(
                    f"{where}: the server ignores Range requests, so bytes {start} to {end} cannot be"
                    " read without fetching everything before them. Use a hub or server with ranges.",
                    response.status,
                )
            first = start
        if got < first + end - start:
            raise HubError(
                f"{where}: the body has {got} bytes where {first + end - start} were asked for. Try again."
            )
        return self.io.slice(response.body, first, first + end - start)


def _starts_at(content_range: str, start: int) -> bool:
    return content_range.replace(" ", "").startswith((f"bytes{start}-", f"bytes={start}-"))
