"""Vectors on the CPU: to and from f16, and the nearest of a few, where asking the GPU would take longer."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Sequence
from operator import mul

from py_engine.memory.namespace import Namespace
from py_engine.ops.nearest import padded

Scored = tuple[int, float]  # row, cosine


def pack_rows(rows: Iterable[Sequence[float]]) -> bytes:
    """Rows as f16, each with zeros up to a multiple of 8 numbers."""
    return b"".join(_pack(row) for row in rows)


def _pack(row: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(row)}e", *row) + bytes(2 * (padded(len(row)) - len(row)))


def unpack_rows(data: bytes, width: int) -> list[tuple[float, ...]]:
    """The rows that `pack_rows` made these bytes of, without the zeros behind them."""
    return [*struct.iter_unpack(f"<{width}e{2 * (padded(width) - width)}x", data)]


class FewVectors:
    """The vectors of a namespace in Python's memory."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._rows: list[tuple[float, ...]] = []

    async def fill(self, namespace: Namespace) -> None:
        """Read the rows that are not here yet. Raises StorageError."""
        async for first, data in namespace.vectors(len(self._rows)):
            self._rows[first:] = unpack_rows(data, self._width)

    def scores(self, query: Sequence[float], rows: Iterable[int]) -> list[Scored]:
        """Products of the query with these rows."""
        product = _product()
        return [(row, product(query, self._rows[row])) for row in rows]

    def best(self, query: Sequence[float], rows: Iterable[int], count: int) -> list[Scored]:
        """The best of these rows, the best first; of equal ones the oldest first."""
        scored = self.scores(query, rows)
        return sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:count]


def _product() -> Callable[[Sequence[float], Sequence[float]], float]:
    """The sum of products in double precision, by the fastest function here (math.sumprod is of Python 3.12)."""
    found: Callable[[Sequence[float], Sequence[float]], float]
    found = getattr(math, "sumprod", lambda a, b: sum(map(mul, a, b)))
    return found
