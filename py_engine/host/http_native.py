"""What a request is made of and what its failure means, for io_native.py: addresses in, HubError out."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import urllib.parse

from py_engine.errors import HubError
from py_engine.host.io import shown
from py_engine.host.proxies import Proxy

REFUSED_ATTEMPTS = 2  # worth while where nobody listens: the server may just start

Place = tuple[str, str, int]  # scheme, host, port


def place_of(url: str) -> Place:
    """Scheme, host and port of an address. Raises HubError when it is not http(s)."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError:  # UnicodeError too
        host, port = None, None
    # http.client raises errors of other kinds for blanks in a host and for lone surrogates.
    if re.search(r"[\x00-\x20\x7f]", host or "") or re.search(r"[\ud800-\udfff]", url):
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise HubError(f"{shown(url)} is not an http(s) address; check HF_ENDPOINT.", attempts=1)
    return parts.scheme, host, port or (443 if parts.scheme == "https" else 80)


def as_sent(location: str) -> str:
    """A header that was read as Latin-1, as the UTF-8 that servers send."""
    return location.encode("latin-1", "replace").decode("utf-8", "replace")


def request_target(url: str, proxy: Proxy | None) -> str:
    """What the request's first line asks for: of a proxy the whole address, of the server itself its path."""
    parts = urllib.parse.urlsplit(url)
    path, query = (urllib.parse.quote(part, safe=_SENT) for part in (parts.path, parts.query))
    host = parts.netloc.rpartition("@")[2].encode("idna").decode() if proxy else ""
    return urllib.parse.urlunsplit((parts.scheme if proxy else "", host, path or "/", query, ""))


_SENT = (
    "!$%&'()*+,/:;=?@[]~"  # as they stand; blanks and what is not ASCII are escaped, as browsers do
)


def no_answer(url: str, error: Exception, timeout_s: float, proxy: Proxy | None) -> HubError:
    """The error for a request that no answer, or half a body, came to."""
    where = shown(url)
    way = f" through the proxy {proxy.address}" if proxy else ""
    if isinstance(error, TimeoutError):
        return HubError(
            f"{where}: nothing came for {timeout_s:g} s{way}. Check the network and try again."
        )
    if isinstance(error, http.client.IncompleteRead):
        short = "early" if error.expected is None else f"{error.expected} bytes short"
        return HubError(f"{where}: the body ended {short}. Try again.")
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = f"its TLS certificate was not accepted ({error.verify_message})"
        return HubError(f"{where}: {reason}.", attempts=1)
    if isinstance(error, socket.gaierror):
        name = f"the proxy's name {proxy.host}" if proxy else "the host name"
        advice = "the proxy's settings" if proxy else "HF_ENDPOINT"
        return HubError(
            f"{where}: {name} was not found. Check the network and {advice}.", attempts=1
        )
    if "Tunnel connection failed: 407" in str(error):
        return HubError(
            f"{where}: the proxy {way.rpartition(' ')[2]} wants another user or password; give them in https_proxy.",
            407,
        )
    attempts = REFUSED_ATTEMPTS if isinstance(error, ConnectionRefusedError) else None
    reason = str(error) or type(error).__name__
    return HubError(f"{where}: no answer{way} ({reason}). Check the network.", attempts=attempts)
