"""Token embedding (shaders/embed.wgsl)."""

from __future__ import annotations

from py_engine.graph.matrix import Linear
from py_engine.graph.trace import Tensor, Trace, kernel
from py_engine.ops.weight import CHUNK, scales_of, weight_libraries


def embed(
    trace: Trace,
    ids: Tensor,
    table: Linear,
    y: Tensor,
    *,
    scale: float = 1.0,
    add: bool = False,
    label: str = "embed",
) -> None:
    """y [>= T, cols] f32 = table[ids[:T]] * scale, T = trace.rows; with `add`, y += that. There is one dispatch
    for each part of the table.

    An id beyond the table means its last row. A negative id (2^31 and above) means a row that is given: its row of y is
    not changed. Raises ModelError for a format the kernels cannot read.
    """
    if y.shape[-1] != table.cols:
        raise ValueError(f"{label}: y {y.shape} does not fit rows of {table.cols}")
    for part in table.parts:
        libraries = weight_libraries(part)
        constants = {
            "N": part.rows,
            "K": part.cols,
            "ROW_OFFSET": part.row_offset,
            "VOCAB": table.rows,
            "SCALE": scale,
            **libraries.constants,
        }
        if add:
            constants["ADD"] = True
        trace.call(
            label,
            kernel("embed", [*libraries.uses, "weight_chunk"], constants),
            [(ids, "r"), (part.weight, "r"), (scales_of(part), "r"), (y, "w")],
            (-(-part.cols // (CHUNK * 64)), trace.rows, 1),
        )
