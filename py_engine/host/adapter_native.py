"""Finding a GPU in CPython: which of Dawn (package wgpudawn, Tint) and wgpu-native (package wgpu, naga) has an adapter,
and what to say when none has. Both are used through wgpu-py's API; host/gpu_native.py has the open device.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import time
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from py_engine.errors import HostError, NoAdapterError
from py_engine.host.gpu import (
    DOT4_TRIAL,
    MATRIX_FEATURE,
    MATRIX_SIZE,
    MATRIX_SUBGROUP,
    MATRIX_WORKGROUP_BYTES,
    AdapterInfo,
    Limits,
)
from py_engine.host.gpu_native import NativeGpu

_PACKAGES = {"dawn": "wgpudawn", "wgpu": "wgpu"}
_FEATURES = ("shader-f16", "subgroups", "timestamp-query", "subgroup-matrix")
# Their names of a feature, where they differ from ours.
_NAMES = {"dawn": {"subgroup-matrix": MATRIX_FEATURE}, "wgpu": {"subgroups": "subgroup"}}
# The environment variable with Dawn's toggles to switch on, separated by commas. For example
# "allow_unsafe_apis,vulkan_enable_f16_on_nvidia" gives shader-f16 and tensor units on NVIDIA. It is read when the first
# Dawn adapter is asked for.
TOGGLES_VARIABLE = "JERBOA_DAWN_TOGGLES"
_LIMITS = {
    "max_buffer_bytes": "max-buffer-size",
    "max_binding_bytes": "max-storage-buffer-binding-size",
    "max_workgroup_bytes": "max-compute-workgroup-storage-size",
    "max_invocations": "max-compute-invocations-per-workgroup",
    "max_storage_buffers": "max-storage-buffers-per-shader-stage",
}
# How long an adapter is asked for: a driver that is still starting, or recovering from a loss, gives none at first.
_ADAPTER_PATIENCE_S = 2.0
_ADAPTER_PAUSE_S = 0.2
_ICD_FOLDERS = ("/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/usr/share/vulkan/icd.d")


async def open_gpu(
    backend: str = "dawn",
    *,
    features: frozenset[str] | None = None,
    default_limits: bool = False,
) -> NativeGpu:
    """Open the best adapter of `backend` ("dawn" or "wgpu").

    `features`: at most these are asked for (None: all that the adapter has of the ones we know).
    `default_limits`: ask for WebGPU's default limits only, as the smallest device would grant them.
    Raises NoAdapterError when there is none after two seconds of asking, HostError when the package is missing.
    """
    wgpu = _package(backend)
    deadline = time.monotonic() + _ADAPTER_PATIENCE_S
    while True:
        adapter = _ask(wgpu)
        if not isinstance(adapter, str):
            return _open(wgpu, backend, adapter, features, default_limits)
        if time.monotonic() > deadline:
            raise _no_adapter({backend: adapter})
        await asyncio.sleep(_ADAPTER_PAUSE_S)


async def open_best_gpu() -> NativeGpu:
    """Open the first hardware GPU of Dawn, then of wgpu-native. Without one, open a software adapter; then the GPU's
    `warning` says what was tried.

    Raises NoAdapterError, with the answer of each, when none gives an adapter within two seconds.
    """
    deadline = time.monotonic() + _ADAPTER_PATIENCE_S
    while True:
        rejected: dict[str, str] = {}
        software: dict[str, Any] = {}
        for backend in _PACKAGES:
            try:
                wgpu = _package(backend)
                adapter = _ask(wgpu)
                if isinstance(adapter, str):
                    rejected[backend] = adapter
                elif _in_software(adapter):
                    software[backend] = adapter
                else:
                    return _open(wgpu, backend, adapter)
            except HostError as error:
                rejected[backend] = str(error)
        for backend, adapter in software.items():
            try:
                gpu = _open(_package(backend), backend, adapter)
            except HostError as error:
                rejected[backend] = str(error)
                continue
            rejected |= {b: f"{_title(a)}, in software" for b, a in software.items()}
            gpu.warning = (
                f"no GPU in hardware answers, so {_title(adapter)} computes in software: right, but slow "
                f"({_told(rejected)})"
            )
            return gpu
        if time.monotonic() > deadline:
            raise _no_adapter(rejected)
        await asyncio.sleep(_ADAPTER_PAUSE_S)


def _package(backend: str) -> Any:
    """The module that implements WebGPU. Raises HostError when it is unknown or not installed."""
    if backend not in _PACKAGES:
        raise HostError(f"unknown host {backend!r}: choose one of {', '.join(_PACKAGES)}")
    try:
        # wgpu-py fills its namespace (gpu, flags) only with a backend; wgpudawn has its own.
        wgpu = importlib.import_module(_PACKAGES[backend])
    except (ImportError, OSError) as error:  # OSError: its library does not fit this system
        raise HostError(
            f"host {backend!r} needs the package {_PACKAGES[backend]} ({error}): "
            f"pip install {_PACKAGES[backend]}"
        ) from error
    if backend == "dawn":
        _switch_toggles(os.environ.get(TOGGLES_VARIABLE, ""))
    return wgpu


def _ask(wgpu: Any) -> Any:
    """The best adapter, or a str that says why there is none."""
    try:
        adapter = wgpu.gpu.request_adapter_sync(power_preference="high-performance")
        if adapter is not None and adapter.info.get("backend_type") == "OpenGL":
            # wgpu-native may give OpenGL where Vulkan is there too. Only Vulkan was tested, so it is preferred.
            others = [
                a
                for a in wgpu.gpu.enumerate_adapters_sync()
                if a.info.get("backend_type") != "OpenGL"
            ]
            adapter = min(others, key=_in_software, default=adapter)
    except Exception as error:
        return str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
    return "no adapter" if adapter is None else adapter


def _in_software(adapter: Any) -> bool:
    return bool(adapter.info.get("adapter_type", "") == "CPU")


def _title(adapter: Any) -> str:
    return str(adapter.info.get("device") or adapter.info.get("description") or "an adapter")


def _told(rejected: Mapping[str, str]) -> str:
    """What each host answered, in one line."""
    return "; ".join(f"{backend}: {why.rstrip('.')}" for backend, why in rejected.items())


def _no_adapter(rejected: Mapping[str, str]) -> NoAdapterError:
    """The error: what was asked for, what each host answered, which adapters there are, and what to do."""
    others = [found for backend in _PACKAGES if (found := _seen(backend))]
    there = f" Adapters that are there: {'; '.join(others)}." if others else ""
    return NoAdapterError(
        f"no WebGPU adapter: asked for a Vulkan, Metal or D3D12 GPU for {_ADAPTER_PATIENCE_S:g} s and got none "
        f"({_told(rejected)}).{there}{_drivers()} Install a GPU driver with Vulkan support (Debian: "
        "mesa-vulkan-drivers, which also brings the slow software adapter lavapipe); there is no CPU fallback."
    )


def _seen(backend: str) -> str:
    """All adapters that a host lists, good or not: `--host wgpu: llvmpipe (CPU, Vulkan)`."""
    try:
        adapters = [a.info for a in _package(backend).gpu.enumerate_adapters_sync()]
    except Exception:  # the list only adds to an error message
        return ""
    named = [
        f"{a.get('device')} ({a.get('adapter_type')}, {a.get('backend_type')})" for a in adapters
    ]
    return f"--host {backend}: {', '.join(named)}" if named else ""


def _drivers() -> str:
    """Which Vulkan drivers the loader can find, for an error message. Linux only."""
    if not sys.platform.startswith("linux"):
        return ""
    for variable in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES"):
        if named := os.environ.get(variable):
            missing = [path for path in named.split(os.pathsep) if not Path(path).is_file()]
            gone = f", of which there is no {', '.join(missing)}" if missing else ""
            return f" {variable} allows only {named}{gone}."
    files = [p.name for folder in _ICD_FOLDERS for p in sorted(Path(folder).glob("*.json"))]
    return f" Vulkan drivers that are installed: {', '.join(files) or 'none'}."


def _open(
    wgpu: Any,
    backend: str,
    adapter: Any,
    features: frozenset[str] | None = None,
    default_limits: bool = False,
) -> NativeGpu:
    """Open a device of `adapter`. Raises HostError when the adapter refuses."""
    names = {n: _NAMES[backend].get(n, n) for n in _FEATURES}
    subgroup = _matrix_subgroup(adapter) if backend == "dawn" else 0
    wanted = [
        n
        for n in _FEATURES
        if names[n] in adapter.features
        and (features is None or n in features)
        and (n != "subgroup-matrix" or (subgroup and not default_limits))
    ]
    limits: dict[str, int] = {}
    if not default_limits:
        limits = {name: adapter.limits[name] for name in _LIMITS.values()}
    else:
        # Without these, wgpu-native would grant all that the adapter has; Dawn grants the defaults.
        limits = {name: getattr(Limits(), field) for field, name in _LIMITS.items()}
    request_device = adapter.request_device_sync
    if backend == "dawn":
        extras = importlib.import_module("wgpudawn.backends.dawn.extras")
        request_device = partial(
            extras.request_device_sync, adapter, disable_toggles=_unwanted(adapter)
        )
    try:
        device = request_device(
            label="jerboa",
            required_features=[names[n] for n in wanted],
            required_limits=limits,
        )
    except Exception as error:
        raise HostError(f"the adapter {adapter.info.device!r} refused a device: {error}") from error
    if (features is None or "dot4" in features) and _compiles(device, DOT4_TRIAL):
        wanted.append("dot4")
    info = adapter.info
    return NativeGpu(
        wgpu,
        device,
        AdapterInfo(
            vendor=info.get("vendor", ""),
            architecture=info.get("architecture", ""),
            device=info.get("device", ""),
            description=info.get("description", ""),
            backend=info.get("backend_type", ""),
            host=backend,
            fallback=_in_software(adapter),
            # wgpudawn says 4 and 128 for every adapter, so the size that the matrices need goes first.
            subgroup_min_size=subgroup or int(info.get("stackgroup_min_size", 0) or 0),
            subgroup_max_size=subgroup or int(info.get("stackgroup_max_size", 0) or 0),
        ),
        Limits(**{field: int(device.limits[name]) for field, name in _LIMITS.items()}),
        frozenset(wanted),
    )


def _compiles(device: Any, code: str) -> bool:
    try:
        device.create_shader_module(code=code)
    except Exception:  # each host has its own
        return False
    return True


def _unwanted(adapter: Any) -> list[str]:
    """Dawn's toggles to switch off."""
    # Exact timestamps, not in steps of 65 us. Only profiles write timestamps.
    toggles = ["timestamp_quantization"]
    if _in_software(adapter):
        # With this toggle SwiftShader generates one store for each word of workgroup memory, which takes 1.8 s to
        # compile for 16 KiB. Without it Dawn clears that memory in a loop.
        toggles.append("use_vulkan_zero_initialize_workgroup_memory_extension")
    return toggles


