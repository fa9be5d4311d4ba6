"""The text of a PDF, page by page, by pypdf (`pip install jerboa[documents]`; a page fetches it when needed)."""

from __future__ import annotations

import asyncio
import io
import logging
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

from py_engine.errors import DocumentError
from py_engine.memory.documents import Block, Reading

MAX_PAGES = 10_000


async def pdf_blocks(
    name: str, data: bytes, tell: Callable[[Reading], None], note: Callable[[str], None]
) -> AsyncIterator[Block]:
    """The paragraphs of each page. Raises DocumentError for a PDF that is encrypted, damaged, or holds only pictures of
    its pages."""
    reader = _opened(name, data)
    total = _asked(name, lambda: len(reader.pages))
    if total > MAX_PAGES:
        raise DocumentError(
            f"{name} has {total:,} pages, more than {MAX_PAGES:,}: split it, and add the parts"
        )
    seen, without = 0, 0
    for number in range(1, total + 1):
        await asyncio.sleep(0)  # pages take long, and others want their turns
        text = _asked(name, lambda n=number: reader.pages[n - 1].extract_text() or "")  # type: ignore[misc]
        without += not text.strip()
        for block in _page(text, number):
            seen += 1
            yield block
        tell(Reading("pages", number, total))
    if not seen:
        raise DocumentError(
            f"{name}: its {total} pages are pictures without text (a scan). Run it through text recognition first, for "
            "example `ocrmypdf in.pdf out.pdf`, and add the result"
        )
    if without:
        note(f"{name}: {without} of its {total} pages hold no text, perhaps pictures of it")


def _opened(name: str, data: bytes) -> Any:
    try:
        import pypdf  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise DocumentError(f"{name}: PDFs need pypdf: pip install 'jerboa[documents]'") from None
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it tells of every oddity of a file
    reader = _asked(name, lambda: pypdf.PdfReader(io.BytesIO(data)))
    # An empty password opens what is only protected against changes.
    if _asked(name, lambda: reader.is_encrypted and not reader.decrypt("")):
        raise _encrypted(name)
    return reader


def _asked(name: str, ask: Callable[[], Any]) -> Any:
    """What pypdf answers. It meets hostile files with errors of many kinds."""
    try:
        return ask()
    except DocumentError:
        raise
    except Exception as error:
        kind = type(error).__name__
        if kind in ("FileNotDecryptedError", "DependencyError", "WrongPasswordError"):
            raise _encrypted(name) from error
        raise DocumentError(
            f"{name} is damaged, or no PDF that can be read ({kind}: {str(error)[:200]}): open it in a viewer and "
            "save it anew"
        ) from error


def _encrypted(name: str) -> DocumentError:
    return DocumentError(
        f"{name} is encrypted: open it with its password, save it without one (print it to a PDF), and add that"
    )


def _page(text: str, number: int) -> list[Block]:
    """The paragraphs of a page: lines between blank ones, or after a line that ends a sentence well before the edge."""
    lines = [
        re.sub(r"[ \t\xa0]+", " ", line).strip() for line in text.replace("\0", "").split("\n")
    ]
    edge = max(map(len, lines), default=0)
    blocks: list[Block] = []
    start = 0
    for i, line in enumerate(lines):
        short = len(line) < 0.7 * edge and line.endswith((".", "!", "?", ":", "\u3002"))
        if line and not short and i + 1 < len(lines):
            continue
        body = _joined(lines[start : i + 1])
        if body:
            blocks.append(Block(body, page=number, line=start + 1))
        start = i + 1
    return blocks


def _joined(lines: list[str]) -> str:
    """Lines as one paragraph: words that were parted at a line's end are joined."""
    text = ""
    for line in filter(None, lines):
        if text.endswith("-") and text[-2:-1].islower() and line[:1].islower():
            text = text[:-1] + line
        else:
            text += ("\n" if text else "") + line
    return text
