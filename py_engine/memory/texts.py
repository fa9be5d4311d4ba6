"""The text index of a namespace, made when it is first asked, and then kept up with what is added."""

from __future__ import annotations

import asyncio
from itertools import islice

from py_engine.memory.namespace import Namespace
from py_engine.memory.records import Piece
from py_engine.memory.words import WordIndex, covers, word_index, worth_of

AT_ONCE = 500  # records between two turns of others


class TextSearch:
    """Of one namespace."""

    def __init__(self) -> None:
        self._index: WordIndex | None = None
        self._generation = self._rows = 0

    async def best(self, space: Namespace, query: str, count: int) -> list[int]:
        """Rows that hold enough of the query's words, the best first."""
        if self._index is None or self._generation != space.generation:
            self.close()
            self._index = word_index()
            self._generation, self._rows = space.generation, 0
        if self._rows < space.rows:
            new = (
                (row, _text(record.piece))
                for row, record in [*space.records.items()]
                if row >= self._rows
            )
            while part := [*islice(new, AT_ONCE)]:
                self._index.add(part)
                await asyncio.sleep(0)
            self._rows = space.rows
        found = self._index.best(query, count, space.records.__contains__)
        worth = worth_of(query, self._index.records_with, space.rows)
        return [row for row in found if covers(_text(space.records[row].piece), worth)]

    def close(self) -> None:
        """Free the index."""
        if self._index is not None:
            self._index.close()
        self._index = None


def _text(piece: Piece) -> str:
    return " ".join((piece.source, *piece.heading, piece.text))
