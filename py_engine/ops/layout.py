"""Converts weights on the GPU, while loading, into the form that kernels read (shaders/layout_*.wgsl).

A result is written through a binding that starts at the last multiple of 256 bytes before it and ends where it ends. So
offsets and sizes need no pipelines of their own. Only the distance to that multiple does, and it is nearly always 0.
"""

from __future__ import annotations

import math
import struct
from typing import Literal

from py_engine.graph.matrix import Matrix
from py_engine.graph.trace import Tensor, Trace, kernel
from py_engine.host.gpu import MAX_GROUPS, Binding

_FORMATS = {"F32": 0, "F16": 1, "BF16": 2}
_ALIGN = 256  # bytes: where a storage binding may start (WebGPU's minStorageBufferOffsetAlignment)
_PACKED, _FLOATS, _HALVES, _BRAINS, _CONSTANT = range(5)


def convert(
    trace: Trace,
    source: Tensor,
    dtype: str,
    target: Tensor,
    kind: Literal["f32", "f16"],
    n: int,
    element: int = 0,
) -> None:
    """n floats of `dtype` from the start of `source` -> elements element.. of `target`, as f32 or f16 (two a word).

    bf16 and f16 widen exactly; narrowing rounds to nearest even and clamps to +-65504. Neighbouring elements are not
    changed.
    """
    half = kind == "f16"
    result, shift = _window(target, element * (2 if half else 4), n * (2 if half else 4))
    shift //= 2 if half else 4
    constants = {
        "FORMAT": _FORMATS[dtype],
        "HALF": half,
        "SHIFT": shift,
        "LAST": (shift + n) % 2 if half else 0,
    }
    words = (shift % 2 + n + 1) // 2 if half else n
    trace.call(
        f"convert {target.name}",
        kernel("layout_convert", ["float_bits"], constants),
        [(source, "r"), (result, "w")],
        _grid(words),
    )


