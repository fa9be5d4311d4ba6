"""The journal of a namespace: a line for every batch that is whole, and for what was forgotten.

A batch is written in this order: its vectors, its texts, both flushed, then its line here. So what a line names is on
the medium, whenever a process or a machine ends. Bytes that no line names are overwritten by the next batch.

    {"n": 4, "rows": [100, 164], "texts": [8211, 20480], "crc": 3735928559}
    {"n": 5, "forget": [101, 102]}

`n` counts the lines from 1. `rows` and `texts`: from, to (rows of vectors, bytes of texts). `crc`: of the vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from py_engine.memory.records import line, parsed


@dataclass(frozen=True)
class Batch:
    """Rows first..end, whose texts are bytes at..to, and whose vectors have this crc32."""

    first: int
    end: int
    at: int
    to: int
    crc: int

    def line(self, n: int) -> bytes:
        """Its line."""
        return line(
            {
                "n": n,
                "rows": [self.first, self.end],
                "texts": [self.at, self.to],
                "crc": self.crc,
            }
        )


def forget_line(n: int, rows: list[int]) -> bytes:
    """The line that says that these rows are forgotten."""
    return line({"n": n, "forget": rows})


class Journal:
    """What the lines of a journal say. `end`: bytes up to the end of the last whole line. `lines`: how many.
    `rows`, `texts`: ends of the last batch. `damaged`: what is wrong, beyond a last line that was never finished."""

    def __init__(self) -> None:
        self.end = self.lines = self.rows = self.texts = 0
        self.damaged = ""

    def read(self, text: bytes) -> list[Batch | list[int]]:
        """Take in what was appended: batches, and lists of forgotten rows. A line that is not whole ends it, unless a
        later one is: then the line was damaged, and what follows still counts."""
        found: list[Batch | list[int]] = []
        passed = 0
        for part in text.split(b"\n")[:-1]:
            passed += len(part) + 1
            value = parsed(part)
            entry = self._entry(value) if value else None
            if value is None or entry is None:
                continue
            if value["n"] != self.lines + 1:
                self.damaged = f"line {self.lines + 1} of its journal"
            found.append(entry)
            self.lines = value["n"]
            self.end += passed
            passed = 0
            if isinstance(entry, Batch):
                self.rows, self.texts = entry.end, entry.to
        return found

    def _entry(self, value: dict[str, Any]) -> Batch | list[int] | None:
        """What a line says; None if it cannot follow the lines before."""
        try:
            if int(value["n"]) <= self.lines:
                return None
            if "forget" in value:
                return [int(row) for row in value["forget"]]
            (first, end), (at, to) = value["rows"], value["texts"]
            batch = Batch(int(first), int(end), int(at), int(to), int(value["crc"]))
        except (KeyError, TypeError, ValueError):
            return None
        follows = batch.first >= self.rows and batch.at >= self.texts
        return batch if follows and batch.first < batch.end and batch.at <= batch.to else None
