"""Where a model's address leads: a folder, files picked in the page, or `org/name[@revision]` on the hub; and the hub's
client, which keeps nothing (kept/repository.py does).

The hub's protocol is that of huggingface.co: `/api/models/ID/revision/REV?blobs=true` lists files with sizes,
`/ID/resolve/REV/NAME` gives (redirects to) a file and answers ranges. `HF_ENDPOINT` names another hub, `HF_TOKEN` is
sent to it (hub_settings.py). A hub that asks to wait is waited for, up to a bound (rate_limit.py).
"""

from __future__ import annotations

import asyncio
import random
import re
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from py_engine.errors import HubError
from py_engine.host.io import Bytes, Io, Response, Sink, shown
from py_engine.host.json_text import parse_json
from py_engine.sources.hub_settings import hub_settings
from py_engine.sources.rate_limit import wait_asked
from py_engine.sources.repository import (
    FolderRepository,
    Repository,
    check_name,
    html_advice,
)

ATTEMPTS = 5
TIMEOUT_S = 30.0
FIRST_DELAY_S = 0.5  # doubles with each attempt, times a random factor in [0.5, 1.5)
MAX_DELAY_S = 8.0
MAX_WAIT_S = 330.0  # that a hub may ask for, together; its windows are of 300 s
STOP_S = 0.05  # between two looks at whether the caller wants a wait to end
MAX_IGNORED_RANGE_BYTES = 32 << 20  # a server without ranges is borne up to here
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*(@[\w./+-]+)?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")


OpenHub = Callable[[str, str, Io], Awaitable["Repository"]]  # (org/name, revision, io)


async def open_repository(address: str, io: Io, open_hub: OpenHub | None = None) -> Repository:
    """The repository at `address`: a folder's path, `files:NAME` (picked in the page), `org/name` or
    `org/name@revision` on the hub. A folder that exists wins over a hub id. `open_hub` makes the client of a hub;
    without it, one that keeps nothing. Raises HubError."""
    if not address or "\0" in address:
        raise HubError("The model's address is empty or holds a NUL; give a folder or a hub id.")
    picked = address.startswith("files:")
    path = address.removeprefix("files:")
    if picked or not HUB_ID.fullmatch(address) or await _is_folder(path, io):
        try:
            names = await io.list_files(path)
        except FileNotFoundError as error:
            raise HubError(
                f"{address}: there is no such folder, and it is not a hub id either"
                " (org/name or org/name@revision).",
                404,
            ) from error
        return FolderRepository(address, path, names, io)
    name, _, revision = address.partition("@")
    return await (open_hub or HubRepository.open)(name, revision or "main", io)


async def _is_folder(path: str, io: Io) -> bool:
    try:
        return bool(await io.list_files(path))
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class Listed:
    """What a hub says of one file: its size in bytes, the sha256 of a large (LFS) file, git's object id of others."""

    size: int | None = None
    sha256: str | None = None
    git_oid: str | None = None


@dataclass(frozen=True)
class Waiting:
    """What happens while a hub makes us wait: `note` is told in a sentence, `check` raises when the caller wants to
    stop."""

    note: Callable[[str], None] = lambda _: None
    check: Callable[[], None] = lambda: None


class ChangedError(HubError):
    """A file is not the one any more of which parts were read."""


