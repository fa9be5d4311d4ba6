"""Cuts resized pictures into rows of patches (shaders/patches.wgsl)."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence

from py_engine.graph.trace import Tensor, Trace, kernel
from py_engine.host.gpu import MAX_GROUPS

PARAMETERS = 4  # words


def values(mean: Sequence[float], std: Sequence[float], scale: float) -> bytes:
    """f32 [3, 256]: (byte * scale - mean) / std for every byte of every colour, computed in double precision."""
    table = array("f")
    for m, s in zip(mean, std, strict=True):
        table.extend((byte * scale - m) / s for byte in range(256))
    return table.tobytes()


def pack_parameters(count: int, across: int, width: int, row: int) -> bytes:
    """Patches, patches beside each other, pixels of a line, and the row of the first patch."""
    return struct.pack(f"<{PARAMETERS}I", count, across, width, row)


def patches(
    trace: Trace,
    pictures: tuple[Tensor, Tensor],
    table: Tensor,
    parameters: Tensor,
    y: Tensor,
    count: int,
    *,
    patch: int,
    merge: int = 1,
    frames: int = 1,
    channels_last: bool = False,
    label: str = "patches",
) -> None:
    """Rows of y f32 [.., 3 frames patch^2] of `count` patches. pictures: u32 [h, w] as resample gives them, the second
    one for frames = 2 (a still picture twice). table: `values`. parameters u32: `pack_parameters`.

    Raises ValueError for rows of another width, and for channels_last with two frames.
    """
    if y.shape[-1] != 3 * frames * patch * patch or (channels_last and frames > 1):
        raise ValueError(f"{label}: y {y.shape}, {frames} frames, patches of {patch}")
    constants = {
        "PATCH": patch,
        "MERGE": merge,
        "FRAMES": frames,
        "CHANNELS_LAST": channels_last,
    }
    lines = -(-count // MAX_GROUPS)
    trace.call(
        label,
        kernel("patches", constants=constants),
        [*((p, "r") for p in pictures), (table, "r"), (parameters, "r"), (y, "w")],
        (-(-count // lines), lines, 1),
    )
