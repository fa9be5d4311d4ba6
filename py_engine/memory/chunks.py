"""Splits a document's blocks into pieces of a number of tokens, by headings and paragraphs, with some overlap."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from py_engine.memory.documents import Block
from py_engine.memory.records import MAX_SOURCE, Piece

MAX_TOKENS = 256
MANY_SIGNS = 32  # characters a token, more than any text has
OVERLAP = 32  # tokens of the end of a piece that the next one of the same section begins with

# Where a paragraph may be parted, the best places first.
_PLACES = (
    re.compile(r"(?<=[.!?;:])\s+|(?<=[\u3002\uff01\uff1f])"),
    re.compile(r"\n+"),
    re.compile(r"\s+"),
)

Count = Callable[[str], int]


class Chunker:
    """Takes the blocks of a document one by one. `count`: tokens of a text, without special ones. `most`: tokens of a
    piece."""

    def __init__(
        self, count: Count, source: str, most: int = MAX_TOKENS, overlap: int = OVERLAP
    ) -> None:
        self._count, self._source = count, source
        self._most = max(1, most)
        self._overlap = min(overlap, self._most // 4)
        self._held: list[tuple[Block, int]] = []  # of the next piece, with their tokens

    def feed(self, block: Block) -> Iterator[Piece]:
        """Pieces that are whole once this block has come. A piece never goes beyond a heading or a page."""
        if self._held and (block.heading, block.page) != _section(self._held[0][0]):
            yield from self.end()
        for part in self._parts(block):
            tokens = self._count(part.text)
            if self._held and not self._fits(part, tokens):
                yield self._piece()
                self._held = self._end(self._held)
                if self._held and not self._fits(part, tokens):
                    self._held = []
            self._held.append((part, tokens))

    def end(self) -> Iterator[Piece]:
        """The last piece, if there is one."""
        if self._held:
            yield self._piece()
        self._held = []

    def _fits(self, more: Block, tokens: int) -> bool:
        """Whether a piece with one block more is short enough."""
        total = sum(n for _, n in self._held) + tokens
        if total + 2 * len(self._held) <= self._most:  # two tokens for each gap are enough
            return True
        return self._count(_text([*(block for block, _ in self._held), more])) <= self._most

    def _is_long(self, text: str) -> bool:
        """Whether a text is longer than a piece. Very long ones are not counted, since that takes long."""
        return len(text) > MANY_SIGNS * self._most or self._count(text) > self._most

    def _end(self, held: Sequence[tuple[Block, int]]) -> list[tuple[Block, int]]:
        """The last blocks of a piece, of at most the overlap; or the last words of its last block."""
        found: list[tuple[Block, int]] = []
        left = self._overlap
        for block, tokens in reversed(held[1:]):
            if tokens > left:
                break
            found.insert(0, (block, tokens))
            left -= tokens
        if found or not self._overlap:
            return found
        last = held[-1][0]
        tail = ""
        for word in reversed(re.findall(r"\S+\s*", last.text)[1:]):
            if self._count(word + tail) > self._overlap:
                break
            tail = word + tail
        if not tail:
            return []
        at = last.text.rindex(tail)
        return [(_at(last, tail, at), self._count(tail))]

    def _parts(self, block: Block, place: int = 0) -> Iterator[Block]:
        """The block, parted where it is too long for a piece: at the best places that do."""
        if not self._is_long(block.text):
            yield block
        elif place == len(_PLACES):
            yield from self._halves(block)
        else:
            at, ends = 0, [m.end() for m in _PLACES[place].finditer(block.text)]
            for end in [*ends, len(block.text)]:
                if part := block.text[at:end].strip():
                    inside = at + len(block.text[at:end]) - len(block.text[at:end].lstrip())
                    yield from self._parts(_at(block, part, inside), place + 1)
                at = end

    def _halves(self, block: Block) -> Iterator[Block]:
        """A word that is too long (a line of data, a text without spaces), cut into halves until each fits."""
        n = len(block.text)
        if n == 1 or not self._is_long(block.text):
            yield block
            return
        for start, end in ((0, n // 2), (n // 2, n)):
            yield from self._halves(_at(block, block.text[start:end], start))

    def _piece(self) -> Piece:
        blocks = [block for block, _ in self._held]
        first = blocks[0]
        heading = tuple(text[:MAX_SOURCE] for text in first.heading)
        return Piece(_text(blocks), self._source, heading, first.page, first.line)


def _section(block: Block) -> tuple[tuple[str, ...], int | None]:
    return block.heading, block.page


def _text(blocks: Sequence[Block]) -> str:
    """Blocks as one text. Parts of one paragraph, which begin in the same or the next line, are not parted anew."""
    text = blocks[0].text
    for before, block in zip(blocks, blocks[1:], strict=False):
        text += _between(before, block) + block.text
    return text


def _between(a: Block, b: Block) -> str:
    if a.line is None or b.line is None:
        return "\n\n"
    end = a.line + a.text.count("\n")
    return " " if b.line == end else "\n" if b.line == end + 1 else "\n\n"


def _at(block: Block, text: str, at: int) -> Block:
    """A part of a block that begins at its sign `at`."""
    line = None if block.line is None else block.line + block.text.count("\n", 0, at)
    return Block(text, block.heading, block.page, line)
