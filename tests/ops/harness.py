"""Runs traced calls on a real device and brings the outputs back as NumPy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from py_engine.blocks.state import Rope
from py_engine.graph.kernels import Kernels
from py_engine.graph.plan import Planner
from py_engine.graph.submit import SingleSubmit, SubmitStrategy
from py_engine.graph.trace import NOTHING, Tensor, Trace
from py_engine.host.gpu import Binding, Gpu
from py_engine.ops.step import pack_step

DTYPES = {"f32": np.float32, "u32": np.uint32, "f16": np.float16, "bf16": np.uint16}


class Bench:
    """Buffers of one test: `put` makes a persistent Tensor from an array, `run` replays a trace, `get` reads back."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.kernels = Kernels(gpu)
        self._buffers: list[Any] = []

    def put(self, name: str, array: np.ndarray, dtype: str | None = None) -> Tensor:
        """A persistent tensor holding `array` (f32, u32, f16; bf16 as uint16 with dtype="bf16")."""
        array = np.ascontiguousarray(array)
        kind = dtype or {v: k for k, v in DTYPES.items()}[array.dtype.type]
        tensor = Tensor(name, array.shape, kind)  # type: ignore[arg-type]
        raw = array.tobytes()
        raw += bytes(-len(raw) % 4)
        buffer = self.gpu.create_buffer(name, max(len(raw), 256))
        self.gpu.write(buffer, 0, raw)
        self._buffers.append(buffer)
        return Tensor(tensor.name, tensor.shape, tensor.dtype, Binding(buffer))

    def put_step(self, pos: int, rows: int, halted: bool = False) -> Tensor:
        """The step as a pass finds it."""
        words = np.frombuffer(pack_step(pos=pos, rows=rows), np.uint32).copy()
        words[1] = halted
        return self.put("step", words)

    def put_rope(self, width: int, base: float, context: int, magnitude: float = 1.0) -> Tensor:
        """The table of a plain rotary embedding; width 0 has none."""
        if not width:
            return NOTHING
        frequencies = tuple(base ** (-2 * i / width) for i in range(width // 2))
        table = Rope(width, base, frequencies, magnitude).table(context)
        return self.put("table", np.frombuffer(table, np.float32))

    async def run(self, trace: Trace, strategy: SubmitStrategy | None = None) -> None:
        """Lower and replay the trace once. Activations are pooled: `get` only what `put` made."""
        planner = Planner(self.gpu, self.kernels, strategy or SingleSubmit())
        planner.reserve([trace])
        await planner.allocate()
        plan = await planner.lower([trace])
        await self.gpu.replay(plan.recording)
        await self.gpu.idle()
        planner.release()

    async def get(self, tensor: Tensor) -> np.ndarray:
        """The contents of a persistent tensor now."""
        assert tensor.binding is not None
        dtype = DTYPES[tensor.dtype]
        n = int(np.prod(tensor.shape))
        raw = await self.gpu.read(tensor.binding.buffer, tensor.binding.offset)
        return np.frombuffer(raw, dtype)[:n].reshape(tensor.shape)

    def close(self) -> None:
        """Free every buffer that `put` made."""
        for buffer in self._buffers:
            self.gpu.destroy_buffer(buffer)
        self._buffers.clear()


def nmse(a: np.ndarray, b: np.ndarray) -> float:
    """sum((a-b)^2) / sum(b^2) in float64; NaN anywhere gives NaN."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(((a - b) ** 2).sum() / max(float((b**2).sum()), 1e-300))


async def run_calls(
    gpu: Gpu, trace: Trace, outputs: Sequence[Tensor], bench: Bench | None = None
) -> list[np.ndarray]:
    """Run the trace and read the (persistent) outputs."""
    bench = bench or Bench(gpu)
    await bench.run(trace)
    return [await bench.get(t) for t in outputs]
