"""The GPU in the browser, over `navigator.gpu` through Pyodide; what must not cross per call is public/replay.mjs.

The worker's boot module puts replay.mjs's exports at `globalThis.jerboa.replay` (public/boot.mjs).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import js  # type: ignore[import-not-found,unused-ignore]
from pyodide.ffi import (  # type: ignore[import-not-found,unused-ignore]
    JsException,
    to_js,
)

from py_engine.errors import DeviceLostError, HostError, NoAdapterError, OutOfMemoryError
from py_engine.host.gpu import (
    MATRIX_FEATURE,
    MATRIX_LINES,
    MATRIX_SIZE,
    MATRIX_SUBGROUP,
    MATRIX_WORKGROUP_BYTES,
    RESULT_WORDS,
    AdapterInfo,
    Binding,
    Buffer,
    BufferKind,
    Copy,
    Counters,
    DecodeLoop,
    Dispatch,
    Gpu,
    Limits,
    Pipeline,
    Recording,
    Upload,
)
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
# A fresh Chromium answers null until its GPU process is up (0.3 to 0.7 s were seen).
_ADAPTER_PATIENCE_S = 2.0
_TRIAL = "@compute @workgroup_size(1) fn main() {}"


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
            _object({"label": "jerboa", "requiredFeatures": names, "requiredLimits": limits})
        )
    except JsException as error:
        raise HostError(f"the adapter refused a device: {error}. Reload the page.") from error
    info = adapter.info

    def text(name: str) -> str:
        return str(getattr(info, name, "") or "")

    def number(name: str) -> int:
        return int(getattr(info, name, 0) or 0)

    gpu = BrowserGpu(
        js.jerboa.replay.Device.new(device, on_webkit()),
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
    """Raises NoAdapterError with what was looked for and what to do in this browser."""
    gpu = getattr(js.navigator, "gpu", None)
    if not gpu:
        raise NoAdapterError(f"this browser has no WebGPU (navigator.gpu is missing). {_advice()}")
    deadline = time.monotonic() + _ADAPTER_PATIENCE_S
    reason = ""
    while True:
        try:
            adapter = await gpu.requestAdapter(_object({"powerPreference": "high-performance"}))
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
    """What to do, by browser: the one thing that the user agent decides."""
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


class BrowserGpu(Gpu):
    """A GPUDevice."""

    def __init__(
        self, device: Any, info: AdapterInfo, limits: Limits, features: frozenset[str]
    ) -> None:
        super().__init__(info, limits, features)
        self._js = device  # the Device of replay.mjs
        self._enable: dict[str, str] = {}
        usage = js.GPUBufferUsage
        self._usage: dict[BufferKind, int] = {
            "storage": usage.STORAGE | usage.COPY_SRC | usage.COPY_DST,
            "uniform": usage.UNIFORM | usage.COPY_DST,
            "readback": usage.MAP_READ | usage.COPY_DST,
        }
        self._closed = False
        self._watch = asyncio.ensure_future(self._wait_for_loss())

    async def _wait_for_loss(self) -> None:
        """To the end of the device, which `close` brings about too."""
        await self._js.device.lost
        if not self._closed and self.on_lost is not None:
            self.on_lost(self.lost or "")

    @property
    def lost(self) -> str | None:
        """See Gpu.lost; as the browser tells it, a moment after the calls that it breaks."""
        return "it was closed" if self._closed else self._js.lost or None

    @property
    def counters(self) -> Counters:
        """The counters, with what replay.mjs has counted since the last look."""
        self.sync_counters()
        return self._counters

    def sync_counters(self) -> None:
        """Bring in what replay.mjs has counted."""
        dispatches, submits, reads, in_flight = self._js.takeCounts().to_py()
        counters = self._counters
        counters.dispatches += dispatches
        counters.submits += submits
        counters.readback_bytes += reads * RESULT_WORDS * 4
        counters.max_steps_in_flight = max(counters.max_steps_in_flight, in_flight)

    async def try_enable_lines(self) -> None:
        """Find out by compiling which `enable` lines this browser wants: Tint wants one for subgroups, naga none."""
        for feature, line in (
            ("shader-f16", "enable f16;"),
            ("subgroups", "enable subgroups;"),
            ("subgroup-matrix", MATRIX_LINES),
        ):
            if feature in self.features and not await self._js.trial(f"{line}\n{_TRIAL}"):
                self._enable[feature] = line

    def enable_lines(self, features: frozenset[str]) -> str:
        """See Gpu.enable_lines; found by trial when the device was opened."""
        return "\n".join(line for feature, line in self._enable.items() if feature in features)

    def _make_buffer(self, label: str, size: int, kind: BufferKind) -> Any:
        """The driver's own refusals come from `check()`."""
        self._alive(f"cannot create buffer {label!r} of {size:,} bytes")
        try:
            return self._js.createBuffer(label, size, self._usage[kind])
        except JsException as error:
            raise self._error(f"cannot create buffer {label!r} of {size:,} bytes", error) from error

    def write(self, buffer: Buffer, offset: int, data: Any) -> None:
        """See Gpu.write. A JS Uint8Array goes to the queue as it is; bytes are copied out of Python's heap first."""
        data = _js_bytes(data)
        nbytes = int(data.byteLength)
        try:
            self._js.write(buffer.label, buffer.handle, offset, data)
        except JsException as error:
            raise self._error(
                f"cannot upload {nbytes:,} bytes to {buffer.label!r}", error
            ) from error
        self._counters.upload_bytes += nbytes

    def write_parts(self, data: Any, uploads: Sequence[Upload]) -> None:
        """See Gpu.write_parts: two arrays cross once."""
        ranges = [n for p in uploads for n in (p.start, p.end, p.offset, p.nbytes)]
        nbytes = sum(part.nbytes for part in uploads)
        try:
            self._js.writeParts(
                _js_bytes(data), to_js([part.buffer.handle for part in uploads]), to_js(ranges)
            )
        except JsException as error:
            raise self._error(f"cannot upload {nbytes:,} bytes", error) from error
        self._counters.upload_bytes += nbytes

    async def copy(self, copies: Sequence[Copy]) -> None:
        """See Gpu.copy; validation errors come from `check()`."""
        ranges = [n for c in copies for n in (c.source_offset, c.target_offset, c.nbytes)]
        try:
            await self._js.copy(
                to_js([c.source.handle for c in copies]),
                to_js([c.target.handle for c in copies]),
                to_js(ranges),
            )
        except JsException as error:
            failure = await self._settled_error(f"the device refused {len(copies)} copies", error)
            raise failure from error

    async def read(self, buffer: Buffer, offset: int = 0, nbytes: int | None = None) -> bytes:
        """See Gpu.read."""
        n = buffer.nbytes - offset if nbytes is None else nbytes
        return bytes((await self.download(buffer, offset, n)).to_bytes())

    async def download(self, buffer: Buffer, offset: int, nbytes: int) -> Any:
        """See Gpu.download: a JS Uint8Array."""
        what = f"cannot read {nbytes:,} bytes of {buffer.label!r}"
        self._alive(what)
        try:
            data = await self._js.read(buffer.handle, offset, nbytes)
        except JsException as error:
            raise await self._settled_error(what, error) from error
        self._counters.readback_bytes += nbytes
        return data

    async def create_pipeline(
        self, label: str, code: str, constants: Mapping[str, float]
    ) -> Pipeline:
        """See Gpu.create_pipeline; compiled by createComputePipelineAsync."""
        self._alive(f"cannot compile kernel {label!r}")
        try:
            handle = await self._js.pipeline(label, code, _object(dict(constants)))
        except JsException as error:
            raise await self._settled_error(f"kernel {label!r} does not compile", error) from error
        self._counters.pipelines_created += 1
        return Pipeline(label, handle)

    def bind_group(self, label: str, pipeline: Pipeline, bindings: Sequence[Binding]) -> Any:
        """See Gpu.bind_group; validation errors come from `check()`."""
        ranges = []
        for b in bindings:
            ranges += [b.offset, b.buffer.nbytes - b.offset if b.nbytes is None else b.nbytes]
        buffers = to_js([b.buffer.handle for b in bindings])
        try:
            group = self._js.bindGroup(label, pipeline.handle, buffers, to_js(ranges))
        except JsException as error:
            raise self._error(f"cannot bind the buffers of {label!r}", error) from error
        self._counters.bind_groups_created += 1
        return group

    def record(
        self, command_buffers: Sequence[Sequence[Sequence[Dispatch]]], await_each: bool
    ) -> Recording:
        """See Gpu.record: five arrays cross once."""
        flat = [d for passes in command_buffers for dispatches in passes for d in dispatches]
        handle = js.jerboa.replay.Recording.new(
            self._js,
            to_js([d.pipeline.handle for d in flat]),
            to_js([d.bind_group for d in flat]),
            to_js([n for d in flat for n in d.groups]),
            to_js([[len(dispatches) for dispatches in passes] for passes in command_buffers]),
            await_each,
        )
        return Recording(command_buffers, await_each, handle)

    async def replay(self, recording: Recording) -> None:
        """See Gpu.replay."""
        self._alive("cannot submit")
        try:
            done = recording.handle.replay(None)
            if done:
                await done
        except JsException as error:
            raise await self._settled_error("the device refused a submit", error) from error

    async def time_passes(self, recording: Recording, repeats: int = 1) -> list[tuple[int, int]]:
        """See Gpu.time_passes."""
        count = 2 * self.timed_passes(recording)
        self._alive("cannot time passes")
        try:
            ticks = await recording.handle.timePasses(repeats)
        except JsException as error:
            raise await self._settled_error("cannot time passes", error) from error
        words = memoryview(bytes(ticks.to_bytes())).cast("Q")
        return [(words[i], words[i + 1]) for i in range(0, count, 2)]

    def decode_loop(
        self, recording: Recording, result: Buffer, max_steps: int, depth: int
    ) -> DecodeLoop:
        """See Gpu.decode_loop; it runs in replay.mjs and batches come at most once per 16 ms after the first."""
        self._alive("cannot decode")
        if recording.await_each:
            depth = 1
        ring = to_js([buffer.handle for buffer in self._ring(result, depth)])
        loop = js.jerboa.replay.DecodeLoop.new(recording.handle, result.handle, ring, max_steps)
        return BrowserDecodeLoop(self, loop)

    async def idle(self) -> None:
        """See Gpu.idle."""
        try:
            await self._js.idle()
        except JsException as error:
            raise await self._settled_error("the device did not finish its work", error) from error
        self._alive("the device did not finish its work")

    async def check(self) -> None:
        """See Gpu.check."""
        first = await self._js.firstError()
        self._alive("the device is gone")
        if not first:
            return
        what, kind, message = first.to_py()
        if kind == "out-of-memory":
            raise OutOfMemoryError(
                f"the GPU is out of memory at {what}: {message}. Choose a smaller model, context or dtype."
            )
        raise HostError(f"the GPU refused {what}: {message}")

    def close(self) -> None:
        """See Gpu.close."""
        if self._closed:
            return
        self._closed = True
        self._free_rings()
        self._js.device.destroy()

    def _alive(self, what: str) -> None:
        if self.lost:
            raise self._error(what, "the device was lost")

    def _error(self, what: str, error: Exception | str) -> HostError:
        lost = self.lost
        if lost:
            why = lost if self._closed else f"the GPU device was lost ({lost})"
            return DeviceLostError(f"{what}: {why}. Load the model again.", lost)
        return HostError(f"{what}: {error}")

    async def _settled_error(self, what: str, error: Exception) -> HostError:
        """A loss of the device is reported a little after the calls that it breaks."""
        await self._js.settle()
        return self._error(what, error)


class BrowserDecodeLoop(DecodeLoop):
    """The DecodeLoop of replay.mjs."""

    def __init__(self, gpu: BrowserGpu, loop: Any) -> None:
        self._gpu = gpu
        self._loop = loop

    async def next(self) -> list[tuple[int, int, int, int]]:
        """See DecodeLoop.next: one crossing a batch."""
        try:
            raw = bytes((await self._loop.next()).to_bytes())
        except JsException as error:
            raise await self._gpu._settled_error("cannot read a token back", error) from error
        self._gpu.sync_counters()  # for whoever holds on to the Counters
        words = memoryview(raw).cast("I")
        return [
            (words[i], words[i + 1], words[i + 2], words[i + 3])
            for i in range(0, len(words), RESULT_WORDS)
        ]

    def stop(self) -> None:
        """See DecodeLoop.stop."""
        self._loop.stop()


def _object(value: Any) -> Any:
    return to_js(value, dict_converter=js.Object.fromEntries)


def _js_bytes(data: Any) -> Any:
    """A JS Uint8Array; bytes of Python's are copied out of its heap."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return to_js(memoryview(data).cast("B"))
    return data
