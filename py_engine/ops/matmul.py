"""Matrix times the rows of a prefill chunk: shaders/matmul.wgsl; matmul_units.wgsl on tensor units; matmul_dot4.wgsl in
integers."""

from __future__ import annotations

from dataclasses import dataclass

from py_engine.graph.matrix import Linear, Matrix
from py_engine.graph.trace import Kernel, Tensor, kernel
from py_engine.host.gpu import MATRIX_KERNEL, AdapterInfo
from py_engine.ops.gate import STORE, Finish
from py_engine.ops.quantise import quantised_words
from py_engine.ops.step import Pass
from py_engine.ops.weight import WeightLibraries, scales_of, weight_libraries

# Features of kernels that round activations: to 11 bits, or to 15 with a scale for each row.
ROUNDING = frozenset({"subgroup-matrix", "dot4"})

_UNIT_ROWS, _UNIT_COLS = 128, 32  # rows and products of a workgroup of matmul_units.wgsl
_DOT4_TILE = 64  # rows and products of a workgroup of matmul_dot4.wgsl


@dataclass(frozen=True)
class MatmulTuning:
    """The form of the kernel: tiles of 8 * `rows` x `cols` products; `slices` groups of threads share each of them.

    rows 1, 2, 4, 8; cols 32 or 64; 2 * cols * slices threads, from 32 * rows to 256. `f16`: tiles kept as f16
    (slices = 1), products and sums in f32. `unrolled`: more code, for GPUs, in which accesses to memory overlap.
    """

    rows: int = 8
    cols: int = 64
    slices: int = 1
    f16: bool = False
    q4_unpack: int = 0
    unrolled: bool = True


# Vendors whose GPUs have an instruction for dot4I8Packed, at the rate of an f32 product or half of it; and how the
# names of their older architectures without it begin. NVIDIA's was measured (docs/benchmarks.md). Apple's GPUs have
# none.
_DOT4_GPUS = {
    "nvidia": ("tesla", "fermi", "kepler", "maxwell"),
    "amd": ("terascale", "gcn"),
    "intel": ("gen-7", "gen-8", "gen-9", "gen-11"),
}


def tuning(t: int, info: AdapterInfo) -> MatmulTuning:
    """The form for t tokens on this adapter. There are only three, since each form needs a pipeline for every shape."""
    if info.fallback:
        # Without slices there are fewer barriers and threads. SwiftShader compiles slowly: one form, with little code.
        return MatmulTuning(4, 64, unrolled=False)
    per_thread = 8 if t > 32 else 4 if t > 8 else 1
    if per_thread == 8:
        return MatmulTuning(8, 64, 2)
    return MatmulTuning(per_thread, 32, 4)


def fits(form: MatmulTuning) -> bool:
    """Whether the kernel can take this form."""
    threads = 2 * form.cols * form.slices
    return 32 * form.rows <= threads <= 256 and not (form.f16 and form.slices > 1)


def takes_units(trace: Pass, layer: Linear) -> bool:
    """Whether a layer's chunk goes through the tensor units; its input is then narrowed to f16 (ops/narrow.py)."""
    # Below 64 rows the f32 form reads less of x, and computes no rows that are not used.
    return (
        MATRIX_KERNEL <= trace.features
        and trace.rows >= 64
        and trace.rows % 16 == layer.cols % 64 == 0
    )


def takes_dot4(trace: Pass, layer: Linear) -> bool:
    """Whether a layer's chunk is computed in integers; its input is then quantised (ops/quantise.py)."""
    return (
        "dot4" in trace.features
        and fast_dot4(trace.info)
        and trace.rows >= _DOT4_TILE
        and layer.cols % 64 == 0
        and all(part.group_size >= 64 for part in layer.parts)
    )


def fast_dot4(info: AdapterInfo) -> bool:
    """Whether the names of this GPU say that it has an instruction for dot4I8Packed. Without one, drivers emulate it
    with many instructions."""
    architectures = _DOT4_GPUS.get(info.vendor.lower())
    if info.fallback or architectures is None:
        return False
    return not info.architecture.lower().startswith(architectures)


