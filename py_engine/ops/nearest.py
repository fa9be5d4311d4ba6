"""The stored vectors that are nearest to a query (shaders/nearest_scores.wgsl, nearest_best.wgsl)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace

from py_engine.graph.trace import Tensor, Trace, exact, kernel
from py_engine.host.gpu import MAX_GROUPS, Binding

GROUP = 8  # numbers that are read at a time: rows end with zeros up to a multiple of it
ROWS = 2048  # rows of a part are a multiple of this, so that slices of `live` begin at multiples of 256 bytes
BESTS = (16, 64, 256)  # how many can be asked for; others take the next larger one
_RUN = 1024  # candidates a workgroup sorts
_TEAM_ROWS = 16  # rows a workgroup of the scores


def padded(width: int) -> int:
    """Numbers that a row of `width` numbers takes."""
    return -(-width // GROUP) * GROUP


def max_rows(width: int, nbytes: int) -> int:
    """The most rows of a part: within `nbytes`, and within the workgroups of a dispatch."""
    return max(ROWS, min(nbytes // (2 * padded(width)), MAX_GROUPS * _TEAM_ROWS) // ROWS * ROWS)


def nearest(
    trace: Trace, parts: Sequence[Tensor], query: Tensor, live: Tensor, keys: Tensor, best: Tensor
) -> None:
    """best [BEST, 2] u32: (key, index) of the BEST rows with the largest products with the query, the largest first,
    of equal ones the lower index first. `unpack` reads it. Rows that are not live come last, with key 0.

    parts: f16 [n, K] each, the rows one part after another; n is a multiple of ROWS and K of GROUP. query f32 [K]. live
    u32 [N / 32], a bit a row. keys u32 [N], N the rows of all parts: written, the key of each row's product.
    Raises ValueError when shapes differ.
    """
    total = sum(part.shape[0] for part in parts)
    k, [most, _] = query.shape[0], best.shape
    fits = keys.shape == (total,) and live.shape == (total // 32,) and most in BESTS
    if not fits or k % GROUP or any(p.shape[0] % ROWS or p.shape[1] != k for p in parts):
        shapes = [part.shape for part in parts]
        raise ValueError(f"nearest: {shapes}, query {k}, live {live.shape}, keys {keys.shape}")
    first = 0
    for part in parts:
        rows = part.shape[0]
        trace.call(
            "nearest scores",
            kernel("nearest_scores", constants={"K8": k // GROUP}),
            [
                (part, "r"),
                (query, "r"),
                (_slice(live, first // 32, rows // 32), "r"),
                (_slice(keys, first, rows), "w"),
            ],
            (rows // _TEAM_ROWS, 1, 1),
        )
        first += rows
    source, n, pairs = exact(keys), total, False
    while True:
        groups = -(-n // _RUN)
        target = best if groups == 1 else trace.tensor("nearest", groups * most, 2, dtype="u32")
        trace.call(
            "nearest best",
            kernel("nearest_best", constants={"BEST": most, "PAIRS": pairs}),
            [(source, "r"), (target, "w")],
            (groups, 1, 1),
        )
        if groups == 1:
            return
        source, n, pairs = target, groups * most, True


def best_size(count: int) -> int:
    """The smallest of BESTS that holds `count`."""
    return next(size for size in BESTS if size >= count)


def unpack(data: bytes) -> list[tuple[int, float]]:
    """(row, product) of the rows that `best` holds, the best first, without those that are not live."""
    pairs = struct.iter_unpack("<2I", data)
    return [(index, score_of(key)) for key, index in pairs if key]


def score_of(key: int) -> float:
    """The product whose key this is."""
    bits = key & 0x7FFFFFFF if key >> 31 else ~key & 0xFFFFFFFF
    score: float = struct.unpack("<f", struct.pack("<I", bits))[0]
    return score


def _slice(tensor: Tensor, first: int, count: int) -> Tensor:
    """Words of a persistent tensor."""
    assert tensor.binding is not None
    at = Binding(tensor.binding.buffer, tensor.binding.offset + 4 * first, 4 * count)
    return replace(tensor, shape=(count,), binding=at)
