"""Network, files and time in CPython: http.client in threads, plain files.

Each request is a blocking transfer in a thread. Connections are kept open for the next request to the same host.
Proxies come from the usual environment variables (host/proxies.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import os
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from py_engine.errors import AbortError, HubError
from py_engine.host.http_native import Place, as_sent, no_answer, place_of, request_target
from py_engine.host.io import (
    LIST_DEPTH,
    LIST_FILES,
    Bytes,
    Hasher,
    Io,
    Response,
    Sink,
    check_headers,
    shown,
)
from py_engine.host.proxies import Proxy, find_proxy
from py_engine.host.store_native import FileStore, default_root

MAX_REDIRECTS = 10
PIECE_BYTES = 256 << 10  # read between two calls of on_bytes
MAX_ERROR_BODY_BYTES = 64 << 10
IDLE_CONNECTIONS = 4  # kept open for each host
MAX_TRANSFERS = 16  # at the same time; others wait

Key = tuple[Place, Proxy | None]


class _Transfer:
    """What the waiting coroutine shares with the thread that does its request."""

    def __init__(self, sink: Sink | None, loop: asyncio.AbstractEventLoop) -> None:
        self.cancelled = False
        self.connection: http.client.HTTPConnection | None = None
        self.sink = sink
        self._loop = loop

    def hand_over(self, offset: int, data: Bytes) -> None:
        """Give a piece to the sink, and wait until the sink is done with it."""
        assert self.sink is not None
        if not self.cancelled:
            asyncio.run_coroutine_threadsafe(_put(self.sink, offset, data), self._loop).result()

    def cancel(self) -> None:
        """Make the thread's blocking call return now."""
        self.cancelled = True
        connection = self.connection
        if connection is not None and connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)


async def _put(sink: Sink, offset: int, data: Bytes) -> None:
    await sink.put(offset, data)


class _Sha256(Hasher):
    def __init__(self) -> None:
        self._sum = hashlib.sha256()

    async def update(self, data: Bytes) -> None:
        if memoryview(data).nbytes > PIECE_BYTES:
            await asyncio.to_thread(self._sum.update, data)
        else:
            self._sum.update(data)

    async def hexdigest(self) -> str:
        return self._sum.hexdigest()