def matmul(
    trace: Pass,
    label: str,
    x: Tensor,
    matrix: Matrix,
    y: Tensor,
    *,
    finish: Finish = STORE,
    rows: tuple[int, int] | None = None,
    y_offset: int | None = None,
    form: MatmulTuning | None = None,
) -> None:
    """y[t, y_offset + i] <- sum_k W[i, k] x[t, k], for the step.rows valid rows t of x.

    x [>= T, cols] f32; or f16 in blocks (ops/narrow.py) for the tensor units (`takes_units`); or u32 as
    ops/quantise.py writes it for integers (`takes_dot4`). y [>= T, any] f32, T = trace.rows. `finish`, `rows`,
    `y_offset` as in matvec. Rows of y from step.rows on are not changed. Raises ModelError for a format the kernels
    cannot read.
    """
    begin, end = rows or (0, matrix.rows)
    n = end - begin
    libraries = weight_libraries(matrix, form.q4_unpack if form else 0)
    constants: dict[str, float] = {
        "N": n,
        "K": matrix.cols,
        "Y_COLS": y.shape[-1],
        "ROW_BASE": begin,
        "Y_OFFSET": matrix.row_offset + begin if y_offset is None else y_offset,
        **finish.constants(matrix.row_offset + begin),
        **libraries.constants,
    }
    if x.dtype == "f16":
        kind, grid = _units(trace, libraries, constants, n)
    elif x.dtype == "u32":
        kind, grid = _dot4(trace, matrix, libraries, constants, n)
    else:
        kind, grid = _tiles(trace, label, libraries, constants, n, form)
    trace.call(
        label,
        kind,
        [
            (x, "r"),
            (matrix.weight, "r"),
            (scales_of(matrix), "r"),
            (finish.binding, "r"),
            (trace.step, "r"),
            (y, "w"),
        ],
        grid,
    )


def _units(
    trace: Pass, libraries: WeightLibraries, constants: dict[str, float], n: int
) -> tuple[Kernel, tuple[int, int, int]]:
    """The kernel of subgroup matrices and its grid."""
    uses = ["step", *libraries.uses, "weight_octet", "tile_f16", "gate", "matmul_out"]
    grid = (-(-n // _UNIT_COLS), -(-trace.rows // _UNIT_ROWS), 1)
    return kernel("matmul_units", uses, constants, MATRIX_KERNEL), grid


def _dot4(
    trace: Pass, matrix: Matrix, libraries: WeightLibraries, constants: dict[str, float], n: int
) -> tuple[Kernel, tuple[int, int, int]]:
    """The kernel of integer products, and its grid."""
    uses = ["step", *libraries.uses, f"bytes_{matrix.format}", "gate", "matmul_out", "matmul_tile"]
    grid = (-(-n // _DOT4_TILE), -(-trace.rows // _DOT4_TILE), 1)
    constants["ROW"] = quantised_words(matrix.cols) // 4
    return kernel("matmul_dot4", uses, constants, frozenset({"dot4"})), grid


def _tiles(
    trace: Pass,
    label: str,
    libraries: WeightLibraries,
    constants: dict[str, float],
    n: int,
    form: MatmulTuning | None,
) -> tuple[Kernel, tuple[int, int, int]]:
    """The kernel of f32 sums in registers, and its grid."""
    form = form or tuning(trace.rows, trace.info)
    threads = 2 * form.cols * form.slices
    if not fits(form):
        raise ValueError(f"{label}: {form} does not fit the kernel")
    unroll = min(4, 8 // form.slices) if form.unrolled else 1
    shape = {
        "RT": form.rows,
        "TILE_N": form.cols,
        "SLICES": form.slices,
        "WG": threads,
        "UNROLL": unroll,
    }
    uses = [
        "step",
        *libraries.uses,
        "weight_octet",
        "rows_vec4" if libraries.aligned else "rows_any",
        "tile_f16" if form.f16 else "tile_f32",
        "gate",
        "matmul_out",
        "matmul_tile",
    ]
    features = frozenset({"shader-f16"} if form.f16 else ())
    grid = (-(-n // form.cols), -(-trace.rows // (8 * form.rows)), 1)
    return kernel("matmul", uses, constants | shape, features), grid
