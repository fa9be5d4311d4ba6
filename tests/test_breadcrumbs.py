"""A run reports what an earlier run was doing when it crashed: the file, and the worker's messages with a model."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.worker import Host
from py_engine.checks.tunings import record_name
from py_engine.errors import StorageError
from py_engine.graph.calibrate import Calibration
from py_engine.graph.submit import GroupedSubmit
from py_engine.host.gpu import Gpu
from py_engine.host.io_native import NativeIo
from py_engine.serve import calibration
from py_engine.serve.breadcrumbs import CRUMB_BYTES, Breadcrumbs
from py_engine.serve.device import Device
from py_engine.serve.engine import Engine
from tests import reference, waiting
from tests.conftest import Runner

NAME = "qwen3-mlx4-g128"
CRUMB = {"phase": "load", "model": "org/name", "context": 512, "group": None}
# A run that writes down what it is doing, then waits to be killed.
CHILD = """
import asyncio, sys
from py_engine.host.io_native import NativeIo
from py_engine.serve.breadcrumbs import Breadcrumbs

async def main():
    crumbs = Breadcrumbs(NativeIo())
    print(await crumbs.open(sys.argv[1], ()), flush=True)
    async with crumbs.at("load", "org/name", 512, None):
        async with crumbs.at("generate", "inner", None, 8):
            pass
        print("at it", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def test_a_killed_process_is_told_of_once(run: Runner) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, "first"], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    try:
        assert [child.stdout.readline().strip() for _ in range(2)] == ["[]", "at it"]
        assert run(told("second")) == [], "it is alive: another tab at work"
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    assert run(told("third", left=["another"])) == [CRUMB]
    assert run(told("fourth")) == []


async def told(name: str, left: Any = ()) -> list[dict[str, Any]]:
    crumbs = Breadcrumbs(NativeIo())
    found = await crumbs.open(name, left)
    await crumbs.close()
    return found


def test_what_ended_in_peace_or_had_nothing_to_do_is_not_told(run: Runner) -> None:
    dead: list[Any] = []  # a block that is garbage collected would be left, and its note deleted

    async def leave(name: str, at: bool) -> None:
        crumbs = Breadcrumbs(NativeIo())
        await crumbs.open(name, ())
        if at:
            block = crumbs.at("generate", "x" * 5000, 4096, 16)
            dead.append((crumbs, block))
            await block.__aenter__()
        else:
            async with crumbs.at("generate", "é" * 5000, 4096, 16):
                pass
        await crumbs._held.aclose()  # as when the process is gone

    run(leave("idle", False))
    assert run(told("next")) == []
    run(leave("closed", True))
    assert run(told("next", left=["closed"])) == []
    assert run(told("last")) == []
    run(leave("killed", True))
    assert [found["phase"] for found in run(told("next"))] == ["generate"]
    for crumbs, _ in dead:
        crumbs._store = None  # as when the process is dead: it writes no more


def test_of_blocks_that_overlap_the_first_that_goes_on_is_told(run: Runner, stores: Path) -> None:
    """When a calibration ends, the note names the answer that was waiting for it."""

    async def overlap() -> list[str | None]:
        crumbs = Breadcrumbs(NativeIo())
        await crumbs.open("run", ())

        def told() -> str | None:
            found = json.loads((stores / "crumbs" / "run.json").read_text()).get("phase")
            return None if found is None else str(found)

        calibrate, generate = (crumbs.at(p, "m", 512, 8) for p in ("calibrate", "generate"))
        phases = []
        for change in (
            calibrate.__aenter__(),
            generate.__aenter__(),
            calibrate.__aexit__(None, None, None),
            generate.__aexit__(None, None, None),
        ):
            await change
            phases.append(told())
        await crumbs.close()
        return phases

    assert run(overlap()) == ["calibrate", "calibrate", "generate", None]


def test_spoilt_crumbs_and_a_broken_store_are_no_error(
    run: Runner, stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stores / "crumbs").mkdir(parents=True)
    for name, data in (("a", b"{"), ("b", b""), ("c", b"[]"), ("d", b" " * CRUMB_BYTES)):
        (stores / "crumbs" / f"{name}.json").write_bytes(data)
    assert run(told("run")) == []
    assert not list((stores / "crumbs").glob("*.json"))

    async def refuse(self: Any, name: str, **options: Any) -> Any:
        raise StorageError("no store")

    monkeypatch.setattr(NativeIo, "open_store", refuse)

    async def without() -> int:
        crumbs = Breadcrumbs(NativeIo())
        assert await crumbs.open("run", ()) == []
        async with crumbs.at("load", "m", None, None):
            return 1

    assert run(without()) == 1


