"""An open GPU in the browser: a GPUDevice through Pyodide. host/adapter_browser.py finds and opens it.

Work that would cross from Python to JavaScript at every call is done in public/replay.mjs. The worker's boot module
puts its exports at `globalThis.jerboa.replay` (public/boot.mjs).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import js  # type: ignore[import-not-found,unused-ignore]
from pyodide.ffi import (  # type: ignore[import-not-found,unused-ignore]
    JsException,
    to_js,
)

from py_engine.errors import DeviceLostError, HostError, OutOfMemoryError
from py_engine.host.gpu import (
    DOT4_TRIAL,
    MATRIX_LINES,
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

_TRIAL = "@compute @workgroup_size(1) fn main() {}"


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
            "readback": usage.MAP_READ | usage.COPY_DST,
        }
        self._closed = False
        self._watch = asyncio.ensure_future(self._wait_for_loss())

    async def _wait_for_loss(self) -> None:
        """Wait for the end of the device and report it, unless `close` was its cause."""
        await self._js.device.lost
        if not self._closed and self.on_lost is not None:
            self.on_lost(self.lost or "")

    @property
    def lost(self) -> str | None:
        """Why the device is gone; None while it lives. The browser reports a loss shortly after the failing call."""
        return "it was closed" if self._closed else self._js.lost or None

    @property
    def counters(self) -> Counters:
        """What was made and moved up to now, with what replay.mjs has counted."""
        self.sync_counters()
        return self._counters

    def sync_counters(self) -> None:
        """Add what replay.mjs has counted since the last call."""
        dispatches, submits, reads, in_flight = self._js.takeCounts().to_py()
        counters = self._counters
        counters.dispatches += dispatches
        counters.submits += submits
        counters.readback_bytes += reads * RESULT_WORDS * 4
        counters.max_steps_in_flight = max(counters.max_steps_in_flight, in_flight)

    async def try_enable_lines(self) -> None:
        """Find out, by compiling, which `enable` lines this browser wants: Tint wants one for subgroups, naga none."""
        for feature, line in (
            ("shader-f16", "enable f16;"),
            ("subgroups", "enable subgroups;"),
            ("subgroup-matrix", MATRIX_LINES),
        ):
            if feature in self.features and not await self._js.trial(f"{line}\n{_TRIAL}"):
                self._enable[feature] = line

    async def try_dot4(self) -> None:
        """Find out, by compiling, whether this browser has the feature "dot4"."""
        if not await self._js.trial(DOT4_TRIAL):
            self.features |= {"dot4"}

    def enable_lines(self, features: frozenset[str]) -> str:
        """The `enable` lines for `features`, found by `try_enable_lines` when the device was opened."""
        return "\n".join(line for feature, line in self._enable.items() if feature in features)

    def _make_buffer(self, label: str, size: int, kind: BufferKind) -> Any:
        """As Gpu says; errors of the driver come from `check()`."""
        self._alive(f"cannot create buffer {label!r} of {size:,} bytes")
        try:
            return self._js.createBuffer(label, size, self._usage[kind])
        except JsException as error:
            raise self._error(f"cannot create buffer {label!r} of {size:,} bytes", error) from error

    def write(self, buffer: Buffer, offset: int, data: Any) -> None:
        """Queue an upload. A JS Uint8Array is passed on as it is; Python's bytes are copied out of its heap first."""
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
        """Queue uploads of parts of `data`. One call to JavaScript for all parts."""
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
        """Copy between buffers, in order. Validation errors come from `check()`."""
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

    async def copy_bitmap(
        self, bitmap: Any, part: tuple[int, int, int, int], buffer: Buffer, place: tuple[int, int]
    ) -> None:
        """Copy a part (left, top, width, height) of an ImageBitmap to byte place[0] of a buffer, 4 bytes a pixel, lines
        place[1] bytes apart, a multiple of 256. Raises HostError; errors of the driver come from `check()`."""
        try:
            await self._js.copyBitmap(bitmap, to_js(part), buffer.handle, to_js(place))
        except JsException as error:
            failure = await self._settled_error("cannot copy a picture to the GPU", error)
            raise failure from error
        self._counters.upload_bytes += 4 * part[2] * part[3]

    async def read(self, buffer: Buffer, offset: int = 0, nbytes: int | None = None) -> bytes:
        """Copy a range back into Python's heap."""
        n = buffer.nbytes - offset if nbytes is None else nbytes
        return bytes((await self.download(buffer, offset, n)).to_bytes())

    async def download(self, buffer: Buffer, offset: int, nbytes: int) -> Any:
        """Copy a range back as a JS Uint8Array, which stays outside Python's heap."""
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
        """Compile a kernel with createComputePipelineAsync. Raises HostError with the compiler's message."""
        self._alive(f"cannot compile kernel {label!r}")
        try:
            handle = await self._js.pipeline(label, code, js_object(dict(constants)))
        except JsException as error:
            raise await self._settled_error(f"kernel {label!r} does not compile", error) from error
        self._counters.pipelines_created += 1
        return Pipeline(label, handle)

    def bind_group(self, label: str, pipeline: Pipeline, bindings: Sequence[Binding]) -> Any:
        """A bind group for group 0. Validation errors come from `check()`."""
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
        """Hand a plan to replay.mjs, in one call."""
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
        """Submit the recording once."""
        self._alive("cannot submit")
        try:
            done = recording.handle.replay(None)
            if done:
                await done
        except JsException as error:
            raise await self._settled_error("the device refused a submit", error) from error

    async def time_passes(self, recording: Recording, repeats: int = 1) -> list[tuple[int, int]]:
        """Run the recording with timestamps: (begin, end) of each pass in nanoseconds."""
        count = 2 * self.timed_passes(recording)
        self._alive("cannot time passes")
        try:
            ticks = await recording.handle.timePasses(repeats)
        except JsException as error:
            raise await self._settled_error("cannot time passes", error) from error
        words = memoryview(bytes(ticks.to_bytes())).cast("Q")
        return [(words[i], words[i + 1]) for i in range(0, count, 2)]

    def decode_loop(
        self,
        recording: Recording,
        result: Buffer,
        max_steps: int,
        depth: int,
        *,
        begun: bool = False,
    ) -> DecodeLoop:
        """A decode loop that runs in replay.mjs. After the first batch, batches come at most once per 16 ms."""
        self._alive("cannot decode")
        if recording.await_each:
            depth = 1
        ring = to_js([buffer.handle for buffer in self._ring(result, depth)])
        loop = js.jerboa.replay.DecodeLoop.new(
            recording.handle, result.handle, ring, max_steps, begun
        )
        return BrowserDecodeLoop(self, loop)

    def fence(self) -> Callable[[], Awaitable[None]]:
        """What to await until everything submitted up to now is done."""
        return partial(self._passed, self._js.idle())

    async def _passed(self, done: Any) -> None:
        try:
            await done
        except JsException as error:
            raise await self._settled_error("the device did not finish its work", error) from error
        self._alive("the device did not finish its work")

    async def check(self) -> None:
        """Raise the first error that the browser reported late."""
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
        """Destroy the device and everything on it."""
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
        """The HostError for a failed call, after a short wait: a loss is reported shortly after the failing call."""
        await self._js.settle()
        return self._error(what, error)


class BrowserDecodeLoop(DecodeLoop):
    """The DecodeLoop of replay.mjs."""

    def __init__(self, gpu: BrowserGpu, loop: Any) -> None:
        self._gpu = gpu
        self._loop = loop

    async def next(self) -> list[tuple[int, int, int, int]]:
        """The next batch of results, with one call to JavaScript."""
        try:
            raw = bytes((await self._loop.next()).to_bytes())
        except JsException as error:
            raise await self._gpu._settled_error("cannot read a token back", error) from error
        self._gpu.sync_counters()  # for callers that keep a reference to the Counters
        words = memoryview(raw).cast("I")
        return [
            (words[i], words[i + 1], words[i + 2], words[i + 3])
            for i in range(0, len(words), RESULT_WORDS)
        ]

    def stop(self) -> None:
        """Submit nothing more."""
        self._loop.stop()


def js_object(value: Any) -> Any:
    """A dict of Python as a plain JavaScript object."""
    return to_js(value, dict_converter=js.Object.fromEntries)


def _js_bytes(data: Any) -> Any:
    """`data` as a JS Uint8Array. Python's bytes are copied out of its heap."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return to_js(memoryview(data).cast("B"))
    return data
