"""Reads the exact values of GGUF's block types. Needs numpy; only for `convert`.

Every quantised type of GGUF is affine: w = scale * q + bias in groups of 32 (of 16 in Q6_K), as MLX's format is; so a
block type becomes fields, scales and biases here, and floats from them. Layouts: ggml-common.h and ggml-quants.c of
https://github.com/ggml-org/ggml.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from py_engine.convert.gguf import GgufTensor

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Affine:
    """Unpacked blocks: w = scale * fields + bias. fields uint8 [n, g, size]; scale and bias float32 [n, g, 1].

    The products and sums that make w are exact in float32 or rounded once, as in ggml, so w is ggml's value bit for bit
    (but for the sign of zero).
    """

    fields: Bytes
    scale: Floats
    bias: Floats

    def values(self) -> Floats:
        """w, float32 [n, g, size]."""
        return self.scale * self.fields.astype(np.float32) + self.bias


def affine(tensor: GgufTensor, data: Any, first: int = 0, last: int | None = None) -> Affine:
    """Rows first..last (exclusive) of a tensor of a quantised type, from the file's bytes."""
    blocks = _raw(tensor, data, first, tensor.rows if last is None else last)
    return _TYPES[tensor.type.name](blocks.reshape(-1, tensor.type.nbytes))


def group_fields(name: str) -> int | None:
    """How many values a field of type `name` takes, for types with groups of 32; None for others."""
    return _LEVELS.get(name)


def dequantise(tensor: GgufTensor, data: Any, first: int = 0, last: int | None = None) -> Floats:
    """Rows first..last (exclusive) of a tensor as float32 [rows, shape[-1]], from the file's bytes."""
    last = tensor.rows if last is None else last
    name = tensor.type.name
    raw = _raw(tensor, data, first, last)
    if name == "F32":
        values = raw.view("<f4").astype(np.float32)
    elif name == "F16":
        values = raw.view("<f2").astype(np.float32)
    elif name == "BF16":
        values = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        values = affine(tensor, data, first, last).values()
    if tensor.paired and len(tensor.shape) == 1:
        values = values.reshape(-1)[_places(0, tensor.shape[0], tensor.paired)]
    return values.reshape(last - first, tensor.shape[-1])


def _raw(tensor: GgufTensor, data: Any, first: int, last: int) -> Bytes:
    if tensor.paired and len(tensor.shape) > 1:
        whole = np.frombuffer(data, np.uint8, tensor.nbytes, tensor.start)
        return whole.reshape(tensor.rows, -1)[_places(first, last, tensor.paired)].reshape(-1)
    start = tensor.start + first * tensor.row_nbytes
    return np.frombuffer(data, np.uint8, (last - first) * tensor.row_nbytes, start)


def _places(first: int, last: int, head: int) -> NDArray[np.intp]:
    """Where entries first..last of halves stand in pairs: i of half s of a head at 2i + s."""
    at = np.arange(first, last)
    half, i = np.divmod(at % head, head // 2)
    places: NDArray[np.intp] = at - at % head + 2 * i + half
    return places


# Below: `b` is uint8 [n blocks, bytes of one].


def _half(b: Bytes, at: int) -> Floats:
    """The float16 at byte `at` of each block, [n, 1, 1]."""
    return b[:, at : at + 2].copy().view("<f2").astype(np.float32)[:, :, None]


def _nibbles(b: Bytes) -> Bytes:
    """[n, 16] bytes -> [n, 1, 32] values: all low nibbles, then all high ones."""
    return np.concatenate([b & 15, b >> 4], axis=1)[:, None, :]


def _fifth_bits(b: Bytes) -> Bytes:
    """[n, 4] bytes -> [n, 1, 32]: bit i of the little-endian word, as 16 or 0."""
    return (np.unpackbits(b, axis=1, bitorder="little") * np.uint8(16))[:, None, :]


def _q4_0(b: Bytes) -> Affine:
    d = _half(b, 0)
    return Affine(_nibbles(b[:, 2:]), d, d * np.float32(-8))


def _q4_1(b: Bytes) -> Affine:
    return Affine(_nibbles(b[:, 4:]), _half(b, 0), _half(b, 2))


def _q5_0(b: Bytes) -> Affine:
    d = _half(b, 0)
    return Affine(_nibbles(b[:, 6:]) | _fifth_bits(b[:, 2:6]), d, d * np.float32(-16))


def _q5_1(b: Bytes) -> Affine:
    return Affine(_nibbles(b[:, 8:]) | _fifth_bits(b[:, 4:8]), _half(b, 0), _half(b, 2))


def _q8_0(b: Bytes) -> Affine:
    d = _half(b, 0)
    return Affine((b[:, 2:] ^ np.uint8(128))[:, None, :], d, d * np.float32(-128))  # int8 + 128


def _k_scales(b: Bytes) -> tuple[Floats, Floats]:
    """Scales and biases [n, 8, 1] of Q4_K and Q5_K: d, dmin, then 12 bytes with 6 bits each."""
    low, mid, high = b[:, 4:8], b[:, 8:12], b[:, 12:16]
    scale = np.concatenate([low & 63, (high & 15) | (low >> 6) << 4], axis=1)
    least = np.concatenate([mid & 63, (high >> 4) | (mid >> 6) << 4], axis=1)
    return (
        _half(b, 0) * scale[:, :, None].astype(np.float32),
        -_half(b, 2) * least[:, :, None].astype(np.float32),
    )


def _k_nibbles(b: Bytes) -> Bytes:
    """[n, 128] bytes -> [n, 8, 32]: run r of 32 bytes holds sub-blocks 2r (low) and 2r+1 (high)."""
    runs = b.reshape(-1, 4, 1, 32)
    return np.concatenate([runs & 15, runs >> 4], axis=2).reshape(-1, 8, 32)


def _q4_k(b: Bytes) -> Affine:
    return Affine(_k_nibbles(b[:, 16:]), *_k_scales(b))


def _q5_k(b: Bytes) -> Affine:
    shifts = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    fifth = (b[:, 16:48].reshape(-1, 1, 32) >> shifts & 1) << 4
    return Affine((_k_nibbles(b[:, 48:]) | fifth).astype(np.uint8), *_k_scales(b))


def _q6_k(b: Bytes) -> Affine:
    # Two halves of 128 elements; quarter k of a half: low nibbles (k < 2) or high ones of ql[0:32] (k even) or
    # ql[32:64] (k odd), and bits 2k, 2k+1 of qh[0:32].
    low = b[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    high = (b[:, 128:192].reshape(-1, 2, 1, 32) >> shifts & 3) << 4
    scale = _half(b, 208) * b[:, 192:208].view(np.int8).astype(np.float32)[:, :, None]
    return Affine((low | high).astype(np.uint8).reshape(-1, 16, 16), scale, scale * np.float32(-32))


_TYPES: Mapping[str, Callable[[Bytes], Affine]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
_LEVELS: Mapping[str, int] = {
    "Q4_0": 16,
    "Q4_1": 16,
    "Q5_0": 32,
    "Q5_1": 32,
    "Q8_0": 256,
    "Q4_K": 16,
    "Q5_K": 32,
}
