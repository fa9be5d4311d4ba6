"""Helpers of io_native.py for one HTTP request: parts of its address, its first line, and the error when it fails."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import urllib.parse

from py_engine.errors import HubError
from py_engine.host.io import shown
from py_engine.host.proxies import Proxy

REFUSED_ATTEMPTS = 2  # where nobody listens: the server may be starting

Place = tuple[str, str, int]  # scheme, host, port


def place_of(url: str) -> Place:
    """Scheme, host and port of an address. Raises HubError when it is not http(s)."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError:  # UnicodeError too
        host, port = None, None
    # For spaces in a host name and for lone surrogates http.client would raise other errors, later.
    if re.search(r"[\x00-\x20\x7f]", host or "") or re.search(r"[\ud800-\udfff]", url):
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise HubError(f"{shown(url)} is not an http(s) address; check HF_ENDPOINT.", attempts=1)
    return parts.scheme, host, port or (443 if parts.scheme == "https" else 80)


def as_sent(location: str) -> str:
    """A header as UTF-8, which servers send; http.client has read it as Latin-1."""
    return location.encode("latin-1", "replace").decode("utf-8", "replace")


def request_target(url: str, proxy: Proxy | None) -> str:
    """What the first line of a request names: to a proxy the whole address, to the server itself only the path."""
    parts = urllib.parse.urlsplit(url)
    path, query = (urllib.parse.quote(part, safe=_SENT) for part in (parts.path, parts.query))
    host = parts.netloc.rpartition("@")[2].encode("idna").decode() if proxy else ""
    return urllib.parse.urlunsplit((parts.scheme if proxy else "", host, path or "/", query, ""))


_SENT = "!$%&'()*+,/:;=?@[]~"  # not escaped; spaces and non-ASCII characters are escaped, as browsers do


def no_answer(url: str, error: Exception, timeout_s: float, proxy: Proxy | None) -> HubError:
    """The error for a request that got no answer, or only half a body."""
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
