"""The GPU as the engine sees it: buffers, pipelines, recorded dispatches, a decode loop. No host is named here.

Two implementations: `gpu_browser.py` over `navigator.gpu`, `gpu_native.py` over wgpu-py's API (Dawn or wgpu-native).
WebGPU's names are kept where its things are meant (https://www.w3.org/TR/webgpu/).
"""

from __future__ import annotations

import abc
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from py_engine.errors import HostError, OutOfMemoryError

BufferKind = Literal["storage", "readback"]

# What "subgroup-matrix" asks of an adapter: f16 matrices of this size with f32 sums, and this much workgroup memory.
MATRIX_SIZE = 16
MATRIX_SUBGROUP = 32
MATRIX_WORKGROUP_BYTES = 48 << 10
# Chromium's and Dawn's name for it. WGSL does not know yet what is uniform within a subgroup, so its uniformity check
# would refuse code that differs between subgroups: it is switched off.
MATRIX_FEATURE = "chromium-experimental-subgroup-matrix"
MATRIX_LINES = (
    "enable chromium_experimental_subgroup_matrix;\n"
    "diagnostic(off, chromium.subgroup_matrix_uniformity);"
)

# Compiles where kernels may use "dot4": WGSL's dot4I8Packed. Old versions of naga do not know it.
DOT4_TRIAL = (
    "@group(0) @binding(0) var<storage, read_write> y: array<i32>;\n"
    "@compute @workgroup_size(1) fn main() { y[0] = dot4I8Packed(u32(y[1]), u32(y[2])); }"
)

# What the device needs to have for kernels on subgroup matrices.
MATRIX_KERNEL = frozenset({"shader-f16", "subgroups", "subgroup-matrix"})

# Words of the decode result that are read back for each token: token, halt, position, count.
RESULT_WORDS = 4
MAX_TIMED_PASSES = 2048  # a query set holds at most 4096 timestamps, two a pass
# Workgroups in one dimension of a dispatch: WebGPU's default, which every device grants and none is asked to exceed.
MAX_GROUPS = 65535


@dataclass(frozen=True)
class Limits:
    """Limits of the device as granted, in bytes and counts; the defaults are WebGPU's own."""

    max_buffer_bytes: int = 256 << 20
    max_binding_bytes: int = 128 << 20
    max_workgroup_bytes: int = 16 << 10
    max_invocations: int = 256
    max_storage_buffers: int = 8


@dataclass(frozen=True)
class AdapterInfo:
    """What the GPU calls itself: for people, and for keys of stored tunings. `fallback`: it computes in software."""

    vendor: str = ""
    architecture: str = ""
    device: str = ""
    description: str = ""
    backend: str = ""
    host: str = ""  # "browser", "dawn" or "wgpu"
    fallback: bool = False
    subgroup_min_size: int = 0
    subgroup_max_size: int = 0


@dataclass(eq=False)
class Buffer:
    """A GPU buffer. `handle` belongs to the host; it is None once the buffer was destroyed."""

    label: str
    nbytes: int
    kind: BufferKind
    handle: Any


Place = tuple[Buffer, int]  # a byte of a buffer


@dataclass(frozen=True, eq=False)
class Binding:
    """A range of a buffer, bound to one `@binding`. `offset` is a multiple of 256."""

    buffer: Buffer
    offset: int = 0
    nbytes: int | None = None  # None: to the buffer's end

    @property
    def place(self) -> Place:
        """Where it begins."""
        return self.buffer, self.offset


@dataclass(frozen=True, eq=False)
class Copy:
    """`nbytes` from one buffer to another; offsets and size are multiples of 4."""

    source: Buffer
    target: Buffer
    nbytes: int
    source_offset: int = 0
    target_offset: int = 0


