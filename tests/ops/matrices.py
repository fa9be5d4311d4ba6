"""Random matrices in every format of graph/matrix.py, as float64 values and as the bytes that the kernels read."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from py_engine.graph.matrix import Linear, Matrix
from tests.ops.harness import Bench

FORMATS = ["f32", "f16", "bf16", "q4", "q8"]


def to_bf16(values: np.ndarray) -> np.ndarray:
    """uint16 bits, rounded to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """float32 values of bf16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _narrow(values: np.ndarray, form: str) -> tuple[np.ndarray, np.ndarray]:
    """The array as stored in `form`, and its values as float64."""
    if form == "f16":
        stored = values.astype(np.float16)
        return stored, stored.astype(np.float64)
    if form == "bf16":
        stored = to_bf16(values)
        return stored, from_bf16(stored).astype(np.float64)
    stored = values.astype(np.float32)
    return stored, stored.astype(np.float64)


def random_matrix(
    bench: Bench,
    rng: np.random.Generator,
    rows: int,
    cols: int,
    form: str,
    group: int = 64,
    scale_format: str = "f16",
    row_offset: int = 0,
) -> tuple[Matrix, np.ndarray]:
    """A Matrix on the GPU and its values, float64 [rows, cols]."""
    if form not in ("q4", "q8"):
        stored, values = _narrow(rng.standard_normal((rows, cols)), form)
        weight = bench.put("weight", stored, form)
        return Matrix(rows, cols, form, weight, row_offset), values  # type: ignore[arg-type]
    bits = int(form[1])
    q = rng.integers(0, 2**bits, (rows, cols))
    fields = 32 // bits
    shifts = (bits * np.arange(fields)).astype(np.uint32)
    words = (q.reshape(rows, -1, fields).astype(np.uint32) << shifts).sum(-1, dtype=np.uint32)
    scale, s = _narrow(rng.uniform(0.5, 1.5, (rows, cols // group)) * 2.0**-bits, scale_format)
    bias, b = _narrow(rng.uniform(-1, 1, (rows, cols // group)), scale_format)
    pairs = np.ascontiguousarray(np.stack([scale, bias], -1)).view(np.uint32)
    values = q * np.repeat(s, group, 1) + np.repeat(b, group, 1)
    return (
        Matrix(
            rows,
            cols,
            form,  # type: ignore[arg-type]
            bench.put("weight", words),
            row_offset,
            bench.put("scales", pairs),
            group,
            scale_format,  # type: ignore[arg-type]
        ),
        values,
    )


def random_linear(
    bench: Bench,
    rng: np.random.Generator,
    parts: Sequence[tuple[int, str]],
    cols: int,
    bias: bool = False,
) -> tuple[Linear, np.ndarray, np.ndarray]:
    """A Linear of (rows, format) parts, its values [rows, cols] and its bias [rows], both float64."""
    matrices, values, at = [], [], 0
    for rows, form in parts:
        matrix, w = random_matrix(bench, rng, rows, cols, form, row_offset=at)
        matrices.append(matrix)
        values.append(w)
        at += rows
    b = rng.standard_normal(at).astype(np.float32) * bias
    tensor = bench.put("bias", b) if bias else None
    return Linear(at, cols, tuple(matrices), tensor), np.concatenate(values), b.astype(np.float64)


def act(v: np.ndarray, kind: str) -> np.ndarray:
    """An activation of ops/gate.py, float64."""
    if kind == "silu":
        return v / (1 + np.exp(-v))
    if kind == "gelu":
        return np.vectorize(lambda x: 0.5 * x * math.erfc(-x / math.sqrt(2)))(v)
    if kind in ("relu", "relu2"):
        return np.maximum(v, 0) ** (2 if kind == "relu2" else 1)
    assert kind == "gelu_tanh"
    return 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))
