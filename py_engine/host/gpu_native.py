"""The GPU in CPython, over wgpu-py's API: Dawn (package wgpudawn, Tint) or wgpu-native (package wgpu, naga)."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

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
    DecodeLoop,
    Dispatch,
    Gpu,
    Limits,
    Pipeline,
    Recording,
    Upload,
)

_PACKAGES = {"dawn": "wgpudawn", "wgpu": "wgpu"}
_FEATURES = ("shader-f16", "subgroups", "timestamp-query", "subgroup-matrix")
# What the two call a feature where it is not our name.
_NAMES = {"dawn": {"subgroup-matrix": MATRIX_FEATURE}, "wgpu": {"subgroups": "subgroup"}}
# Dawn's toggles to switch on, by commas: "allow_unsafe_apis,vulkan_enable_f16_on_nvidia" brings shader-f16 and tensor
# units on NVIDIA. Read when the first Dawn adapter is asked for.
TOGGLES_VARIABLE = "JERBOA_DAWN_TOGGLES"
_LIMITS = {
    "max_buffer_bytes": "max-buffer-size",
    "max_binding_bytes": "max-storage-buffer-binding-size",
    "max_workgroup_bytes": "max-compute-workgroup-storage-size",
    "max_invocations": "max-compute-invocations-per-workgroup",
    "max_storage_buffers": "max-storage-buffers-per-shader-stage",
}
# Drivers that keep their own lost or fallback adapters busy answer null at first (a fresh Chromium was seen to).
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
    """The GPU of the first of Dawn and wgpu-native that has one in hardware, else an adapter in software; then the
    GPU's `warning` says what was looked for.

    Raises NoAdapterError, with what each of them said, when none answers within two seconds.
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
    """The module that answers as WebGPU. Raises HostError when it is unknown or not installed."""
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
    """The best adapter, or a str: why there is none."""
    try:
        adapter = wgpu.gpu.request_adapter_sync(power_preference="high-performance")
        if adapter is not None and adapter.info.get("backend_type") == "OpenGL":
            # wgpu-native may give this one where Vulkan, which is what it was tried with, is there too.
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
    """What each host said, in one line."""
    return "; ".join(f"{backend}: {why.rstrip('.')}" for backend, why in rejected.items())


def _no_adapter(rejected: Mapping[str, str]) -> NoAdapterError:
    """What was asked, what it said, what else there is, what to do."""
    others = [found for backend in _PACKAGES if (found := _seen(backend))]
    there = f" Adapters that are there: {'; '.join(others)}." if others else ""
    return NoAdapterError(
        f"no WebGPU adapter: asked for a Vulkan, Metal or D3D12 GPU for {_ADAPTER_PATIENCE_S:g} s and got none "
        f"({_told(rejected)}).{there}{_drivers()} Install a GPU driver with Vulkan support (Debian: "
        "mesa-vulkan-drivers, which also brings the slow software adapter lavapipe); there is no CPU fallback."
    )


def _seen(backend: str) -> str:
    """The adapters that a host names when it is not asked for a good one: `--host wgpu: llvmpipe (CPU, Vulkan)`."""
    try:
        adapters = [a.info for a in _package(backend).gpu.enumerate_adapters_sync()]
    except Exception:  # this only adds to an error
        return ""
    named = [
        f"{a.get('device')} ({a.get('adapter_type')}, {a.get('backend_type')})" for a in adapters
    ]
    return f"--host {backend}: {', '.join(named)}" if named else ""


def _drivers() -> str:
    """Which Vulkan drivers the loader looks at, on Linux."""
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
    """A device of `adapter`. Raises HostError when it refuses one."""
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
        # wgpu-native grants what the adapter has unless told otherwise; Dawn grants the defaults.
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
            # wgpudawn gives 4 and 128 for every adapter; its matrices know better.
            subgroup_min_size=subgroup or int(info.get("stackgroup_min_size", 0) or 0),
            subgroup_max_size=subgroup or int(info.get("stackgroup_max_size", 0) or 0),
        ),
        Limits(**{field: int(device.limits[name]) for field, name in _LIMITS.items()}),
        frozenset(wanted),
    )


def _unwanted(adapter: Any) -> list[str]:
    """Dawn's toggles that are switched off."""
    # Timestamps in full, not in steps of 65 us; they are only written where a profile asks for them.
    toggles = ["timestamp_quantization"]
    if _in_software(adapter):
        # SwiftShader then writes out a store for each word of workgroup memory: 1.8 s of compiling for 16 KiB. Without
        # it Dawn clears that memory in a loop.
        toggles.append("use_vulkan_zero_initialize_workgroup_memory_extension")
    return toggles