@dataclass(frozen=True)
class Upload:
    """Bytes [start, end) of an array, to be written at byte `offset` of a buffer: once, or repeated until `size` bytes
    are written. Offset and size are multiples of 4."""

    start: int
    end: int
    buffer: Buffer
    offset: int
    size: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes written."""
        return self.size or self.end - self.start


@dataclass(frozen=True, eq=False)
class Pipeline:
    """A compiled compute pipeline; entry point `main`, layout `auto`, bindings in group 0."""

    label: str
    handle: Any


@dataclass(frozen=True, eq=False)
class Dispatch:
    """One recorded dispatchWorkgroups call."""

    label: str
    pipeline: Pipeline
    bind_group: Any
    groups: tuple[int, int, int]
    bindings: Sequence[Binding] = ()  # what the bind group binds


@dataclass(frozen=True, eq=False)
class Recording:
    """Command buffers of passes of dispatches, as the submit strategy grouped them. It can be replayed many times.

    `await_each` (WebKit): only one command buffer may be in flight, so each is awaited before the next is submitted.
    """

    command_buffers: Sequence[Sequence[Sequence[Dispatch]]]
    await_each: bool
    handle: Any = None  # the host's own form of it, made once by Gpu.record


@dataclass
class Counters:
    """What the host has made and moved since it was opened. Tests check that a running decode makes nothing new."""

    live_buffers: int = 0
    live_bytes: int = 0
    buffers_created: int = 0
    pipelines_created: int = 0
    bind_groups_created: int = 0
    dispatches: int = 0
    submits: int = 0
    upload_bytes: int = 0
    readback_bytes: int = 0
    max_steps_in_flight: int = 0


class DecodeLoop(abc.ABC):
    """A running decode: steps are submitted ahead of the reads, results come back in batches."""

    @abc.abstractmethod
    async def next(self) -> list[tuple[int, int, int, int]]:
        """The next batch of results, each (token, halt, position, count); empty when the loop has ended.

        The loop ends by itself after a result with halt != 0, after `max_steps` steps, or after `stop()`.
        Raises DeviceLostError, HostError.
        """

    @abc.abstractmethod
    def stop(self) -> None:
        """Submit nothing more. Steps already in flight still run; `next()` goes on to give their results."""


@dataclass(eq=False)
class Gpu(abc.ABC):
    """An open device. Not thread-safe. Several models may use it at the same time; who opened it closes it."""

    info: AdapterInfo
    limits: Limits
    # Some of {"shader-f16", "subgroups", "timestamp-query", "subgroup-matrix", "dot4"}, whatever the host calls them.
    # What "subgroup-matrix" means stands at MATRIX_SIZE; a device that has it has the first two also. "dot4":
    # DOT4_TRIAL compiles, which does not say that it is fast.
    features: frozenset[str]
    # Called once, with the reason, when the device is lost; not called for a deliberate close. Only browsers report a
    # loss by themselves; in CPython the next call that needs the device raises DeviceLostError.
    on_lost: Callable[[str], object] | None = None
    warning: str = ""  # what a person should know about the choice of this device
    kernels: object = None  # what was compiled on it: kernels_of (graph/kernels.py) keeps it here
    # The rings of decode loops, by result buffer and depth. They are kept as long as the result buffer.
    _rings: dict[Buffer, dict[int, list[Buffer]]] = field(default_factory=dict, init=False)
    _counters: Counters = field(default_factory=Counters, init=False)

    @property
    def counters(self) -> Counters:
        """What was made and moved up to now."""
        return self._counters

    @property
    @abc.abstractmethod
    def lost(self) -> str | None:
        """Why the device is gone (lost or closed); None while it lives. May wait for submitted work."""

    @abc.abstractmethod
    def enable_lines(self, features: frozenset[str]) -> str:
        """The WGSL `enable` lines this host's compiler wants for `features` (Tint and naga differ)."""

    def buffer_size(self, label: str, nbytes: int) -> int:
        """Bytes that `create_buffer` allocates for `nbytes`. Raises OutOfMemoryError above the limit for one buffer."""
        size = max(4, (nbytes + 3) & ~3)
        if size > self.limits.max_buffer_bytes:
            raise OutOfMemoryError(
                f"buffer {label!r} of {size:,} bytes is larger than this device allows "
                f"({self.limits.max_buffer_bytes:,})"
            )
        return size

    def create_buffer(self, label: str, nbytes: int, kind: BufferKind = "storage") -> Buffer:
        """A zeroed buffer of `nbytes` rounded up to 4. Raises OutOfMemoryError or HostError with the label,
        at once or, where the host reports errors late, from the next `check()`."""
        size = self.buffer_size(label, nbytes)
        handle = self._make_buffer(label, size, kind)
        counters = self._counters
        counters.live_buffers += 1
        counters.live_bytes += size
        counters.buffers_created += 1
        return Buffer(label, size, kind, handle)

    @abc.abstractmethod
    def _make_buffer(self, label: str, size: int, kind: BufferKind) -> Any:
        """The host's own buffer for `create_buffer`, with the same errors."""

    def destroy_buffer(self, buffer: Buffer) -> None:
        """Free the buffer now, and the rings through which decode loops read it. A second call does nothing."""
        if buffer.handle is None:
            return
        for ring in self._rings.pop(buffer, {}).values():
            for slot in ring:
                self.destroy_buffer(slot)
        buffer.handle.destroy()
        buffer.handle = None
        counters = self._counters
        counters.live_buffers -= 1
        counters.live_bytes -= buffer.nbytes

    @abc.abstractmethod
    def write(self, buffer: Buffer, offset: int, data: Any) -> None:
        """Queue an upload to byte `offset`. `data` is bytes-like or this host's Bytes (host/io.py). Offset and size are
        multiples of 4. Raises HostError."""

    @abc.abstractmethod
    def write_parts(self, data: Any, uploads: Sequence[Upload]) -> None:
        """Queue several uploads of parts of `data`; in a browser with one call to JavaScript. Raises HostError."""

    @abc.abstractmethod
    async def copy(self, copies: Sequence[Copy]) -> None:
        """Copy between buffers, in this order, after everything submitted before; one submit for all. Returns when
        submitted (on WebKit: when done). Raises HostError, at once or from the next `check()`."""

    @abc.abstractmethod
    async def read(self, buffer: Buffer, offset: int = 0, nbytes: int | None = None) -> bytes:
        """Copy a range back (tests, logits, diagnostics; never in the decode loop). Raises HostError."""

    @abc.abstractmethod
    async def download(self, buffer: Buffer, offset: int, nbytes: int) -> Any:
        """Copy a range back as this host's Bytes, which in a browser stay outside Python's heap. Raises HostError."""

    @abc.abstractmethod
    async def create_pipeline(
        self, label: str, code: str, constants: Mapping[str, float]
    ) -> Pipeline:
        """Compile `code` (entry `main`) with override `constants`. Raises HostError with the label and the
        compiler's message."""

    @abc.abstractmethod
    def bind_group(self, label: str, pipeline: Pipeline, bindings: Sequence[Binding]) -> Any:
        """A bind group for group 0, entries numbered from 0. HostError comes at once or from the next `check()`."""

    @abc.abstractmethod
    def record(
        self, command_buffers: Sequence[Sequence[Sequence[Dispatch]]], await_each: bool
    ) -> Recording:
        """Hand a plan to the host once, so that in a browser replaying it takes one call, not one a dispatch."""

    @abc.abstractmethod
    async def replay(self, recording: Recording) -> None:
        """Submit the recording once. Returns when submitted (with await_each: when done)."""

    @abc.abstractmethod
    async def time_passes(self, recording: Recording, repeats: int = 1) -> list[tuple[int, int]]:
        """Run it once with timestamps: (begin, end) of each of its compute passes, in nanoseconds of the GPU's clock.

        A pass runs its dispatches `repeats` times. Browsers round the clock (Chromium to 0.1 ms) unless a flag
        says otherwise, so give a pass milliseconds of work. For profiles: makes and frees its own buffers.
        Raises HostError without the feature "timestamp-query" or for more than MAX_TIMED_PASSES passes.
        """

    @abc.abstractmethod
    def decode_loop(
        self,
        recording: Recording,
        result: Buffer,
        max_steps: int,
        depth: int,
        *,
        begun: bool = False,
    ) -> DecodeLoop:
        """Replay `recording` up to `max_steps` times with at most `depth` steps in flight, reading the first
        RESULT_WORDS words of `result` after each through a ring of `depth` mapped buffers kept by the host.

        `begun`: the first step was submitted already, by whatever came before; only its result is read.

        A model has one `result`, and only one loop at a time: drain one before the next is made. Loops of different
        models can run at the same time; their steps take turns."""

    def _ring(self, result: Buffer, depth: int) -> list[Buffer]:
        """The mapped buffers for decode loops that read `result` at this depth, made once. Each model has its own: a
        buffer that one model waits for must not be used in a submit of another."""
        rings = self._rings.setdefault(result, {})
        if depth not in rings:
            rings[depth] = [
                self.create_buffer(f"ring {i}", RESULT_WORDS * 4, "readback") for i in range(depth)
            ]
        return rings[depth]

    def _free_rings(self) -> None:
        for rings in self._rings.values():
            for buffer in (buffer for ring in rings.values() for buffer in ring):
                self.destroy_buffer(buffer)
        self._rings.clear()

    def timed_passes(self, recording: Recording) -> int:
        """How many passes `recording` has. Raises HostError when this device cannot time them."""
        passes = sum(len(passes) for passes in recording.command_buffers)
        if "timestamp-query" not in self.features:
            raise HostError("this adapter has no timestamp-query: time by the clock instead")
        if passes > MAX_TIMED_PASSES:
            raise HostError(f"{passes} passes at a time: at most {MAX_TIMED_PASSES} can be timed")
        return passes

    @abc.abstractmethod
    def fence(self) -> Callable[[], Awaitable[None]]:
        """What to call and await, once, until everything submitted up to now is done (onSubmittedWorkDone); work that
        is submitted later is not waited for. Either raises DeviceLostError."""

    async def idle(self) -> None:
        """Wait until everything submitted is done. Raises DeviceLostError."""
        await self.fence()()

    @abc.abstractmethod
    async def check(self) -> None:
        """Raise the first error that the host reported late for a buffer or bind group made since the last check.

        Call it right after they were made, without an `await` between: then the error cannot belong to buffers that
        another task makes at the same time."""

    @abc.abstractmethod
    def close(self) -> None:
        """Destroy the device and everything on it. A deliberate close is not a device loss."""
