"""Shared fixtures: `gpu` (every test runs on Dawn and on wgpu-native) and `run` (drives coroutines).

On Linux the software adapters are chosen, so that results do not depend on the machine: SwiftShader for Dawn
(subgroups of 4, no f16), lavapipe for wgpu-native (shader-f16). JERBOA_TEST_GPU=1 leaves the choice to the
Vulkan loader: a real GPU.
A host without an adapter is skipped, and fails when CI=true.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from py_engine.errors import HostError
from py_engine.host.adapter_native import open_gpu
from py_engine.host.gpu import Gpu

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
    """Within it, the Vulkan loader sees only the software driver of `host` (a no-op off Linux).

    The loader reads the variable when an instance is made, so both drivers can be used in one process,
    one after the other.
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
        patch.delenv("VK_DRIVER_FILES", raising=False)  # would win
        yield


def missing_adapter(reason: str) -> None:
    """Skip; under CI=true fail, since there a skipped GPU test would hide everything."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has stores of its own, empty at first; the hub cache is the folder's `hub`."""
    place = tmp_path / "stores"
    monkeypatch.setenv("HF_HUB_CACHE", str(place / "hub"))
    monkeypatch.setenv("JERBOA_HOME", str(place))
    return place


@pytest.fixture(scope="session")
def run() -> Iterator[Runner]:
    """`run(coroutine)` on one event loop for the whole session: what a device made belongs to the loop."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="session")
def open_software_gpu(run: Runner) -> Iterator[Callable[..., Gpu]]:
    """`open_software_gpu(host, **options of open_gpu)`: one more device on the host's software adapter."""
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


@pytest.fixture(scope="session", params=HOSTS)
def gpu(request: pytest.FixtureRequest, open_software_gpu: Callable[..., Gpu]) -> Gpu:
    """The session's device of each host, with every feature its adapter has."""
    return open_software_gpu(request.param)