def interleave(
    trace: Trace,
    source: Tensor,
    dtype: str,
    target: Tensor,
    kind: Literal["scale", "bias"],
    n: int,
    element: int = 0,
) -> None:
    """n scales (or biases) of `dtype` from the start of `source` -> first (second) of pairs element.. of `target`."""
    wide = dtype == "F32"
    pair = 8 if wide else 4
    result, shift = _window(target, element * pair, n * pair)
    constants = {"WIDE": wide, "BIAS": kind == "bias", "SHIFT": shift // pair}
    trace.call(
        f"interleave {target.name}",
        kernel("layout_interleave", constants=constants),
        [(source, "r"), (result, "w")],
        _grid(n),
    )


def repack(
    trace: Trace, source: Tensor, target: Tensor, bits: int, rows: int, cols: int, element: int = 0
) -> None:
    """rows x cols fields of `bits` (MLX's packing) -> fields of 4 bits (2, 3) or 8 (5, 6), from field `element` on.

    cols is a multiple of 32, so is `element`. Raises ValueError otherwise, and for other widths.
    """
    if bits not in (2, 3, 5, 6) or cols % 32 or element % 32:
        raise ValueError(f"repack {target.name}: {bits} bits, {cols} columns, from field {element}")
    field = 4 if bits < 4 else 8
    result, shift = _window(target, element * field // 8, rows * cols * field // 8)
    constants = {"BITS": bits, "FIELD": field, "SHIFT": shift // 4}
    trace.call(
        f"repack {target.name}",
        kernel("layout_repack", constants=constants),
        [(source, "r"), (result, "w")],
        _grid(rows * cols * field // 32),
    )


def quantise(
    trace: Trace,
    source: Tensor,
    dtype: str,
    target: Tensor,
    scales: Tensor,
    bits: int,
    group_size: int,
    groups: int,
    group: int = 0,
) -> None:
    """Groups of `group_size` floats of `dtype` from the start of `source` -> fields of 4 or 8 bits and (scale, bias)
    pairs, from group `group` on: what mlx.core.quantize makes, bit for bit. Pairs are of `dtype`."""
    size = group_size * bits // 8
    pair = 8 if dtype == "F32" else 4
    result, shift = _window(target, group * size, groups * size)
    sides, side_shift = _window(scales, group * pair, groups * pair)
    constants = {
        "FORMAT": _FORMATS[dtype],
        "BITS": bits,
        "GROUP": group_size,
        "SHIFT": shift // 4,
        "SIDE_SHIFT": side_shift // pair,
    }
    trace.call(
        f"quantise {target.name}",
        kernel("layout_quantise", ["float_bits"], constants),
        [(source, "r"), (result, "w"), (sides, "w")],
        _grid(4 * groups),
    )


def rows(
    trace: Trace,
    source: Tensor,
    dtype: str,
    target: Tensor,
    to: Literal["f32", "f16", "bf16"],
    cols: int,
    count: int,
    row: int = 0,
    *,
    channels: int = 0,
    lengths: tuple[Tensor, int] | None = None,
) -> None:
    """`count` rows of `cols` floats of `dtype` from the start of `source` -> rows `row`.. of `target`, floats of `to`.

    `channels`: a row [channels, taps] becomes [taps, channels]; 0: its order stays. `lengths`: an f32 tensor, and the
    index of its element for the first row; each row is scaled to its length, and rows of zeros stay. Narrowing rounds
    to nearest even. Raises ValueError where a row is not a whole number of words.
    """
    size = 4 if to == "f32" else 2
    if cols * size % 4 or (channels and cols % channels):
        raise ValueError(f"rows {target.name}: {cols} of {to}, {channels} channels")
    result, shift = _window(target, row * cols * size, count * cols * size)
    constants: dict[str, float] = {
        "FORMAT": _FORMATS[dtype],
        "TO": _FORMATS[to.upper()],
        "COLS": cols,
        "CHANNELS": channels or 1,
        "NORMED": lengths is not None,
        "SHIFT": shift // 4,
    }
    given = source  # only fills the binding; a buffer of zeros would outlive the slice
    if lengths is not None:
        given, first = _window(lengths[0], 4 * lengths[1], 4 * count)
        constants["LENGTHS_SHIFT"] = first // 4
    lines = -(-count // MAX_GROUPS)
    trace.call(
        f"rows {target.name}",
        kernel("layout_rows", ["float_bits", "tree_sum"], constants),
        [(source, "r"), (given, "r"), (result, "w")],
        (-(-count // lines), lines, 1),
    )


def random(trace: Trace, target: Tensor, matrix: Matrix | None, seed: int) -> None:
    """Fill a weight from a hash of seed and place. A matrix: uniform in +-sqrt(3 / cols), which keeps its input's size
    (quantised: every code, with one scale and bias). None: `target` is a vector, filled with 1.

    The hash uses integers only, so all hosts get the same bits. seed < 65280.
    """
    if matrix is None:
        _fill(trace, target, seed, _CONSTANT, EVEN=_f32_bits(1.0), ODD=_f32_bits(1.0))
        return
    reach = math.sqrt(3.0 / matrix.cols)
    if matrix.scales is None:
        kind = {"f32": _FLOATS, "f16": _HALVES, "bf16": _BRAINS}[matrix.format]
        _fill(trace, matrix.weight, seed, kind, STEP=_three_bits(reach / 255))
        return
    _fill(trace, matrix.weight, seed, _PACKED)
    top = 15 if matrix.format == "q4" else 255
    scale = _three_bits(2 * reach / top)
    bias = -scale * top / 2
    if matrix.scale_format == "f32":
        even, odd = _f32_bits(scale), _f32_bits(bias)
    elif matrix.scale_format == "bf16":
        even = odd = _f32_bits(scale) >> 16 | _f32_bits(bias) & 0xFFFF0000
    else:
        even = odd = struct.unpack("<I", struct.pack("<ee", scale, bias))[0]
    _fill(trace, matrix.scales, seed, _CONSTANT, EVEN=even, ODD=odd)


def _fill(trace: Trace, target: Tensor, seed: int, kind: int, **constants: float) -> None:
    assert target.binding is not None
    words = target.nbytes // 4
    result, _ = _window(target, 0, target.nbytes)
    width = 256 + seed  # the seed: see the shader
    if width > MAX_GROUPS:
        raise ValueError(f"random {target.name}: seed {seed} is beyond {MAX_GROUPS - 256}")
    trace.call(
        f"random {target.name}",
        kernel("layout_random", ["hash", "float_bits"], {"KIND": kind, **constants}),
        [(result, "w")],
        (width, -(-words // (256 * width)), 1),
    )


def _window(target: Tensor, offset: int, nbytes: int) -> tuple[Tensor, int]:
    """A binding for bytes offset..offset + nbytes of a persistent tensor. It starts at the aligned offset before
    them. Also returns the distance between the two."""
    assert target.binding is not None, f"{target.name} is no persistent tensor"
    shift = offset % _ALIGN
    size = (shift + nbytes + 3) & ~3
    binding = Binding(target.binding.buffer, target.binding.offset + offset - shift, size)
    return Tensor(target.name, (size // 4,), "u32", binding), shift


def _grid(items: int) -> tuple[int, int, int]:
    """Workgroups of 256 for that many items: one row, or several of full width."""
    groups = max(1, -(-items // 256))
    rows = -(-groups // MAX_GROUPS)
    return -(-groups // rows), rows, 1


def _f32_bits(v: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", v))[0])


def _three_bits(v: float) -> float:
    """v to three significant bits: few enough that products with small integers are exact."""
    fraction, exponent = math.frexp(v)
    return math.ldexp(round(fraction * 8), exponent - 3)