class HubRepository(Repository):
    """`name` on a hub, pinned to one commit when it was opened. `attempts` at a request, each given up after
    `timeout_s` of silence."""

    def __init__(
        self,
        name: str,
        revision: str,
        io: Io,
        attempts: int = ATTEMPTS,
        timeout_s: float = TIMEOUT_S,
        waiting: Waiting = Waiting(),
    ) -> None:
        super().__init__(f"{name}@{revision}", io)
        self.name = name
        self._settings = hub_settings(io)
        self.endpoint = self._settings.endpoint
        self._waiting = waiting
        self._noted_until = 0.0
        self.attempts = attempts
        self.timeout_s = timeout_s
        self._revision = revision
        self._listed: dict[str, Listed | None] = {}  # None: known to be absent
        self.complete = False  # whether all files are known
        self._etags: dict[str, str] = {}

    @classmethod
    async def open(
        cls, name: str, revision: str, io: Io, waiting: Waiting = Waiting()
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
        """See Repository.files."""
        return sorted(name for name, entry in self._listed.items() if entry is not None)

    def listing(self) -> dict[str, Listed | None]:
        """What is known of its files; None: that there is no such file."""
        return dict(self._listed)

    def sha256(self, name: str) -> str | None:
        """See Repository.sha256."""
        entry = self._listed.get(name)
        return entry.sha256 if entry else None

    async def resolve(self) -> None:
        """Ask which commit the revision is and which files it has; without a listing, see that it is there.
        Raises HubError."""
        revision = urllib.parse.quote(self._revision, safe="")
        url = f"{self.endpoint}/api/models/{self.name}/revision/{revision}?blobs=true"
        where = f"{self.address}: the listing of {self.endpoint}"

        def accept(response: Response) -> None:
            if response.status == 200:
                _refuse_html(response, self.io, where)

        try:
            response = await self._request(url, "its listing", accept)
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
        return f"{self.endpoint}/{self.name}/resolve/{revision}/{urllib.parse.quote(name)}"

    async def size(self, name: str) -> int:
        """See Repository.size. From the listing; without one from the Content-Range of the file's first byte."""
        entry = self._listed.get(name)
        if entry is not None and entry.size is not None:
            return entry.size
        if entry is None and (self.complete or name in self._listed):
            raise HubError(f"{self.address} has no file {name}; check the name and revision.", 404)
        size = 0

        def accept(response: Response) -> None:
            nonlocal size
            _refuse_html(response, self.io, f"{self.address}: {name}", name)
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
            response = await self._request(self._url(name), name, accept, 0, 1, {416})
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
        """See Repository.read. Each failed attempt starts the range anew."""
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
        cuts: Sequence[int] = (),
    ) -> Bytes:
        """`read`, and `put(place, data)` is awaited for the file's bytes from `place` on while they come, in pieces
        that end at each of `cuts` (places in the file, ascending). A failed attempt's pieces come again.
        Raises HubError."""
        where = f"{self.address}: {name}"
        if not 0 <= start <= end:
            raise HubError(f"{where}: bytes {start} to {end} are not a range.")
        if start == end:
            return b""
        body: Bytes = None

        def accept(response: Response) -> None:
            nonlocal body
            _refuse_html(response, self.io, where, name)
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
            inside = [cut - start for cut in cuts if start < cut < end]
            sink = Sink(ranged, lambda offset, data: give(start + offset, data), inside)
        await self._request(self._url(name), name, accept, start, end, on_bytes=on_bytes, sink=sink)
        if put is not None and not streamed:  # a whole file, say, of a server without ranges
            await put(start, body)
        return body

    def begin_anew(self, name: str) -> None:
        """Its next answer counts as the first: what came before is not used."""
        self._etags.pop(name, None)

    def etag(self, name: str) -> str:
        """Under which its bytes come; "" where the hub gives its sha256, and before the first answer."""
        return "" if self.sha256(name) else self._etags.get(name, "")

    def expect_etag(self, name: str, etag: str) -> None:
        """Parts of it came under this one in an earlier load."""
        self._etags.setdefault(name, etag)

    def _same_file(self, name: str, headers: Mapping[str, str]) -> bool:
        """Whether the ETag is that of the file's first answer. Where the hub gave a sha256 nothing depends on it."""
        etag = headers.get("etag")
        return not etag or bool(self.sha256(name)) or self._etags.setdefault(name, etag) == etag

    def _part(self, response: Response, name: str, where: str, start: int, end: int) -> Bytes:
        """The asked part of a response's body. Raises HubError."""
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

    async def _request(
        self,
        url: str,
        name: str,
        accept: Callable[[Response], None],
        start: int | None = None,
        end: int | None = None,
        also: set[int] | None = None,
        on_bytes: Callable[[int], None] | None = None,
        sink: Sink | None = None,
    ) -> Response:
        """GET with retries. `accept` checks an answer with status 200, 206 or one of `also`; a HubError from it
        without a status is retried like a broken transfer. Raises HubError after `attempts` failures, or at once
        where trying again cannot help."""
        delay, waited = FIRST_DELAY_S, 0.0
        for attempt in range(1, self.attempts + 1):
            counted = 0

            def count(n: int) -> None:
                nonlocal counted
                counted += n
                if on_bytes is not None:
                    on_bytes(n)

            wait = 0.0
            try:
                response = await self.io.fetch(
                    url,
                    self._settings.headers,
                    start,
                    end,
                    timeout_s=self.timeout_s,
                    on_bytes=count,
                    sink=sink,
                )
                if response.status in (200, 206) or response.status in (also or ()):
                    accept(response)
                    return response
                failure = self._refusal(response, name)
                if response.status in RETRIED:
                    wait = wait_asked(response.headers, self.io.time())
            except HubError as error:
                failure = error
            if counted and on_bytes is not None:
                on_bytes(-counted)
            lasting = failure.status is not None and failure.status not in RETRIED
            if lasting or attempt >= (failure.attempts or self.attempts):
                break
            waited += wait
            if waited > MAX_WAIT_S:
                raise self._too_long(failure, wait)
            if (
                wait > MAX_DELAY_S and self.io.now() >= self._noted_until
            ):  # once for all its requests
                self._noted_until = self.io.now() + wait / 2
                self._waiting.note(f"{self.endpoint} asks to wait {wait:.0f} s; going on then.")
            await self._sleep(max(wait, delay * random.uniform(0.5, 1.5)))
            delay = min(2 * delay, MAX_DELAY_S)
        if lasting or attempt == 1 or failure.attempts:
            raise failure
        text = f"{failure} (Gave up after {self.attempts} attempts.)"
        raise type(failure)(text, failure.status)

    async def _sleep(self, seconds: float) -> None:
        """Wait, unless the caller wants to stop."""
        sleeping = asyncio.ensure_future(self.io.sleep(seconds))
        try:
            while not sleeping.done():
                self._waiting.check()
                await asyncio.wait({sleeping}, timeout=STOP_S)
            await sleeping
        finally:
            sleeping.cancel()

    def _too_long(self, failure: HubError, wait: float) -> HubError:
        when = time.strftime("%H:%M:%S", time.gmtime(self.io.time() + wait))
        text = f"{failure} It asks to wait {wait:.0f} s more: try again at {when} UTC."
        return HubError(text, failure.status)

    def _refusal(self, response: Response, name: str) -> HubError:
        """What a status other than success means, in words."""
        status, code = response.status, response.headers.get("x-error-code", "")
        what = f"{self.address}: {name}"
        if status == 401 and code == "GatedRepo" or status == 403:
            text = "access is restricted; accept the model's terms on the hub and set HF_TOKEN"
        elif status == 401 and self._settings.headers:
            text = f"the hub refused {self._settings.what}, or there is no such repository"
        elif status == 401:
            text = "there is no such public repository; check the name, or set HF_TOKEN if it is private"
        elif status == 404 and code == "RevisionNotFound":
            text = (
                f"there is no revision {self._revision}; leave out @{self._revision} or correct it"
            )
        elif status == 404:
            text = "not found; check the name and revision"
        elif status == 407:
            text = "the proxy wants a user and password; give them in http_proxy"
        elif status == 416:
            text = "the file is shorter than its listing or header says; it was cut or changed on the hub"
        elif status == 429:
            text = "the hub asks to slow down; try again later"
            text += "" if self._settings.headers else ", or set HF_TOKEN"
        elif status >= 500:
            text = "the hub has trouble of its own; try again later"
        else:
            text = "an answer that was not expected here; check HF_ENDPOINT"
        return HubError(f"{what}: HTTP {status} from {shown(response.url)}: {text}.", status)


def _starts_at(content_range: str, start: int) -> bool:
    return content_range.replace(" ", "").startswith((f"bytes{start}-", f"bytes={start}-"))


def _refuse_html(response: Response, io: Io, where: str, name: str = "") -> None:
    """Raise HubError when a page was served in the place of a file."""
    kind = response.headers.get("content-type", "")
    first = io.to_bytes(io.slice(response.body, 0, min(64, io.nbytes(response.body))))
    looks = first.lstrip()[:9].lower().startswith((b"<!doctype", b"<html"))
    if looks or (kind.startswith("text/html") and not name.endswith((".html", ".htm"))):
        raise HubError(
            f"{where}: {shown(response.url)} answered with a web page (HTTP {response.status}): "
            + html_advice(),
            response.status,
        )
