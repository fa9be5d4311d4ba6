"""The cost of each filter and method of a template, charged to a Budget before the call.

FILTERS and METHODS are all that templates can call, each with its cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .template_budget import (
    CASED,
    ESCAPED,
    HOLDERS,
    JSON_CHARS,
    MAX_COUNT,
    MAX_SLOW_CHARS,
    NODE,
    OPERATION,
    QUOTED,
    REPR,
    TEXT_BYTES,
    Budget,
    small,
    width,
)
from .template_operators import compare_cost, percent_cost


class Given:
    """The arguments of the filter or method `name` that is about to be called. `value`: what is before the bar or
    dot."""

    def __init__(
        self,
        budget: Budget,
        name: str,
        value: Any,
        args: tuple[Any, ...],
        named: Mapping[str, Any],
    ) -> None:
        self.budget = budget
        self.name = name
        self.value = value
        self.args = args
        self.named = named

    def __call__(self, place: int, name: str, default: Any = None) -> Any:
        """An argument, by index or name."""
        return self.args[place] if place < len(self.args) else self.named.get(name, default)

    def few(self, number: Any, limit: int, what: str) -> None:
        """Raise InputError for a number beyond a limit."""
        small(number, limit, f"{what} given to {self.name}")

    @property
    def every(self) -> list[Any]:
        """All arguments."""
        return [*self.args, *self.named.values()]

    @property
    def char_bytes(self) -> int:
        """Bytes of a character of the widest text that is given."""
        return max(width(v) if isinstance(v, str) else 4 for v in (self.value, *self.every))


Cost = Callable[[Given], None]


# ---- costs of filters and methods -----------------------------------------------------------------------------------


def _fixed(given: Given) -> None:
    given.budget.work(OPERATION)


def _looked_up(given: Given) -> None:
    for key in given.every:
        given.budget.look(key)


def _text_of(factor: int, slow: bool = False) -> Cost:
    """Makes a text from the value, with `factor` characters for each of its characters."""

    def cost(given: Given) -> None:
        chars = given.budget.printed(given.value)
        for value in given.every:
            given.budget.look(value)
        if slow:
            given.few(chars, MAX_SLOW_CHARS, "characters")
            given.budget.work(100 * chars)
        given.budget.text(factor * chars, given.char_bytes)

    return cost


def _strip(given: Given) -> None:
    chars = given(0, "chars")
    tries = len(chars) if isinstance(chars, str) else 1
    size = given.budget.printed(given.value)
    given.budget.work(size * tries)
    given.budget.text(size, given.char_bytes)


def _padded(given: Given) -> None:
    size = given.budget.printed(given.value)
    for value in given.every:
        given.few(value, MAX_COUNT, "a width")
    given.budget.text(size + MAX_COUNT, given.char_bytes)


def _expandtabs(given: Given) -> None:
    size = given(0, "tabsize", 8)
    given.few(size, MAX_COUNT, "a width")
    tabs = given.value.count("\t") * (abs(size) if isinstance(size, int) else 8)
    given.budget.text(len(given.value) + tabs, given.char_bytes)


def _searched(backwards: bool) -> Cost:
    def cost(given: Given) -> None:
        for wanted in given(0, "sub", "") if isinstance(given(0, "sub"), tuple) else given.args[:1]:
            given.budget.search(given.value, wanted, backwards)

    return cost


def _parted(backwards: bool) -> Cost:
    """split and partition, where they cut at a text."""

    def cost(given: Given) -> None:
        text, at = given.value, given(0, "sep")
        given.budget.search(text, at, backwards)
        parts = text.count(at) if isinstance(at, str) and at else len(text) // 2
        most = given(1, "maxsplit", -1)
        if isinstance(most, int) and most >= 0:
            parts = min(parts, most)
        given.budget.items(parts + 3, TEXT_BYTES + 16)
        given.budget.text(len(text), width(text))

    return cost


def _splitlines(given: Given) -> None:
    text = given.value
    lines = sum(text.count(end) for end in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
    given.budget.items(lines + 1, TEXT_BYTES + 16)
    given.budget.text(len(text), width(text))


def _replace(given: Given) -> None:
    text, old, new = (_as_text(v) for v in (given.value, given(0, "old", ""), given(1, "new", "")))
    given.budget.search(text, old)
    chars = len(text) + text.count(old) * len(new)
    given.budget.text(chars if type(given.value) is str else ESCAPED * chars, given.char_bytes)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _joined(budget: Budget, glue: str, parts: Any, factor: int = 1) -> None:
    if isinstance(parts, str):
        chars, count, char_bytes = len(parts), len(parts), width(parts)
        budget.bytes(TEXT_BYTES * count)
    else:
        texts = all(isinstance(part, str) for part in parts)
        count = len(parts)
        chars = sum(map(len, parts)) if texts else budget.printed(list(parts))
        char_bytes = max(map(width, parts), default=1) if texts else 4
        escaping = any(type(part) is not str for part in parts)
        factor = ESCAPED if texts and escaping else factor
    budget.work(count * NODE)
    budget.text(factor * (chars + count * len(glue)), max(char_bytes, width(glue)))


def _join_method(given: Given) -> None:
    parts = given(0, "iterable", ())
    if isinstance(parts, Iterator):
        parts = given.budget.collect(parts)
        given.args = (parts,)
    if isinstance(parts, (str, *HOLDERS)):
        _joined(given.budget, given.value, parts, 1 if type(given.value) is str else ESCAPED)


def _join_filter(given: Given) -> None:
    parts, glue = given.value, given(0, "d", "")
    _look_attribute(given, 1)
    given.budget.printed(parts)
    if not isinstance(glue, str):
        glue = " " * given.budget.printed(glue)
    if isinstance(parts, (str, *HOLDERS)):
        _joined(given.budget, glue, parts)


def _look_attribute(given: Given, place: int) -> None:
    """Each entry is asked for an attribute."""
    if given(place, "attribute") is not None and hasattr(given.value, "__len__"):
        given.budget.work(2 * OPERATION * len(given.value))


def _indent(given: Given) -> None:
    by, text = given(0, "width", 4), given.value
    given.few(by, MAX_COUNT, "a width")
    size = given.budget.printed(text)
    lines = text.count("\n") if isinstance(text, str) else size
    each = len(by) if isinstance(by, str) else abs(by) if isinstance(by, int) else 4
    given.budget.items(lines + 1, TEXT_BYTES + 16)
    chars = size + (lines + 1) * each
    given.budget.text(chars if type(text) is str else ESCAPED * chars, 2 * given.char_bytes)


def _wordwrap(given: Given) -> None:
    chars = given.budget.printed(given.value)
    given.few(chars, MAX_SLOW_CHARS, "characters")
    given.few(given(0, "width", 79), MAX_COUNT, "a width")
    glue = given(2, "wrapstring")
    given.budget.work(1000 * chars)
    given.budget.text(chars * (1 + (len(glue) if isinstance(glue, str) else 1)), given.char_bytes)


def _listed(given: Given) -> None:
    value = given.value
    if isinstance(value, str):
        given.budget.items(len(value), TEXT_BYTES + 24)
    elif hasattr(value, "__len__"):
        given.budget.items(len(value))


def _groups(given: Given) -> None:
    """batch and slice."""
    for name in ("linecount", "slices"):
        given.few(given(0, name), MAX_COUNT, "a number")
    given.budget.items(MAX_COUNT, 1)
    _listed(given)


def _sorted(given: Given) -> None:
    """n log n comparisons, none longer than the longest text, with a key for each entry."""
    size = given.budget.look(given.value)
    count = len(given.value) if hasattr(given.value, "__len__") else 0
    given.budget.items(size.nodes, 64)
    given.budget.bytes(4 * CASED * size.chars)
    given.budget.work(count.bit_length() * (NODE * size.nodes + size.chars) + OPERATION * count)


def _sum(given: Given) -> None:
    """Lists are copied at each addition."""
    size = given.budget.look(given.value)
    count = len(given.value) if hasattr(given.value, "__len__") else 0
    start = given.budget.look(given(1, "start", 0))
    given.budget.work(OPERATION * count)
    if size.depth > 1:
        given.budget.items((count + 1) * (size.nodes + start.nodes))


def _mapped(given: Given) -> None:
    """Each entry goes through a filter, a test or an attribute, which is charged on its own."""
    _listed(given)
    if hasattr(given.value, "__len__"):
        given.budget.work(2 * OPERATION * len(given.value))


def _json(given: Given) -> None:
    size = given.budget.look(given.value)
    indent, separators = given(1, "indent"), given(2, "separators")
    given.few(indent, MAX_COUNT, "an indent")
    by = len(indent) if isinstance(indent, str) else abs(indent) if isinstance(indent, int) else 0
    between = given.budget.look(separators).chars if separators else 4
    chars = JSON_CHARS if given(0, "ensure_ascii") else 6
    whole = chars * size.chars + size.nodes * (8 + between + by * (size.depth + 1))
    wide = 1 if given(0, "ensure_ascii") else 4
    given.budget.work(10 * size.chars + 10 * NODE * size.nodes)
    given.budget.bytes(2 * TEXT_BYTES * size.nodes)  # pieces of it
    given.budget.text(whole, wide)


def _round(given: Given) -> None:
    given.few(given(0, "precision", 0), 300, "a precision")
    given.budget.work(OPERATION)


def _number(given: Given) -> None:
    if isinstance(given.value, str):
        given.few(len(given.value), MAX_SLOW_CHARS, "digits")
        given.budget.work(OPERATION + len(given.value) ** 2 // 8)


def _printed_pretty(given: Given) -> None:
    size = given.budget.look(given.value)
    given.few(size.chars + size.nodes, MAX_SLOW_CHARS, "characters")
    deep = (size.depth + 1) * (REPR * size.chars + 100 * size.nodes)
    given.budget.work(20 * deep)
    given.budget.text(deep)


def _percent(given: Given) -> None:
    if isinstance(given.value, str):
        percent_cost(given.budget, given.value, tuple(given.every))


def _found_in(given: Given) -> None:
    compare_cost(given.budget, "in", given(0, "value"), given.value)


def _copied(given: Given) -> None:
    given.budget.items(len(given.value), 64 if isinstance(given.value, dict) else 8)


_TEXT, _CASE = _text_of(1), _text_of(CASED)
_SLOW = _text_of(CASED, slow=True)

FILTERS: Mapping[str, Cost] = {
    **dict.fromkeys(["count", "d", "default", "first", "last", "length", "random", "safe"], _fixed),
    **dict.fromkeys(["abs", "attr", "filesizeformat"], _fixed),
    **dict.fromkeys(["map", "reject", "rejectattr", "select", "selectattr"], _mapped),
    **dict.fromkeys(["items", "list", "reverse"], _listed),
    **dict.fromkeys(["batch", "slice"], _groups),
    **dict.fromkeys(["dictsort", "groupby", "max", "min", "sort", "unique"], _sorted),
    **dict.fromkeys(["e", "escape", "forceescape"], _text_of(ESCAPED)),
    **dict.fromkeys(["striptags", "title", "truncate", "urlize", "wordcount"], _SLOW),
    **dict.fromkeys(["lower", "upper", "capitalize"], _CASE),
    **dict.fromkeys(["float", "int"], _number),
    "center": _padded,
    "format": _percent,
    "indent": _indent,
    "join": _join_filter,
    "pprint": _printed_pretty,
    "replace": _replace,
    "round": _round,
    "string": _TEXT,
    "sum": _sum,
    "tojson": _json,
    "trim": _strip,
    "urlencode": _text_of(QUOTED, slow=True),
    "wordwrap": _wordwrap,
    "xmlattr": _text_of(2 * ESCAPED, slow=True),
}
TEXT_METHODS: Mapping[str, Cost] = {
    **dict.fromkeys(["capitalize", "casefold", "lower", "swapcase", "title", "upper"], _CASE),
    **dict.fromkeys(["center", "ljust", "rjust", "zfill"], _padded),
    **dict.fromkeys(["count", "endswith", "find", "index", "startswith"], _searched(False)),
    **dict.fromkeys(["rfind", "rindex"], _searched(True)),
    **dict.fromkeys(["lstrip", "rstrip", "strip"], _strip),
    **dict.fromkeys(["partition", "split"], _parted(False)),
    **dict.fromkeys(["rpartition", "rsplit"], _parted(True)),
    **dict.fromkeys(["removeprefix", "removesuffix"], _TEXT),
    **dict.fromkeys(
        [name for name in dir(str) if name.startswith("is")],
        _TEXT,
    ),
    "expandtabs": _expandtabs,
    "format": _fixed,  # charged where the sandbox makes it: see format_cost
    "join": _join_method,
    "replace": _replace,
    "splitlines": _splitlines,
}
METHODS: Mapping[type, Mapping[str, Cost]] = {
    str: TEXT_METHODS,
    dict: {
        **dict.fromkeys(["items", "keys", "values"], _fixed),
        "copy": _copied,
        "get": _looked_up,
    },
    list: {"copy": _copied, "count": _found_in, "index": _found_in},
    tuple: {"count": _found_in, "index": _found_in},
    range: {"count": _fixed, "index": _fixed},
    int: {"bit_length": _fixed, "conjugate": _fixed, "is_integer": _fixed},
    float: {"conjugate": _fixed, "is_integer": _fixed},
}


def methods_of(value: Any) -> Mapping[str, Cost] | None:
    """What templates may call of a value of Python's own types; None for other values."""
    return next((table for kind, table in METHODS.items() if isinstance(value, kind)), None)
