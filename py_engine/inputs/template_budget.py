"""Limits what one rendering of an untrusted template may cost. Work is charged before it is done.

A Budget counts two things: work, in nanoseconds that an ordinary machine takes in CPython (a browser takes
about three times as long); and the bytes of all texts and lists that are built, even if dropped. Both limits
grow with what the caller gave, so a long chat may cost more than a hostile template over a short one.

template_costs.py and template_operators.py say what filters, methods and operators cost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from py_engine.errors import InputError

MAX_TURNS = 20_000  # of loops and macro calls
MAX_WORK = 300_000_000  # nanoseconds
MAX_BYTES = 40 << 20
MAX_TEXT_CHARS = 4 << 20  # of one text
MAX_ITEMS = 100_000  # of one list, including the lists in it
MAX_VALUE_DEPTH = 64  # of lists in lists
MAX_COUNT = 10_000  # numbers that are given to text functions: width, indent, batch
MAX_SLOW_CHARS = 20_000  # given to functions that work in Python or by regular expressions
MAX_BITS = 4096  # of an int
MAX_SECONDS = 1.0  # the last resort, for what the other limits miss

OPERATION = 1_000  # the work of any call, filter, test or operator
TURN = 4_000  # of one turn of a loop
CALL = 8_000  # of a macro
CASE_WORK = 10  # of testing whether a character is a capital
NODE = 100  # of visiting an entry of a list
WORK_PER_GIVEN_CHAR, BYTES_PER_GIVEN_CHAR = 400, 256
TEXT_BYTES = 64  # of a text, besides its characters
# The most characters that a conversion makes of one: '\U000f0000' in a printed list, &#34; when
# escaped, %F0%9F%98%80 in an address, \ud83d\ude00 in JSON of ASCII, three letters for a capital one.
REPR, ESCAPED, QUOTED, JSON_CHARS, CASED = 10, 5, 12, 12, 3


class Size(NamedTuple):
    """The size of a value as it would be printed; a part that is shared counts each time."""

    nodes: int
    chars: int
    depth: int


NOTHING = Size(0, 0, 0)


def size_of(value: Any, most: int = MAX_ITEMS) -> Size:
    """Measure a value, without recursion. Raises InputError above `most` nodes or MAX_VALUE_DEPTH."""
    nodes, chars = 1, 0
    level: list[Any] = [value]
    for depth in range(MAX_VALUE_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                chars += len(item)
            elif isinstance(item, int):
                chars += 1 + item.bit_length() // 3
            elif isinstance(item, HOLDERS):
                values = item.values() if isinstance(item, dict) else ()
                nodes += len(item) + len(values)
                if nodes > most:
                    raise InputError(
                        f"the chat template builds a text or list of more than {most} entries"
                    )
                below.extend(item)
                below.extend(values)
            else:
                chars += 24
        if not below:
            return Size(nodes, chars, depth)
        level = below
    raise InputError(
        f"the chat template nests too deeply: lists in lists, more than {MAX_VALUE_DEPTH} deep"
    )


VIEWS: tuple[Any, ...] = (type({}.items()), type({}.keys()), type({}.values()))
LISTS: Any = (list, tuple, range, set, frozenset, *VIEWS)
HOLDERS = (*LISTS, dict)


def width(text: str) -> int:
    """The most bytes that a character of the text takes."""
    return 1 if text.isascii() else 4


class Budget:
    """What one rendering may still do. `given`: the size of the caller's values. Raises InputError when it is spent."""

    def __init__(self, given: Size = NOTHING) -> None:
        weight = given.chars + 50 * given.nodes
        self._most_turns = MAX_TURNS + 20 * given.nodes
        self._most_work = MAX_WORK + WORK_PER_GIVEN_CHAR * weight
        self._most_bytes = MAX_BYTES + BYTES_PER_GIVEN_CHAR * weight
        self._most_chars = MAX_TEXT_CHARS + 16 * weight
        self._most_items = MAX_ITEMS + weight
        self._turns = self._work = self._bytes = self._looked = 0
        seconds = MAX_SECONDS * self._most_work / MAX_WORK
        self._seconds, self._end = seconds, CLOCK() + seconds

    def turn(self, work: int) -> None:
        """Charge one turn of a loop or one macro call. `work`: of its own statements."""
        self._turns += 1
        if self._turns > self._most_turns:
            raise InputError(
                f"the chat template loops: more than {self._most_turns} turns in one rendering"
            )
        self.work(TURN + work)

    def work(self, nanoseconds: int) -> None:
        """Charge work that is about to be done."""
        self._work += nanoseconds
        if self._work > self._most_work:
            raise InputError(
                "the chat template works too long: beyond what"
                f" {self._most_work / 1e9:.2g} seconds of an ordinary machine do"
            )
        if self._work - self._looked > 1_000_000:
            self._looked = self._work
            if CLOCK() > self._end:
                raise InputError(f"the chat template ran for more than {self._seconds:.2g} seconds")

    def bytes(self, nbytes: int) -> None:
        """Charge bytes that are about to be allocated."""
        self._bytes += nbytes
        if self._bytes > self._most_bytes:
            raise InputError(
                "the chat template builds texts and lists of more than"
                f" {self._most_bytes >> 20} MiB together"
            )

    def fits(self, chars: int) -> None:
        """Whether a text of `chars` characters is allowed."""
        if chars > self._most_chars:
            raise InputError(
                f"the chat template builds a text of {chars} characters, more than {self._most_chars}"
            )

    def text(self, chars: int, char_bytes: int = 4) -> None:
        """Charge a text of `chars` characters that is about to be built."""
        self.fits(chars)
        self.bytes(TEXT_BYTES + chars * char_bytes)
        self.work(OPERATION + chars)

    def items(self, count: int, item_bytes: int = 8) -> None:
        """Charge a list of `count` entries that is about to be built."""
        if count > self._most_items:
            raise InputError(
                f"the chat template builds a text or list of {count} entries, more than {self._most_items}"
            )
        self.bytes(TEXT_BYTES + count * item_bytes)
        self.work(OPERATION + count * NODE // 4)

    def look(self, value: Any) -> Size:
        """Charge walking through a value, or having made it. Returns its size."""
        if isinstance(value, str):
            self.work(OPERATION)
            return Size(1, len(value), 0)
        if value is None or isinstance(value, (bool, float)):
            self.work(OPERATION)
            return Size(1, 24, 0)
        size = size_of(value, self._most_items)
        self.work(OPERATION + NODE * size.nodes)
        return size

    def printed(self, value: Any, factor: int = 1) -> int:
        """The most characters that str() makes of a value; `factor`: what is made of each character then."""
        if isinstance(value, str):
            return factor * len(value)
        size = self.look(value)
        chars = size.chars if size.depth == 0 else REPR * size.chars + 8 * size.nodes
        return factor * chars

    def search(self, text: str, wanted: Any, backwards: bool = False) -> None:
        """Charge a search in a text. From its end, Python compares in full at each place."""
        tries = len(wanted) if isinstance(wanted, str) else 1
        self.work(OPERATION + len(text) * (tries if backwards else min(tries, 100)))

    def collect(self, values: Iterable[Any]) -> list[Any]:
        """The entries of an iterator, each charged."""
        found: list[Any] = []
        for value in values:
            self.work(2 * NODE)
            self.bytes(16)
            if len(found) >= self._most_items:
                raise InputError(
                    f"the chat template builds a text or list of more than {self._most_items} entries"
                )
            found.append(value)
        return found


def _find_clock() -> Callable[[], float]:
    """The thread's own clock if there is one, since a busy machine is not the template's fault."""
    try:
        time.thread_time()
    except (AttributeError, OSError):  # a browser
        return time.monotonic
    return time.thread_time


CLOCK = _find_clock()


def small(value: Any, limit: int, what: str) -> None:
    """Raise InputError for a number beyond a limit."""
    if isinstance(value, (int, float)) and not abs(value) <= limit:
        raise InputError(f"the chat template goes beyond what is allowed: {what} above {limit}")
