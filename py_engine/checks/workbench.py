"""Where checks run: buffers with known inputs, the calls over them, and one reading of all results at the end."""

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

# Of the largest number of a result: sums of a thousand f32 in another order, WGSL's exp, log and inverseSqrt and
# chains of them differ by some 1e-5 of it; a lane or a row left out by 1e-2 and more.
TOLERANCE = 2e-4
# Where numbers are rounded to f16's 11 bits on the way; which way is the device's choice.
TOLERANCE_F16 = 2e-3

T = TypeVar("T")


class Read:
    """Places of a buffer after all calls ran, one behind the other."""

    def __init__(self, buffer: Buffer, places: Sequence[tuple[int, int]]) -> None:
        """`places`: offset and size of each in bytes, whole words."""
        assert not any(offset % 4 or nbytes % 4 for offset, nbytes in places)
        self.buffer, self.places = buffer, places
        self.nbytes = sum(nbytes for _, nbytes in places)
        self.bytes = b""  # as they lie in memory

    def floats(self, dtype: str = "f32") -> Sequence[float]:
        """As f32 or f16."""
        if dtype == "f16":
            return struct.unpack(f"<{len(self.bytes) // 2}e", self.bytes)
        return memoryview(self.bytes).cast("f")

    def words(self) -> list[int]:
        """As u32."""
        return memoryview(self.bytes).cast("I").tolist()


@dataclass(frozen=True)
class Check:
    """`verify` says after a run what is wrong with these calls' results, "" if nothing."""

    calls: Sequence[Call]
    verify: Callable[[], str]

    @property
    def name(self) -> str:
        """The kernel, and what it does in the model."""
        return f"{self.calls[0].kernel.stem} ({self.calls[0].label})"


class Bench:
    """Collects checks; `run` runs all of their calls and reads what they asked for."""

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
        """GPU bytes of its buffers."""
        return self._buffers.nbytes

    def make(self, name: str, *shape: int, dtype: Dtype = "f32") -> Tensor:
        """A zeroed tensor. Raises OutOfMemoryError."""
        return self._buffers.make(f"check {name}", *shape, dtype=dtype)

    def put(self, name: str, data: bytes, *shape: int, dtype: Dtype = "f32") -> Tensor:
        """A tensor that begins with `data`, zeros behind it."""
        tensor = self.make(name, *shape, dtype=dtype)
        self.write(tensor, 0, data)
        return tensor

    def fill(self, name: str, data: bytes, *shape: int, dtype: Dtype = "f32") -> Tensor:
        """A tensor that is `data` over and over."""
        tensor = self.make(name, *shape, dtype=dtype)
        self.write(tensor, 0, data, tensor.nbytes)
        return tensor

    def keep(self, key: Hashable, make: Callable[[], T]) -> T:
        """What several checks share and none changes; `key` says what it is."""
        if key not in self._kept:
            self._kept[key] = make()
        kept: T = self._kept[key]
        return kept

    def known(self, pattern: Pattern, *shape: int) -> Tensor:
        """f32 of this shape that begin as the pattern does, for reading."""
        key = ("known", pattern.key, shape)
        return self.keep(key, lambda: self.fill("input", pattern.period(), *shape))

    def step(self, pos: int, rows: int) -> Tensor:
        """A step that no kernel writes."""
        data = pack_step(pos=pos, rows=rows)
        return self.keep(("step", data), lambda: self.put("step", data, 8, dtype="u32"))

    def write(self, tensor: Tensor, offset: int, data: bytes, size: int = 0) -> None:
        """Words from byte `offset` on, before anything runs; over and over, if `size` bytes are to be written."""
        assert tensor.binding is not None
        self._uploads.append((tensor.binding, offset, data, size))

    def call(
        self, call: Call, tensors: Sequence[Tensor], groups: tuple[int, int, int] | None = None
    ) -> None:
        """Append the call with other tensors, in binding order, and workgroup counts."""
        assert len(tensors) == len(call.tensors)
        self._trace.calls.append(replace(call, tensors=tensors, groups=groups or call.groups))

    def read(self, tensor: Tensor, first: int = 0, count: int | None = None) -> Read:
        """Ask for elements of a tensor, by default all behind `first`."""
        n = math.prod(tensor.shape) - first if count is None else count
        return self.read_runs(tensor, [(first, n)])

    def read_runs(self, tensor: Tensor, runs: Iterable[tuple[int, int]]) -> Read:
        """Ask for several runs of elements, each (first, count)."""
        size = ITEMSIZE[tensor.dtype]
        return self.read_bytes(tensor, [(first * size, count * size) for first, count in runs])

    def read_bytes(self, tensor: Tensor, places: Iterable[tuple[int, int]]) -> Read:
        """Ask for bytes of a tensor, each place (offset, size)."""
        assert tensor.binding is not None
        start = tensor.binding.offset
        read = Read(tensor.binding.buffer, [(start + offset, size) for offset, size in places])
        self._reads.append(read)
        return read

    async def run(self, kernels: Kernels, strategy: SubmitStrategy, times: int = 1) -> list[bytes]:
        """Run every call once, in order, so many times over; all that was read each time. Checks see the last.

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
        """All known inputs at once."""
        parts, end = [], 0
        for binding, offset, data, size in self._uploads:
            at = binding.offset + offset
            parts.append(Upload(end, end + len(data), binding.buffer, at, size))
            end += len(data)
        self._gpu.write_parts(b"".join(data for _, _, data, _ in self._uploads), parts)
        self._uploads.clear()

    def release(self) -> None:
        """Free its buffers."""
        self._buffers.release()


def constants(call: Call) -> dict[str, float]:
    """A call's override constants."""
    return dict(call.kernel.constants)


def whole(values: Mapping[str, float], *names: str) -> list[int]:
    """Constants that are whole numbers; 0 where one is not set."""
    return [int(values.get(name, 0)) for name in names]


def difference(
    got: Sequence[float],
    wanted: Sequence[float],
    tolerance: float = TOLERANCE,
    size: float | None = None,
) -> str:
    """The worst that is off by more than `tolerance` of `size` (None: of the largest wanted), "" if none is."""
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
    """The worst number that is off by more than it is allowed to, "" if none is; `name`: what a place is called."""
    assert len(got) == len(wanted) == len(allowed)
    errors = list(map(abs, map(sub, got, wanted)))
    if all(map(le, errors, allowed)):  # which NaN never is
        return ""
    # A checkpoint's own NaN and infinities are no fault of the GPU.
    off = [i for i, e in enumerate(errors) if not e <= allowed[i] and math.isfinite(wanted[i])]
    if not off:
        return ""
    worst = max(off, key=lambda i: errors[i] if math.isfinite(errors[i]) else math.inf)
    return f"{name(worst)}gives {got[worst]:.6g} where {wanted[worst]:.6g} is right"


def exact_difference(got: Sequence[int], wanted: Sequence[int], what: str) -> str:
    """For whole numbers."""
    return (
        ""
        if list(got) == list(wanted)
        else f"leaves {what} {list(got)} where {list(wanted)} is right"
    )


def first_of(reasons: Iterable[str]) -> str:
    """The first that is not ""."""
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
