"""Shared fixtures: `gpu` (every test runs on Dawn and on wgpu-native) and `run` (runs coroutines).

On Linux the tests use software adapters, so that results do not depend on the machine: SwiftShader for Dawn (subgroups
of 4, no f16), lavapipe for wgpu-native (shader-f16). With JERBOA_TEST_GPU=1 the Vulkan loader chooses, and takes a real
GPU. Tests of a host without an adapter are skipped; with CI=true they fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from py_engine.errors import HostError
from py_engine.host.adapter_native import open_gpu
from py_engine.host.gpu import Gpu, Pipeline
from py_engine.serve.engine import Engine
from tests import reference

HOSTS = ("dawn", "wgpu")

_PLAYWRIGHT = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH", Path.home() / ".cache/ms-playwright"))
_ICD_FILES = {
    "dawn": [
        Path("/usr/lib/chromium/vk_swiftshader_icd.json"),
        Path("/opt/google/chrome/vk_swiftshader_icd.json"),
        *sorted(_PLAYWRIGHT.glob("chromium-*/*/vk_swiftshader_icd.json")),
    ],
    "wgpu": sorted(Path("/usr/share/vulkan/icd.d").glob("lvp_icd*.json")),
}

Runner = Callable[[Coroutine[Any, Any, Any]], Any]


@contextlib.contextmanager
def software_adapter(host: str) -> Iterator[None]:
    """In this context the Vulkan loader sees only the software driver of `host`. It does nothing on other systems than
    Linux.

    The loader reads the variable when an instance is made, so one process can use both drivers, one after the other.
    """
    if sys.platform != "linux" or os.environ.get("JERBOA_TEST_GPU"):
        yield
        return
    icd = next((path for path in _ICD_FILES[host] if path.exists()), None)
    if icd is None:
        missing_adapter(
            f"no software Vulkan driver for {host}: ./dev test installs it where it may"
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VK_ICD_FILENAMES", str(icd))
        patch.delenv("VK_DRIVER_FILES", raising=False)  # it would override the variable set here
        yield


def missing_adapter(reason: str) -> None:
    """Skip the test. With CI=true fail it, because a skipped GPU test would hide every fault."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test gets empty stores of its own. The hub cache is the folder's `hub`."""
    place = tmp_path / "stores"
    monkeypatch.setenv("HF_HUB_CACHE", str(place / "hub"))
    monkeypatch.setenv("JERBOA_HOME", str(place))
    return place


@pytest.fixture(scope="session")
def run() -> Iterator[Runner]:
    """`run(coroutine)` uses one event loop for the whole session, because what a device makes is bound to its loop."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="session")
def open_software_gpu(run: Runner) -> Iterator[Callable[..., Gpu]]:
    """`open_software_gpu(host, **options of open_gpu)` opens one more device on the host's software adapter."""
    opened: list[Gpu] = []

    def open_one(host: str, **options: Any) -> Gpu:
        with software_adapter(host):
            try:
                gpu: Gpu = run(open_gpu(host, **options))
            except HostError as error:
                missing_adapter(f"{host}: {error}")
                raise
        opened.append(gpu)
        return gpu

    yield open_one
    for gpu in opened:
        gpu.close()


@pytest.fixture(scope="session")
def wgpu(open_software_gpu: Callable[..., Gpu]) -> Gpu:
    """The session's device of wgpu-native. Files that test one host share it, so that each kernel is compiled once."""
    return open_software_gpu("wgpu")


@pytest.fixture(scope="module")
def engines(wgpu: Gpu, run: Runner) -> Iterator[Callable[[str], Engine]]:
    """Loads golden checkpoints in float32, each once and checked. At the end of the module no buffer is left."""
    loaded: dict[str, Engine] = {}

    def load(name: str) -> Engine:
        if name not in loaded:
            path = str(reference.folder(name))
            loaded[name] = run(Engine.load(path, gpu=wgpu, dtype="f32", self_check=True))
        return loaded[name]

    yield load
    for engine in loaded.values():
        run(engine.close())
    assert wgpu.counters.live_buffers == 0


@pytest.fixture(scope="session", params=HOSTS)
def gpu(request: pytest.FixtureRequest, open_software_gpu: Callable[..., Gpu]) -> Gpu:
    """The session's device of each host, with every feature that its adapter has."""
    if request.param == "wgpu":
        shared: Gpu = request.getfixturevalue("wgpu")
        return shared
    return open_software_gpu(request.param)


def remember_pipelines(gpu: Gpu) -> None:
    """From now on the device compiles the same source with the same constants only once, whoever asks for it."""
    compile_ = gpu.create_pipeline
    known: dict[tuple[str, str, frozenset[tuple[str, float]]], Pipeline] = {}

    async def create(label: str, code: str, constants: Mapping[str, float]) -> Pipeline:
        key = label, code, frozenset(constants.items())
        if key not in known:
            known[key] = await compile_(label, code, constants)
        return known[key]

    gpu.create_pipeline = create  # type: ignore[method-assign]
