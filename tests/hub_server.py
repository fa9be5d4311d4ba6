"""A local server that behaves like the hub, for tests. It has two ports: one for the hub, one for its file host
("CDN").

    python -m tests.hub_server ROOT [--port N] [--token T]

ROOT holds repositories as ROOT/org/name/FILES. Each has one commit, `COMMIT`, which `main` and its hash both name. Like
the real hub, the server answers small text files itself and redirects all others to the second port. That port refuses
every request with an Authorization header. Both send the hub's CORS headers. `server.fail(FILE, FAULT, ...)` makes the
next requests for a file fail, one fault each; FILE "*" means any request.
"""

from __future__ import annotations

import argparse
import contextlib
import email.utils
import gzip
import hashlib
import json
import re
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DIRECT_SUFFIXES = (".json", ".jinja", ".txt", ".md")
EXPOSED = (
    "X-Repo-Commit,X-Request-Id,X-Error-Code,X-Error-Message,ETag,Link,Accept-Ranges,Content-Range,"
    "X-Linked-Size,X-Linked-ETag"
)
HTML = b"<!DOCTYPE html><html><body>Please log in to this network.</body></html>"


SIGNED = "Expires=1&Signature=c2lnbmVk"  # an address with this signature needs no token
Fault = int | str | tuple[int, dict[str, str]]


