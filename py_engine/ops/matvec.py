"""Matrix times vector for decode, with its fused neighbours (shaders/matvec.wgsl)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from py_engine.graph.matrix import Matrix, MatrixFormat, ScaleFormat
from py_engine.graph.trace import NOTHING, Access, Tensor, kernel
from py_engine.host.gpu import MAX_GROUPS, AdapterInfo
from py_engine.ops.gate import STORE, Epilogue, Finish
from py_engine.ops.norm import Norm
from py_engine.ops.step import Pass
from py_engine.ops.weight import CHUNK, scales_of, weight_libraries


@dataclass(frozen=True, eq=False)
class Convolution:
    """LFM2's short convolution after a layer of rows [B; C; X] (shaders/lib/matvec_conv.wgsl); h = rows / 3.

    `weights` f32: the layer's bias [3 h] if `biased`, taps [h, taps], the convolution's bias [h] if `biased`;
    `history` f32 [taps, h]: B * X of the last tokens, position p at row p % taps.
    """

    weights: Tensor
    history: Tensor
    biased: bool

    @property
    def taps(self) -> int:
        """Length of the convolution."""
        return self.history.shape[0]

    @property
    def channels(self) -> int:
        """h."""
        return self.history.shape[1]

    @property
    def constants(self) -> dict[str, float]:
        """The number of taps, and their place in `weights`."""
        return {"TAPS": self.taps, "TAPS_AT": 3 * self.channels if self.biased else 0}


@dataclass(frozen=True)
class MatvecTuning:
    """The form of the kernel. Sums are ordered differently, so results differ in the last bits.

    `threads` a workgroup; `lanes` threads share a row group (1: no barrier at all); `rows` of W a row group
    works on (1, 2, 4, 8; 3 or 6 before a convolution). threads * (rows + 1) <= 1280. `staged`: x goes through
    workgroup memory. `subgroups`: sums by shuffles. `q4_unpack`: how 4-bit fields become floats
    (shaders/lib/weight_q4.wgsl).
    """

    threads: int = 128
    lanes: int = 32
    rows: int = 4
    staged: bool = False
    subgroups: bool = False
    q4_unpack: int = 0

    @property
    def needs(self) -> frozenset[str]:
        """Features of the device that this form uses."""
        return frozenset({"subgroups"} if self.subgroups else ())


@dataclass(frozen=True)
class MatvecTask:
    """Everything about a matvec that decides which form is fast. It is the key of measured forms."""

    rows: int
    cols: int
    format: MatrixFormat
    group_size: int
    scale_format: ScaleFormat
    epilogue: Epilogue
    norm: bool

    def __str__(self) -> str:
        packing = f"{self.format} g{self.group_size} {self.scale_format}"
        norm = " norm" if self.norm else ""
        return f"matvec {self.rows}x{self.cols} {packing} {self.epilogue}{norm}"


# Measured on an H200 and an H100 (Dawn, Vulkan). Without subgroups Qwen3-0.6B decodes 7 % faster with 32k threads in
# flight than with 64k, since more rows then share the reading of x; with them Qwen3.5-0.8B decodes 4 % faster with
# workgroups of 256 and at most two rows a subgroup. The head takes 47 us with 8 lanes of 8 rows, 123 with 32 of 4.
_THREADS_IN_FLIGHT = 32768
_HEAD_ROWS = 32768


def tuning(rows: int, cols: int, features: frozenset[str], info: AdapterInfo) -> MatvecTuning:
    """The form for a matrix of this shape on this adapter."""
    if info.fallback:
        # On software adapters barriers are slow. Many rows a thread share the reading of x, but take longer to compile,
        # which does not pay for small matrices.
        return MatvecTuning(threads=16, lanes=1, rows=8 if rows >= 4096 else 2)
    if rows >= _HEAD_ROWS:
        lanes, per_group = 8, 8
    else:
        lanes, per_group = 32, 4
    while lanes > 1 and lanes > -(-cols // CHUNK):
        lanes //= 2
    # Shuffles are faster only if they replace the barrier altogether.
    subgroups = "subgroups" in features and info.subgroup_min_size >= lanes
    threads = 128
    if subgroups and rows < _HEAD_ROWS:
        threads, per_group = 256, 2
    while per_group > 1 and rows // per_group * lanes < _THREADS_IN_FLIGHT:
        per_group //= 2
    return MatvecTuning(threads, lanes, per_group, staged=cols >= 8 * CHUNK, subgroups=subgroups)


def fits(form: MatvecTuning, cols: int, features: frozenset[str]) -> bool:
    """Whether the kernel supports this form, for rows of `cols` elements."""
    return (
        form.lanes in (1, 2, 4, 8, 16, 32, 64)
        and form.rows in (1, 2, 4, 8)
        and 1 <= form.threads <= 256
        and form.threads % form.lanes == 0
        and form.threads * (form.rows + 1) <= 1280
        and form.lanes <= max(1, -(-cols // CHUNK))
        and form.q4_unpack in (0, 1, 2)
        and form.needs <= features
    )


def candidates(
    task: MatvecTask, features: frozenset[str], info: AdapterInfo
) -> tuple[MatvecTuning, ...]:
    """Forms worth timing for a task: first the form that is used without measuring, then forms that differ from it
    by one step."""
    least = 2 if task.epilogue == "gated" else 1  # a gate and its up
    usual = tuning(task.rows, task.cols, features, info)
    usual = replace(usual, rows=max(usual.rows, least))
    steps: list[dict[str, Any]] = [
        {"rows": usual.rows * 2},
        {"rows": usual.rows // 2},
        {"lanes": usual.lanes * 2},
        {"lanes": usual.lanes // 2},
        {"staged": not usual.staged},
        {"subgroups": not usual.subgroups},
        {"threads": usual.threads // 2},
        {"threads": usual.threads * 2},
        {"lanes": usual.lanes // 2, "rows": usual.rows * 2},
    ]
    forms = (usual, *(replace(usual, **step) for step in steps))
    return tuple(
        f for f in forms if f == usual or (fits(f, task.cols, features) and f.rows >= least)
    )


def matvec(
    trace: Pass,
    label: str,
    x: Tensor,
    matrix: Matrix,
    y: Tensor,
    *,
    norm: Norm | None = None,
    finish: Finish = STORE,
    conv: Convolution | None = None,
    last_row: bool = False,
    rows: tuple[int, int] | None = None,
    y_offset: int | None = None,
    form: MatvecTuning | None = None,
) -> None:
    """y[y_offset + i] <- sum_k W[i, k] norm(x)[k], for one row of x.

    x [T, cols] f32: row 0, or row step.rows - 1 with `last_row`. y f32, its first row is written.
    `norm`: an RMSNorm, taken on the way. `finish`: bias, activation, scale, and how y is written ("gated": rows of W
    are [gate; up]); its vectors are indexed from the part's row_offset. With `conv` instead, y [rows / 3] is
    the convolution's result, and the bias is in its weights.
    `rows`: only these rows of the part; `y_offset`: by default the place of these rows in the layer.
    Raises ModelError for a format the kernels cannot read, ValueError for a LayerNorm.
    """
    if norm is not None and norm.centred:
        raise ValueError(f"{label}: a matvec takes no LayerNorm on the way")
    begin, end = rows or (0, matrix.rows)
    n = end - begin
    sections = 3 if conv else 2 if finish.epilogue == "gated" else 1  # rows of W for one value
    task = None
    if conv is None:
        task = MatvecTask(
            n, matrix.cols, matrix.format, matrix.group_size, matrix.scale_format,
            finish.epilogue, norm is not None,
        )  # fmt: skip
        form = form or trace.forms.get(task)
    form = form or tuning(n, matrix.cols, trace.features, trace.info)
    libraries = weight_libraries(matrix, form.q4_unpack)
    outputs_a_group = max(1, form.rows // sections)
    form = replace(form, rows=outputs_a_group * sections)
    if form.threads * (form.rows + 1) > 1280 or form.threads > 256 or form.threads % form.lanes:
        raise ValueError(f"{label}: {form} does not fit the kernel")
    if not libraries.aligned:
        source = "input_any"
    else:
        source = "input_staged" if form.staged else "input_direct"
    constants: dict[str, float] = {
        "N": n,
        "K": matrix.cols,
        "WG": form.threads,
        "LANES": form.lanes,
        "R": form.rows,
        "OUTPUTS": outputs_a_group,
        "ROW_BASE": begin,
        "Y_OFFSET": matrix.row_offset + begin if y_offset is None else y_offset,
        "LAST_ROW": last_row,
        "NORM": norm is not None,
        **libraries.constants,
    }
    history: list[tuple[Tensor, Access]] = []
    if conv:
        ending = ["causal_conv", "matvec_conv"]
        constants |= {"BIAS": conv.biased, "BIAS_OFFSET": matrix.row_offset + begin}
        constants |= conv.constants
        history = [(conv.history, "w")]
    else:
        ending = ["gate", "matvec_out"]
        constants |= finish.constants(matrix.row_offset + begin)
    if norm is not None:
        constants |= {"NORM_OFFSET": norm.offset, "EPS": norm.eps}
    if form.subgroups:
        size = 4  # a power of two: the shuffles pair lanes by the bits of their number
        while size * 2 <= trace.info.subgroup_min_size:
            size *= 2
        constants["SUBGROUP"] = size
    uses = [
        "step",
        *libraries.uses,
        source,
        "sums",
        "reduce_subgroup" if form.subgroups else "reduce_workgroup",
        *ending,
    ]
    groups = -(-(n // sections) // (form.threads // form.lanes * outputs_a_group))
    height = -(-groups // MAX_GROUPS)
    trace.call(
        label,
        kernel("matvec", uses, constants, form.needs),
        [
            (x, "r"),
            (matrix.weight, "r"),
            (scales_of(matrix), "r"),
            (NOTHING if norm is None else norm.weight, "r"),
            (conv.weights if conv else finish.binding, "r"),
            (trace.step, "r"),
            (y, "w"),
            *history,
        ],
        (-(-groups // height), height, 1),
        task,
    )
