"""The text of an HTML page: headings and paragraphs, without scripts, styles and what else nobody reads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser

_HIDDEN = {"script", "style", "template", "noscript", "svg", "math", "head", "iframe", "object"}
_BREAKS = set(
    "address article aside blockquote body br caption dd details dialog div dl dt fieldset figcaption figure footer "
    "form h1 h2 h3 h4 h5 h6 header hr html li main nav ol option p pre section summary table tbody td tfoot th thead "
    "title tr ul".split()
)
_CELLS = {"td", "th"}


@dataclass(frozen=True)
class Found:
    """A paragraph, or a heading of `level` 1 to 6. `line`: of its first sign."""

    text: str
    line: int
    level: int = 0


def html_blocks(text: str) -> Iterator[Found]:
    """Headings and paragraphs, in their order. Any text is HTML; what is broken is read roughly as browsers do."""
    parser = _Parser()
    for at in range(0, len(text), 1 << 16):  # the parser keeps what it is fed, so it is fed little
        parser.feed(text[at : at + (1 << 16)])
        yield from parser.take()
    parser.close()
    parser.end_block()
    yield from parser.take()


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._found: list[Found] = []
        self._parts: list[str] = []
        self._line = 0
        self._hidden: list[str] = []  # open elements that hide their text
        self._pre = self._level = 0

    def take(self) -> list[Found]:
        """What was found since the last call."""
        found, self._found = self._found, []
        return found

    def end_block(self) -> None:
        """What came up to here is a block."""
        text = "".join(self._parts)
        if not self._pre:
            text = re.sub(r"[ \t\n\f\r\xa0]+", " ", text)
        text = text.strip("\n" if self._pre else None)
        if text.strip():
            if self._level:
                text = re.sub(r"\s+", " ", text)
            self._found.append(Found(text, self._line, self._level))
        self._parts.clear()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag in _HIDDEN:
            if tag == "head":
                return  # its title is text, its scripts are hidden by themselves
            self._hidden.append(tag)
            return
        if tag in _CELLS and self._parts:
            self._parts.append(" | ")  # cells of a row stay in one block
            return
        if tag in _BREAKS and tag not in _CELLS:
            self.end_block()
        if tag == "pre":
            self._pre += 1
        if re.fullmatch("h[1-6]", tag):
            self._level = int(tag[1])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag in _BREAKS and tag not in _CELLS:
            self.end_block()

    def handle_endtag(self, tag: str) -> None:
        if tag in self._hidden:
            while self._hidden.pop() != tag:
                pass
            return
        if tag in _BREAKS and tag not in _CELLS:
            self.end_block()
        if tag == "pre" and self._pre:
            self._pre -= 1
        if re.fullmatch("h[1-6]", tag):
            self._level = 0

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        if not "".join(self._parts).strip() if len(self._parts) < 4 else False:
            blank = data[: len(data) - len(data.lstrip())]
            self._line = self.getpos()[0] + blank.count("\n")
        self._parts.append(data)
