"""Finding a GPU in the browser: the adapter that `navigator.gpu` gives, and what to advise when it gives none.
host/gpu_browser.py has the open device.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import js  # type: ignore[import-not-found,unused-ignore]
from pyodide.ffi import JsException  # type: ignore[import-not-found,unused-ignore]

from py_engine.errors import HostError, NoAdapterError
from py_engine.host.gpu import (
    MATRIX_FEATURE,
    MATRIX_SIZE,
    MATRIX_SUBGROUP,
    MATRIX_WORKGROUP_BYTES,
    AdapterInfo,
    Limits,
)
from py_engine.host.gpu_browser import BrowserGpu, js_object
from py_engine.host.profile import NOT_WEBKIT, WEBKIT
from py_engine.host.webkit import on_webkit

_FEATURES = ("shader-f16", "subgroups", "timestamp-query", "subgroup-matrix")
_NAMES = {"subgroup-matrix": MATRIX_FEATURE}  # the browser's own, where it is not ours
_LIMITS = {
    "max_buffer_bytes": "maxBufferSize",
    "max_binding_bytes": "maxStorageBufferBindingSize",
    "max_workgroup_bytes": "maxComputeWorkgroupStorageSize",
    "max_invocations": "maxComputeInvocationsPerWorkgroup",
    "max_storage_buffers": "maxStorageBuffersPerShaderStage",
}
# A fresh Chromium gives null until its GPU process runs (0.3 to 0.7 s were measured).
_ADAPTER_PATIENCE_S = 2.0


async def open_gpu(
    *, features: frozenset[str] | None = None, default_limits: bool = False
) -> BrowserGpu:
    """Open the browser's best adapter.

    `features`: at most these are asked for (None: all that the adapter has of the ones we know).
    `default_limits`: ask for WebGPU's default limits only.
    Raises NoAdapterError when there is none after two seconds of asking, HostError when it refuses a device.
    """
    adapter = await _adapter()
    wanted = [
        name
        for name in _FEATURES
        if adapter.features.has(_NAMES.get(name, name))
        and (features is None or name in features)
        and (name != "subgroup-matrix" or (_has_matrices(adapter) and not default_limits))
    ]
    names = [_NAMES.get(name, name) for name in wanted]
    limits = {} if default_limits else {n: getattr(adapter.limits, n) for n in _LIMITS.values()}
    try:
        device = await adapter.requestDevice(
            js_object({"label": "jerboa", "requiredFeatures": names, "requiredLimits": limits})
        )
    except JsException as error:
        raise HostError(f"the adapter refused a device: {error}. Reload the page.") from error
    info = adapter.info

    def text(name: str) -> str:
        return str(getattr(info, name, "") or "")

    def number(name: str) -> int:
        return int(getattr(info, name, 0) or 0)

    submitting = WEBKIT if on_webkit() else NOT_WEBKIT
    gpu = BrowserGpu(
        js.jerboa.replay.Device.new(device, submitting.one_in_flight),
        AdapterInfo(
            vendor=text("vendor"),
            architecture=text("architecture"),
            device=text("device"),
            description=text("description"),
            backend="",
            host="browser",
            fallback=bool(getattr(info, "isFallbackAdapter", False)),
            subgroup_min_size=number("subgroupMinSize"),
            subgroup_max_size=number("subgroupMaxSize"),
        ),
        Limits(**{ours: int(getattr(device.limits, theirs)) for ours, theirs in _LIMITS.items()}),
        frozenset(wanted),
    )
    try:
        await gpu.try_enable_lines()
        if features is None or "dot4" in features:
            await gpu.try_dot4()
    except JsException as error:
        failure = await gpu._settled_error("cannot try the new device", error)
        gpu.close()
        raise failure from error
    return gpu


def _has_matrices(adapter: Any) -> bool:
    """Whether the adapter has the matrices that "subgroup-matrix" means."""
    info = adapter.info
    if (
        not adapter.features.has("shader-f16")
        or adapter.limits.maxComputeWorkgroupStorageSize < MATRIX_WORKGROUP_BYTES
        or not info.subgroupMinSize == info.subgroupMaxSize == MATRIX_SUBGROUP
    ):
        return False
    return any(
        (c.componentType, c.resultComponentType, c.M, c.N, c.K)
        == ("f16", "f32", *[MATRIX_SIZE] * 3)
        for c in getattr(info, "subgroupMatrixConfigs", None) or ()
    )


async def _adapter() -> Any:
    """The browser's best adapter. Raises NoAdapterError, which says what to do in this browser."""
    gpu = getattr(js.navigator, "gpu", None)
    if not gpu:
        raise NoAdapterError(f"this browser has no WebGPU (navigator.gpu is missing). {_advice()}")
    deadline = time.monotonic() + _ADAPTER_PATIENCE_S
    reason = ""
    while True:
        try:
            adapter = await gpu.requestAdapter(js_object({"powerPreference": "high-performance"}))
            if adapter:  # JS null is None in one Pyodide and jsnull in the other; both are false
                return adapter
        except JsException as error:
            reason = f" ({error})"
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(0.1)
    raise NoAdapterError(
        f"no WebGPU adapter: this browser has navigator.gpu, but asked for {_ADAPTER_PATIENCE_S:g} s it gave "
        f"no GPU{reason}. {_advice()} There is no CPU fallback."
    )


def _advice() -> str:
    """What the user can do about a missing GPU, by browser. Nothing else depends on the user agent."""
    if not getattr(js, "isSecureContext", True):
        return "WebGPU exists only on https:// addresses and on localhost: open this page by one of them."
    agent = str(js.navigator.userAgent)
    if "Firefox/" in agent:
        return (
            "In Firefox open about:config, set dom.webgpu.enabled and dom.webgpu.workers.enabled to true "
            "(on Linux gfx.webgpu.ignore-blocklist too), restart, and look at about:support under WebGPU."
        )
    if "Chrome/" in agent:
        linux = "Linux" in agent and "Android" not in agent
        return (
            "In Chrome or Edge switch hardware acceleration on (Settings, System), update the graphics driver and "
            "look at chrome://gpu under WebGPU; for a blocked GPU chrome://flags/#enable-unsafe-webgpu"
            + (" and #enable-vulkan help." if linux else " helps.")
        )
    if "AppleWebKit/" in agent:
        return (
            "Safari has WebGPU from version 26 (iOS, iPadOS and macOS 26): update the system. In Safari 18 it can be "
            "switched on under Settings, Apps, Safari, Advanced, Feature Flags, WebGPU."
        )
    return "Use a current Chrome, Edge, Firefox or Safari with WebGPU switched on."
