"""Packs floats in MLX's affine form, or narrows them. Needs numpy; only for `convert`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Words = NDArray[np.uint32]

MIN_SCALE_EPS = 1e-7  # the smallest scale, as in mlx's quantiser


def narrow(values: Floats, dtype: str) -> NDArray[Any]:
    """float32 -> "F32", "F16" or "BF16" (as uint16), rounded to nearest even."""
    if dtype == "F32":
        return values.astype("<f4")
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return values.astype("<f2")
    word = values.astype("<f4").view("<u4")
    rounded: NDArray[Any] = ((word + 0x7FFF + (word >> 16 & 1)) >> 16).astype("<u2")
    return rounded


def widen(raw: NDArray[Any], dtype: str) -> Floats:
    """The float32 values of an array from `narrow`."""
    if dtype == "BF16":
        wide: Floats = (raw.astype(np.uint32) << 16).view(np.float32)
        return wide
    return raw.astype(np.float32)


def affine_groups(values: Floats, bits: int, group: int) -> tuple[Floats, Floats]:
    """Scale and bias of each group of `values` [rows, cols], [rows, cols / group], as mlx's quantiser chooses them
    (mlx/backend/cpu/quantized.cpp, `quantize`): from the end of larger magnitude, which stays exact, so that zero is
    a step."""
    groups = values.reshape(values.shape[0], -1, group)
    low, high = groups.min(axis=2), groups.max(axis=2)
    at_low = np.abs(low) > np.abs(high)
    scale = np.maximum((high - low) / np.float32(2**bits - 1), np.float32(MIN_SCALE_EPS))
    scale = np.where(at_low, scale, -scale)
    edge = np.where(at_low, low, high)
    steps = np.rint(edge / scale)
    zero = steps == 0
    scale = np.where(zero, scale, edge / np.where(zero, np.float32(1), steps))
    return scale, np.where(zero, np.float32(0), edge)


def quantise(
    values: Floats, bits: int, group: int, dtype: str = "F32"
) -> tuple[Words, NDArray[Any], NDArray[Any]]:
    """MLX affine form of `values` [rows, cols]: words [rows, cols * bits / 32], scales and biases [rows, cols / group]
    of `dtype` ("F32", "F16", or "BF16" as uint16).

    With F32 equal to mlx.core.quantize. With narrower scales the fields are chosen for the scales as rounded (mlx
    rounds afterwards), so that less is lost.
    """
    scale, bias = affine_groups(values, bits, group)
    scales, biases = narrow(scale, dtype), narrow(bias, dtype)
    scale, bias = widen(scales, dtype)[:, :, None], widen(biases, dtype)[:, :, None]
    groups = values.reshape(values.shape[0], -1, group)
    scale = np.where(scale == 0, np.float32(1), scale)
    fields = np.clip(np.rint((groups - bias) / scale), 0, 2**bits - 1).astype(np.uint8)
    return pack(fields.reshape(values.shape), bits), scales, biases


def pack(fields: NDArray[np.uint8], bits: int) -> Words:
    """Fields [rows, cols] below 2^bits -> words [rows, cols * bits / 32], lowest bits first."""
    if bits == 8:
        return np.ascontiguousarray(fields).view("<u4")
    if bits in (2, 4):
        per = 8 // bits
        parts = fields.reshape(fields.shape[0], -1, per)
        packed = parts[:, :, 0].copy()
        for i in range(1, per):
            packed |= parts[:, :, i] << np.uint8(i * bits)
        return packed.view("<u4")
    stream = np.unpackbits(fields[:, :, None], axis=2, count=bits, bitorder="little")
    return np.packbits(stream.reshape(fields.shape[0], -1), axis=1, bitorder="little").view("<u4")
