"""The local server behind ./dev run and the browser tests: the page, the engine's files, and a small hub.

    /                          public/, and manifest.webmanifest of the repository's root
    /sw.js                     that file, after a line with the list of files to cache (devtools/site.py)
    /app /py_engine /shaders   the folders of that name
    /vendor                    .vendor/, the browser runtime
    /engine.zip                py_engine/**/*.py with shaders/ inside it, as in the wheel; the worker unpacks it
    /config.json               version, hub endpoint, the offered models
    /models/...                a hub: /models/api/models/ID and /models/ID/resolve/REVISION/FILE, as huggingface.co
                               answers them, so that HF_ENDPOINT=http://127.0.0.1:PORT/models works; /api/models/ID and
                               /ID/resolve/... at the root answer alike
    POST /diagnostics/rows     a row of the page /diagnostics, appended to a file (./dev run: .cache/diagnostics.jsonl)

Standard library only. Binds to the loopback interface. Documents get a content security policy with 'unsafe-eval',
since PyScript's core calls Function(); a worker has the policy of its own script, which does not allow it.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import json
import re
import threading
import urllib.parse
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO

from devtools.site import Site, content_security_policy, inside

BLOCK = 1 << 20
MAX_ROW = 64 << 10
# From this size on the hub's listing gives a sha256, as it does for LFS files.
LARGE_FILE = 10 << 20

MIME_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".md": "text/markdown; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".py": "text/x-python; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".wgsl": "text/plain; charset=utf-8",
    ".whl": "application/zip",
    ".zip": "application/zip",
}


class LocalHub:
    """Serves model folders as repositories of a hub, with one revision each."""

    def __init__(self, models: Path) -> None:
        self.models = models
        self._digests: dict[tuple[str, int, int], str] = {}
        self._lock = threading.Lock()

    def repository(self, name: str) -> Path | None:
        """Return the folder of ORGANISATION/NAME."""
        folder = self.models / name
        inside = folder.resolve().is_relative_to(self.models.resolve())
        return folder if inside and (folder / "config.json").is_file() else None

    def files(self, folder: Path) -> list[Path]:
        """Return the repository's files, also those in folders, without hidden ones."""
        found = (p for p in sorted(folder.rglob("*")) if p.is_file())
        return [p for p in found if not any(q.startswith(".") for q in p.relative_to(folder).parts)]

    def sha256(self, file: Path) -> str:
        """Return the sha256 of a file; cached until the file changes."""
        stat = file.stat()
        key = (str(file), stat.st_size, stat.st_mtime_ns)
        with self._lock:
            if key not in self._digests:
                with file.open("rb") as data:
                    self._digests[key] = hashlib.file_digest(data, "sha256").hexdigest()
            return self._digests[key]

    def commit(self, folder: Path) -> str:
        """Return 40 hex digits that change when a file does."""
        state = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in self.files(folder)]
        return hashlib.sha1(repr(state).encode()).hexdigest()

    def listing(self, name: str, folder: Path, blobs: bool) -> dict[str, Any]:
        """Return the answer of /api/models/ID, with sizes and the large files' sha256 when `blobs`."""
        siblings = []
        for file in self.files(folder):
            entry: dict[str, Any] = {"rfilename": file.relative_to(folder).as_posix()}
            if blobs:
                entry["size"] = file.stat().st_size
                if entry["size"] >= LARGE_FILE:
                    entry["lfs"] = {"sha256": self.sha256(file), "size": entry["size"]}
            siblings.append(entry)
        return {"id": name, "modelId": name, "sha": self.commit(folder), "siblings": siblings}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers GET and HEAD, with ranges and ETags."""

    protocol_version = "HTTP/1.1"
    server_version = "jerboa-page"
    # Else a body waits until the client confirms the headers, which it may put off for 40 ms.
    disable_nagle_algorithm = True
    server: PageServer

    def handle(self) -> None:
        """Handle one connection. A closed page or a stopped load is not an error."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        """Answer a request for one of the paths in the module's docstring."""
        url = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(url.path)
        site = self.server.site
        if path == "/config.json":
            here = f"http://{self.headers.get('Host') or self.server.address}/models"
            return self._send_bytes(json.dumps(site.config(here)).encode(), ".json")
        if path in ("/engine.zip", "/sw.js"):
            try:
                return self._send_bytes(site.read(path) or b"", Path(path).suffix)
            except FileNotFoundError as error:
                return self._not_found(str(error))
        rest = path.removeprefix("/models")
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", rest):
            return self._hub_listing(match[1], match[2] or "main", "blobs" in url.query)
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", rest):
            return self._hub_file(match[1], match[2], match[3])
        file = site.find(path)
        if file is None:
            return self._not_found(f"nothing is served at {path}")
        stat = file.stat()
        self._send_file(file, f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"', {})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Store one row of the page /diagnostics. Only this site's own pages may post rows."""
        size = self.headers.get("Content-Length", "")
        body = self.rfile.read(int(size)) if size.isdecimal() and int(size) <= MAX_ROW else b""
        target, origin = self.server.rows, self.headers.get("Origin", "")
        if self.path != "/diagnostics/rows" or target is None:
            return self._refuse(HTTPStatus.NOT_FOUND, f"nothing is taken at {self.path}")
        if origin != f"http://{self.headers.get('Host')}":
            return self._refuse(HTTPStatus.FORBIDDEN, f"rows come from this site, not {origin!r}")
        try:
            row = json.loads(body)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            return self._refuse(
                HTTPStatus.BAD_REQUEST, f"a row is a JSON object of at most {MAX_ROW} bytes"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        with self.server.rows_lock, target.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._send_bytes(b"{}", ".json")

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        self.close_connection = True  # a body that is too long was not read
        self._send_bytes(json.dumps({"error": reason}).encode(), ".json", status)

    def _hub_listing(self, name: str, revision: str, blobs: bool) -> None:
        folder = self._repository(name, revision)
        if folder:
            listing = self.server.local_hub.listing(name, folder, blobs)
            self._send_bytes(json.dumps(listing).encode(), ".json")

    def _hub_file(self, name: str, revision: str, file_name: str) -> None:
        folder = self._repository(name, revision)
        if not folder:
            return
        file = inside(folder, file_name)
        if not file:
            return self._not_found(f"{name} has no file {file_name}", "EntryNotFound")
        digest = self.server.local_hub.sha256(file)
        extra = {"X-Repo-Commit": self.server.local_hub.commit(folder), "X-Linked-ETag": digest}
        self._send_file(file, f'"{digest}"', extra)

    def _repository(self, name: str, revision: str) -> Path | None:
        """Return the folder, or None after sending a 404."""
        folder = self.server.local_hub.repository(name)
        if not folder:
            self._not_found(f"there is no model {name} on this machine", "RepoNotFound")
            return None
        if revision not in ("main", self.server.local_hub.commit(folder)):
            self._not_found(f"{name} has no revision {revision}", "RevisionNotFound")
            return None
        return folder

    def _not_found(self, reason: str, code: str = "") -> None:
        body = json.dumps({"error": reason}).encode()
        extra = {"X-Error-Code": code} if code else {}
        self._send_bytes(body, ".json", HTTPStatus.NOT_FOUND, extra)

    def _send_bytes(
        self,
        body: bytes,
        suffix: str,
        status: HTTPStatus = HTTPStatus.OK,
        extra: dict[str, str] | None = None,
    ) -> None:
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        self._send(io.BytesIO(body), len(body), suffix, etag, extra or {}, status)

    def _send_file(self, file: Path, etag: str, extra: dict[str, str]) -> None:
        with file.open("rb") as data:
            self._send(data, file.stat().st_size, file.suffix, etag, extra, HTTPStatus.OK)

    def _send(
        self,
        data: BinaryIO,
        size: int,
        suffix: str,
        etag: str,
        extra: dict[str, str],
        status: HTTPStatus,
    ) -> None:
        """Send headers and the requested range of `data`."""
        if status == HTTPStatus.OK and self.headers.get("If-None-Match") == etag:
            status, size = HTTPStatus.NOT_MODIFIED, 0
        start, end = 0, size
        if status == HTTPStatus.OK and (asked := _range(self.headers.get("Range", ""), size)):
            start, end = asked
            status = HTTPStatus.PARTIAL_CONTENT
            if start >= end:
                status, start, end = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, 0, 0
        self.send_response(status)
        self.send_header("Content-Type", MIME_TYPES.get(suffix, "application/octet-stream"))
        if status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", str(end - start))
        if status == HTTPStatus.PARTIAL_CONTENT:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        elif status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self.send_header("Content-Range", f"bytes */{size}")
        policy = content_security_policy(self.server.site.hub, document=suffix == ".html")
        headers = {
            "Accept-Ranges": "bytes",
            "Cache-Control": "no-cache",
            "Content-Security-Policy": policy,
            "ETag": etag,
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        for name, value in {**headers, **extra}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        data.seek(start)
        left = end - start
        while left and (block := data.read(min(BLOCK, left))):
            self.wfile.write(block)
            left -= len(block)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the terminal is the user's."""


def _range(header: str, size: int) -> tuple[int, int] | None:
    """Return (start, end) of a single-range header, end exclusive; start >= end when it lies outside; None without
    one."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header.replace(" ", ""))
    if not match or not (match[1] or match[2]):
        return None
    if not match[1]:
        return max(0, size - int(match[2])), size
    return int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)


class PageServer(http.server.ThreadingHTTPServer):
    """Use as `with PageServer(site) as server:`; it answers in its own threads until the block ends. Port 0: any free
    port. `rows`: the file to which rows of /diagnostics are appended; None: they are refused.
    """

    daemon_threads = True

    def __init__(self, site: Site, port: int = 0, rows: Path | None = None) -> None:
        self.site = site
        self.rows = rows
        self.rows_lock = threading.Lock()
        self.local_hub = LocalHub(site.models)
        super().__init__(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    @property
    def address(self) -> str:
        """Return host:port."""
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        """Return the page's address. `localhost` is a secure context, which WebGPU and workers need."""
        return f"http://localhost:{self.server_address[1]}/"

    def __enter__(self) -> PageServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()
