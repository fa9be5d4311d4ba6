"""Documents for a memory: what is read of each kind of file, where its pieces say they come from, what is refused."""

from __future__ import annotations

import asyncio
import random
import re
import time
from pathlib import Path

import pytest

from py_engine.errors import DocumentError
from py_engine.memory import documents
from py_engine.memory.chunks import Chunker
from py_engine.memory.documents import Block, Reading, blocks_of, check_size, decoded, kind_of
from py_engine.memory.pdf_pages import pdf_blocks
from py_engine.memory.records import Piece
from tests.pdf_writer import encrypted, pdf

ROOT = Path(__file__).parents[1]


def read(name: str, data: bytes | str) -> list[Block]:
    raw = data.encode() if isinstance(data, str) else data
    return [*blocks_of(kind_of(name, raw), name, raw, lambda _: None)]


def read_pdf(data: bytes, notes: list[str] | None = None) -> tuple[list[Block], list[Reading]]:
    async def go() -> list[Block]:
        told = notes.append if notes is not None else lambda _: None
        return [block async for block in pdf_blocks("a.pdf", data, rows.append, told)]

    rows: list[Reading] = []
    return asyncio.run(go()), rows


def test_markdown() -> None:
    text = """\
intro

# One #

first *part*
goes on

```python
# no heading

x = 1
```
Setext
======
under it

Two
---
- a
- b

| a |
|---|
### Deep
#nothing
## Back
end"""
    found = [(b.text, b.heading, b.line) for b in read("a.md", text.replace("\n", "\r\n"))]
    assert found == [
        ("intro", (), 1),
        ("first *part*\ngoes on", ("One",), 5),
        ("```python\n# no heading", ("One",), 8),
        ("x = 1\n```", ("One",), 11),
        ("under it", ("Setext",), 15),
        ("- a\n- b", ("Setext", "Two"), 19),
        ("| a |\n|---|", ("Setext", "Two"), 22),
        ("#nothing", ("Setext", "Two", "Deep"), 25),
        ("end", ("Setext", "Back"), 27),
    ]


def test_html() -> None:
    page = """<!doctype html><html><head><title>The title</title><style>p {x: y}</style>
<script>if (a < b) "<p>no</p>"</script></head><body><nav>menu</nav>
<h1>Top &amp; <b>more</b></h1><p>one
  two &lt;three&gt; caf&eacute;<br>new line</p><h2>Sub</h2>
<ul><li>a<li>b</ul><pre>  keep
    this</pre><table><tr><td>1</td><td>2</td></tr><tr><td>3</td></tr></table>
<svg><text>no</text></svg><template><p>no</p></template>tail<p>open"""
    found = [(b.text, b.heading) for b in read("page", page)]
    top, sub = ("Top & more",), ("Top & more", "Sub")
    assert found == [
        ("The title", ()), ("menu", ()),
        ("one two <three> café", top), ("new line", top),
        ("a", sub), ("b", sub), ("  keep\n    this", sub), ("1 | 2", sub), ("3", sub),
        ("tail", sub), ("open", sub),
    ]  # fmt: skip
    lines = {b.text: b.line for b in read("a.html", page)}
    assert (lines["menu"], lines["new line"], lines["open"]) == (2, 4, 7)


def test_code() -> None:
    text = (ROOT / "py_engine" / "ops" / "pool.py").read_text()
    found = read("pool.py", text)
    [last] = {b.heading for b in found if "trace.call" in b.text}
    assert last == ("def pool",)
    assert "".join("".join(b.text for b in found).split()) == "".join(text.split())
    for block in found:
        assert text.split("\n")[(block.line or 0) - 1] == block.text.split("\n")[0]


def test_pdf() -> None:
    """Pages, paragraphs that end at a gap or a short line, words parted at a line's end; and how far it is."""
    long = "this line of the paragraph is as wide as the page lets it be, almost"
    pages = [
        [long, "and it ends here.", long, "with a hy-", "phen (and) \\ caf\u00e9."],
        [],
        ["Third page"],
    ]
    notes: list[str] = []
    found, rows = read_pdf(pdf(pages), notes)
    assert [(b.text, b.page) for b in found] == [
        (f"{long}\nand it ends here.", 1),
        (f"{long}\nwith a hyphen (and) \\ café.", 1),
        ("Third page", 3),
    ]
    assert [(r.unit, r.done, r.total) for r in rows] == [("pages", n, 3) for n in (1, 2, 3)]
    assert notes == ["a.pdf: 1 of its 3 pages hold no text, perhaps pictures of it"]