@dataclass
class Request:
    """One request, as received."""

    port: str  # "hub" or "cdn"
    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class HubServer:
    """The running pair of servers. Faults: an HTTP status (int); a status with headers, such as (429, {"Retry-After":
    "3"}); "html", "stall", "short", "drop", "no-range", "wrong-range", "redirect-loop"; "gzip" (a compressed range) and
    "gzip-whole" (the whole file, compressed)."""

    root: Path
    token: str | None = None
    listing: bool = True
    port: int = 0
    stall_s: float = 20.0
    cdn_host: str = "localhost"
    requests: list[Request] = field(default_factory=list)
    _faults: dict[str, list[Fault | None]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._hub = self._serve("hub", self.port)
        self._cdn = self._serve("cdn", 0)

    def _serve(self, role: str, port: int) -> ThreadingHTTPServer:
        outer = self

        class Handler(_Handler):
            server_role = role
            hub = outer

        server = _Server(("127.0.0.1", port), Handler)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    @property
    def url(self) -> str:
        """The value for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._hub.server_address[1]}"

    @property
    def cdn_url(self) -> str:
        """The file host: the second port, under another host name."""
        return f"http://{self.cdn_host}:{self._cdn.server_address[1]}"

    def fail(self, name: str, *faults: Fault | None) -> None:
        """Queue faults for a file's base name, for "listing" or for "*". None stands for an answer without a fault."""
        with self._lock:
            self._faults.setdefault(name, []).extend(faults)

    def clear_faults(self) -> None:
        """Drop the queued faults."""
        with self._lock:
            self._faults.clear()

    def take_fault(self, name: str) -> Fault | None:
        """Take the next fault for a file from the queue."""
        with self._lock:
            for key in (name, "*"):
                queue = self._faults.get(key)
                if queue:
                    return queue.pop(0)
        return None

    def close(self) -> None:
        """Stop both servers and release stalled requests."""
        self._stop.set()
        for server in (self._hub, self._cdn):
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that hang up, which is part of the tests; print anything else."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Otherwise each answer waits 40 ms for the client's acknowledgement.
    disable_nagle_algorithm = True
    server_role = "hub"
    hub: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_OPTIONS(self) -> None:
        self._send(204, b"", {"Access-Control-Max-Age": "60"})

    def do_HEAD(self) -> None:
        self._handle()

    def do_GET(self) -> None:
        self._handle()

    def _handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            self._answer()

    def _answer(self) -> None:
        hub, path = self.hub, urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        authorization = self.headers.get("Authorization")
        hub.requests.append(
            Request(self.server_role, self.command, path, self.headers.get("Range"), authorization)
        )
        if self.server_role == "cdn":
            if authorization:
                return self._send(400, b"only one auth mechanism allowed")
            file = hub.root / path.lstrip("/")
            return self._file(file, hub.take_fault(file.name))
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        resolve = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = listing or resolve
        if match is None:
            return self._send(404, b"Not Found")
        folder = hub.root / match[1]
        if hub.token and authorization != f"Bearer {hub.token}":
            return self._error(401, "RepoNotFound" if not authorization else "")
        if not folder.is_dir():
            return self._error(404 if authorization else 401, "RepoNotFound")
        if match[2] not in (None, "main", COMMIT):
            return self._error(404, "RevisionNotFound")
        if listing:
            fault = hub.take_fault("listing") or (None if hub.listing else 404)
            return self._fault(fault) if fault else self._list(folder, match[1])
        file = folder / match[3]
        if not file.is_file():
            return self._error(404, "EntryNotFound")
        if file.suffix in DIRECT_SUFFIXES:
            return self._file(file, hub.take_fault(file.name))
        linked = {
            "Location": f"{hub.cdn_url}/{urllib.parse.quote(str(file.relative_to(hub.root)))}?{SIGNED}",
            "X-Linked-Size": str(file.stat().st_size),
            "X-Linked-ETag": f'"{_sha256(file)}"',
        }
        return self._send(302, b"", linked)

    def _list(self, folder: Path, name: str) -> None:
        siblings: list[dict[str, Any]] = []
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            size = file.stat().st_size
            entry: dict[str, Any] = {"rfilename": str(file.relative_to(folder)), "size": size}
            if file.suffix not in DIRECT_SUFFIXES:
                entry["lfs"] = {"sha256": _sha256(file), "size": size, "pointerSize": 135}
            data = file.read_bytes() if size < 1 << 20 else b""
            entry["blobId"] = hashlib.sha1(f"blob {size}\0".encode() + data).hexdigest()
            siblings.append(entry)
        body = json.dumps({"id": name, "sha": COMMIT, "private": False, "siblings": siblings})
        self._send(200, body.encode(), {"Content-Type": "application/json; charset=utf-8"})

    def _fault(self, fault: Fault) -> None:
        if isinstance(fault, tuple):
            return self._send(fault[0], b"fault on demand", fault[1])
        if isinstance(fault, int):
            more = {"Content-Range": "bytes */0"} if fault == 416 else {}
            return self._send(fault, b"fault on demand", more)
        if fault == "html":
            return self._send(200, HTML, {"Content-Type": "text/html; charset=utf-8"})
        if fault == "redirect-loop":
            return self._send(302, b"", {"Location": self.path})
        self.close_connection = True  # "drop": no answer at all

    def _file(self, file: Path, fault: Fault | None) -> None:
        if not file.is_file():
            return self._send(404, b"Not Found")
        if isinstance(fault, (int, tuple)) or fault in ("html", "redirect-loop", "drop"):
            return self._fault(fault)
        size = file.stat().st_size
        start, end, status = 0, size, 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked and fault not in ("no-range", "gzip-whole"):
            start, status = int(asked[1]), 206
            end = min(size, int(asked[2]) + 1) if asked[2] else size
            if start >= size:
                return self._send(416, b"", {"Content-Range": f"bytes */{size}"})
        packed = None
        if fault in ("gzip", "gzip-whole"):
            packed = gzip.compress(file.read_bytes()[start:end])
        shown = start + 1 if fault == "wrong-range" else start
        self.send_response(status)
        self._cors()
        kind = "application/json" if file.suffix == ".json" else "application/octet-stream"
        self.send_header("Content-Type", kind)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{_sha256(file)}"')
        self.send_header("Last-Modified", email.utils.formatdate(file.stat().st_mtime, usegmt=True))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(end - start if packed is None else len(packed)))
        if packed is not None:
            self.send_header("Content-Encoding", "gzip")
        if status == 206:
            self.send_header("Content-Range", f"bytes {shown}-{end - 1}/{size}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if packed is not None:
            self.wfile.write(packed)
            return
        stop = start + (end - start) // 2 if fault in ("short", "stall") else end
        with file.open("rb") as source:
            source.seek(start)
            left = stop - start
            while left:
                piece = source.read(min(left, 1 << 20))
                self.wfile.write(piece)
                left -= len(piece)
        self.wfile.flush()
        if fault == "stall":
            self.hub._stop.wait(self.hub.stall_s)
        if fault in ("short", "stall"):
            self.close_connection = True

    def _error(self, status: int, code: str) -> None:
        self._send(status, b"error", {"X-Error-Code": code} if code else {})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self._cors()
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _cors(self) -> None:
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Access-Control-Allow-Headers", "authorization, range")
        self.send_header("Access-Control-Expose-Headers", EXPOSED)
        self.send_header("Cross-Origin-Resource-Policy", "cross-origin")


_sums: dict[tuple[Path, int, int], str] = {}


def _sha256(file: Path) -> str:
    stat = file.stat()
    key = (file, stat.st_mtime_ns, stat.st_size)
    if key not in _sums:
        with file.open("rb") as source:
            _sums[key] = hashlib.file_digest(source, "sha256").hexdigest()
    return _sums[key]


def tiny_model(root: Path, weights: bytes) -> Path:
    """Make the folder of the repository org/tiny below `root`, with a config and with `weights`, which need not be
    safetensors."""
    folder = root / "org" / "tiny"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    return folder


@contextlib.contextmanager
def hub_server(root: Path, **options: Any) -> Iterator[HubServer]:
    """A HubServer for the length of a `with` block."""
    server = HubServer(root, **options)
    try:
        yield server
    finally:
        server.close()


def main() -> None:
    """Serve a folder of repositories until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token")
    options = parser.parse_args()
    with hub_server(options.root, port=options.port, token=options.token) as server:
        print(f"HF_ENDPOINT={server.url} (files from {server.cdn_url})", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


if __name__ == "__main__":
    main()