@cache
def _switch_toggles(text: str) -> None:
    """Switch on Dawn's toggles named in `text`, once in a process. Raises HostError for one that Dawn does not have."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        return
    extras = importlib.import_module("wgpudawn.backends.dawn.extras")
    try:
        extras.set_instance_extras(enable_toggles=names)
    except (ValueError, RuntimeError) as error:
        raise HostError(f"{TOGGLES_VARIABLE}={text}: {error}") from error


def _matrix_subgroup(adapter: Any) -> int:
    """The subgroup size behind "subgroup-matrix" on a Dawn adapter, 0 when it lacks what the kernels want."""
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


class NativeGpu(Gpu):
    """A device of wgpu-py's API."""

    def __init__(
        self, wgpu: Any, device: Any, info: AdapterInfo, limits: Limits, features: frozenset[str]
    ) -> None:
        super().__init__(info, limits, features)
        self._wgpu = wgpu
        self._device = device
        self._queue = device.queue
        usage = wgpu.BufferUsage
        self._usage = {
            "storage": usage.STORAGE | usage.COPY_SRC | usage.COPY_DST,
            "uniform": usage.UNIFORM | usage.COPY_DST,
            "readback": usage.MAP_READ | usage.COPY_DST,
        }
        # wgpu 0.32 raises from its own on_submitted_work_done; mapping a buffer waits for the queue as well.
        self._fences: list[Any] = []
        self._word = device.create_buffer(label="word", size=4, usage=self._usage["storage"])
        self._closed = False

    @property
    def lost(self) -> str | None:
        """See Gpu.lost. Found out by reading a word, behind all that was submitted: most other calls of Dawn just do
        nothing once it knows that the device is lost."""
        if self._closed:
            return "it was closed"
        try:
            self._queue.read_buffer(self._word, 0, 4)
        except Exception as error:
            return None if _is_out_of_memory(error) else " ".join(str(error).split())
        return None

    def enable_lines(self, features: frozenset[str]) -> str:
        """naga knows subgroups without an enable line and refuses one; both want `enable f16;`."""
        lines = []
        if "shader-f16" in features:
            lines.append("enable f16;")
        if "subgroups" in features and self.info.host == "dawn":
            lines.append("enable subgroups;")
        if "subgroup-matrix" in features:
            lines.append(MATRIX_LINES)
        return "\n".join(lines)

    def _make_buffer(self, label: str, size: int, kind: BufferKind) -> Any:
        try:
            return self._device.create_buffer(label=label, size=size, usage=self._usage[kind])
        except Exception as error:
            raise self._error(f"cannot create buffer {label!r} of {size:,} bytes", error) from error

    def write(self, buffer: Buffer, offset: int, data: Any) -> None:
        nbytes = memoryview(data).nbytes
        try:
            self._queue.write_buffer(buffer.handle, offset, data)
        except Exception as error:
            raise self._error(
                f"cannot upload {nbytes:,} bytes to {buffer.label!r}", error
            ) from error
        self.counters.upload_bytes += nbytes

    def write_parts(self, data: Any, uploads: Sequence[Upload]) -> None:
        view = memoryview(data)
        for part in uploads:
            once = view[part.start : part.end]
            if part.nbytes > len(once):
                once = memoryview(bytes(once) * (part.nbytes // len(once) + 1))
            self.write(part.buffer, part.offset, once[: part.nbytes])

    async def copy(self, copies: Sequence[Copy]) -> None:
        try:
            encoder = self._device.create_command_encoder()
            for c in copies:
                encoder.copy_buffer_to_buffer(
                    c.source.handle, c.source_offset, c.target.handle, c.target_offset, c.nbytes
                )
            self._queue.submit([encoder.finish()])
        except Exception as error:
            raise self._error(f"the device refused {len(copies)} copies", error) from error
        self.counters.submits += 1

    async def read(self, buffer: Buffer, offset: int = 0, nbytes: int | None = None) -> bytes:
        n = buffer.nbytes - offset if nbytes is None else nbytes
        try:
            data = self._queue.read_buffer(buffer.handle, offset, n)
        except Exception as error:
            raise self._error(f"cannot read {n:,} bytes of {buffer.label!r}", error) from error
        self.counters.readback_bytes += n
        return bytes(data)

    async def download(self, buffer: Buffer, offset: int, nbytes: int) -> Any:
        return await self.read(buffer, offset, nbytes)

    async def create_pipeline(
        self, label: str, code: str, constants: Mapping[str, float]
    ) -> Pipeline:
        try:
            module = self._device.create_shader_module(label=label, code=code)
            handle = self._device.create_compute_pipeline(
                label=label,
                layout="auto",
                compute={"module": module, "entry_point": "main", "constants": dict(constants)},
            )
        except Exception as error:
            raise self._error(f"kernel {label!r} does not compile", error) from error
        self.counters.pipelines_created += 1
        await asyncio.sleep(0)
        return Pipeline(label, handle)

    def bind_group(self, label: str, pipeline: Pipeline, bindings: Sequence[Binding]) -> Any:
        entries = [
            {
                "binding": i,
                "resource": {
                    "buffer": b.buffer.handle,
                    "offset": b.offset,
                    "size": b.buffer.nbytes - b.offset if b.nbytes is None else b.nbytes,
                },
            }
            for i, b in enumerate(bindings)
        ]
        try:
            group = self._device.create_bind_group(
                label=label, layout=pipeline.handle.get_bind_group_layout(0), entries=entries
            )
        except Exception as error:
            raise self._error(f"cannot bind the buffers of {label!r}", error) from error
        self.counters.bind_groups_created += 1
        return group

    def record(
        self, command_buffers: Sequence[Sequence[Sequence[Dispatch]]], await_each: bool
    ) -> Recording:
        return Recording(command_buffers, await_each)

    async def replay(self, recording: Recording) -> None:
        for i in range(len(recording.command_buffers)):
            self._submit(recording, i)
            if recording.await_each:
                await self.idle()

    async def time_passes(self, recording: Recording, repeats: int = 1) -> list[tuple[int, int]]:
        count = 2 * self.timed_passes(recording)
        usage = self._wgpu.BufferUsage
        queries = self._device.create_query_set(type="timestamp", count=count)
        ticks = self._device.create_buffer(
            label="timestamps", size=8 * count, usage=usage.QUERY_RESOLVE | usage.COPY_SRC
        )
        try:
            at = 0
            for passes in recording.command_buffers:
                encoder = self._device.create_command_encoder()
                for dispatches in passes:
                    writes = {
                        "query_set": queries,
                        "beginning_of_pass_write_index": at,
                        "end_of_pass_write_index": at + 1,
                    }
                    self._encode_pass(encoder, list(dispatches) * repeats, writes)
                    at += 2
                self._queue.submit([encoder.finish()])
                if recording.await_each:
                    await self.idle()
            encoder = self._device.create_command_encoder()
            encoder.resolve_query_set(queries, 0, count, ticks, 0)
            self._queue.submit([encoder.finish()])
            words = memoryview(bytes(self._queue.read_buffer(ticks, 0, 8 * count))).cast("Q")
        except Exception as error:
            raise self._error("cannot time passes", error) from error
        finally:
            ticks.destroy()
            queries.destroy()
        period = self._timestamp_period_ns()
        return [
            (round(words[i] * period), round(words[i + 1] * period)) for i in range(0, count, 2)
        ]

    def _timestamp_period_ns(self) -> float:
        """Dawn resolves timestamps to nanoseconds, wgpu-native to the driver's ticks."""
        if self.info.host == "dawn":
            return 1.0
        native = importlib.import_module("wgpu.backends.wgpu_native")
        return float(native.lib.wgpuQueueGetTimestampPeriod(self._queue._internal))

    def _encode_pass(
        self, encoder: Any, dispatches: Sequence[Dispatch], timestamps: Any = None
    ) -> None:
        compute = encoder.begin_compute_pass(timestamp_writes=timestamps)
        pipeline = None
        for d in dispatches:
            if d.pipeline.handle is not pipeline:
                pipeline = d.pipeline.handle
                compute.set_pipeline(pipeline)
            compute.set_bind_group(0, d.bind_group)
            compute.dispatch_workgroups(*d.groups)
        compute.end()
        self.counters.dispatches += len(dispatches)

    def _submit(
        self, recording: Recording, index: int, result: tuple[Any, Any] | None = None
    ) -> None:
        """Encode and submit command buffer `index`; `result`: (source, ring slot) to copy after it."""
        try:
            encoder = self._device.create_command_encoder()
            for dispatches in recording.command_buffers[index]:
                self._encode_pass(encoder, dispatches)
            if result is not None:
                encoder.copy_buffer_to_buffer(result[0], 0, result[1], 0, RESULT_WORDS * 4)
            self._queue.submit([encoder.finish()])
        except Exception as error:
            raise self._error("the device refused a submit", error) from error
        self.counters.submits += 1

    def decode_loop(
        self, recording: Recording, result: Buffer, max_steps: int, depth: int
    ) -> DecodeLoop:
        if recording.await_each:
            depth = 1
        return NativeDecodeLoop(self, recording, result, max_steps, self._ring(result, depth))

    async def idle(self) -> None:
        try:
            fence = self._fences.pop() if self._fences else self._new_fence()
            encoder = self._device.create_command_encoder()
            encoder.clear_buffer(fence, 0, 4)
            self._queue.submit([encoder.finish()])
            await fence.map_async("READ")  # awaited, so that a stop gets in while the GPU works
            fence.unmap()
            self._fences.append(fence)
        except Exception as error:
            raise self._error("the device did not finish its work", error) from error

    def _new_fence(self) -> Any:
        return self._device.create_buffer(label="fence", size=4, usage=self._usage["readback"])

    async def check(self) -> None:
        """wgpu-py raises at the call, so nothing is ever late here."""

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._free_rings()
        self._device.destroy()

    def _error(self, what: str, error: Exception) -> HostError:
        text = f"{what}: {str(error).strip()}"
        if _is_out_of_memory(error):
            return OutOfMemoryError(text + ". Choose a smaller model, context or dtype.")
        lost = (
            self.lost
        )  # what is broken by a loss says so, or something else: that a buffer is not mapped
        if lost:
            why = lost if self._closed else f"the GPU device was lost ({lost})"
            return DeviceLostError(f"{what}: {why}. Load the model again.", lost)
        return HostError(text)


def _is_out_of_memory(error: Exception) -> bool:
    kind = (type(error).__name__ + str(error)).lower()
    return "outofmemory" in kind or "out of memory" in kind


class NativeDecodeLoop(DecodeLoop):
    """The loop of Gpu.decode_loop in plain Python: submit ahead, wait for the oldest slot of the ring."""

    def __init__(
        self,
        gpu: NativeGpu,
        recording: Recording,
        result: Buffer,
        max_steps: int,
        ring: list[Buffer],
    ) -> None:
        self._gpu = gpu
        self._recording = recording
        self._result = result
        self._left = max_steps
        self._free = deque(ring)
        self._pending: deque[tuple[Buffer, Any]] = deque()
        self._ended = False

    async def next(self) -> list[tuple[int, int, int, int]]:
        while self._left > 0 and self._free and not self._ended:
            await self._submit()
        if not self._pending:
            return []
        token, halt, position, count = self._take()
        self._gpu.counters.readback_bytes += RESULT_WORDS * 4
        if halt:
            self._ended = True
            await self._drain()
        await asyncio.sleep(0)  # lets an abort in
        return [(token, halt, position, count)]

    def stop(self) -> None:
        self._left = 0

    async def _submit(self) -> None:
        gpu = self._gpu
        slot = self._free.popleft()
        last = len(self._recording.command_buffers) - 1
        for i in range(last):
            gpu._submit(self._recording, i)
            if self._recording.await_each:
                await gpu.idle()
        gpu._submit(self._recording, last, (self._result.handle, slot.handle))
        try:
            self._pending.append((slot, slot.handle.map_async("READ")))
        except Exception as error:
            raise gpu._error("cannot read a token back", error) from error
        self._left -= 1
        counters = gpu.counters
        counters.max_steps_in_flight = max(counters.max_steps_in_flight, len(self._pending))

    async def _drain(self) -> None:
        """Steps submitted beyond the halt change nothing; give their slots back."""
        while self._pending:
            self._take()

    def _take(self) -> memoryview[int]:
        """The words of the oldest step in flight, once it is done; its slot is free then."""
        slot, promise = self._pending.popleft()
        try:
            promise.sync_wait()
            words = memoryview(bytes(slot.handle.read_mapped(copy=True))).cast("I")
            slot.handle.unmap()
        except Exception as error:
            raise self._gpu._error("cannot read a token back", error) from error
        self._free.append(slot)
        return words
