"""Network, files and time in the browser: `fetch`, File objects and settings that the page has handed over.

The page (or the worker's own module) sets one global before Python starts:
`globalThis.jerboa = {files: new Map(), env: new Map()}`. `files` maps "FOLDER/NAME" to a File (or Blob); `env` maps
names such as HF_ENDPOINT to strings. All bytes stay JS Uint8Arrays; Python sees only their lengths.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import js
from pyodide.ffi import JsException, to_js

from py_engine.errors import HubError
from py_engine.host.io import Bytes, Hasher, Io, Response, Sink, check_headers, shown
from py_engine.host.store_browser import BrowserStore, open_browser_store

MAX_ERROR_BODY_BYTES = 64 << 10
# A piece of a body ends after so many bytes or milliseconds, whichever is first.
PIECE_BYTES = 2 << 20
PIECE_MS = 50.0


class _Sha256(Hasher):
    def __init__(self) -> None:
        self._worker = js.jerboa.sha256.start()

    async def update(self, data: Bytes) -> None:
        """Add bytes. They are copied to a worker, which adds them while more are read."""
        await self._worker.update(data)

    async def hexdigest(self) -> str:
        return str(await self._worker.digest())

    def close(self) -> None:
        self._worker.close()


class BrowserIo(Io):
    """Io of the browser. `Bytes` is a JS Uint8Array. Redirects are the browser's own: it drops the Authorization
    header when another origin is entered (Fetch standard, HTTP-redirect fetch, step 13)."""

    @property
    def handheld(self) -> bool:
        """Whether this is a phone or tablet. A worker sees neither screen nor pointer, so the page has to tell it."""
        return bool(js.jerboa.storage.isHandheld())

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
        sent = dict(headers or {})
        ranged = start is not None or end is not None
        if ranged:
            sent["Range"] = f"bytes={start or 0}-{'' if end is None else end - 1}"
        check_headers(sent)
        controller = js.AbortController.new()
        options = {
            "method": method,
            "headers": sent,
            "signal": controller.signal,
            "credentials": "omit",
            "referrerPolicy": "no-referrer",
            # Weights go into the engine's store; the HTTP cache would keep a second copy of each slice.
            "cache": "no-store" if ranged else "default",
        }
        try:
            answer = await _within(
                js.fetch(url, to_js(options, dict_converter=js.Object.fromEntries)), timeout_s
            )
            status = int(answer.status)
            limit = None
            if status == 206 and end is not None:
                limit = end - (start or 0)
            elif status == 200 and ranged and end is not None:
                limit = end
            elif status not in (200, 206):
                limit = MAX_ERROR_BODY_BYTES
            if method == "HEAD" or not answer.body:
                body = js.Uint8Array.new(0)
            else:
                taken = sink if sink and sink.accept(status, _headers(answer.headers)) else None
                body = await _read_body(answer.body, limit, timeout_s, on_bytes, taken)
        except TimeoutError as error:
            controller.abort()
            raise HubError(
                f"{shown(url)}: nothing came for {timeout_s:g} s. Check the network and try again."
            ) from error
        except JsException as error:
            controller.abort()
            raise HubError(
                f"{shown(url)}: no answer ({str(error).replace(url, shown(url))}). Check the network; a host that"
                " sends no CORS headers, or that this page's connect-src does not list, looks the same."
            ) from None
        except BaseException:  # cancelled, or on_bytes raised: stop the transfer too
            controller.abort()
            raise
        if limit is not None and body.byteLength == limit and status != 206:
            controller.abort()  # the server may be sending more than was asked for
        return Response(status, _headers(answer.headers), body, str(answer.url))

    async def read_file(self, path: str, start: int = 0, end: int | None = None) -> Bytes:
        file = _file(path)
        if file is None:
            raise FileNotFoundError(f"{path} is not among the files that were picked")
        stop = int(file.size) if end is None else min(end, int(file.size))
        try:
            buffer = await file.slice(start, max(start, stop)).arrayBuffer()
        except JsException as error:  # NotReadableError: changed or removed since it was picked
            raise FileNotFoundError(f"{path} can no longer be read; pick it again") from error
        return js.Uint8Array.new(buffer)

    async def file_size(self, path: str) -> int | None:
        file = _file(path)
        return None if file is None else int(file.size)

    async def list_files(self, path: str) -> list[str]:
        """Names of the picked files in a folder and in those inside it, sorted. Raises FileNotFoundError when none was
        picked. Which files of a folder are picked is the page's choice."""
        prefix = path.rstrip("/") + "/"
        names = [name for name in _names() if name.startswith(prefix)]
        if not names:
            raise FileNotFoundError(f"no folder {path} was picked")
        return sorted(name[len(prefix) :] for name in names)

    async def open_store(self, name: str, *, records: bool = False) -> BrowserStore:
        return await open_browser_store(name, records)

    def slice(self, data: Bytes, start: int, end: int) -> Bytes:
        return data.subarray(start, end)

    def join(self, parts: Sequence[Bytes]) -> Bytes:
        whole = js.Uint8Array.new(sum(self.nbytes(part) for part in parts))
        at = 0
        for part in parts:
            whole.set(part, at)
            at += self.nbytes(part)
        return whole

    def give_back(self, data: Bytes) -> None:
        """Let the memory of a slice be used for another one (public/buffers.mjs)."""
        js.jerboa.buffers.giveBack(data)

    def sha256(self) -> Hasher:
        """A Hasher that runs in a worker of its own: bytes are copied there, not into Python."""
        return _Sha256()

    async def digest(self, data: Bytes) -> str:
        """The browser's own digest: a worker takes 25 to 80 ms to start."""
        sum_ = await js.crypto.subtle.digest("SHA-256", data)
        return str(sum_.to_bytes().hex())

    def nbytes(self, data: Bytes) -> int:
        return int(data.byteLength)

    def to_bytes(self, data: Bytes) -> bytes:
        return bytes(data.to_bytes())

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def now(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()

    def env(self, name: str) -> str | None:
        """What the page has put into `jerboa.env` as `name`. An empty string counts as not set."""
        table = _table("env")
        if table is None or not table.has(name):
            return None
        return str(table[name]) or None


async def _within(promise: Awaitable[Any], timeout_s: float) -> Any:
    """Await a JS promise for at most `timeout_s`. Raises TimeoutError."""

    async def settle() -> Any:
        return await promise

    return await asyncio.wait_for(settle(), timeout_s)


async def _read_body(
    stream: Any,
    limit: int | None,
    timeout_s: float,
    on_bytes: Callable[[int], None] | None,
    sink: Sink | None,
) -> Bytes:
    """Read a ReadableStream into one Uint8Array, at most `limit` bytes; `timeout_s` is for each piece."""
    body = js.jerboa.body.open(stream, limit)
    filled = 0
    while not body.done:
        end = int(await _within(body.more(PIECE_BYTES, PIECE_MS), timeout_s))
        if sink is not None and end > filled:
            await sink.put(filled, body.part(filled, end))
        if on_bytes is not None and end > filled:
            on_bytes(end - filled)
        filled = end
    return body.part(0, filled)


def _headers(headers: Any) -> dict[str, str]:
    pairs = js.Object.fromEntries(headers.entries())
    return {str(k).lower(): str(v) for k, v in js.Object.entries(pairs).to_py()}


def _table(name: str) -> Any:
    """A Map of `globalThis.jerboa`, or None."""
    jerboa = getattr(js, "jerboa", None)
    return (getattr(jerboa, name, None) or None) if jerboa else None


def _file(path: str) -> Any:
    files = _table("files")
    return files[path] if files is not None and files.has(path) else None


def _names() -> list[str]:
    files = _table("files")
    if files is None:
        return []
    return [str(name) for name in js.Object.keys(js.Object.fromEntries(files)).to_py()]
