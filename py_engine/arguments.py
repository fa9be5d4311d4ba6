"""What callers give, checked: numbers, flags, names of options. What is wrong is an InputError that says what it was.

A caller's value may be anything: an int of a million digits, whose text Python refuses to make, or an object whose
`__repr__` raises. `shown` makes the text that a message holds of it.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from numbers import Integral, Real
from reprlib import Repr
from typing import Any, ParamSpec, TypeVar

from py_engine.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")

MAX_SHOWN = 80
_LONG = 2000  # characters: longer texts are told with their length
_SHORT = Repr()  # goes only some levels deep: in Pyodide, too deep a recursion is the end of Python
_SHORT.maxlevel, _SHORT.maxother = 3, MAX_SHOWN
_SHORT.maxstring = _LONG


def shown(value: object) -> str:
    """The value as a message names it: at most some 80 characters, whatever it is."""
    try:
        if isinstance(value, int) and value.bit_length() > 256:
            return f"a whole number of {value.bit_length()} bits"
        if isinstance(value, (str, bytes, bytearray)) and len(value) > _LONG:
            return f"{value[:MAX_SHOWN]!r}... ({len(value)} in all)"
        return _cut(_SHORT.repr(value))
    except Exception:
        return f"a {type(value).__name__}"


def _cut(text: str) -> str:
    # What cannot be encoded would break whoever prints or sends the message.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."


def whole(name: str, value: Any, low: int, high: int) -> int:
    """The value as an int. Numbers of numpy and whole floats are taken, bools are not."""
    number = _real(value)
    if number is None or not low <= number <= high or number != int(number):
        raise InputError(f"{name}={shown(value)}: give a whole number from {low} to {high}")
    return int(number)


def real(name: str, value: Any, low: float, high: float) -> float:
    """The value as a float. Numbers of numpy are taken, bools are not."""
    number = _real(value)
    if number is None or not low <= number <= high:
        raise InputError(f"{name}={shown(value)}: give a number from {low:g} to {high:g}")
    return float(number)


def _real(value: Any) -> int | float | None:
    """The value as an int or a finite float; None if it is neither."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    if isinstance(value, Integral):
        return int(value)
    try:
        number = float(value)
    except (OverflowError, ValueError):
        return None
    return number if math.isfinite(number) else None


def flag(name: str, value: Any) -> bool | None:
    """The value, if it is True, False or None."""
    if value is not None and not isinstance(value, bool):
        raise InputError(f"{name}={shown(value)}: give True, False or None")
    return value


def instance(name: str, value: Any, kinds: type | tuple[type, ...], wanted: str) -> None:
    """Raise InputError, naming what is `wanted`, for a value that is neither None nor of these kinds."""
    if value is not None and not isinstance(value, kinds):
        raise InputError(f"{name}={shown(value)}: give {wanted}, or leave it out")


def callback(name: str, value: Any) -> None:
    """Raise InputError for a value that is neither None nor can be called."""
    if value is not None and not callable(value):
        raise InputError(f"{name}={shown(value)}: give a function, or leave it out")


def token_ids(ids: Any, vocab_size: int) -> list[int]:
    """Ids of a model's tokens as a list. Numbers of numpy are taken."""
    try:
        if isinstance(ids, (str, bytes, Mapping)):
            raise TypeError("they can be iterated over, too")
        given = iter(ids)
    except TypeError:
        raise InputError(
            f"ids: give a list of token ids (whole numbers), not {shown(ids)}"
        ) from None
    taken: list[int] = []
    for place, value in enumerate(given):
        if type(value) is not int:
            if isinstance(value, bool) or not isinstance(value, Integral):
                raise InputError(f"ids[{place}] is {shown(value)}: token ids are whole numbers")
            value = int(value)
        if not 0 <= value < vocab_size:
            raise InputError(
                f"ids[{place}] is {shown(value)}, outside the vocabulary: this model's ids go from 0 to "
                f"{vocab_size - 1}"
            )
        taken.append(value)
    return taken


def unknown_option(name: object, known: Iterable[str]) -> InputError:
    """The error for an option that nobody knows, with those whose names are near."""
    names = sorted(known)
    word = name if isinstance(name, str) else shown(name)
    near = get_close_matches(word[:64], names, 3, 0.6)
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    return InputError(f"unknown option {shown(name)}.{meant} Known are {', '.join(names)}")


def named_options(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose call by a name that it does not know is an InputError and no TypeError."""
    parameters = inspect.signature(function).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    names = {p.name for p in parameters}

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in names:
                raise unknown_option(name, known)
        return function(*args, **kwargs)

    return checked
