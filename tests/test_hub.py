"""Repositories on a real server that behaves like the hub, and in folders."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from safetensors.numpy import save_file

from py_engine.errors import FormatError, HubError
from py_engine.host.io_native import NativeIo
from py_engine.sources import hub, hub_client
from py_engine.sources.address import open_repository
from py_engine.sources.repository import Repository, Subfolder
from py_engine.sources.safetensors import read_tensors
from tests.hub_server import COMMIT, HubServer, hub_server, tiny_model

DATA = bytes(i * 7 % 251 for i in range(300_000))
T = TypeVar("T")


class QuickIo(NativeIo):
    """NativeIo that counts its waits between attempts instead of waiting, and gives up soon."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def fetch(self, *args: Any, **options: Any) -> Any:
        return await super().fetch(*args, **{**options, "timeout_s": 0.4})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tiny_model(tmp_path, DATA)
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "config.json").write_text("[1]")
    (folder / "empty.bin").write_bytes(b"")
    return tmp_path


@pytest.fixture
def server(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server(root) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url + "/")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield running


@pytest.fixture
def io() -> Iterator[QuickIo]:
    made = QuickIo()
    yield made
    made.close()


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def test_hub_repository(server: HubServer, io: QuickIo) -> None:
    async def go() -> None:
        repo = await open_repository("org/tiny", io)
        assert repo.revision == COMMIT
        assert repo.files() == [
            "2_Dense/config.json",
            "config.json",
            "empty.bin",
            "model.safetensors",
        ]
        assert await repo.json("config.json") == {"model_type": "qwen3"}
        assert await repo.json("2_Dense/config.json") == [1]
        assert await repo.size("model.safetensors") == len(DATA)
        assert len(repo.sha256("model.safetensors") or "") == 64
        assert repo.sha256("config.json") is None
        assert await repo.bytes("empty.bin") == b""
        assert await repo.exists("config.json") and not await repo.exists("tokenizer.json")
        seen: list[int] = []
        part = await repo.read("model.safetensors", 99, 200_100, seen.append)
        assert bytes(part) == DATA[99:200_100]
        await asyncio.sleep(0)
        assert sum(seen) == 200_001
        assert bytes(await repo.read("model.safetensors", 10)) == DATA[10:]
        assert await repo.read("model.safetensors", 10, 10) == b""

    run(go())
    files = [r.path for r in server.requests if "resolve" in r.path]
    assert files and all(
        f"/resolve/{COMMIT}/" in path for path in files
    )  # the commit is pinned, whatever main becomes


def test_revision_in_the_address(server: HubServer, io: QuickIo) -> None:
    assert run(open_repository(f"org/tiny@{COMMIT}", io)).revision == COMMIT
    with pytest.raises(HubError, match="no revision v9") as caught:
        run(open_repository("org/tiny@v9", io))
    assert caught.value.status == 404


def test_absent_repository_and_token(
    root: Path, io: QuickIo, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_server(root, token="hf_good") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        with pytest.raises(HubError, match="set HF_TOKEN") as caught:
            run(open_repository("org/tiny", io))
        assert caught.value.status == 401 and "hf_" not in str(caught.value)
        monkeypatch.setenv("HF_TOKEN", "hf_bad")
        with pytest.raises(HubError, match="refused the token") as caught:
            run(open_repository("org/tiny", io))
        assert "hf_bad" not in str(caught.value)
        monkeypatch.setenv("HF_TOKEN", "hf_good")
        repo = run(open_repository("org/tiny", io))
        assert bytes(run(repo.read("model.safetensors", 0, 5))) == DATA[:5]
        with pytest.raises(HubError, match="not found") as caught:
            run(open_repository("org/other", io))
    assert caught.value.status == 404
    assert io.waits == []  # none of these is tried again


@pytest.mark.parametrize(
    "fault", [500, 503, 429, "short", "stall", "drop", "wrong-range", "gzip", "gzip-whole"]
)
def test_faults_that_pass_are_survived(server: HubServer, io: QuickIo, fault: int | str) -> None:
    async def go() -> None:
        repo = await open_repository("org/tiny", io)
        server.fail("model.safetensors", fault, fault)
        seen: list[int] = []
        part = await repo.read("model.safetensors", 1000, 250_000, seen.append)
        assert bytes(part) == DATA[1000:250_000]
        await asyncio.sleep(0)
        assert sum(seen) == 249_000  # bytes of failed attempts are subtracted
        assert len(io.waits) == 2 and 0.25 <= io.waits[0] < 0.75 and 0.5 <= io.waits[1] < 1.5

    run(go())


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (500, "HTTP 500"),
        ("short", "bytes short"),
        ("drop", "no answer"),
        ("wrong-range", "was given"),
        ("gzip", "compressed a range"),
        ("gzip-whole", "compressed its answer"),
    ],
)
def test_faults_that_stay_end_in_a_clear_error(
    server: HubServer, io: QuickIo, fault: int | str, text: str
) -> None:
    repo = run(open_repository("org/tiny", io))
    server.fail("model.safetensors", *[fault] * 20)
    with pytest.raises(HubError, match=text) as caught:
        run(repo.read("model.safetensors", 0, 1000))
    assert "Gave up after 5 attempts" in str(caught.value)
    assert len(io.waits) == hub_client.ATTEMPTS - 1


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (401, "no such public repository"),
        (403, "accept the model's terms"),
        (404, "check the name and revision"),
        (416, "shorter than"),
        (418, "HF_ENDPOINT"),
    ],
)
def test_refusals_are_not_repeated(server: HubServer, io: QuickIo, fault: int, text: str) -> None:
    repo = run(open_repository("org/tiny", io))
    server.fail("model.safetensors", fault)
    with pytest.raises(HubError, match=text) as caught:
        run(repo.read("model.safetensors", 0, 1000))
    assert caught.value.status == fault and io.waits == []
    assert bytes(run(repo.read("model.safetensors", 0, 9))) == DATA[:9]  # a second attempt works


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "listing"])
def test_a_web_page_in_the_place_of_a_file(server: HubServer, io: QuickIo, name: str) -> None:
    async def go() -> None:
        if name == "listing":
            server.fail(name, "html")
        repo = await open_repository("org/tiny", io)
        server.fail(name, "html")
        await (repo.json(name) if name.endswith("json") else repo.read(name, 0, 50))

    with pytest.raises(HubError, match="web page") as caught:
        run(go())
    assert caught.value.status == 200 and io.waits == []


