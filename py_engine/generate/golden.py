"""Small inputs for kernels of each kind, and the numbers that must come out (generate/golden_numbers.py).

The inputs come from an integer hash, in steps that f16 and bf16 hold exactly, so that one set of numbers is right for
every form of a kernel. tests/goldens/make_self_check.py computed the numbers from these inputs by NumPy in float64.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from py_engine.graph.matrix import MatrixFormat, ScaleFormat
from py_engine.ops.delta import DeltaShape

_PERIOD = 251  # a prime: no row or group of a matrix begins as the one before

NORM_WIDTH = 1000
MATVEC_ROWS, MATVEC_COLS = 24, 1024  # 24: not a whole number of any form's row groups
MATMUL_TOKENS, MATMUL_ROWS, MATMUL_COLS = 64, 80, 128  # 80 products: a tile and a piece of one
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 64
CONTEXT, POSITION = 96, 70  # three tiles of keys, the last one not full
THETA = 1e4
DELTA = DeltaShape(1, 2, 64, 64, 4)
DELTA_POSITION = 5
EPS = 1e-6
_SCALE_COLS = 128  # columns that share scale and bias: whole groups of every size


def steps(seed: int, count: int) -> list[int]:
    """`count` whole numbers 0..15, the same on every machine."""
    table = []
    for i in range(min(count, _PERIOD)):
        word = (i + 1 + 1009 * seed) * 0x9E3779B1 & 0xFFFFFFFF
        word = (word ^ word >> 15) * 0x85EBCA77 & 0xFFFFFFFF
        table.append(word >> 13 & 15)
    return (table * (count // _PERIOD + 1))[:count]


def floats(seed: int, count: int, middle: float = 0.0) -> array[float]:
    """`count` floats within 1 of `middle`, multiples of 1/16."""
    values = [middle + (2 * n - 15) / 16 for n in range(16)]
    return array("f", [values[n] for n in steps(seed, count)])


@dataclass(frozen=True)
class Packed:
    """A matrix [rows, cols] as it lies in memory: words of the weights, and of (scale, bias) pairs if quantised."""

    weight: bytes
    scales: bytes


class GoldenMatrix:
    """w = scale * (q - shift): q in 0..15, scale a power of two, shift 4..11, so that every format holds it exactly."""

    def __init__(self, seed: int, rows: int, cols: int) -> None:
        self.rows, self.cols = rows, cols
        self.fields = steps(seed, rows * cols)
        blocks = rows * (cols // _SCALE_COLS)
        self.scales = [2.0 ** -(3 + n % 3) for n in steps(seed + 1, blocks)]
        self.biases = [
            -s * (4 + n % 8) for s, n in zip(self.scales, steps(seed + 2, blocks), strict=True)
        ]

    def values(self) -> list[float]:
        """w, row by row."""
        pairs = [
            pair for pair in zip(self.scales, self.biases, strict=True) for _ in range(_SCALE_COLS)
        ]
        return [s * q + b for q, (s, b) in zip(self.fields, pairs, strict=True)]

    def pack(self, form: MatrixFormat, group: int, scale_format: ScaleFormat) -> Packed:
        """As graph/matrix.py describes `form`."""
        if form == "q8":
            return Packed(bytes(self.fields), self._pairs(group, scale_format))
        if form == "q4":
            low, high = self.fields[0::2], self.fields[1::2]
            weight = bytes(a | b << 4 for a, b in zip(low, high, strict=True))
            return Packed(weight, self._pairs(group, scale_format))
        return Packed(pack(self.values(), form), b"")

    def _pairs(self, group: int, form: ScaleFormat) -> bytes:
        pairs = zip(self.scales, self.biases, strict=True)
        repeated = (pair for pair in pairs for _ in range(_SCALE_COLS // group))
        return pack(list(chain.from_iterable(repeated)), form)


def pack(values: Sequence[float], form: str) -> bytes:
    """Little-endian f32, f16 or bf16; values that bf16 holds exactly."""
    if form == "f16":
        return struct.pack(f"<{len(values)}e", *values)
    raw = struct.pack(f"<{len(values)}f", *values)
    if form == "f32":
        return raw
    halves = bytearray(len(raw) // 2)
    halves[0::2], halves[1::2] = raw[2::4], raw[3::4]
    return bytes(halves)


def norm_inputs() -> dict[str, array[float]]:
    """x and weight of an RMSNorm."""
    return {"x": floats(1, NORM_WIDTH), "weight": floats(2, NORM_WIDTH, 1.5)}


def matvec_inputs() -> dict[str, array[float]]:
    """x and the weight of the norm before it; the matrix is `matvec_matrix`."""
    return {"x": floats(3, MATVEC_COLS), "norm": floats(4, MATVEC_COLS, 1.5)}


def matvec_matrix() -> GoldenMatrix:
    """W of the matvec."""
    return GoldenMatrix(5, MATVEC_ROWS, MATVEC_COLS)


def matmul_inputs() -> dict[str, array[float]]:
    """x [tokens, cols]; the matrix is `matmul_matrix`."""
    return {"x": floats(8, MATMUL_TOKENS * MATMUL_COLS)}


def matmul_matrix() -> GoldenMatrix:
    """W of the matmul."""
    return GoldenMatrix(9, MATMUL_ROWS, MATMUL_COLS)


def attention_inputs() -> dict[str, array[float]]:
    """Stacked projections of a token, norms of its heads, keys and values of all tokens before it."""
    cache = KV_HEADS * CONTEXT * HEAD_DIM
    return {
        "qkv": floats(12, (HEADS + 2 * KV_HEADS) * HEAD_DIM),
        "q_norm": floats(13, HEAD_DIM, 1.5),
        "k_norm": floats(14, HEAD_DIM, 1.5),
        "k": floats(15, cache),
        "v": floats(16, cache),
    }


def delta_inputs() -> dict[str, array[float]]:
    """Projections of a token, the layer's vectors, and what the tokens before it left."""
    s = DELTA
    return {
        "proj": floats(17, s.projected),
        "conv": floats(18, s.channels * s.taps),
        "decay": floats(19, 2 * s.value_heads, -1.0),
        "norm": floats(20, s.value_dim, 1.5),
        "history": floats(21, s.taps * s.channels),
        "state": floats(22, s.value_heads * s.value_dim * s.key_dim),
    }
