"""What a memory stores: pieces of text, and which embedder made their vectors. As lines of text with a checksum."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from py_engine.arguments import shown, whole
from py_engine.errors import InputError
from py_engine.host.json_text import JsonError, read_json

MAX_TEXT = 1 << 20  # characters of a piece
MAX_SOURCE = 1024  # characters of a source or a heading
MAX_META = 64 << 10  # bytes of a piece's `meta` as JSON


@dataclass(frozen=True)
class Piece:
    """A text, and where it comes from. `source`: a file's name, an address. `heading`: the headings above it, the
    outermost first. `page`: in a PDF, from 1. `line`: where it begins in its file (in a PDF: in the text of its page),
    from 1. `meta`: what the caller wants back with it, as JSON has it."""

    text: str
    source: str = ""
    heading: tuple[str, ...] = ()
    page: int | None = None
    line: int | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def checked(cls, value: Any, where: str) -> Piece:
        """A Piece of what a caller gave: a text, a mapping with these names, or a Piece. Raises InputError."""
        given = {"text": value} if isinstance(value, str) else value
        given = vars(value) if isinstance(value, Piece) else given
        if not isinstance(given, Mapping) or not given.keys() <= _NAMES:
            raise InputError(
                f"{where}={shown(value)}: give a text, or an object of {', '.join(sorted(_NAMES))}"
            )
        text, meta = given.get("text"), given.get("meta") or {}
        if not isinstance(text, str) or not text.strip() or len(text) > MAX_TEXT:
            raise InputError(
                f"{where}.text={shown(text)}: give a text of 1 to {MAX_TEXT:,} characters that is not blank"
            )
        heading = tuple(given.get("heading") or ())
        for name in (given.get("source") or "", *heading):
            if not isinstance(name, str) or len(name) > MAX_SOURCE:
                raise InputError(
                    f"{where}: {shown(name)} is no source or heading: give texts of at most {MAX_SOURCE} characters"
                )
        piece = cls(
            _encodable(text),
            _encodable(given.get("source") or ""),
            tuple(map(_encodable, heading)),
            _place(f"{where}.page", given.get("page")),
            _place(f"{where}.line", given.get("line")),
            _meta(f"{where}.meta", meta),
        )
        return piece

    def to_dict(self) -> dict[str, Any]:
        """The fields that say something."""
        found = {**asdict(self), "heading": [*self.heading]}
        return {name: value for name, value in found.items() if value not in (None, "", [], {})}


_NAMES = set(Piece.__dataclass_fields__)


@dataclass(frozen=True)
class Record:
    """A piece that is stored. `row`: of its vector. `at`, `nbytes`: where its line is in the file of texts. `added`:
    seconds since 1970."""

    id: str
    row: int
    piece: Piece
    added: float
    at: int
    nbytes: int

    @staticmethod
    def line_of(id: str, piece: Piece, added: float) -> bytes:
        """The line that stands for a record in the file of texts."""
        return line({"id": id, "added": round(added, 3), **piece.to_dict()})

    @classmethod
    def read(cls, text: bytes, row: int, at: int) -> Record | None:
        """The record of a line; None if it is damaged."""
        value = parsed(text)
        if value is None:
            return None
        try:
            id, added = str(value.pop("id")), float(value.pop("added"))
            return cls(id, row, Piece.checked(value, "record"), added, at, len(text))
        except (InputError, KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True)
class Identity:
    """Which embedder made the vectors of a namespace. `model`: its pinned address. `settings`: everything else that
    decides the vectors (pooling, prompts, lower case)."""

    model: str
    dimensions: int
    settings: Mapping[str, Any]

    def refuses(self, other: Identity, namespace: str) -> str:
        """Why vectors of `other` cannot stand beside ours; "" if they can."""
        if self == other:
            return ""
        mine, theirs = asdict(self), asdict(other)
        mine |= mine.pop("settings")
        theirs |= theirs.pop("settings")
        names = [name for name in mine if mine.get(name) != theirs.get(name)]
        what = "; ".join(f"{n} {shown(mine.get(n))}, not {shown(theirs.get(n))}" for n in names)
        return (
            f"the namespace {namespace!r} was written by another embedder: {what or 'other settings'}. "
            "Load that one, take another namespace, or export it and import it into a new one, which makes its "
            "vectors anew"
        )


def sources_of(records: Iterable[Record]) -> list[dict[str, Any]]:
    """The sources of records, in the order of their first ones, as Memory.sources gives them."""
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        source = record.piece.source
        entry = found.setdefault(source, {"source": source, "pieces": 0, "characters": 0})
        entry["pieces"] += 1
        entry["characters"] += len(record.piece.text)
        entry["added"] = record.added
    return [*found.values()]


def line(value: Mapping[str, Any]) -> bytes:
    """A line of a file: the checksum of what follows, then JSON."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def parsed(text: bytes) -> dict[str, Any] | None:
    """What `line` made a line of; None if it is damaged."""
    sum_, _, body = text.rstrip(b"\n").partition(b" ")
    if not body or sum_ != b"%08x" % zlib.crc32(body):
        return None
    try:
        value = read_json(body)
    except JsonError:
        return None
    return value if isinstance(value, dict) else None


def _encodable(text: str) -> str:
    """The text without halves of surrogate pairs, which no file could hold."""
    return text.encode("utf-8", "replace").decode()


def _place(name: str, value: Any) -> int | None:
    return None if value is None else whole(name, value, 0, 1 << 31)


def _meta(name: str, value: Any) -> Mapping[str, Any]:
    try:
        body = json.dumps(value, allow_nan=False)
        back = read_json(body, limit=MAX_META)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{name}: give an object of JSON values ({error})") from None
    if not isinstance(back, dict):
        raise InputError(f"{name}={shown(value)}: give an object")
    return back
