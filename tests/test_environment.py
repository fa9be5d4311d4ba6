"""HF_TOKEN, HF_ENDPOINT, proxies, and a hub that asks to wait, over real servers. Errors say what to do and show no
secret.
"""

from __future__ import annotations

import asyncio
import base64
import email.utils
import shutil
import socket
import ssl
import subprocess
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from py_engine.abort import Abort
from py_engine.errors import AbortError, HubError
from py_engine.host.io import Io, check_headers, shown
from py_engine.host.io_native import NativeIo
from py_engine.host.proxies import Proxy, find_proxy, matches, parse_proxy
from py_engine.serve.source import open_source
from py_engine.sources import hub_client
from py_engine.sources.address import open_repository
from py_engine.sources.hub import HubRepository
from py_engine.sources.hub_client import Waiting
from py_engine.sources.hub_settings import hub_settings
from py_engine.sources.rate_limit import wait_asked
from tests.hub_server import Fault, HubServer, hub_server, tiny_model
from tests.proxy_server import proxy_server

SECRET = "hf_S3CRETpart"
LOGIN = "us%65r:pa%40ss%2Fw0rd"  # user:pa@ss/w0rd
BASIC = "Basic " + base64.b64encode(b"user:pa@ss/w0rd").decode()
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes this machine's own settings."""
    for name in (*VARIABLES, "HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    tiny_model(tmp_path, bytes(1000))
    with hub_server(tmp_path) as running:
        yield running


@pytest.fixture
def io() -> Iterator[NativeIo]:
    made = NativeIo()
    yield made
    made.close()


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def told(error: BaseException) -> str:
    """Everything that Python would show of an error and of its causes, and the values that they hold."""
    lines = traceback.format_exception(error)
    # Without the tests' own lines, which hold the secrets.
    text = "".join(line for line in lines if __file__ not in line)
    seen: BaseException | None = error
    while seen is not None:
        text += repr(seen) + str(vars(seen)) + str(seen.args)
        seen = seen.__cause__ or seen.__context__
    return text


def refused(work: Callable[[], object], *secrets: str) -> str:
    """The message of the HubError, which must not show any of the secrets."""
    with pytest.raises(HubError) as caught:
        work()
    for secret in (SECRET, *secrets):
        assert secret not in told(caught.value)
    return str(caught.value)


# ---- HF_TOKEN ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "X",
        "X\n",
        "\r\nX\r\n",
        "  X\t",
        "'X'",
        '"X"',
        '"X"\n',
        "\ufeffX",
        "hf_\nS3CRETpart",
        "\u00a0X\u2028",
    ],
)
def test_a_token_with_what_shells_leave_around_it(
    value: str, server: HubServer, io: NativeIo, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.token = SECRET
    monkeypatch.setenv("HF_TOKEN", value.replace("X", SECRET))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    assert run(open_repository("org/tiny", io)).files()


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("Bearer X", "a blank, at place 7 of "),
        ("X X", "a blank"),
        ("X\tX", "a blank"),
        ("Xß", "a sign that no token has, at place 14 of 14"),
        ("X\x07", "a sign that no token has"),
        ("“X”", "a sign that no token has, at place 1"),
        ("X\u200b", "a sign that no token has"),
    ],
)
def test_a_token_that_is_none(
    value: str, what: str, io: NativeIo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", value.replace("X", SECRET))
    begun = time.monotonic()
    text = refused(lambda: run(open_repository("org/tiny", io)))
    assert "HF_TOKEN" in text and what in text and time.monotonic() - begun < 2


@pytest.mark.parametrize("value", ["", " ", "\n", "''"])
def test_an_empty_token_is_none(
    value: str, server: HubServer, io: NativeIo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", value)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    run(open_repository("org/tiny", io))
    assert {request.authorization for request in server.requests} == {None}


def test_headers_that_http_cannot_carry() -> None:
    for value in (f"{SECRET}\n", f"{SECRET}\r\nX: y", f"{SECRET}ß", f"{SECRET}\0"):
        assert "Authorization" in refused(partial(check_headers, {"Authorization": value}))
    check_headers({"Authorization": f"Bearer {SECRET}", "Range": "bytes=0-1"})


# ---- HF_ENDPOINT ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["X", "X/", "X//", " X/ ", "X\n", "'X'", '"X/"', "HTTP:Y"])
def test_an_endpoint_with_what_shells_leave_around_it(
    value: str, server: HubServer, io: NativeIo, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = value.replace("X", server.url).replace("Y", server.url.partition(":")[2])
    monkeypatch.setenv("HF_ENDPOINT", value)
    assert run(open_repository("org/tiny", io)).files()
    assert all("//" not in request.path for request in server.requests)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("S3CRET.example", "does not begin with https:// or http://"),
        ("localhost:8000", "does not begin with"),
        ("ftp://S3CRET.example", "does not begin with"),
        ("http://", "does not begin with|no name of a host"),
        ("http:///models", "no name of a host"),
        ("http://S3CRET.example:port", "no name of a host, or a port"),
        ("http://S3CRET.example:99999", "no name of a host, or a port"),
        ("http://[S3CRET", "no name of a host"),
        ("http://a..S3CRET", "no name of a host"),
        ("https://S3CRET.example/x y", "a blank, a line feed or a quotation mark"),
        ("https://S3CRET.example\nx", "a blank, a line feed or a quotation mark"),
        ("https://S3CRET.example/?token=S3CRET", "a ? or #"),
    ],
)
def test_an_endpoint_that_is_none(
    value: str, what: str, io: NativeIo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", value)
    text = refused(lambda: run(open_repository("org/tiny", io)), "S3CRET")
    assert text.startswith("HF_ENDPOINT ") and any(words in text for words in what.split("|"))


def test_an_endpoint_with_a_path_and_signs_beyond_ascii(
    io: NativeIo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example/a/modèles/")
    assert hub_settings(io).endpoint == "https://hub.example/a/modèles"


def test_user_and_password_of_an_endpoint(
    server: HubServer, io: NativeIo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url.replace("//", f"//{LOGIN}@"))
    repository = run(open_repository("org/tiny", io))
    run(repository.read("model.safetensors", 0, 9))
    assert [(r.port, r.authorization) for r in server.requests][-2:] == [
        ("hub", BASIC),
        ("cdn", None),
    ]
    server.token = "another"
    text = refused(lambda: run(open_repository("org/tiny", io)), "w0rd", LOGIN, BASIC)
    assert "the user and password in HF_ENDPOINT" in text
    assert "w0rd" not in repr(hub_settings(io)) and BASIC not in repr(hub_settings(io))
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert "only one of them" in refused(lambda: run(open_repository("org/tiny", io)), "w0rd")


def test_addresses_are_shown_without_what_is_secret() -> None:
    for url, plain in (
        ("https://u:p@h:1/a/b?X-Signature=s#f", "https://h:1/a/b?..."),
        ("https://u:p@h?q", "https://h?..."),
        ("https://h/a@b", "https://h/a@b"),
        ("https://u:p@[::1]:80/x", "https://[::1]:80/x"),
    ):
        assert shown(url) == plain


@pytest.mark.parametrize(
    "fault", [500, 403, 418, "short", "drop", "html", "redirect-loop", "gzip-whole"]
)
def test_the_signature_of_a_file_hosts_address_is_not_shown(
    fault: Fault, server: HubServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    repository = opened(server, clock, Waiting(), monkeypatch)
    server.fail("model.safetensors", *[fault] * 60)
    text = refused(lambda: run(repository.read("model.safetensors", 0, 900)), "c2lnbmVk")
    assert "model.safetensors" in text


# ---- proxies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("form", ["http://A", "A", "http://A/", " A ", "'http://A'", "HTTP://A"])
def test_requests_go_through_the_proxy(
    variable: str, form: str, server: HubServer, io: NativeIo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    with proxy_server(login="user:pa@ss/w0rd") as proxy:
        monkeypatch.setenv(variable, form.replace("A", f"{LOGIN}@{proxy.address}"))
        repository = run(open_repository("org/tiny", io))
        assert bytes(run(repository.read("model.safetensors", 0, 9))) == bytes(9)
        assert proxy.asked[0].startswith(f"GET {server.url}/api/models/org/tiny")
        assert proxy.asked[-1].startswith(f"GET {server.cdn_url}/org/tiny")
        assert set(proxy.authorized) == {BASIC}
    assert server.requests[-1].authorization is None  # the hub's token does not go to the file host


def test_no_proxy_goes_around_it(
    server: HubServer, io: NativeIo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    with proxy_server() as proxy:
        monkeypatch.setenv("http_proxy", proxy.address)
        monkeypatch.setenv("no_proxy", "example.com, 127.0.0.0/8")
        repository = run(open_repository("org/tiny", io))
        assert not proxy.asked
        run(repository.read("model.safetensors", 0, 9))  # localhost has this file
        assert [asked.split("/")[2].split(":")[0] for asked in proxy.asked] == ["localhost"]


# Host, port, list, and the answer of requests 2.34 (should_bypass_proxies).
BYPASSED = [
    ("example.com", 80, "example.com", True),
    ("www.example.com", 80, "example.com", True),
    ("www.example.com", 443, ".example.com", True),
    ("notexample.com", 80, "example.com", False),
    ("example.com", 80, "*", True),
    ("example.com", 8080, "example.com:8080", True),
    ("example.com", 80, "example.com:8080", False),
    ("10.1.2.3", 80, "10.0.0.0/8", True),
    ("10.1.2.3", 80, "10.1.2.3", True),
    ("11.1.2.3", 80, "10.0.0.0/8", False),
    ("a.b", 80, " c.d , a.b ", True),
    ("a.b", 80, "x,,", False),
    ("a.b", 80, "a.b:0080", True),
    ("a.b", 80, "a.b:\u00b2", False),  # Unicode calls this a digit, but it is not part of a number
    ("localhost", 80, "localhost,127.0.0.1", True),
    ("127.0.0.1", 8000, "localhost", False),
    ("example.com", 80, "EXAMPLE.com", True),
    # curl also accepts blanks, stars and IPv6 addresses.
    ("a.b", 80, "c.d a.b", True),
    ("x.a.b", 80, "*.a.b", True),
    ("[::1]", 80, "::1", True),
    ("[::1]", 80, "[::1]:80", True),
    ("[::1]", 81, "[::1]:80", False),
    ("[fe80::1]", 80, "fe80::/10", True),
]


@pytest.mark.parametrize(("host", "port", "exceptions", "expected"), BYPASSED)
def test_no_proxy_is_read_as_requests_and_curl_read_it(
    host: str, port: int, exceptions: str, expected: bool
) -> None:
    assert matches(host, port, exceptions) == expected


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("socks5://user:w0rd@h:1080", "SOCKS"),
        ("socks5h://h:1080", "SOCKS"),
        ("SOCKS4://h", "SOCKS"),
        ("https://user:w0rd@h:443", "TLS"),
        ("http://user:w0rd@", "not the address of a proxy"),
        ("http://user:w0rd@h:port", "not the address of a proxy"),
        ("http://user:w0rd@h/path", "not the address of a proxy"),
        ("http://user:w0rd@h h", "not the address of a proxy"),
        ("http://user:w0rd@[h", "not the address of a proxy"),
        ("user:w0rd@h\nx", "not the address of a proxy"),
        ("user:w0rd@a..b:80", "not the address of a proxy"),
        (f"user:w0rd@{'a' * 64}:80", "not the address of a proxy"),
    ],
)
def test_proxies_that_cannot_be_used(
    value: str, what: str, io: NativeIo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("http_proxy", value)
    begun = time.monotonic()
    text = refused(lambda: run(open_repository("org/tiny", io)), "w0rd")
    assert text.startswith("http_proxy ") and what in text and time.monotonic() - begun < 2


def test_a_proxy_is_shown_without_its_password() -> None:
    proxy = parse_proxy("http://user:w0rd@h:3128", "http_proxy")
    assert (
        proxy == Proxy("h", 3128, "Basic dXNlcjp3MHJk")
        and repr(proxy) == "Proxy(host='h', port=3128)"
    )
    assert parse_proxy("p@ss:w0rd@[::1]", "http_proxy").address == "[::1]:80"


def test_a_proxys_password_that_is_not_utf8_is_sent_as_it_is() -> None:
    for password in ("p\udce9", "p%E9"):  # os.environ gives the byte E9 as the first
        proxy = parse_proxy(f"http://user:{password}@h", "http_proxy")
        assert base64.b64decode(proxy.authorization.split()[1]) == b"user:p\xe9"


def test_a_proxy_that_wants_another_password(
    server: HubServer, io: NativeIo, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy_server(login="user:other") as proxy:
        for scheme in ("http", "https"):
            monkeypatch.setenv("HF_ENDPOINT", server.url.replace("http", scheme))
            monkeypatch.setenv(f"{scheme}_proxy", f"http://user:w0rd@{proxy.address}")
            text = refused(lambda: run(open_repository("org/tiny", io)), "w0rd", "dXNlcjp3MHJk")
            assert f"{scheme}_proxy" in text and "user" in text
        # Each was asked once.
        assert [asked.split()[0] for asked in proxy.asked] == ["GET", "CONNECT"]


def test_a_proxy_that_is_not_there(io: NativeIo, monkeypatch: pytest.MonkeyPatch) -> None:
    for address, what in (
        ("no-such-proxy.invalid", "name no-such-proxy.invalid"),
        (f"127.0.0.1:{free_port()}", "127.0.0.1"),
    ):
        monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
        monkeypatch.setenv("all_proxy", f"user:w0rd@{address}")
        begun = time.monotonic()
        text = refused(lambda: run(open_repository("org/tiny", io)), "w0rd")
        assert "proxy" in text and what in text and time.monotonic() - begun < 3


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_tunnel_keeps_the_proxys_password_from_the_hub(
    tmp_path: Path, io: NativeIo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With https through a proxy, the certificate is the hub's own and the proxy only sees CONNECT."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate)]
        + ["-days", "2", "-subj", "/CN=hub.test", "-addext", "subjectAltName=DNS:hub.test"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    heard: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(dict(self.headers.items()))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    secure = HTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    Thread(target=secure.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    try:
        with proxy_server(login="user:pa@ss/w0rd", tunnels=secure.server_address[:2]) as proxy:
            monkeypatch.setenv("https_proxy", f"http://{LOGIN}@{proxy.address}")
            answer = run(io.fetch("https://hub.test/x", {"Authorization": f"Bearer {SECRET}"}))
            assert bytes(answer.body) == b"ok"
            assert proxy.asked == ["CONNECT hub.test:443"] and proxy.authorized == [BASIC]
            text = refused(lambda: run(io.fetch("https://other.test/x")), "w0rd")
            assert "certificate was not accepted" in text
    finally:
        secure.shutdown()
        secure.server_close()
    assert heard[0]["Authorization"] == f"Bearer {SECRET}" and "Proxy-Authorization" not in heard[0]


# ---- names, silence, waits -----------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.parametrize(
    "endpoint",
    ["http://no-such-hub.invalid", "https://no-such-hub.invalid", "http://127.0.0.1:PORT"],
)
def test_a_hub_that_is_not_there_fails_soon(
    endpoint: str, io: NativeIo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint.replace("PORT", str(free_port())))
    monkeypatch.setenv("HF_TOKEN", SECRET)
    begun = time.monotonic()
    text = refused(lambda: run(open_repository("org/tiny", io)))
    assert time.monotonic() - begun < 3
    assert ("was not found" in text) == ("invalid" in endpoint)


NOW = 1_800_000_000.0


def date(after: float) -> str:
    return email.utils.formatdate(NOW + after, usegmt=True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (
            {"ratelimit": '"api";r=0;t=55'},
            56,
        ),  # huggingface_hub 2.4 reads the same, and waits one second longer
        ({"ratelimit": '"api";r=0;t=55', "retry-after": "3"}, 56),
        ({"ratelimit": '"api";r=489;t=189'}, 0),
        ({"ratelimit": '"api";r=489;t=189', "retry-after": "3"}, 3),
        ({"ratelimit": '"resolvers" ; r = 0 ; t = 7'}, 8),
        ({"ratelimit": '"a";r=0;t=55, "b";r=0;t=90, "c";r=5;t=999'}, 91),
        ({"ratelimit": '"api";t=5;r=0'}, 6),
        ({"ratelimit": "limit=500, remaining=0, reset=55"}, 56),
        ({"ratelimit": "nonsense"}, 0),
        ({"ratelimit": '"api";r=0;t=' + "9" * 99}, 0),
        ({"retry-after": "3"}, 3),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-1"}, 0),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": "٣"}, 0),
        ({"retry-after": date(90)}, 90),
        ({"retry-after": date(-90)}, 0),
        ({"retry-after": date(3690), "date": date(3600)}, 90),  # this machine's clock is wrong
        ({}, 0),
    ],
)
def test_what_a_hub_asks(headers: dict[str, str], seconds: float) -> None:
    assert wait_asked(headers, NOW) == seconds


class Clock(NativeIo):
    """NativeIo that notes its waits and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


@pytest.fixture
def clock() -> Iterator[Clock]:
    made = Clock()
    yield made
    made.close()


def opened(
    server: HubServer, io: Io, waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> HubRepository:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    repository: HubRepository = run(HubRepository.open("org/tiny", "main", io, waiting))
    return repository


@pytest.mark.parametrize("status", [429, 503])
def test_a_hub_is_waited_for_as_long_as_it_asks(
    status: int, server: HubServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    repository = opened(server, clock, Waiting(notes.append), monkeypatch)
    server.fail(
        "config.json", (status, {"RateLimit": '"api";r=0;t=55'}), (status, {"Retry-After": "40"})
    )
    assert run(repository.json("config.json")) == {"model_type": "qwen3"}
    assert clock.waits == [56, 40]
    assert notes == [f"{server.url} asks to wait 56 s; going on then."]


@pytest.mark.parametrize(
    ("faults", "waits"),
    [
        ([{"RateLimit": '"api";r=0;t=3600'}], 0),
        ([{"Retry-After": "999999999"}], 0),
        ([{"Retry-After": "200"}, {"Retry-After": "200"}], 1),
    ],
)
def test_a_wait_beyond_the_bound_says_when_to_try_again(
    faults: list[dict[str, str]],
    waits: int,
    server: HubServer,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    repository = opened(server, clock, Waiting(), monkeypatch)
    server.fail("config.json", *((429, headers) for headers in faults))
    with pytest.raises(HubError, match=r"try again at \d\d:\d\d:\d\d UTC") as caught:
        run(repository.json("config.json"))
    assert caught.value.status == 429 and len(clock.waits) == waits
    assert sum(clock.waits) < hub_client.MAX_WAIT_S


def test_a_wait_ends_when_the_caller_stops(
    server: HubServer, io: NativeIo, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = False

    def check() -> None:
        if stopped:
            raise AbortError("stopped by the caller")

    repository = opened(server, io, Waiting(check=check), monkeypatch)
    server.fail("config.json", (429, {"Retry-After": "30"}))

    async def go() -> float:
        nonlocal stopped
        reading = asyncio.ensure_future(repository.json("config.json"))
        await asyncio.sleep(0.5)
        stopped, begun = True, time.monotonic()
        with pytest.raises(AbortError):
            await reading
        return time.monotonic() - begun

    assert run(go()) < 2


def test_proxies_of_the_environment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_proxy("https", "hub.example", 443) is None
    monkeypatch.setenv("http_proxy", "a:1")
    assert find_proxy("https", "hub.example", 443) is None
    monkeypatch.setenv("ALL_PROXY", "b:2")
    assert find_proxy("https", "hub.example", 443) == Proxy("b", 2)
    assert find_proxy("http", "hub.example", 80) == Proxy("a", 1)
    monkeypatch.setenv("NO_PROXY", "hub.example:443")
    assert find_proxy("https", "hub.example", 443) is None


def test_a_load_that_the_hub_makes_wait_is_told_and_stopped(
    server: HubServer, io: NativeIo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when Engine.load opens a model."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "kept"))
    server.fail("listing", (429, {"RateLimit": '"api";r=0;t=55'}))
    abort, notes = Abort(), list[str]()

    async def load() -> None:
        async with open_source("org/tiny", io, notes.append, check=abort.check):
            pass

    async def go() -> float:
        task = asyncio.ensure_future(load())
        while not notes:
            await asyncio.sleep(0.05)
        abort.set()
        begun = time.monotonic()
        with pytest.raises(AbortError):
            await asyncio.wait_for(task, 20)
        return time.monotonic() - begun

    assert run(go()) < 2
    assert notes == [f"{server.url} asks to wait 56 s; going on then."]