def test_pdfs_that_cannot_be_read() -> None:
    """Each is told, with what to do; one that is only protected against changes is read."""
    good = pdf([["some text"]])
    assert [b.text for b in read_pdf(encrypted(good, ""))[0]] == ["some text"]
    draw = random.Random(1)
    for data, told in (
        (encrypted(good, "secret"), "is encrypted.*without"),
        (pdf([[], []]), "2 pages are pictures.*ocrmypdf"),
        (good[:200], "damaged"),
        (b"%PDF-1.4\n" + draw.randbytes(3000), "damaged"),
        (good.replace(b"/Kids [5 0 R]", b"/Kids [2 0 R]"), "damaged|pictures"),
        (good.replace(b"/Length 49", b"/Length 99999"), "damaged|pictures|some text"),
    ):
        began = time.monotonic()
        try:
            found = " ".join(block.text for block in read_pdf(data)[0])
        except DocumentError as error:
            found = str(error)
        assert re.search(told, found), found
        assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_encodings(encoding: str) -> None:
    notes: list[str] = []
    text = "Wörter, Ωmega and €.\nA second line with plain words in it."
    assert decoded("a.txt", text.encode(encoding), notes.append).lstrip("\ufeff") == text
    assert notes == []


def test_an_encoding_that_is_guessed_is_noted() -> None:
    notes: list[str] = []
    assert decoded("a.txt", "Größe: 5 €".encode("cp1252"), notes.append) == "Größe: 5 €"
    assert len(notes) == 1 and "a.txt is not UTF-8 (byte 2)" in notes[0] and "1252" in notes[0]


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("a.txt", b"", "is empty"),
        ("a.docx", b"PK\x03\x04" + bytes(99), "zip archive"),
        ("a.txt", b"\x89PNG\r\n\x1a\n", "a picture"),
        ("a.pdf", b"hello", "called a PDF and is none"),
        ("a.txt", bytes(range(256)) * 4, "is no text"),
        ("a.md", b"\0\1\2\3" * 500, "is no text"),
        ("a.html", random.Random(2).randbytes(5000), "is no text"),
    ],
)
def test_what_is_no_document(name: str, data: bytes, told: str) -> None:
    with pytest.raises(DocumentError, match=told):
        read(name, data)


def test_a_document_of_100_mb_is_refused_by_its_size() -> None:
    with pytest.raises(DocumentError, match=r"big.txt has 100 MB, more than the 67 MB.*split it"):
        check_size("big.txt", 100_000_000)


# -- pieces ------------------------------------------------------------------------------------------------------------


def count(text: str) -> int:
    """Words, and signs between them: a tokenizer that anybody can follow."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def pieces(blocks: list[Block], most: int = 20, overlap: int = 5) -> list[Piece]:
    chunker = Chunker(count, "source", most, overlap)
    return [piece for block in blocks for piece in chunker.feed(block)] + [*chunker.end()]


def test_pieces_are_short_enough_and_nothing_is_lost() -> None:
    """Paragraphs, sentences, words and signs are parted only where the larger ones are too long. Neighbours overlap."""
    draw = random.Random(7)

    def sentence() -> str:
        return " ".join(draw.choices(["alpha", "beta", "gamma"], k=draw.randrange(2, 40))) + "."

    blocks = [
        Block(
            " ".join(f"{n}{i}. " + sentence() for i in range(draw.randrange(1, 6))),
            ("H",),
            None,
            10 * n,
        )
        for n in range(1, 30)
    ]
    found = pieces(blocks)
    assert all(count(p.text) <= 20 for p in found)
    assert all(p.source == "source" and p.heading == ("H",) for p in found)
    together = "".join("".join(p.text.split()) for p in found)
    for block in blocks:
        for part in block.text.split():
            assert part in together
    overlaps = sum(
        any(a.text.endswith(b.text[:n]) for n in range(3, 60))
        for a, b in zip(found, found[1:], strict=False)
    )
    assert overlaps > len(found) // 3
    starts = [p.line for p in found]
    assert starts == sorted(starts)  # type: ignore[type-var]


def test_pieces_keep_to_headings_and_pages() -> None:
    blocks = [
        Block("a b", ("H",), 1, 1), Block("c d", ("H",), 1, 3), Block("e", ("H",), 2, 1),
        Block("f", ("H", "I"), 2, 3), Block("g\nh", ("H", "I"), 2, 5),
    ]  # fmt: skip
    found = [(p.text, p.heading, p.page, p.line) for p in pieces(blocks)]
    assert found == [
        ("a b\n\nc d", ("H",), 1, 1),
        ("e", ("H",), 2, 1),
        ("f\n\ng\nh", ("H", "I"), 2, 3),
    ]


def test_a_text_without_spaces_is_cut() -> None:
    """Such as data in one line. Nothing of it is lost, and it takes no time that grows with its square."""
    began = time.monotonic()
    signs = "x" * 20_000
    chunker = Chunker(len, "s", 100, 0)
    found = [*chunker.feed(Block(signs)), *chunker.end()]
    assert "".join(p.text for p in found) == signs
    assert all(len(p.text) <= 100 for p in found)
    assert time.monotonic() - began < 1


def test_our_own_pages_come_in_pieces_that_stand_where_they_say() -> None:
    name = "ARCHITECTURE.md"
    text = (ROOT / name).read_text()
    found = pieces(read(name, text), 200, 30)
    lines = text.split("\n")
    assert len(found) > 20
    for piece in found:
        assert piece.text.split("\n")[0].split()[0] in lines[(piece.line or 0) - 1]
        assert piece.heading[0] == "Architecture"


def test_every_kind_of_program_text_is_listed_once() -> None:
    assert not documents.CODE & (documents.MARKDOWN | documents.HTML)
