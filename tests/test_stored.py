"""What users do with stored models: list, verify and clean them, by command and by message."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.worker import Host
from py_engine.__main__ import main
from py_engine.errors import InputError
from py_engine.kept import inventory
from tests import waiting
from tests.hub_loads import NAME, FaultIo, load, make_repository
from tests.hub_server import COMMIT, HubServer, hub_server

FOLDER = "models--org--tiny"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with org/tiny and org/other, both already stored."""
    root = tmp_path / "root"
    make_repository(root)
    shutil.copytree(root / NAME, root / "org" / "other")
    with hub_server(root) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        for i, name in enumerate((NAME, "org/other")):
            keep(name, 1000.0 + i)
        yield running


def keep(address: str, now: float = 2000.0) -> None:
    io = FaultIo()
    io.time = lambda: now  # type: ignore[method-assign]
    try:
        asyncio.run(load(io, address))
    finally:
        io.close()


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    """The exit code, and the object on the last line of stdout."""
    code = main(["cache", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_list(server: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = command(capsys, "list")
    assert code == 0 and found["kind"] == "files"
    assert [m["model"] for m in found["models"]] == ["org/other", NAME], "the last used one first"
    size = sum(p.stat().st_size for p in (server.root / NAME).iterdir())
    for model in found["models"]:
        assert model["nbytes"] == size and model["complete"] and model["refs"] == ["main"]
        assert model["commit"] == COMMIT
    assert found["nbytes"] == 2 * size
    assert main(["cache", "list"]) == 0
    shown = capsys.readouterr().out
    assert "org/tiny@main" in shown and "in 2 models" in shown


def test_an_interrupted_load_is_listed_as_such(
    server: HubServer, stores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(stores / "hub" / FOLDER)

    def stop(k: int, method: str, name: str) -> None:
        if k == 20:
            raise KeyboardInterrupt

    io = FaultIo(stop)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(load(io))
    io.close()
    found = command(capsys, "list")[1]
    state = {m["model"]: m["complete"] for m in found["models"]}
    assert state == {"org/other": True, NAME: False}
    assert main(["cache", "list"]) == 0 and "(not complete)" in capsys.readouterr().out
    assert command(capsys, "clean", NAME)[0] == 0
    assert not (stores / "hub" / FOLDER).exists()


def test_verify(server: HubServer, stores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = command(capsys, "verify")
    assert code == 0 and {f["state"] for f in found["files"]} == {"good"}
    assert len(found["files"]) == 6
    blobs = stores / "hub" / FOLDER / "blobs"
    weights = max(blobs.iterdir(), key=lambda p: p.stat().st_size)
    body = bytearray(weights.read_bytes())
    body[70_000] ^= 1
    weights.write_bytes(body)
    (stores / "hub" / FOLDER / "snapshots" / COMMIT / "config.json").resolve().unlink()
    code, found = command(capsys, "verify", NAME)
    assert code == 1
    assert {f["file"]: f["state"] for f in found["files"]} == {
        "config.json": "missing",
        "model.safetensors": "damaged",
        "tokenizer.json": "good",
    }
    assert main(["cache", "verify", NAME]) == 1
    assert "damaged   org/tiny@" in capsys.readouterr().out
    keep(NAME)
    assert command(capsys, "verify")[0] == 0, "the next load repaired it"


class Terminal(io.StringIO):
    """A user who types at a terminal."""

    def isatty(self) -> bool:
        return True


def test_clean_of_everything_asks_or_wants_to_be_told(
    server: HubServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def count() -> int:
        return len(command(capsys, "list")[1]["models"])

    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))  # a pipe: there is nobody to ask
    assert main(["cache", "clean"]) == 1 and "--yes" in capsys.readouterr().err
    code, told = command(capsys, "clean")
    assert (
        code == 1 and told["error"]["type"] == "InputError" and "--yes" in told["error"]["message"]
    )
    for typed in ("", "\n", "n\n", "yes, but not now\n"):
        monkeypatch.setattr("sys.stdin", Terminal(typed))
        assert main(["cache", "clean"]) == 1
        told_text = capsys.readouterr()
        assert "Delete all 2 models" in told_text.err and "org/tiny" in told_text.err
        assert not told_text.out
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    code, told = command(capsys, "clean")
    assert code == 1, "nobody is asked in the middle of JSON"
    assert count() == 2
    assert main(["cache", "clean"]) == 0 and "2 models deleted" in capsys.readouterr().out
    assert count() == 0


def test_clean(server: HubServer, stores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = stores / "hub" / "models--org--theirs" / "blobs" / "x"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"not ours")
    code, gone = command(capsys, "clean", "org/other@main")
    assert code == 0 and gone["models"] == [f"org/other@{COMMIT}"] and gone["busy"] == []
    assert gone["nbytes"] > 100_000
    assert not (stores / "hub" / "models--org--other").exists()
    with pytest.raises(InputError, match="not kept"):
        asyncio.run(inventory.delete(FaultIo(), "org/other"))
    assert main(["cache", "clean", "org/other"]) == 1
    assert main(["cache", "clean", "no hub id"]) == 1
    capsys.readouterr()
    assert command(capsys, "clean", "--yes")[1]["models"] == [f"{NAME}@{COMMIT}"]
    left = [p for p in (stores / "hub").rglob("*") if p.is_file() and ".locks" not in p.parts]
    assert left == [foreign]
    assert command(capsys, "list")[1]["models"] == []


def test_clean_sweeps_what_nobody_knows(server: HubServer, stores: Path) -> None:
    """A process that died before its first note left a file that only a sweep finds."""
    lost = stores / "hub" / FOLDER / "blobs" / "0123.jerboa.incomplete"
    theirs = lost.with_name("4567.incomplete")
    for path in (lost, theirs):
        path.write_bytes(bytes(100))
    asyncio.run(inventory.delete(FaultIo()))
    assert not lost.exists() and theirs.exists()


def test_a_model_that_is_being_loaded_stays(server: HubServer) -> None:
    async def go() -> inventory.Deleted:
        io = FaultIo()
        store = await io.open_store("models")
        async with store.lock(FOLDER, shared=True):
            return await inventory.delete(io)

    gone = asyncio.run(go())
    assert gone.busy == [f"{NAME}@{COMMIT}"] and gone.models == [f"org/other@{COMMIT}"]


def test_messages(server: HubServer) -> None:
    async def go() -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []

        async def nothing() -> None:
            pass

        host = Host(sent.append, nothing)
        for i, message in enumerate(
            (
                {"type": "cache_list"},
                {"type": "cache_delete", "model": NAME},
                {"type": "cache_delete", "model": NAME},
                {"type": "cache_list"},
            )
        ):
            host.receive({**message, "id": i})
            await waiting.until(f"answer {i}", lambda: len(sent) > i)  # noqa: B023
        return sent

    first, gone, again, last = asyncio.run(go())
    assert len(first["value"]["models"]) == 2 and gone["value"]["models"] == [f"{NAME}@{COMMIT}"]
    assert again["error_type"] == "InputError"
    assert [m["model"] for m in last["value"]["models"]] == ["org/other"]
