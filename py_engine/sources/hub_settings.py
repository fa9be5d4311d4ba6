"""Reads HF_ENDPOINT and HF_TOKEN as people write them. Harmless mistakes are corrected; others are errors that name the
variable and show nothing of its value."""

from __future__ import annotations

import base64
import re
import urllib.parse
from dataclasses import dataclass, field

from py_engine.errors import HubError
from py_engine.host.io import Io

DEFAULT_ENDPOINT = "https://huggingface.co"


@dataclass(frozen=True)
class HubSettings:
    """The hub's address, without a slash at its end, and the Authorization header ("": none is sent)."""

    endpoint: str
    authorization: str = field(default="", repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """Headers for requests to the hub, and to no other host."""
        return {"Authorization": self.authorization} if self.authorization else {}

    @property
    def what(self) -> str:
        """Where the Authorization header comes from, in words."""
        basic = self.authorization.startswith("Basic ")
        return "the user and password in HF_ENDPOINT" if basic else "the token in HF_TOKEN"


def hub_settings(io: Io) -> HubSettings:
    """The settings in the environment. Raises HubError."""
    endpoint, login = _endpoint(io.env("HF_ENDPOINT") or "")
    token = _token(io.env("HF_TOKEN") or "")
    if login and token:
        raise HubError(
            "HF_ENDPOINT holds a user and password, and HF_TOKEN is set: only one of them can be sent. Unset one.",
            attempts=1,
        )
    return HubSettings(endpoint, login or (f"Bearer {token}" if token else ""))


def _plain(value: str) -> str:
    """The value without the quotes and white space that shells, .env files and copying leave around it."""
    text = value.strip().removeprefix("\ufeff").strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip()
    return text


def _token(value: str) -> str:
    token = re.sub(r"[\r\n]", "", _plain(value))  # as huggingface_hub reads one that was wrapped
    wrong = re.search(r"[^!-~]", token)
    if wrong:
        what = "a blank" if wrong[0].isspace() else "a sign that no token has"
        raise HubError(
            f"HF_TOKEN holds {what}, at place {wrong.start() + 1} of {len(token)}: set it to the token alone, as"
            " https://huggingface.co/settings/tokens shows it (hf_...).",
            attempts=1,
        )
    return token


def _endpoint(value: str) -> tuple[str, str]:
    """The address, and the Authorization header that its user and password make."""
    text = _plain(value).rstrip("/")
    if not text:
        return DEFAULT_ENDPOINT, ""

    def wrong(what: str) -> HubError:
        return HubError(
            f"HF_ENDPOINT {what}: give an address such as {DEFAULT_ENDPOINT}, or unset it.",
            attempts=1,
        )

    if re.search(r"[\s\x00-\x1f\x7f\"'<>\\\\]", text):
        raise wrong("holds a blank, a line feed or a quotation mark")
    scheme, slashes, rest = text.partition("://")
    if not slashes or scheme.lower() not in ("http", "https"):
        raise wrong("does not begin with https:// or http://")
    if "?" in rest or "#" in rest:
        raise wrong("holds a ? or #")
    place, slash, path = rest.partition("/")
    user, at, host = place.rpartition("@")
    try:
        parts = urllib.parse.urlsplit(f"{scheme}://{host}")
        named = bool(parts.hostname) and (parts.port is None or parts.port > 0)
        (parts.hostname or "").encode("idna")
    except ValueError:  # UnicodeError too
        named = False
    if not named:
        raise wrong("holds no name of a host, or a port that is none")
    login = ""
    if at:
        name, _, password = user.partition(":")
        pair = f"{urllib.parse.unquote(name)}:{urllib.parse.unquote(password)}".encode()
        login = "Basic " + base64.b64encode(pair).decode()
    return f"{scheme.lower()}://{host}{slash}{path}", login
