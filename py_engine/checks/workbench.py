"""The bench on which checks run: buffers with known inputs, calls over them, and one readback of all results."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import le, sub
from typing import Any, TypeVar

from py_engine.checks.inputs import Pattern, dot
from py_engine.graph.buffers import Buffers, Dtype
from py_engine.graph.kernels import Kernels
from py_engine.graph.plan import Planner
from py_engine.graph.submit import SubmitStrategy
from py_engine.graph.trace import ITEMSIZE, Call, Tensor, Trace
from py_engine.host.gpu import Binding, Buffer, Copy, Gpu, Upload
from py_engine.ops.gate import Activation
from py_engine.ops.step import pack_step

# The allowed error, as a share of the result's largest number. Sums of a thousand f32 in another order, and WGSL's exp,
# log and inverseSqrt, differ by about 1e-5 of it; a lane or a row that is left out makes 1e-2 or more.
TOLERANCE = 2e-4
# The same where numbers are rounded to f16's 11 bits on the way; the device chooses in which direction.
TOLERANCE_F16 = 2e-3

T = TypeVar("T")


class Read:
    """What some places of a buffer hold after all calls have run, one place after the other."""

    def __init__(self, buffer: Buffer, places: Sequence[tuple[int, int]]) -> None:
        """`places`: (offset, size) of each, in bytes; whole words."""
        assert not any(offset % 4 or nbytes % 4 for offset, nbytes in places)
        self.buffer, self.places = buffer, places
        self.nbytes = sum(nbytes for _, nbytes in places)
        self.bytes = b""  # set by Bench.run

    def floats(self, dtype: str = "f32") -> Sequence[float]:
        """The numbers, read as f32 or f16."""
        if dtype == "f16":
            return struct.unpack(f"<{len(self.bytes) // 2}e", self.bytes)
        return memoryview(self.bytes).cast("f")

    def words(self) -> list[int]:
        """The words, as u32."""
        return memoryview(self.bytes).cast("I").tolist()


@dataclass(frozen=True)
class Check:
    """Some calls, and `verify`, which says after a run what is wrong with their results ("": nothing)."""

    calls: Sequence[Call]
    verify: Callable[[], str]

    @property
    def name(self) -> str:
        """The kernel, and what the model uses it for."""
        return f"{self.calls[0].kernel.stem} ({self.calls[0].label})"


class Bench:
    """Collects checks. `run` runs all of their calls and reads the results that they asked for."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._buffers = Buffers(gpu)
        self._kept: dict[Hashable, Any] = {}
        self._reads: list[Read] = []
        self._uploads: list[tuple[Binding, int, bytes, int]] = []
        self.zeros = self.make("zeros", 64)
        self._trace = Trace(1)

    @property
    def nbytes(self) -> int:
        """GPU bytes of the bench's buffers."""
        return self._buffers.nbytes

    def make(self, name: str, *shape: int, dtype: Dtype = "f32") -> Tensor:
        """A new tensor of zeros. Raises OutOfMemoryError."""
        return self._buffers.make(f"check {name}", *shape, dtype=dtype)

    def put(self, name: str, data: bytes, *shape: int, dtype: Dtype = "f32") -> Tensor:
        """A new tensor that begins with `data`, followed by zeros."""
        tensor = self.make(name, *shape, dtype=dtype)
        self.write(tensor, 0, data)
        return tensor

    def fill(self, name: str, data: bytes, *shape: int, dtype: Dtype = "f32") -> Tensor:
        """A new tensor filled with `data`, repeated."""
        tensor = self.make(name, *shape, dtype=dtype)
        self.write(tensor, 0, data, tensor.nbytes)
        return tensor

    def keep(self, key: Hashable, make: Callable[[], T]) -> T:
        """A value that several checks share and none changes, made once for each `key`."""
        if key not in self._kept:
            self._kept[key] = make()
        kept: T = self._kept[key]
        return kept

    def known(self, pattern: Pattern, *shape: int, dtype: Dtype = "f32") -> Tensor:
        """A tensor of this shape, filled from the start of the pattern. Kernels may only read it."""
        data = 2 * pattern.period(dtype)  # twice, since 251 numbers of f16 are no whole words
        key = ("known", pattern.key, shape, dtype)
        return self.keep(key, lambda: self.fill("input", data, *shape, dtype=dtype))

    def step(self, pos: int, rows: int, shift: int = 0) -> Tensor:
        """A `step` tensor that no kernel writes."""
        data = pack_step(pos=pos, rows=rows, shift=shift)
        return self.keep(("step", data), lambda: self.put("step", data, 8, dtype="u32"))

    def write(self, tensor: Tensor, offset: int, data: bytes, size: int = 0) -> None:
        """Write words at byte `offset`, before any call runs; repeated until `size` bytes are written, if that is
        given."""
        assert tensor.binding is not None
        self._uploads.append((tensor.binding, offset, data, size))

    def call(
        self, call: Call, tensors: Sequence[Tensor], groups: tuple[int, int, int] | None = None
    ) -> None:
        """Append the call, with other tensors (in binding order) and other workgroup counts."""
        assert len(tensors) == len(call.tensors)
        self._trace.calls.append(replace(call, tensors=tensors, groups=groups or call.groups))

    def read(self, tensor: Tensor, first: int = 0, count: int | None = None) -> Read:
        """Ask for elements of a tensor; by default for all from `first` on."""
        n = math.prod(tensor.shape) - first if count is None else count
        return self.read_runs(tensor, [(first, n)])

    def read_runs(self, tensor: Tensor, runs: Iterable[tuple[int, int]]) -> Read:
        """Ask for several runs of elements, each (first, count)."""
        size = ITEMSIZE[tensor.dtype]
        return self.read_bytes(tensor, [(first * size, count * size) for first, count in runs])

    def read_bytes(self, tensor: Tensor, places: Iterable[tuple[int, int]]) -> Read:
        """Ask for bytes of a tensor, at places (offset, size)."""
        assert tensor.binding is not None
        start = tensor.binding.offset
        read = Read(tensor.binding.buffer, [(start + offset, size) for offset, size in places])
        self._reads.append(read)
        return read

    async def run(self, kernels: Kernels, strategy: SubmitStrategy, times: int = 1) -> list[bytes]:
        """Run all calls in order, `times` times. Returns what was read after each time; checks see the last.

        Raises HostError.
        """
        self._upload()
        planner = Planner(self._gpu, kernels, strategy)
        planner.reserve([self._trace])
        plan = await planner.lower([self._trace])
        results = self._buffers.make("check results", sum(r.nbytes for r in self._reads) // 4)
        assert results.binding is not None
        target, end = results.binding.buffer, 0
        copies = []
        for read in self._reads:
            for offset, nbytes in read.places:
                copies.append(Copy(read.buffer, target, nbytes, offset, end))
                end += nbytes
        found = []
        for _ in range(times):
            await self._gpu.replay(plan.recording)
            await self._gpu.copy(copies)
            found.append(await self._gpu.read(target, 0, end))
        planner.release()
        end = 0
        for read in self._reads:
            read.bytes = found[-1][end : end + read.nbytes]
            end += read.nbytes
        return found

    def _upload(self) -> None:
        """Upload all known inputs at once."""
        parts, end = [], 0
        for binding, offset, data, size in self._uploads:
            at = binding.offset + offset
            parts.append(Upload(end, end + len(data), binding.buffer, at, size))
            end += len(data)
        self._gpu.write_parts(b"".join(data for _, _, data, _ in self._uploads), parts)
        self._uploads.clear()

    def release(self) -> None:
        """Free the bench's buffers."""
        self._buffers.release()


def constants(call: Call) -> dict[str, float]:
    """A call's override constants."""
    return dict(call.kernel.constants)


def whole(values: Mapping[str, float], *names: str) -> list[int]:
    """Constants of a call as whole numbers; 0 for one that is not set."""
    return [int(values.get(name, 0)) for name in names]


def difference(
    got: Sequence[float],
    wanted: Sequence[float],
    tolerance: float = TOLERANCE,
    size: float | None = None,
) -> str:
    """Describe the number that is off most, if by more than `tolerance` * `size`; "" if none is. `size` None: the
    largest number wanted."""
    if size is None:
        size = max(map(abs, wanted))
        if not math.isfinite(size):
            size = max(filter(math.isfinite, map(abs, wanted)), default=0.0)
    return beyond(got, wanted, [tolerance * size + 1e-30] * len(wanted))


def beyond(
    got: Sequence[float],
    wanted: Sequence[float],
    allowed: Sequence[float],
    name: Callable[[int], str] = lambda _: "",
) -> str:
    """Describe the number that is off most, if by more than is allowed; "" if none is. `name`: what a place is
    called."""
    assert len(got) == len(wanted) == len(allowed)
    errors = list(map(abs, map(sub, got, wanted)))
    if all(map(le, errors, allowed)):  # false for NaN
        return ""
    # NaN and infinities of the checkpoint itself are not the GPU's fault.
    off = [i for i, e in enumerate(errors) if not e <= allowed[i] and math.isfinite(wanted[i])]
    if not off:
        return ""
    worst = max(off, key=lambda i: errors[i] if math.isfinite(errors[i]) else math.inf)
    return f"{name(worst)}gives {got[worst]:.6g} where {wanted[worst]:.6g} is right"


def exact_difference(got: Sequence[int], wanted: Sequence[int], what: str) -> str:
    """As `difference`, for whole numbers, which must be equal."""
    return (
        ""
        if list(got) == list(wanted)
        else f"leaves {what} {list(got)} where {list(wanted)} is right"
    )


def first_of(reasons: Iterable[str]) -> str:
    """The first text that is not empty; "" if all are."""
    return next(filter(None, reasons), "")


def silu(v: float) -> float:
    """v sigmoid(v)."""
    return 0.5 * v * (1.0 + math.tanh(0.5 * v))


def sigmoid(v: float) -> float:
    """1 / (1 + e^-v)."""
    return 0.5 * (1.0 + math.tanh(0.5 * v))


def gelu_tanh(v: float) -> float:
    """The tanh form of GELU."""
    return 0.5 * v * (1.0 + math.tanh(0.7978845608028654 * (v + 0.044715 * v**3)))


def gelu(v: float) -> float:
    """v Phi(v), exactly."""
    return 0.5 * v * math.erfc(-v * math.sqrt(0.5))


def relu(v: float) -> float:
    """max(v, 0)."""
    return max(v, 0.0)


def relu2(v: float) -> float:
    """max(v, 0)^2."""
    return max(v, 0.0) ** 2


ACTIVATE: Mapping[Activation, Callable[[float], float]] = {
    "silu": silu,
    "gelu_tanh": gelu_tanh,
    "gelu": gelu,
    "relu": relu,
    "relu2": relu2,
}


def rms_factor(values: Sequence[float], eps: float) -> float:
    """1 / sqrt(mean x^2 + eps)."""
    return 1.0 / math.sqrt(dot(values, values) / len(values) + eps)


def normed(
    values: Sequence[float], weights: Sequence[float], eps: float, offset: float
) -> list[float]:
    """RMSNorm of a row."""
    factor = rms_factor(values, eps)
    return [v * factor * (w + offset) for v, w in zip(values, weights, strict=True)]


def layer_normed(
    values: Sequence[float],
    weights: Sequence[float],
    bias: Sequence[float],
    eps: float,
    offset: float,
) -> list[float]:
    """LayerNorm of a row."""
    mean = math.fsum(values) / len(values)
    centred = [v - mean for v in values]
    row = normed(centred, weights, eps, offset)
    return [v + b for v, b in zip(row, bias, strict=True)]
