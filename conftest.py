"""For tests/ and tests_e2e/: what is slow runs with --slow only."""

from __future__ import annotations

from collections.abc import Callable

import pytest

REASON = "slow: run it with --slow"


def pytest_addoption(parser: pytest.Parser) -> None:
    """--slow"""
    parser.addoption("--slow", action="store_true", help="also run what is slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without it, skip the tests that are marked."""
    if config.getoption("--slow"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason=REASON))


@pytest.fixture
def skip_unless_slow(request: pytest.FixtureRequest) -> Callable[[], None]:
    """To be called for a combination of parameters that is slow."""

    def skip() -> None:
        if not request.config.getoption("--slow"):
            pytest.skip(REASON)

    return skip
