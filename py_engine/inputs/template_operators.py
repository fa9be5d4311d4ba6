"""The cost of each operator and text pattern (`%`, format) of a template, charged to a Budget before the work."""

from __future__ import annotations

import re
from typing import Any

from .template_budget import (
    ESCAPED,
    LISTS,
    MAX_BITS,
    MAX_COUNT,
    NODE,
    OPERATION,
    REPR,
    Budget,
    small,
    width,
)


def operator_cost(budget: Budget, operator: str, left: Any, right: Any) -> None:
    """Charge + - * / // % ** before they are done."""
    budget.work(OPERATION)
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        if operator == "*" and isinstance(left, int) and isinstance(right, int):
            small(left.bit_length() + right.bit_length(), MAX_BITS, "a product's bits")
        elif operator == "**":
            small(right, 64, "an exponent")
            small(left, 1 << 32, "a power's base")
    elif operator == "%" and isinstance(left, str):
        percent_cost(budget, left, right if isinstance(right, tuple) else (right,))
    elif operator == "*":
        for value, times in ((left, right), (right, left)):
            if isinstance(times, int):
                _repeat(budget, value, max(times, 0))
    elif operator == "+":
        if isinstance(left, str) and isinstance(right, str):
            plain = type(left) is str and type(right) is str
            chars = len(left) + len(right)
            budget.text(chars if plain else ESCAPED * chars, max(width(left), width(right)))
        elif isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
            budget.items(len(left) + len(right))
    else:
        budget.look(left)
        budget.look(right)


def _repeat(budget: Budget, value: Any, times: int) -> None:
    if isinstance(value, str):
        budget.text(len(value) * times, width(value))
    elif isinstance(value, (list, tuple)):
        budget.items(len(value) * times)


def compare_cost(budget: Budget, operator: str, left: Any, right: Any) -> None:
    """Charge == != < <= > >= and `in` before they are done."""
    if operator in ("in", "notin"):
        if isinstance(right, str):
            return budget.search(right, left)
        if isinstance(right, LISTS):
            # No entry is compared beyond the size of what is searched.
            each = budget.look(left)
            return budget.work(OPERATION + len(right) * (NODE + each.chars + NODE * each.nodes))
        budget.look(left)
    elif isinstance(left, str) or isinstance(right, str):
        if isinstance(left, str) and isinstance(right, str):
            budget.work(OPERATION + min(len(left), len(right)))
    elif not isinstance(left, (int, float)) and not isinstance(right, (int, float)):
        budget.work(min(budget.look(left).chars, budget.look(right).chars))
    return None


def percent_cost(budget: Budget, pattern: str, given: tuple[Any, ...]) -> None:
    """Charge `pattern % given`."""
    places = pattern.count("%")
    _placed(budget, pattern, places, given, "*" in pattern)
    budget.work(places * NODE)


def format_cost(budget: Budget, pattern: str, given: list[Any]) -> None:
    """Charge pattern.format(*given)."""
    places = pattern.count("{")
    nested = re.search(r"\{[^{}]*\{", pattern) is not None  # a width that comes from an argument
    if nested:
        for value in given:
            _widths(value if isinstance(value, str) else "")
    _placed(budget, pattern, places, tuple(given), nested)
    budget.work(places * 3 * OPERATION)


def _placed(
    budget: Budget, pattern: str, places: int, given: tuple[Any, ...], counted: bool
) -> None:
    """Charge a pattern with so many places, each of which may show any of the values."""
    longest = max((budget.printed(value, REPR) for value in given), default=0)
    chars = len(pattern) + places * longest + _widths(pattern)
    if counted:  # by numbers among the values
        for value in given:
            small(value, MAX_COUNT, "a width")
        chars += places * MAX_COUNT
    budget.text(chars if type(pattern) is str else ESCAPED * chars)


def _widths(text: str) -> int:
    """The sum of the numbers in a pattern, each of which may be a width."""
    found = [int(digits[:12]) for digits in re.findall(r"\d+", text)]
    small(max(found, default=0), MAX_COUNT, "a width")
    return sum(found)
