"""FileStore: plain files, small files that are whole or absent, links, locks between processes, a full disk."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from py_engine.errors import StorageError, StorageFullError
from py_engine.host.io_native import NativeIo
from py_engine.host.store_native import FileStore, default_root

T = TypeVar("T")
HOLD = """
import asyncio, sys
from pathlib import Path
from py_engine.host.store_native import FileStore

async def hold():
    async with FileStore(Path(sys.argv[1])).lock("model"):
        print("held", flush=True)
        await asyncio.sleep(60)

asyncio.run(hold())
"""


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "root", shared=True)


def test_slices_at_any_offset_in_any_order(store: FileStore) -> None:
    async def go() -> None:
        await store.write("a/b", 6, b"ghi")
        await store.write("a/b", 0, memoryview(b"abcdef"))
        await store.flush("a/b")
        assert bytes(await store.read("a/b")) == b"abcdefghi"
        assert bytes(await store.read("a/b", 2, 4)) == b"cd"
        assert bytes(await store.read("a/b", 7, 99)) == b"hi"
        assert await store.size("a/b") == 9 and await store.size("a") is None
        assert await store.names() == ["a/b"] and await store.names("none") == []
        with pytest.raises(FileNotFoundError):
            await store.read("a/c")
        await store.delete("a/b")
        await store.delete("a/b")
        assert await store.names() == [] and not (store.root / "a").exists()

    run(go())


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../b", "a//b", "", "a\\b", "x\0"])
def test_names_stay_inside(store: FileStore, name: str) -> None:
    for call in (store.write(name, 0, b"x"), store.replace(name, b"x"), store.delete(name)):
        with pytest.raises(StorageError, match="not the name"):
            run(call)


def test_replace_is_whole_or_not_at_all(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    run(store.replace("a/index", b"old"))
    run(store.replace("a/index", b"longer than before"))
    assert bytes(run(store.read("a/index"))) == b"longer than before"

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(StorageFullError, match="a/index"):
        run(store.replace("a/index", b"new"))
    assert bytes(run(store.read("a/index"))) == b"longer than before"
    assert run(store.names()) == ["a/index"]


def test_links_are_relative_and_renames_keep_the_bytes(store: FileStore) -> None:
    async def go() -> None:
        await store.write("m/blobs/1.incomplete", 0, b"weights")
        await store.rename("m/blobs/1.incomplete", "m/blobs/1")
        await store.link("m/snapshots/c/model", "m/blobs/1")
        await store.link("m/snapshots/c/model", "m/blobs/1")
        assert bytes(await store.read("m/snapshots/c/model")) == b"weights"
        assert os.readlink(store.root / "m/snapshots/c/model") == "../../blobs/1"
        await store.delete("m/snapshots/c/model")
        assert await store.names() == ["m/blobs/1"]

    run(go())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said(store: FileStore, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    run(store.write("a", 0, b"first"))

    def no_room(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "write", no_room)
    with pytest.raises(StorageFullError, match="no room"):
        run(store.write("a", 5, b"second"))
    assert bytes(run(store.read("a"))) == b"first"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = FileStore(tmp_path / "file" / "below")
    with pytest.raises(StorageError):
        run(store.write("a", 0, b"x"))


def test_locks(store: FileStore) -> None:
    async def go() -> None:
        async with store.lock("m") as held, store.lock("other") as other:
            assert held and other
            async with store.lock("m", wait=False) as second:
                assert not second
            async with store.lock("m", shared=True, wait=False) as second:
                assert not second
            waiter = asyncio.ensure_future(take())
            await asyncio.sleep(0.2)
            assert not waiter.done()
        await asyncio.wait_for(waiter, 5)
        async with store.lock("m", shared=True), store.lock("m", shared=True, wait=False) as both:
            assert both

    async def take() -> None:
        async with store.lock("m"):
            pass

    run(go())


def test_a_dead_holder_loses_its_lock_at_once(store: FileStore) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.root)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"

    async def go() -> float:
        async with store.lock("model", wait=False) as mine:
            assert not mine
        holder.send_signal(signal.SIGKILL)
        begun = time.monotonic()
        async with store.lock("model"):
            return time.monotonic() - begun

    assert run(asyncio.wait_for(go(), 5)) < 5
    holder.wait()
    holder.stdout.close()


def test_where_stores_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "JERBOA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root("models") == (tmp_path / "huggingface" / "hub", True)
    assert default_root("sessions") == (tmp_path / "jerboa" / "sessions", False)
    monkeypatch.setenv("JERBOA_HOME", str(tmp_path / "j"))
    assert default_root("sessions")[0] == tmp_path / "j" / "sessions"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    assert default_root("models")[0] == tmp_path / "hf" / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    assert default_root("models")[0] == tmp_path / "elsewhere"
    assert run(NativeIo().open_store("models")).root == tmp_path / "elsewhere"