class NativeIo(Io):
    """Io of CPython. `Bytes` is `bytes` or `memoryview`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[Key, list[http.client.HTTPConnection]] = {}
        self._tls: ssl.SSLContext | None = None
        # Not asyncio's own pool: a transfer waits for its sink, and the sink's writes wait for a thread of that pool.
        self._transfers = ThreadPoolExecutor(MAX_TRANSFERS, "jerboa-fetch")

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
        loop = asyncio.get_running_loop()
        transfer = _Transfer(sink, loop)

        def report(count: int) -> None:
            if on_bytes is not None and not transfer.cancelled:
                loop.call_soon_threadsafe(on_bytes, count)

        sent = {k: v for k, v in (headers or {}).items()}
        sent.setdefault("User-Agent", "jerboa")
        sent["Accept-Encoding"] = "identity"
        check_headers(sent)
        if start is not None or end is not None:
            last = "" if end is None else str(end - 1)
            sent["Range"] = f"bytes={start or 0}-{last}"
        try:
            return await loop.run_in_executor(
                self._transfers, self._follow, transfer, url, sent, end, timeout_s, method, report
            )
        except asyncio.CancelledError:
            transfer.cancel()
            raise

    def _follow(
        self,
        transfer: _Transfer,
        url: str,
        headers: dict[str, str],
        end: int | None,
        timeout_s: float,
        method: str,
        report: Callable[[int], None],
    ) -> Response:
        for _ in range(MAX_REDIRECTS + 1):
            status, got, body = self._exchange(
                transfer, url, headers, end, timeout_s, method, report
            )
            location = got.get("location")
            if status not in (301, 302, 303, 307, 308) or not location:
                return Response(status, got, body, url)
            try:
                target = urllib.parse.urljoin(url, as_sent(location))
            except ValueError:
                raise HubError(
                    f"{shown(url)} redirects to what is not an address; check HF_ENDPOINT."
                ) from None
            if place_of(target) != place_of(url):
                headers = {k: v for k, v in headers.items() if k.lower() != "authorization"}
            url = target
        raise HubError(f"{shown(url)}: more than {MAX_REDIRECTS} redirects; check HF_ENDPOINT.")

    def _exchange(
        self,
        transfer: _Transfer,
        url: str,
        headers: dict[str, str],
        end: int | None,
        timeout_s: float,
        method: str,
        report: Callable[[int], None],
    ) -> tuple[int, dict[str, str], Bytes]:
        """One request and its answer, without redirects."""
        place = place_of(url)
        proxy = find_proxy(*place)
        target = request_target(url, proxy if place[0] == "http" else None)
        if proxy and place[0] == "http":
            headers = headers | proxy.headers
        failure: Exception | None = None
        while failure is None:
            connection, reused = self._connect((place, proxy), timeout_s)
            transfer.connection = connection
            answer = None
            try:
                if transfer.cancelled:
                    raise AbortError(f"{shown(url)}: stopped by the caller.")
                connection.request(method, target, headers=headers)
                answer = connection.getresponse()
                got = {k.lower(): v for k, v in answer.getheaders()}
                if answer.status == 200 and got.get("content-encoding", "identity") != "identity":
                    raise HubError(
                        f"{shown(url)}: the server compressed its answer ({got['content-encoding']}), unasked."
                        " Try again, or ask whoever runs it or its proxy to leave files as they are."
                    )
                body, whole = _read_body(answer, got, headers, end, report, transfer)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if reused and answer is None and not isinstance(error, TimeoutError):
                    if not transfer.cancelled:
                        continue  # the server had closed the kept connection: try once more with a new one
                failure = error
                continue
            except (MemoryError, OverflowError):
                connection.close()
                raise HubError(
                    f"{shown(url)}: its answer is too large for this machine's memory, or lies about its size."
                ) from None
            except BaseException:
                connection.close()
                raise
            finally:
                transfer.connection = None
            if whole and not answer.will_close:
                self._keep((place, proxy), connection)
            else:
                connection.close()
            return answer.status, got, body
        if transfer.cancelled:
            raise AbortError(f"{shown(url)}: stopped by the caller.")
        raise no_answer(url, failure, timeout_s, proxy)

    def _connect(self, key: Key, timeout_s: float) -> tuple[http.client.HTTPConnection, bool]:
        with self._lock:
            kept = self._idle.get(key)
            if kept:
                connection = kept.pop()
                if connection.sock is not None:
                    connection.sock.settimeout(timeout_s)
                    return connection, True
        (scheme, host, port), proxy = key
        at = (proxy.host, proxy.port) if proxy else (host, port)
        if scheme == "https":
            if self._tls is None:
                self._tls = ssl.create_default_context()
            secure = http.client.HTTPSConnection(*at, timeout=timeout_s, context=self._tls)
            if proxy:
                secure.set_tunnel(host, port, headers=proxy.headers)
            return secure, False
        return http.client.HTTPConnection(*at, timeout=timeout_s), False

    def _keep(self, key: Key, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            kept = self._idle.setdefault(key, [])
            if len(kept) < IDLE_CONNECTIONS:
                kept.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close the connections kept open."""
        with self._lock:
            for kept in self._idle.values():
                for connection in kept:
                    connection.close()
            self._idle.clear()

    async def read_file(self, path: str, start: int = 0, end: int | None = None) -> Bytes:
        return await asyncio.to_thread(_read_file, path, start, end)

    async def file_size(self, path: str) -> int | None:
        place = _local(path)
        try:
            return place.stat().st_size if place.is_file() else None
        except (OSError, ValueError):  # no permission; a NUL in the name
            return None

    async def list_files(self, path: str) -> list[str]:
        """Names of the files in a folder and in the folders inside it, as Io.list_files gives them. A folder inside it
        that cannot be read counts as empty. Raises FileNotFoundError when there is no such folder."""
        top = _local(path)
        try:
            files, level = _entries(top)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(f"{path} is not a readable folder ({error})") from error
        for _ in range(LIST_DEPTH):
            below: list[Path] = []
            for folder in level:
                if len(files) >= LIST_FILES:
                    break
                with suppress(OSError):
                    inside, folders = _entries(folder)
                    files += inside
                    below += folders
            level = below
        return sorted(file.relative_to(top).as_posix() for file in files)

    async def open_store(self, name: str, *, records: bool = False) -> FileStore:  # noqa: ARG002
        """Open a store of plain files. They are as durable as `records` asks for in any case."""
        root, shared = default_root(name)
        return FileStore(root, shared=shared)

    def slice(self, data: Bytes, start: int, end: int) -> Bytes:
        return memoryview(data)[start:end]

    def join(self, parts: Sequence[Bytes]) -> Bytes:
        return memoryview(b"".join(parts))

    async def digest(self, data: Bytes) -> str:
        hasher = _Sha256()
        await hasher.update(data)
        return await hasher.hexdigest()

    def sha256(self) -> Hasher:
        return _Sha256()

    def nbytes(self, data: Bytes) -> int:
        return memoryview(data).nbytes

    def to_bytes(self, data: Bytes) -> bytes:
        return bytes(data)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def now(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()

    def env(self, name: str) -> str | None:
        """An environment variable. An empty one counts as not set."""
        return os.environ.get(name) or None


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files directly in a folder, and the folders that are not hidden."""
    entries = sorted(folder.iterdir())
    folders = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return [entry for entry in entries if entry.is_file()], folders


def _local(path: str) -> Path:
    """The path with ~ or ~user replaced by the home folder. A path whose home is not known stays as it is, and will not
    be found; Path.expanduser would raise RuntimeError."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def _read_body(
    answer: http.client.HTTPResponse,
    got: Mapping[str, str],
    sent: Mapping[str, str],
    end: int | None,
    report: Callable[[int], None],
    transfer: _Transfer,
) -> tuple[Bytes, bool]:
    """The body, and whether it was read to its end (so that the connection can be kept)."""
    length = answer.length  # None when chunked or until the connection closes
    sink = transfer.sink if transfer.sink and transfer.sink.accept(answer.status, got) else None
    ok = answer.status in (200, 206)
    limit = None if ok else MAX_ERROR_BODY_BYTES
    if answer.status == 200 and "Range" in sent and end is not None:
        limit = end
    elif answer.status == 206 and end is not None:
        start = int(sent["Range"].removeprefix("bytes=").partition("-")[0])
        limit = end - start  # no more is read than was asked for
    wanted = length if limit is None or (length is not None and length <= limit) else limit
    body = bytearray(wanted if length is not None and wanted is not None else 0)
    filled = 0
    while wanted is None or filled < wanted:
        room = PIECE_BYTES if wanted is None else min(PIECE_BYTES, wanted - filled)
        piece: Bytes
        if length is not None:
            count = answer.readinto(memoryview(body)[filled : filled + room])
            piece = memoryview(body)[filled : filled + count]
        else:
            piece = answer.read1(room)
            body += piece
            count = len(piece)
        if not count:
            break
        if sink:
            transfer.hand_over(filled, piece)
        filled += count
        if ok:
            report(count)
        if transfer.cancelled:
            break
    if transfer.cancelled:
        raise ConnectionAbortedError("stopped by the caller")
    if ok and length is not None and filled < (wanted or 0):
        raise http.client.IncompleteRead(bytes(0), (wanted or 0) - filled)
    if length is not None and filled == length:
        answer.read()  # tells http.client that the connection is free again
    return memoryview(body)[:filled], answer.isclosed()


def _read_file(path: str, start: int, end: int | None) -> Bytes:
    try:
        with _local(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            stop = size if end is None else min(end, size)
            body = bytearray(max(0, stop - start))
            file.seek(start)
            filled = file.readinto(body)
    except (IsADirectoryError, ValueError) as error:
        raise FileNotFoundError(f"{path} is not a file") from error
    return memoryview(body)[:filled]