def test_ranges_ignored(server: HubServer, io: QuickIo, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = run(open_repository("org/tiny", io))
    server.fail("model.safetensors", "no-range")
    assert bytes(run(repo.read("model.safetensors", 7, 5000))) == DATA[7:5000]
    monkeypatch.setattr(hub, "MAX_IGNORED_RANGE_BYTES", 4096)
    server.fail("model.safetensors", "no-range")
    with pytest.raises(HubError, match="ignores Range"):
        run(repo.read("model.safetensors", 7, 5000))


def test_a_mirror_without_listing(root: Path, io: QuickIo, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_server(root, listing=False) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)

        async def go() -> None:
            repo = await open_repository("org/tiny", io)
            assert repo.revision == COMMIT  # taken from the file's own header
            assert await repo.json("config.json") == {"model_type": "qwen3"}
            assert await repo.size("model.safetensors") == len(DATA)
            assert await repo.size("empty.bin") == 0
            assert not await repo.exists("tokenizer.json")
            assert repo.files() == ["config.json", "empty.bin", "model.safetensors"]

        run(go())


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../b", "", "a\\b", "a//b", "x\0"])
def test_names_stay_inside(server: HubServer, root: Path, io: QuickIo, name: str) -> None:
    async def go(address: str) -> None:
        repo: Repository = await open_repository(address, io)
        with pytest.raises((FormatError, HubError)):
            await repo.read(name, 0, 1)

    run(go("org/tiny"))
    run(go(str(root / "org" / "tiny")))


def test_folder(root: Path, io: QuickIo) -> None:
    async def go() -> None:
        repo = await open_repository(str(root / "org" / "tiny") + "/", io)
        assert repo.revision is None
        names = ["2_Dense/config.json", "config.json", "empty.bin", "model.safetensors"]
        assert repo.files() == names
        assert Subfolder(repo, "2_Dense").files() == ["config.json"]
        assert await repo.json("config.json") == {"model_type": "qwen3"}
        assert await repo.json("2_Dense/config.json") == [1]
        assert bytes(await repo.read("model.safetensors", 5, 99)) == DATA[5:99]
        assert bytes(await repo.read("model.safetensors")) == DATA
        with pytest.raises(HubError, match="ends at byte 300000"):
            await repo.read("model.safetensors", 5, 300_001)
        with pytest.raises(HubError, match="no file tokenizer.json") as caught:
            await repo.json("tokenizer.json")
        assert caught.value.status == 404

    run(go())


def test_a_folder_named_like_a_hub_id_wins(
    root: Path, io: QuickIo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    assert run(open_repository("org/tiny", io)).revision is None


@pytest.mark.parametrize("address", ["", "./nowhere", "/nowhere/at/all", "a/b/c", "files:x", "\0"])
def test_addresses_that_are_nothing(io: QuickIo, address: str) -> None:
    with pytest.raises(HubError):
        run(open_repository(address, io))


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b"[" * 200_000, b"1" * 5000, b'{"a": 1}}', b"\x00" * 10],
)
def test_broken_json(root: Path, io: QuickIo, body: bytes) -> None:
    (root / "org" / "tiny" / "config.json").write_bytes(body)
    repo = run(open_repository(str(root / "org" / "tiny"), io))
    with pytest.raises(FormatError, match=r"config\.json"):
        run(repo.json("config.json"))


def test_whole_files_have_a_limit(root: Path, io: QuickIo) -> None:
    repo = run(open_repository(str(root / "org" / "tiny"), io))
    with pytest.raises(FormatError, match="more than the 1000"):
        run(repo.bytes("model.safetensors", limit=1000))


def test_a_stale_index_on_the_hub(root: Path, server: HubServer, io: QuickIo) -> None:
    """The listing says which shards exist. The index lacks one, and names five that are gone."""
    folder = root / "org" / "tiny"
    (folder / "model.safetensors").unlink()
    for number, name in enumerate("xy", 1):
        array = {name: np.ones(2, np.float32)}
        save_file(array, folder / f"model-0000{number}-of-00002.safetensors")
    stale = {name: f"model-0000{i}-of-00005.safetensors" for i, name in enumerate("xy", 1)}
    index = folder / "model.safetensors.index.json"
    for weight_map in ({"x": "model-00001-of-00002.safetensors"}, stale):
        index.write_text(json.dumps({"weight_map": weight_map}))
        notes: list[str] = []

        async def go(notes: list[str] = notes) -> list[str]:
            repository = await open_repository("org/tiny", io)
            try:
                return sorted(await read_tensors(repository, notes.append))
            finally:
                await repository.close()

        assert run(go()) == ["x", "y"]
        assert len(notes) == 1