@cache
def _switch_toggles(text: str) -> None:
    """Switch on Dawn's toggles named in `text`, once in a process. Raises HostError for an unknown toggle."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        return
    extras = importlib.import_module("wgpudawn.backends.dawn.extras")
    try:
        extras.set_instance_extras(enable_toggles=names)
    except (ValueError, RuntimeError) as error:
        raise HostError(f"{TOGGLES_VARIABLE}={text}: {error}") from error


def _matrix_subgroup(adapter: Any) -> int:
    """The subgroup size for "subgroup-matrix" on a Dawn adapter; 0 when it lacks what the kernels need."""
    if MATRIX_FEATURE not in adapter.features or "shader-f16" not in adapter.features:
        return 0
    if adapter.limits["max-compute-workgroup-storage-size"] < MATRIX_WORKGROUP_BYTES:
        return 0
    extras = importlib.import_module("wgpudawn.backends.dawn.extras")
    wanted = {
        "component_type": "f16",
        "result_component_type": "f32",
        **dict.fromkeys("mnk", MATRIX_SIZE),
        "min_subgroup_size": MATRIX_SUBGROUP,
        "max_subgroup_size": MATRIX_SUBGROUP,
    }
    configs = extras.get_adapter_properties(adapter).get("subgroup_matrix_configs", ())
    return MATRIX_SUBGROUP if any(wanted.items() <= c.items() for c in configs) else 0
