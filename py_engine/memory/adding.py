"""One document on its way into a memory: read, split, and handed over in batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from py_engine.arguments import callback, shown
from py_engine.errors import DocumentError, InputError
from py_engine.memory.chunks import MAX_TOKENS, Chunker
from py_engine.memory.documents import Block, Reading, blocks_of, check_size, kind_of
from py_engine.memory.records import MAX_SOURCE, Piece

if TYPE_CHECKING:
    from py_engine.memory.memory import Memory

PIECES_AT_ONCE = 64  # pieces of a batch: as many texts as a pass of the encoder holds


@dataclass(frozen=True)
class AddProgress:
    """How far something is added. `done` of `total` pages, bytes or pieces (`unit`) are read; `stored` pieces are in
    the store."""

    source: str
    unit: str
    done: int
    total: int
    stored: int


@dataclass(frozen=True)
class Added:
    """A document that was added: the ids of its pieces, and what a person should know of how it was read."""

    source: str
    ids: Sequence[str]
    notes: Sequence[str]


class Adding:
    """`batches` gives its pieces. `stored` is told how many of them are stored."""

    def __init__(
        self,
        memory: Memory,
        data: Any,
        name: Any,
        on_progress: Callable[[AddProgress], object] | None,
    ) -> None:
        callback("on_progress", on_progress)
        if not isinstance(name, str) or not name.strip() or len(name) > MAX_SOURCE:
            raise InputError(f"name={shown(name)}: give the document a name, such as its file's")
        if isinstance(data, str):
            data = data.encode("utf-8", "replace")
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise InputError(f"data={shown(data)}: give the document's bytes, or its text")
        check_size(name, len(data))
        self.name, self._data = name.encode("utf-8", "replace").decode(), bytes(data)
        self.notes: list[str] = []
        self._kind = kind_of(self.name, self._data)
        self._memory, self._on_progress = memory, on_progress
        self._read = Reading("bytes", 0, len(self._data))
        self._stored = 0

    async def batches(self) -> AsyncIterator[list[Piece]]:
        """Its pieces, some at a time. Raises DocumentError."""
        most = min(MAX_TOKENS, self._memory.max_tokens)
        chunker = Chunker(self._memory.count, self.name, most)
        batch: list[Piece] = []
        async for block in self._blocks():
            batch += chunker.feed(block)
            while len(batch) >= PIECES_AT_ONCE:
                yield batch[:PIECES_AT_ONCE]
                batch = batch[PIECES_AT_ONCE:]
        batch += chunker.end()
        if batch:
            yield batch
        elif not self._stored:
            raise DocumentError(f"{self.name} holds no text")
        self._read = Reading(self._read.unit, self._read.total, self._read.total)
        self._tell()

    def stored(self, count: int) -> None:
        """So many pieces are in the store."""
        self._stored = count
        self._tell()

    async def _blocks(self) -> AsyncIterator[Block]:
        if self._kind == "pdf":
            from py_engine.memory.pdf_pages import pdf_blocks  # only where a PDF is read

            async for block in pdf_blocks(self.name, self._data, self._reading, self._note):
                yield block
            return
        total, done = len(self._data), 0
        for i, block in enumerate(blocks_of(self._kind, self.name, self._data, self._note)):
            yield block
            done = min(total, done + len(block.text.encode()))
            self._read = Reading("bytes", done, total)
            if i % 64 == 63:
                self._tell()
                await asyncio.sleep(0)  # others want their turns

    def _reading(self, reading: Reading) -> None:
        self._read = reading
        self._tell()

    def _tell(self) -> None:
        if self._on_progress is not None:
            r = self._read
            self._on_progress(AddProgress(self.name, r.unit, r.done, r.total, self._stored))

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self._memory.note(text)
