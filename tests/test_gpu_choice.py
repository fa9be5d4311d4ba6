"""Which GPU CPython takes when no host is named, and what the error says when there is none."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from py_engine.errors import HostError, NoAdapterError
from py_engine.host import adapter_native, open_gpu
from py_engine.serve.engine import Engine
from tests import reference
from tests.conftest import Runner, software_adapter


def adapter(device: str, kind: str, backend: str = "Vulkan") -> Any:
    """An adapter like wgpu-py's."""
    return SimpleNamespace(
        info={"device": device, "adapter_type": kind, "backend_type": backend}, opens=True
    )


HARDWARE = adapter("Radeon", "DiscreteGPU")
SOFTWARE = adapter("llvmpipe", "CPU")
GL = adapter("llvmpipe by GL", "CPU", "OpenGL")
BROKEN = adapter("Broken", "DiscreteGPU")
BROKEN.opens = False


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`machine(dawn, wgpu)` sets the adapters that the two packages find. They return the first one. An error
    instead of adapters is raised; None means that the package is not installed. A device knows its adapter."""

    def made(dawn: Any, wgpu: Any) -> None:
        def package(backend: str) -> Any:
            seen = {"dawn": dawn, "wgpu": wgpu}[backend]
            if seen is None:
                raise HostError(f"host {backend!r} needs a package")

            def request_adapter_sync(**_: object) -> Any:
                if isinstance(seen, Exception):
                    raise seen
                return seen[0] if seen else None

            def enumerate_adapters_sync() -> Any:
                return [] if isinstance(seen, Exception) else seen

            gpu = SimpleNamespace(
                request_adapter_sync=request_adapter_sync,
                enumerate_adapters_sync=enumerate_adapters_sync,
            )
            return SimpleNamespace(gpu=gpu)

        def opened(wgpu: object, backend: str, found: Any, *_: object) -> Any:
            if not found.opens:
                raise HostError(f"the adapter {found.info['device']} refused a device")
            return SimpleNamespace(host=backend, device=found.info["device"], warning="")

        monkeypatch.setattr(adapter_native, "_package", package)
        monkeypatch.setattr(adapter_native, "_open", opened)
        monkeypatch.setattr(adapter_native, "_ADAPTER_PATIENCE_S", 0.0)
        monkeypatch.delenv("JERBOA_HOST", raising=False)

    return made


@pytest.mark.parametrize(
    ("dawn", "wgpu", "chosen"),
    [
        ([HARDWARE], [HARDWARE], ("dawn", "Radeon")),
        ([SOFTWARE], [HARDWARE], ("wgpu", "Radeon")),
        ([], [HARDWARE], ("wgpu", "Radeon")),
        (None, [HARDWARE], ("wgpu", "Radeon")),
        (RuntimeError("no Vulkan"), [HARDWARE], ("wgpu", "Radeon")),
        ([BROKEN], [HARDWARE], ("wgpu", "Radeon")),
        ([HARDWARE], None, ("dawn", "Radeon")),
        ([SOFTWARE], [SOFTWARE], ("dawn", "llvmpipe")),
        ([], [GL, SOFTWARE], ("wgpu", "llvmpipe")),
        ([], [GL], ("wgpu", "llvmpipe by GL")),
        ([BROKEN], [SOFTWARE], ("wgpu", "llvmpipe")),
    ],
)
def test_hardware_goes_first(
    machine: Any, run: Runner, dawn: Any, wgpu: Any, chosen: tuple[str, str]
) -> None:
    machine(dawn, wgpu)
    gpu = run(open_gpu())
    assert (gpu.host, gpu.device) == chosen
    if chosen[1] == "Radeon":
        assert gpu.warning == ""
    else:
        assert chosen[1] in gpu.warning and "software" in gpu.warning
        assert "dawn: " in gpu.warning and "wgpu: " in gpu.warning


def test_without_an_adapter_it_says_what_each_of_them_said(
    machine: Any, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(RuntimeError("no Vulkan here"), None)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("VK_DRIVER_FILES", "/no/such.json")
    with pytest.raises(NoAdapterError) as caught:
        run(open_gpu())
    for words in ("dawn: no Vulkan here", "wgpu: host 'wgpu' needs a package", "/no/such.json"):
        assert words in str(caught.value)


def test_a_named_host_is_the_one_that_is_asked(
    machine: Any, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it has no GPU, the message names the host that has one."""
    machine([], [HARDWARE])
    with pytest.raises(NoAdapterError, match=r"--host wgpu: Radeon \(DiscreteGPU, Vulkan\)"):
        run(open_gpu("dawn"))
    monkeypatch.setenv("JERBOA_HOST", "wgpu")
    assert run(open_gpu()).device == "Radeon"
    machine([SOFTWARE], [HARDWARE])
    gpu = run(open_gpu("dawn"))
    assert (gpu.device, gpu.warning) == ("llvmpipe", ""), "who asks for it knows"


def test_a_load_in_software_says_so(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """This uses the real packages, with lavapipe, a GPU in software. Dawn may accept or refuse it."""
    if not all(importlib.util.find_spec(name) for name in ("wgpu", "wgpudawn")):
        pytest.skip("both packages are wanted")
    monkeypatch.delenv("JERBOA_HOST", raising=False)
    notes: list[str] = []
    folder = str(reference.folder("qwen2-mlx4-g64"))

    async def loaded() -> dict[str, Any]:
        async with await Engine.load(
            folder, on_progress=lambda p: notes.append(p.message) if p.phase == "note" else None
        ) as engine:
            return engine.info()

    with software_adapter("wgpu"):
        info = run(loaded())
    assert info["adapter"]["fallback"]
    assert len(notes) == 1 and info["adapter"]["device"] in notes[0]
