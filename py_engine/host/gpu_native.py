"""An open GPU in CPython, over wgpu-py's API (Dawn, wgpu-native). host/adapter_native.py finds and opens it."""

from __future__ import annotations

import asyncio
import importlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from py_engine.errors import DeviceLostError, HostError, OutOfMemoryError
from py_engine.host.gpu import (
    MATRIX_LINES,
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
            "readback": usage.MAP_READ | usage.COPY_DST,
        }
        # Buffers that fences map to wait for the queue: on_submitted_work_done of wgpu 0.32 raises an error.
        self._fences: list[Any] = []
        self._word = device.create_buffer(label="word", size=4, usage=self._usage["storage"])
        self._closed = False

    @property
    def lost(self) -> str | None:
        """Why the device is gone; None while it lives. A word is read to find out, after all submitted work: most other
        calls of Dawn do nothing, without an error, once the device is lost."""
        if self._closed:
            return "it was closed"
        try:
            self._queue.read_buffer(self._word, 0, 4)
        except Exception as error:
            return None if _is_out_of_memory(error) else " ".join(str(error).split())
        return None

    def enable_lines(self, features: frozenset[str]) -> str:
        """The `enable` lines for Tint (Dawn) or naga (wgpu-native). naga needs none for subgroups and refuses it."""
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
        await asyncio.sleep(0)  # the read blocked: others have their turn
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
        """Encode and submit command buffer `index`. `result`: (source, ring slot), copied after its dispatches."""
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
        self,
        recording: Recording,
        result: Buffer,
        max_steps: int,
        depth: int,
        *,
        begun: bool = False,
    ) -> DecodeLoop:
        if recording.await_each:
            depth = 1
        ring = self._ring(result, depth)
        return NativeDecodeLoop(self, recording, result, max_steps, ring, begun)

    def fence(self) -> Callable[[], Awaitable[None]]:
        try:
            fence = self._fences.pop() if self._fences else self._new_fence()
            encoder = self._device.create_command_encoder()
            encoder.clear_buffer(fence, 0, 4)
            self._queue.submit([encoder.finish()])
            return partial(self._passed, fence, fence.map_async("READ"))
        except Exception as error:
            raise self._error("the device did not finish its work", error) from error

    async def _passed(self, fence: Any, mapped: Any) -> None:
        """Wait for a fence, and keep it for the next use."""
        try:
            await mapped  # not sync_wait, so that a stop can come in while the GPU works
            fence.unmap()
            self._fences.append(fence)
        except Exception as error:
            raise self._error("the device did not finish its work", error) from error

    def _new_fence(self) -> Any:
        return self._device.create_buffer(label="fence", size=4, usage=self._usage["readback"])

    async def check(self) -> None:
        """Does nothing: wgpu-py raises errors at the call itself."""

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
        # A call that fails because of a loss does not always say so (it may say that a buffer is not mapped): ask.
        lost = self.lost
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
        begun: bool,
    ) -> None:
        self._gpu = gpu
        self._recording = recording
        self._result = result
        self._left = max_steps
        self._begun = begun  # the next result is of a step that was submitted elsewhere
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
        await asyncio.sleep(0)  # so that an abort can come in
        return [(token, halt, position, count)]

    def stop(self) -> None:
        self._left = 0

    async def _submit(self) -> None:
        gpu = self._gpu
        slot = self._free.popleft()
        if self._begun:
            self._begun = False
            await gpu.copy([Copy(self._result, slot, RESULT_WORDS * 4)])
        else:
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
        """Wait for the steps that were submitted after the halt, and free their slots. They changed nothing."""
        while self._pending:
            self._take()

    def _take(self) -> memoryview[int]:
        """Wait for the oldest step in flight, free its slot and return its words."""
        slot, promise = self._pending.popleft()
        try:
            promise.sync_wait()
            words = memoryview(bytes(slot.handle.read_mapped(copy=True))).cast("I")
            slot.handle.unmap()
        except Exception as error:
            raise self._gpu._error("cannot read a token back", error) from error
        self._free.append(slot)
        return words
