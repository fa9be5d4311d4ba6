"""An HTTP proxy on loopback, for tests. It forwards absolute addresses, tunnels CONNECT, and can require a password."""

from __future__ import annotations

import base64
import contextlib
import http.client
import select
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class ProxyServer:
    """`login`: the required "user:password". `asked`: method and target of each request; `authorized`: its
    Proxy-Authorization header. `tunnels`: where CONNECT connects to, in place of the named host."""

    login: str = ""
    tunnels: tuple[str, int] | None = None
    asked: list[str] = field(default_factory=list)
    authorized: list[str | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        outer = self

        class Handler(_Handler):
            proxy = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        """host:port"""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stop accepting connections."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: ProxyServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _admitted(self) -> bool:
        self.proxy.asked.append(f"{self.command} {self.path}")
        given = self.headers.get("Proxy-Authorization")
        self.proxy.authorized.append(given)
        wanted = "Basic " + base64.b64encode(self.proxy.login.encode()).decode()
        if self.proxy.login and given != wanted:
            self.send_response(407)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return False
        return True

    def do_GET(self) -> None:
        if not self._admitted():
            return
        parts = urllib.parse.urlsplit(self.path)
        assert parts.hostname, "a proxy is asked for whole addresses"
        onward = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=10)
        sent = {k: v for k, v in self.headers.items() if not k.lower().startswith("proxy-")}
        onward.request("GET", urllib.parse.urlunsplit(("", "", *parts[2:])), headers=sent)
        answer = onward.getresponse()
        body = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        onward.close()

    def do_CONNECT(self) -> None:
        self.close_connection = True
        if not self._admitted():
            return
        host, _, port = self.path.rpartition(":")
        to = self.proxy.tunnels or (host, int(port))
        with contextlib.suppress(OSError), socket.create_connection(to, timeout=10) as far:
            self.send_response(200)
            self.end_headers()
            near = self.connection
            while True:
                ready, _, _ = select.select([near, far], [], [], 10)
                for one in ready:
                    data = one.recv(65536)
                    if not data:
                        return
                    (far if one is near else near).sendall(data)
                if not ready:
                    return


@contextlib.contextmanager
def proxy_server(**options: Any) -> Iterator[ProxyServer]:
    """A ProxyServer for the length of a `with` block."""
    server = ProxyServer(**options)
    try:
        yield server
    finally:
        server.close()