def test_a_page_that_does_not_listen_leaves_it_to_one_that_does(
    run: Runner, stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Diagnostics and benches give no name of a run. What the chat's page was doing when it crashed is reported to the
    chat's page only."""
    (stores / "crumbs").mkdir(parents=True)
    (stores / "crumbs" / "dead.json").write_text(json.dumps(CRUMB))

    async def begin(name: str) -> list[dict[str, Any]]:
        monkeypatch.setenv("JERBOA_RUN", name)
        heard: list[dict[str, Any]] = []

        async def nothing() -> None:
            pass

        host = Host(heard.append, nothing)
        host.begin()
        host.receive({"type": "cache_list", "id": 1})  # this is answered once the old note was read
        await waiting.until(
            "an answer to cache_list", lambda: any(m["status"] == "result" for m in heard), 0
        )
        await host._log.crumbs.close()
        return [m for m in heard if m["status"] == "crashed"]

    assert run(begin("")) == []
    assert [m["phase"] for m in run(begin("chat"))] == ["load"]


def test_the_worker_writes_it_down_and_tells(
    open_software_gpu: Callable[..., Gpu],
    run: Runner,
    stores: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker dies in the middle of an answer. The next one reports it, then calibrates its model."""
    monkeypatch.setattr("py_engine.graph.submit.on_webkit", lambda: True)
    monkeypatch.setattr("app.worker.QUIET_S", 0.0)
    monkeypatch.setattr("py_engine.generate.decoder.STEPS_IN_FLIGHT", 1)
    gpu = open_software_gpu("wgpu")

    async def opened(**options: Any) -> Device:
        return Device(gpu, recovers=False)

    monkeypatch.setattr(Device, "open", opened)
    folder = str(reference.folder(NAME))
    heard: list[dict[str, Any]] = []

    def kinds() -> list[str]:
        return [m["status"] for m in heard]

    async def nothing() -> None:
        pass

    async def until(kind: str) -> dict[str, Any]:
        await waiting.until(f"a message {kind}", lambda: kind in kinds())
        return next(m for m in heard if m["status"] == kind)

    def start(name: str) -> Host:
        heard.clear()
        monkeypatch.setenv("JERBOA_RUN", name)
        host = Host(heard.append, nothing)
        host.begin()
        return host

    completed = Engine.complete

    def complete(*args: Any, **options: Any) -> Any:
        crumb = json.loads((stores / "crumbs" / "first.json").read_text())
        assert crumb["phase"] == "generate", "it is written before anything runs"
        return completed(*args, **options)

    async def first() -> None:
        host = start("first")
        monkeypatch.setattr(Engine, "complete", complete)
        options = {"context": 512, "dtype": "f32", "group": 16, "passes": 2}
        host.receive({"type": "load", "id": 1, "repo": folder, "options": options})
        await until("ready")
        host.receive({"type": "generate", "id": 2, "prompt": "one two three"})
        await until("token")
        await host._log.crumbs._held.aclose()  # as the death of its process releases the lock
        host._log.crumbs._store = None
        host.receive({"type": "interrupt", "id": 2})
        await until("complete")
        await host._models.unload(None)

    async def second() -> None:
        host = start("second")
        crashed = await until("crashed")
        assert crashed["phase"] == "generate" and crashed["model"] == folder[:120]
        assert (crashed["context"], crashed["group"]) == (512, 16)
        store = await NativeIo().open_store(calibration.STORE, records=True)
        unsaid = Calibration(trying=GroupedSubmit(8), by="first")
        await store.replace(record_name(gpu), json.dumps(unsaid.to_dict()).encode())
        monkeypatch.setenv("JERBOA_UNSEEN", "another,first")
        monkeypatch.setenv("JERBOA_HIDDEN", "1")
        host.receive({"type": "load", "id": 1, "repo": folder, "options": {"context": 512}})
        info = (await until("ready"))["info"]
        assert info["submit"] == {"dispatches": 1, "passes": 1}, "nothing loads by itself, nor fast"
        await asyncio.sleep(0.3)
        assert "calibrated" not in kinds(), "only in sight"
        monkeypatch.setenv("JERBOA_HIDDEN", "")
        assert (await until("calibrated"))["passes"] == 1, "what ended out of sight did not fail"
        await waiting.until("all tasks done", lambda: all(t.done() for t in host._tasks))
        groups = [m["group"] for m in heard if m["status"] == "calibrated"]
        assert groups == sorted(groups) and groups[0] == 8
        assert host._engine and host._engine.info()["submit"]["dispatches"] == groups[-1]
        await host._models.unload(None)
        await host._log.crumbs.close()

    run(first())
    run(second())
    assert not list((stores / "crumbs").glob("*.json"))
