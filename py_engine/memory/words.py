"""A text index: which records hold the words of a query, ranked by BM25. Over SQLite's FTS5 where Python has it, else
in Python alone.

BM25 as Robertson & Zaragoza (2009, "The probabilistic relevance framework"): k1 1.2, b 0.75, as FTS5 has it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

K1, B = 1.2, 0.75
MAX_QUERY_WORDS = 64
# A word that more records hold, and a twentieth of all, says too little for the time that ranking them takes.
MANY_RECORDS = 1000
COVERED = 1 / 3

# A word; a sign of a script that puts no spaces between words stands alone.
_WORD = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uac00-\ud7af\u0e00-\u0eff]|[^\W_]+")


def words(text: str) -> list[str]:
    """The words of a text as they are compared: without case, without accents."""
    if text.isascii():
        return _WORD.findall(text.lower())
    flat = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(c for c in flat if not unicodedata.combining(c))
    return _WORD.findall(unicodedata.normalize("NFC", plain))


class WordIndex(Protocol):
    """Texts by row."""

    def add(self, texts: Iterable[tuple[int, str]]) -> None:
        """Add texts of rows that are not here yet."""

    def best(self, query: str, count: int, alive: Callable[[int], bool]) -> list[int]:
        """Rows that hold words of the query, the best first; only those that are alive."""

    def records_with(self, word: str) -> int:
        """How many records hold a word."""

    def close(self) -> None:
        """Free it."""


def word_index() -> WordIndex:
    """An empty index of the best kind that works here."""
    try:
        return SqliteWords()
    except (ImportError, _SqliteError()):
        return Bm25Words()


def _SqliteError() -> type[Exception]:
    try:
        import sqlite3
    except ImportError:
        return ImportError
    return sqlite3.Error


class SqliteWords:
    """FTS5 in memory, without the texts themselves. It gets our own words, so both indexes find the same. Raises
    sqlite3.Error where SQLite has no FTS5, ImportError where Python has no SQLite (Pyodide loads it apart)."""

    def __init__(self) -> None:
        import sqlite3

        self._base: Any = sqlite3.connect(":memory:", check_same_thread=False)
        self._base.execute(
            "create virtual table found using fts5(words, content='', tokenize=\"unicode61 remove_diacritics 0\")"
        )
        self._base.execute("create virtual table known using fts5vocab(found, row)")
        self._count = 0

    def add(self, texts: Iterable[tuple[int, str]]) -> None:
        """As WordIndex."""
        rows = [(row, " ".join(words(text))) for row, text in texts]
        self._count += len(rows)
        self._base.executemany("insert into found(rowid, words) values (?, ?)", rows)

    def best(self, query: str, count: int, alive: Callable[[int], bool]) -> list[int]:
        """As WordIndex."""
        asked = _telling(asked_words(query), self.records_with, self._count)
        if not asked:
            return []
        match = " OR ".join(f'"{word}"' for word in asked)
        ranked = self._base.execute(
            "select rowid from found where found match ? order by rank, rowid", (match,)
        )
        rows: list[int] = []
        for (row,) in ranked:
            if len(rows) == count:
                break
            if alive(row):
                rows.append(row)
        return rows

    def records_with(self, word: str) -> int:
        """As WordIndex."""
        found = self._base.execute("select doc from known where term = ?", (word,)).fetchone()
        return int(found[0]) if found else 0

    def close(self) -> None:
        """As WordIndex."""
        self._base.close()


class Bm25Words:
    """The same in Python."""

    def __init__(self) -> None:
        self._places: dict[str, list[tuple[int, int]]] = {}  # word: (row, how often)
        self._lengths: dict[int, int] = {}
        self._total = 0

    def add(self, texts: Iterable[tuple[int, str]]) -> None:
        """As WordIndex."""
        for row, text in texts:
            found = words(text)
            self._lengths[row] = len(found)
            self._total += len(found)
            for word, often in Counter(found).items():
                self._places.setdefault(word, []).append((row, often))

    def best(self, query: str, count: int, alive: Callable[[int], bool]) -> list[int]:
        """As WordIndex."""
        n = len(self._lengths)
        mean = self._total / n if n else 1.0
        scores: dict[int, float] = {}
        for word in _telling(asked_words(query), self.records_with, n):
            places = self._places.get(word, [])
            # FTS5 takes a word that most texts hold as worth a little, too.
            worth = max(1e-6, math.log((n - len(places) + 0.5) / (len(places) + 0.5)))
            for row, often in places:
                length = 1 - B + B * self._lengths[row] / mean
                part = worth * often * (K1 + 1) / (often + K1 * length)
                scores[row] = scores.get(row, 0.0) + part
        order = sorted((row for row in scores if alive(row)), key=lambda row: (-scores[row], row))
        return order[:count]

    def records_with(self, word: str) -> int:
        """As WordIndex."""
        return len(self._places.get(word, ()))

    def close(self) -> None:
        """As WordIndex."""


def asked_words(query: str) -> Sequence[str]:
    """The words of a query, each once, at most MAX_QUERY_WORDS."""
    return [*dict.fromkeys(words(query))][:MAX_QUERY_WORDS]


def covers(text: str, worth: Mapping[str, float]) -> bool:
    """Whether a text holds enough of what a query asks: words that are worth at least COVERED of all. So one that
    shares only a "the" with a question is not found by it."""
    held = worth.keys() & set(words(text))
    return sum(worth[word] for word in held) >= COVERED * sum(worth.values())


def worth_of(query: str, records_with: Callable[[str], int], total: int) -> dict[str, float]:
    """What each word of a query is worth: the fewer records hold it, the more; most, if none does."""
    return {word: math.log((total + 1) / (records_with(word) + 0.5)) for word in asked_words(query)}


def _telling(asked: Sequence[str], records_with: Callable[[str], int], total: int) -> list[str]:
    """The words that not too many records hold, of those that any holds; the rarest, if there is no such word."""
    held = {word: n for word in asked if (n := records_with(word))}
    most = max(MANY_RECORDS, total // 20)
    found = [word for word, n in held.items() if n <= most]
    return found or sorted(held, key=lambda word: held[word])[:1]
