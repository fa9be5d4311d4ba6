"""Which proxy a request goes through: by http_proxy, https_proxy, all_proxy and no_proxy, as requests and curl read
them.

A proxy's password is never printed: neither in the repr of a Proxy nor in an error's message.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import urllib.parse
import urllib.request
from dataclasses import dataclass, field

from py_engine.errors import HubError


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy: where it listens, and the value of the Proxy-Authorization header ("": none is sent)."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)

    @property
    def address(self) -> str:
        """The proxy as "host:port"."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """Headers for the proxy only, never for the server behind it."""
        return {"Proxy-Authorization": self.authorization} if self.authorization else {}


def find_proxy(scheme: str, host: str, port: int) -> Proxy | None:
    """The proxy for requests to scheme://host:port, from the environment, else from the system's settings. Raises
    HubError, which names the variable but not its value, when the proxy cannot be used."""
    proxies = urllib.request.getproxies()
    name = next((name for name in (scheme, "all") if (proxies.get(name) or "").strip()), None)
    if name is None or _bypassed(host, port, proxies.get("no")):
        return None
    return parse_proxy(proxies[name], f"{name}_proxy")


def _bypassed(host: str, port: int, exceptions: str | None) -> bool:
    if exceptions is not None:
        return matches(host, port, exceptions)
    if urllib.request.getproxies_environment():
        return False
    return bool(urllib.request.proxy_bypass(host))  # macOS and Windows have lists of their own


def matches(host: str, port: int, exceptions: str) -> bool:
    """Whether a no_proxy list contains the host. Entries are names (which include all names below them), addresses, or
    networks such as 10.0.0.0/8, each with or without a port; `*` means every host."""
    host = host.strip("[]").rstrip(".").lower()
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    for entry in re.split(r"[\s,]+", exceptions.lower()):
        if entry == "*":
            return True
        name, colon, only = entry.rpartition(":")
        if colon and only.isdigit() and (":" not in name or name.endswith("]")):
            if only.lstrip("0") != str(port):
                continue
        else:
            name = entry
        name = name.strip("[]").removeprefix("*").strip(".")
        if not name:
            continue
        if address is not None:
            try:
                if address in ipaddress.ip_network(name, strict=False):
                    return True
            except ValueError:  # a name
                continue
        elif host == name or host.endswith("." + name):
            return True
    return False


def parse_proxy(value: str, variable: str) -> Proxy:
    """The proxy that a variable names: `host:port`, `http://host:port`, `http://user:password@host:port`. Raises
    HubError, which names the variable but not its value."""
    text = value.strip().strip("'\"").strip()
    if "://" not in text:
        text = f"http://{text}"
    scheme, _, rest = text.partition("://")
    if scheme.lower() != "http":
        kind = "SOCKS" if scheme.lower().startswith("socks") else "TLS"
        advice = (
            "write http:// if it takes plain HTTP, as most do"
            if kind == "TLS"
            else "give an HTTP proxy, or unset it"
        )
        raise HubError(
            f"{variable} names a proxy that is not reached by plain HTTP ({kind}): that is not supported; {advice}.",
            attempts=1,
        )
    wrong = HubError(
        f"{variable} is not the address of a proxy: give http://HOST:PORT, or http://USER:PASSWORD@HOST:PORT with"
        " the signs / @ : % in user and password written as %2F %40 %3A %25.",
        attempts=1,
    )
    user, at, where = rest.rstrip("/").rpartition("@")
    try:
        parts = urllib.parse.urlsplit(f"http://{where}")
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")  # as the socket will
    except ValueError:  # UnicodeError too
        host, port = None, None
    if not host or re.search(r"[^!-~]|[/?#\\]", where):
        raise wrong
    if not at:
        return Proxy(host, port or 80)
    name, _, password = user.partition(":")
    # A variable may hold bytes that are not UTF-8, which Python reads as surrogates. The bytes are sent unchanged.
    pair = b":".join(
        urllib.parse.unquote_to_bytes(part.encode("utf-8", "surrogateescape"))
        for part in (name, password)
    )
    return Proxy(host, port or 80, "Basic " + base64.b64encode(pair).decode())
