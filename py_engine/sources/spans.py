"""A set of bytes of a file: sorted ranges [start, end) that neither touch nor overlap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class Spans:
    """A set of byte positions, kept as ranges."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self.ranges: list[tuple[int, int]] = []
        for start, end in ranges:
            self.add(start, end)

    def add(self, start: int, end: int) -> None:
        """Add the bytes start..end."""
        if start >= end:
            return
        if not self.ranges:
            self.ranges = [(start, end)]
            return
        apart = []
        for a, b in self.ranges:
            if b < start or a > end:
                apart.append((a, b))
            else:
                start, end = min(a, start), max(b, end)
        self.ranges = sorted([*apart, (start, end)])

    def remove(self, start: int, end: int) -> None:
        """Remove the bytes start..end."""
        if start >= end:
            return
        left = []
        for a, b in self.ranges:
            left += [(a, min(b, start)), (max(a, end), b)]
        self.ranges = [(a, b) for a, b in left if a < b]

    def cover(self, start: int, end: int) -> bool:
        """Whether all of start..end is in the set."""
        return start >= end or any(a <= start and end <= b for a, b in self.ranges)

    def cut(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Cut start..end into pieces (start, end, whether it is in the set), in order."""
        for a, b in self.ranges:
            a, b = max(a, start), min(b, end)
            if a < b:
                if start < a:
                    yield start, a, False
                yield a, b, True
                start = b
        if start < end:
            yield start, end, False

    @property
    def nbytes(self) -> int:
        """Number of bytes in the set."""
        return sum(b - a for a, b in self.ranges)
