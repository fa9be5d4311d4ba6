"""Matrix times the rows of a prefill chunk (shaders/matmul.wgsl)."""

from __future__ import annotations

from dataclasses import dataclass

from py_engine.graph.matrix import Matrix
from py_engine.graph.trace import Tensor, Trace, kernel
from py_engine.host.gpu import AdapterInfo
from py_engine.ops.gate import ACTIVATIONS, Activation
from py_engine.ops.matvec import EPILOGUES, Epilogue
from py_engine.ops.weight import scales_of, weight_libraries


@dataclass(frozen=True)
class MatmulTuning:
    """The form of the kernel: tiles of 8 * `rows` x `cols` products; `slices` groups of threads share each of them.

    rows 1, 2, 4, 8; cols 32 or 64; 2 * cols * slices <= 256 threads. `f16`: tiles kept as f16 (slices = 1), products
    and sums in f32.
    """

    rows: int = 8
    cols: int = 64
    slices: int = 1
    f16: bool = False
    q4_unpack: int = 0


def tuning(t: int, info: AdapterInfo) -> MatmulTuning:
    """The form for t tokens on this adapter. Three forms in all, whatever the matrix: each costs a pipeline a shape."""
    if info.fallback:
        # No slices: fewer barriers and threads for the work. One form, since SwiftShader compiles each for seconds.
        return MatmulTuning(4, 64)
    per_thread = 8 if t > 32 else 4 if t > 8 else 1
    if per_thread == 8:
        return MatmulTuning(8, 64, 2)
    return MatmulTuning(per_thread, 32, 4)


def matmul(
    trace: Trace,
    label: str,
    x: Tensor,
    matrix: Matrix,
    y: Tensor,
    *,
    bias: Tensor | None = None,
    epilogue: Epilogue = "store",
    activation: Activation = "silu",
    rows: tuple[int, int] | None = None,
    y_offset: int | None = None,
    form: MatmulTuning | None = None,
) -> None:
    """y[t, y_offset + i] <- sum_k W[i, k] x[t, k] + bias, for the step.rows valid rows t of x.

    x [>= T, cols] f32, y [>= T, any] f32, T = trace.rows. `epilogue`, `bias`, `rows`, `y_offset` as in matvec.
    Rows of y behind step.rows stay as they are. Raises ModelError for a format the kernels cannot read.
    """
    begin, end = rows or (0, matrix.rows)
    n = end - begin
    form = form or tuning(trace.rows, trace.info)
    threads = 2 * form.cols * form.slices
    if threads > 256 or (form.f16 and form.slices > 1):
        raise ValueError(f"{label}: {form} does not fit the kernel")
    libraries = weight_libraries(matrix, form.q4_unpack)
    constants: dict[str, float] = {
        "N": n,
        "K": matrix.cols,
        "RT": form.rows,
        "TILE_N": form.cols,
        "SLICES": form.slices,
        "WG": threads,
        "Y_COLS": y.shape[-1],
        "ROW_BASE": begin,
        "Y_OFFSET": matrix.row_offset + begin if y_offset is None else y_offset,
        "BIAS_OFFSET": matrix.row_offset + begin if bias is not None else 0,
        "BIAS": bias is not None,
        "EPILOGUE": EPILOGUES[epilogue],
        "ACTIVATION": ACTIVATIONS[activation] if epilogue in ("gated", "multiply") else 0,
        **libraries.constants,
    }
    uses = [
        "step",
        *libraries.uses,
        "weight_chunk",
        "rows_vec4" if libraries.aligned else "rows_any",
        "tile_f16" if form.f16 else "tile_f32",
        "gate",
    ]
    trace.call(
        label,
        kernel("matmul", uses, constants, frozenset({"shader-f16"} if form.f16 else ())),
        [
            (x, "r"),
            (matrix.weight, "r"),
            (scales_of(matrix, trace), "r"),
            (trace.zeros if bias is None else bias, "r"),
            (trace.step, "r"),
            (y, "w"),
        ],
        (
            -(-n // form.cols),
            -(-trace.rows // (8 * form.rows)),
            1,
        ),
    )
