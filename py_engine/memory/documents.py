"""Reads documents: from bytes and a name to blocks of text that know where they stand.

.pdf                        by page (pdf_pages.py; wants pypdf)
.html .htm .xhtml           by headings and paragraphs (html_blocks.py)
.md .markdown               by headings and paragraphs
program text (CODE)         by definitions at the left edge
anything else that is text  by paragraphs
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from py_engine.errors import DocumentError
from py_engine.memory.html_blocks import html_blocks

MAX_BYTES = 64 << 20  # of a document
CODE = frozenset(
    "c cc cpp cs css go h hpp java jl js jsx kt lua m mjs php pl py r rb rs scala sh sql swift ts tsx wgsl zig".split()
)
MARKDOWN = frozenset(("md", "markdown", "mdx"))
HTML = frozenset(("html", "htm", "xhtml"))
# How files begin that are no text, whatever they are called: what they are.
_BINARY = {
    b"PK\x03\x04": "a zip archive (a .docx, .xlsx, .epub and .odt is one, too)",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"GIF8": "a picture",
    b"\x7fELF": "a program",
    b"\x1f\x8b": "a compressed file",
    b"\xd0\xcf\x11\xe0": "an old Office file",
    b"SQLite format 3": "a database",
}
_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_DEFINITION = re.compile(
    r"(?:(?:export|default|pub(?:\([^)]*\))?|public|private|protected|internal|static|final|abstract|async|unsafe|const"
    r"|override|open|sealed|data)\s+)*"
    r"(?:def|class|function|fn|func|struct|enum|trait|impl|interface|type|module|namespace|object|sub|create)\b.*"
)


@dataclass(frozen=True)
class Block:
    """A paragraph or the like. `line`: where it begins, from 1. `heading`: the headings above it."""

    text: str
    heading: tuple[str, ...] = ()
    page: int | None = None
    line: int | None = None


@dataclass(frozen=True)
class Reading:
    """How far a document is read. `done` of `total`: pages of a PDF, else bytes."""

    unit: str
    done: int
    total: int


@dataclass
class Headings:
    """The headings above a place of a document."""

    _open: list[tuple[int, str]] = field(default_factory=list)

    def enter(self, level: int, text: str) -> None:
        """A heading of this level begins."""
        self._open = [(n, name) for n, name in self._open if n < level]
        if text:
            self._open.append((level, text[:200]))

    @property
    def path(self) -> tuple[str, ...]:
        """Their texts, the outermost first."""
        return tuple(text for _, text in self._open)


def kind_of(name: str, data: bytes) -> str:
    """ "pdf", "html", "markdown", "code" or "text". Raises DocumentError for what is none."""
    check_size(name, len(data))
    suffix = name.lower().rpartition(".")[2]
    start = data[:1024].lstrip()
    if start.startswith(b"%PDF-"):
        return "pdf"
    for magic, what in _BINARY.items():
        if data.startswith(magic):
            raise DocumentError(
                f"{name} is {what}, no text: give its text as .txt, .md, .html or .pdf"
            )
    if suffix == "pdf":
        raise DocumentError(f"{name} is called a PDF and is none: it does not begin with %PDF-")
    if suffix in HTML or re.match(rb"(?i)<!doctype html|<html[\s>]", start):
        return "html"
    if suffix in MARKDOWN:
        return "markdown"
    return "code" if suffix in CODE else "text"


def check_size(name: str, nbytes: int) -> None:
    """Raise DocumentError for a document that is too large, before it is read."""
    if nbytes > MAX_BYTES:
        raise DocumentError(
            f"{name} has {nbytes / 1e6:.0f} MB, more than the {MAX_BYTES / 1e6:.0f} MB that a document may have: "
            "split it, and add the parts"
        )
    if not nbytes:
        raise DocumentError(f"{name} is empty")


def blocks_of(kind: str, name: str, data: bytes, note: Callable[[str], None]) -> Iterator[Block]:
    """The blocks of a document of any kind but "pdf". `note`: told what had to be guessed. Raises DocumentError."""
    text = decoded(name, data, note)
    if kind == "html":
        headings = Headings()
        for found in html_blocks(text):
            if found.level:
                headings.enter(found.level, found.text)
            else:
                yield Block(found.text, headings.path, line=found.line)
    elif kind == "markdown":
        yield from _markdown(text)
    elif kind == "code":
        yield from _code(text)
    else:
        yield from _paragraphs(text.split("\n"), (), 1)


def decoded(name: str, data: bytes, note: Callable[[str], None]) -> str:
    """The text of a file, with line feeds only: by its byte order mark, else as UTF-8, else as UTF-16 where every other
    byte is 0, else as Windows-1252, which is noted. Raises DocumentError for what is no text."""
    text = _by_mark(data)
    if text is None:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            text = _wide(data)
            if text is None and b"\0" not in data:
                text = data.decode("cp1252", "replace")
                note(
                    f"{name} is not UTF-8 (byte {error.start:,}): it was read as Windows-1252 (Latin-1). If letters "
                    "look wrong, save it as UTF-8 and add it again"
                )
        else:
            text = _wide(data) or text
    if text is None or _is_binary(text):
        raise DocumentError(
            f"{name} is no text: it holds bytes that no text has. Give its text as .txt, .md, .html or .pdf"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n")


def _by_mark(data: bytes) -> str | None:
    """The text of a file that begins with a byte order mark; None without one."""
    marks = (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    )
    for mark, encoding in marks:
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    return None


def _wide(data: bytes) -> str | None:
    """UTF-16 without a mark: most of every other byte is 0, as in western texts."""
    start = data[:4096]
    if len(start) < 4 or b"\0" not in start:
        return None
    for at, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros, others = start[at::2].count(0), start[1 - at :: 2].count(0)
        if zeros > 0.4 * len(start[at::2]) and others == 0:
            return data.decode(encoding, "replace")
    return None


def _is_binary(text: str) -> bool:
    start = text[: 1 << 16]
    odd = sum(1 for c in start if c < " " and c not in "\t\n\r\f\x1b\x0b" or c == "\ufffd")
    return "\0" in text or odd > 0.05 * len(start)


def _paragraphs(lines: list[str], heading: tuple[str, ...], first: int) -> Iterator[Block]:
    """Blocks of lines between blank ones. `first`: the number of the first line."""
    start = 0
    for i in range(len(lines) + 1):
        if i == len(lines) or not lines[i].strip():
            if i > start:
                yield Block("\n".join(lines[start:i]).strip("\n"), heading, line=first + start)
            start = i + 1


def _markdown(text: str) -> Iterator[Block]:
    lines, headings = text.split("\n"), Headings()
    start, after, fence = 0, 0, ""  # `after`: the line behind the last heading or fence
    for i, line in enumerate(lines):
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence):
                fence, after = "", i + 1
        elif mark:
            fence = mark[1]
        else:
            found, begin = _heading(lines, i, after)
            if found:
                yield from _paragraphs(lines[start:begin], headings.path, start + 1)
                headings.enter(*found)
                start = after = i + 1
    yield from _paragraphs(lines[start:], headings.path, start + 1)


def _heading(lines: list[str], i: int, after: int) -> tuple[tuple[int, str] | None, int]:
    """(level, text) of a heading that ends in line i, and the line where it begins. Nothing before line `after`
    belongs to it."""
    if atx := _ATX.match(lines[i]):
        return (len(atx[1]), (atx[2] or "").strip()), i
    under = re.fullmatch(r" {0,3}(=+|-+)[ \t]*", lines[i])
    if under and i > after and lines[i - 1].strip():
        alone = i - 1 == after or not lines[i - 2].strip()
        if alone:
            return (1 if under[1][0] == "=" else 2, lines[i - 1].strip()), i - 1
    return None, i


def _code(text: str) -> Iterator[Block]:
    """Definitions at the left edge, each with its line as heading; blank lines part them further."""
    lines, start, heading = text.split("\n"), 0, ""
    for i, line in enumerate(lines):
        if _DEFINITION.fullmatch(line):
            begin = i
            while (
                begin > start
                and lines[begin - 1][:1] in ("@", "#", "/", "-")
                and lines[begin - 1].strip()
            ):
                begin -= 1  # decorators and comments right above belong to it
            yield from _paragraphs(lines[start:begin], (heading,) if heading else (), start + 1)
            start, heading = begin, line.strip().rstrip("{:( ")[:120]
    yield from _paragraphs(lines[start:], (heading,) if heading else (), start + 1)
