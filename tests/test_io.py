"""NativeIo against a real server on loopback: ranges, redirects, stalls, short bodies, cancelling; and files."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from py_engine.errors import HubError, StorageError
from py_engine.host import io_native
from py_engine.host.io_native import NativeIo
from tests.hub_server import HubServer, hub_server, tiny_model

DATA = bytes(i * 7 % 251 for i in range(1 << 20))
MAIN = "/org/tiny/resolve/main"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    tiny_model(tmp_path, DATA)
    with hub_server(tmp_path) as running:
        yield running


@pytest.fixture
def io() -> Iterator[NativeIo]:
    made = NativeIo()
    yield made
    made.close()


def test_whole_and_ranged(server: HubServer, io: NativeIo) -> None:
    async def go() -> None:
        whole = await io.fetch(f"{server.url}{MAIN}/model.safetensors")
        assert whole.status == 200 and bytes(whole.body) == DATA
        assert whole.url.startswith(server.cdn_url)
        seen: list[int] = []
        part = await io.fetch(
            f"{server.url}{MAIN}/model.safetensors", start=1000, end=600_001, on_bytes=seen.append
        )
        assert part.status == 206 and bytes(part.body) == DATA[1000:600_001]
        assert part.headers["content-range"] == f"bytes 1000-600000/{len(DATA)}"
        await asyncio.sleep(0)
        assert sum(seen) == 599_001 and len(seen) > 1

    asyncio.run(go())


def test_head_has_headers_and_no_body(server: HubServer, io: NativeIo) -> None:
    head = asyncio.run(io.fetch(f"{server.url}{MAIN}/config.json", method="HEAD"))
    assert head.status == 200 and head.headers["content-length"] == "23"
    assert io.nbytes(head.body) == 0
    assert head.headers["x-repo-commit"]


def test_authorization_stays_with_its_host(server: HubServer, io: NativeIo) -> None:
    headers = {"Authorization": "Bearer secret"}
    answer = asyncio.run(io.fetch(f"{server.url}{MAIN}/model.safetensors", headers, 0, 8))
    assert answer.status == 206
    assert [(r.port, r.authorization) for r in server.requests] == [
        ("hub", "Bearer secret"),
        ("cdn", None),
    ]


def test_silence_ends_after_the_timeout_not_after_the_whole_time(
    server: HubServer, io: NativeIo
) -> None:
    server.fail("model.safetensors", "stall")
    begun = time.monotonic()
    with pytest.raises(HubError, match=r"nothing came for 0\.3 s") as caught:
        asyncio.run(io.fetch(f"{server.url}{MAIN}/model.safetensors", timeout_s=0.3))
    assert caught.value.status is None
    assert time.monotonic() - begun < 5


def test_short_body_is_an_error(server: HubServer, io: NativeIo) -> None:
    server.fail("model.safetensors", "short")
    with pytest.raises(HubError, match="524288 bytes short"):
        asyncio.run(io.fetch(f"{server.url}{MAIN}/model.safetensors"))


def test_ignored_range_is_read_only_to_its_end(server: HubServer, io: NativeIo) -> None:
    server.fail("model.safetensors", "no-range")
    answer = asyncio.run(io.fetch(f"{server.url}{MAIN}/model.safetensors", start=10, end=100))
    assert answer.status == 200 and bytes(answer.body) == DATA[:100]


def test_redirect_loop_ends(server: HubServer, io: NativeIo) -> None:
    server.fail("config.json", *["redirect-loop"] * 20)
    with pytest.raises(HubError, match="more than 10 redirects"):
        asyncio.run(io.fetch(f"{server.url}{MAIN}/config.json"))


def test_signs_beyond_ascii_and_blanks_are_escaped(server: HubServer, io: NativeIo) -> None:
    (server.root / "org" / "tiny" / "ä b%.json").write_text("[1]")
    answer = asyncio.run(io.fetch(f"{server.url}{MAIN}/ä b%25.json?x=ö y"))
    assert answer.status == 200 and bytes(answer.body) == b"[1]"


def test_nobody_there(io: NativeIo) -> None:
    with pytest.raises(HubError, match="no answer"):
        asyncio.run(io.fetch("http://127.0.0.1:9/x"))
    for address in (
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "http://[::1",
        "nonsense",
        "http://a..b/",
    ):
        with pytest.raises(HubError):
            asyncio.run(io.fetch(address))


def test_a_connection_that_the_server_dropped_is_replaced(server: HubServer, io: NativeIo) -> None:
    async def go() -> None:
        await io.fetch(f"{server.url}{MAIN}/config.json")
        server.fail("config.json", "drop")  # closes the open connection without an answer
        answer = await io.fetch(f"{server.url}{MAIN}/config.json")
        assert answer.status == 200

    asyncio.run(go())


def test_cancelling_ends_the_transfer_at_once(server: HubServer, io: NativeIo) -> None:
    server.fail("model.safetensors", "stall")

    async def go() -> float:
        task = asyncio.create_task(io.fetch(f"{server.url}{MAIN}/model.safetensors"))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic()

    done = asyncio.run(go())  # asyncio.run also waits for the thread
    assert time.monotonic() - done < 5


def test_files(tmp_path: Path, io: NativeIo) -> None:
    (tmp_path / "a.bin").write_bytes(DATA[:1000])
    (tmp_path / "folder").mkdir()

    async def go() -> None:
        place = str(tmp_path / "a.bin")
        assert await io.file_size(place) == 1000
        assert await io.file_size(str(tmp_path / "folder")) is None
        assert await io.file_size(str(tmp_path / "b.bin")) is None
        assert await io.file_size("a\0b") is None
        assert bytes(await io.read_file(place)) == DATA[:1000]
        assert bytes(await io.read_file(place, 5, 17)) == DATA[5:17]
        assert bytes(await io.read_file(place, 990, 2000)) == DATA[990:1000]
        assert bytes(await io.read_file(place, 2000, 3000)) == b""
        assert await io.list_files(str(tmp_path)) == ["a.bin"]
        for bad in (tmp_path / "b.bin", tmp_path / "folder"):
            with pytest.raises(FileNotFoundError):
                await io.read_file(str(bad))
        with pytest.raises(FileNotFoundError):
            await io.list_files(place)
        view = io.slice(await io.read_file(place), 3, 9)
        assert io.nbytes(view) == 6 and io.to_bytes(view) == DATA[3:9]

    asyncio.run(go())


def test_files_of_folders_inside_a_folder(
    io: NativeIo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "config.json",
        "1_Pooling/config.json",
        "a/b/c/deep",
        "a/b/c/d/too deep",
        ".git/HEAD",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "a" / "around").symlink_to(tmp_path)
    names = asyncio.run(io.list_files(str(tmp_path)))
    assert {"config.json", "1_Pooling/config.json", "a/b/c/deep"} <= set(names)
    assert names == sorted(names) and max(name.count("/") for name in names) == 3
    assert not [name for name in names if "HEAD" in name or name.endswith("too deep")]
    monkeypatch.setattr(io_native, "LIST_FILES", 2)
    assert asyncio.run(io.list_files(str(tmp_path))) == ["1_Pooling/config.json", "config.json"]


def test_env(io: NativeIo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://x")
    monkeypatch.setenv("HF_TOKEN", "")
    assert io.env("HF_ENDPOINT") == "http://x"
    assert io.env("HF_TOKEN") is None


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (
            b"302 Found\r\nLocation: http://[x/\r\nContent-Length: 0\r\n\r\n",
            "redirects to what is not",
        ),
        (b"302 Found\r\nLocation: http://a b/\r\nContent-Length: 0\r\n\r\n", "is not an http"),
        (b"200 OK\r\nContent-Length: 99999999999999999\r\n\r\nabc", "too large for this machine"),
        (b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc", "the body ended early"),
    ],
)
def test_answers_that_make_no_sense(answer: bytes, what: str, io: NativeIo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 " + answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(HubError, match=what):
            asyncio.run(io.fetch(f"http://127.0.0.1:{server.getsockname()[1]}/x", timeout_s=5))
        thread.join(5)


@pytest.mark.parametrize("url", ["http://a b/x", "http://a\x7f/x", "http://h/\udce9"])
def test_addresses_that_cannot_be_sent(url: str, io: NativeIo) -> None:
    with pytest.raises(HubError, match="is not an http") as caught:
        asyncio.run(io.fetch(url))
    str(caught.value).encode()


def test_home_folders_that_are_not_known(io: NativeIo, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "~no-such-user/x"
    assert asyncio.run(io.file_size(path)) is None
    for read in (io.list_files, io.read_file):
        with pytest.raises(FileNotFoundError):
            asyncio.run(read(path))
    for store, variable in (("models", "HF_HUB_CACHE"), ("sessions", "JERBOA_HOME")):
        monkeypatch.setenv(variable, path)
        with pytest.raises(StorageError, match=variable):
            asyncio.run(io.open_store(store))


def test_a_name_too_long_for_a_folder_is_not_found(io: NativeIo) -> None:
    with pytest.raises(FileNotFoundError):
        asyncio.run(io.list_files("x" * 5000))


def test_a_small_file_that_many_replace_at_once(
    io: NativeIo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JERBOA_HOME", str(tmp_path))
    contents = [bytes([i]) * 1000 for i in range(8)]

    async def go() -> None:
        store = await io.open_store("records")
        for _ in range(20):
            await asyncio.gather(*(store.replace("one", data) for data in contents))
        assert bytes(await store.read("one")) in contents
        assert await store.names() == ["one"]
        with pytest.raises(StorageError, match="lone surrogate"):
            await store.read("\ud800")

    asyncio.run(go())
