"""Runs traced calls on a real device and brings the outputs back as NumPy arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from py_engine.blocks.state import Rope
from py_engine.graph.kernels import kernels_of
from py_engine.graph.plan import Planner
from py_engine.graph.submit import SingleSubmit, SubmitStrategy
from py_engine.graph.trace import NOTHING, Q8_GROUP, Tensor, Trace
from py_engine.host.gpu import Binding, Gpu
from py_engine.ops.step import pack_step

DTYPES = {"f32": np.float32, "u32": np.uint32, "f16": np.float16, "bf16": np.uint16}


class Bench:
    """Buffers of one test: `put` makes a persistent Tensor from an array, `run` replays a trace, `get` reads back."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.kernels = kernels_of(gpu)
        self._buffers: list[Any] = []

    def put(self, name: str, array: np.ndarray, dtype: str | None = None) -> Tensor:
        """A persistent tensor holding `array` (f32, u32, f16; bf16 as uint16 with dtype="bf16"; rows of float32 as q8
        with dtype="q8")."""
        array = np.ascontiguousarray(array)
        kind = dtype or {v: k for k, v in DTYPES.items()}[array.dtype.type]
        tensor = Tensor(name, array.shape, kind)  # type: ignore[arg-type]
        raw = (q8_packed(array) if kind == "q8" else array).tobytes()
        raw += bytes(-len(raw) % 4)
        buffer = self.gpu.create_buffer(name, max(len(raw), 256))
        self.gpu.write(buffer, 0, raw)
        self._buffers.append(buffer)
        return Tensor(tensor.name, tensor.shape, tensor.dtype, Binding(buffer))

    def put_step(self, pos: int, rows: int, halted: bool = False) -> Tensor:
        """The step buffer as a pass finds it: `rows` rows from position `pos` on."""
        words = np.frombuffer(pack_step(pos=pos, rows=rows), np.uint32).copy()
        words[1] = halted
        return self.put("step", words)

    def put_rope(self, width: int, base: float, context: int, magnitude: float = 1.0) -> Tensor:
        """The table of a plain rotary embedding. Width 0 has no table."""
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
        """The current contents of a persistent tensor; q8 is dequantised to float64."""
        assert tensor.binding is not None
        if tensor.dtype == "q8":
            raw = await self.gpu.read(tensor.binding.buffer, 0, tensor.nbytes)
            return q8_unpacked(np.frombuffer(raw, np.uint8).reshape(*tensor.shape[:-1], -1))
        dtype = DTYPES[tensor.dtype]
        n = int(np.prod(tensor.shape))
        raw = await self.gpu.read(tensor.binding.buffer, tensor.binding.offset)
        return np.frombuffer(raw, dtype)[:n].reshape(tensor.shape)

    def close(self) -> None:
        """Free every buffer that `put` made."""
        for buffer in self._buffers:
            self.gpu.destroy_buffer(buffer)
        self._buffers.clear()


def spread(rows: np.ndarray, dtype: str) -> np.ndarray:
    """float64 [.., D]: rows of queries or keys in the form that a KV cache of this dtype stores. For q8, blocks are
    multiplied by a Hadamard matrix (shaders/lib/kv_append_q8.wgsl)."""
    rows = rows.astype(np.float64)
    if dtype != "q8":
        return rows
    width = rows.shape[-1]
    block = min(width & -width, Q8_GROUP)
    matrix = np.ones((1, 1))
    while len(matrix) < block:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    parts = rows.reshape(*rows.shape[:-1], -1, block) @ matrix / math.sqrt(block)
    found: np.ndarray = parts.reshape(rows.shape)
    return found


def q8_packed(rows: np.ndarray) -> np.ndarray:
    """Quantise float32 [.., D] to uint8 [.., D + 4 groups], as shaders/lib/kv_q8.wgsl reads it. NaN stays NaN."""
    width = rows.shape[-1]
    parts, pairs = [], []
    for at in range(0, width, Q8_GROUP):
        group = rows[..., at : at + Q8_GROUP].astype(np.float64)
        ends = np.stack([group.min(-1), group.max(-1)], -1).astype(np.float16)
        least, greatest = np.split(ends.astype(np.float64), 2, -1)
        share = (group - least) / np.maximum(greatest - least, 1e-20)
        parts.append(np.floor(255 * np.nan_to_num(share).clip(0, 1) + 0.5).astype(np.uint8))
        pairs.append(ends.view(np.uint8))
    return np.concatenate(parts + pairs, -1)


def q8_unpacked(rows: np.ndarray) -> np.ndarray:
    """Dequantise the bytes of q8_packed to float64 [.., D]."""
    groups = -(-rows.shape[-1] // (Q8_GROUP + 4))
    width = rows.shape[-1] - 4 * groups
    ends = np.ascontiguousarray(rows[..., width:]).view(np.float16).astype(np.float64)
    place = np.arange(width) // Q8_GROUP
    least, greatest = ends[..., 2 * place], ends[..., 2 * place + 1]
    found: np.ndarray = least + (greatest - least) * rows[..., :width] / 255
    return found


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
