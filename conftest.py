"""Options for tests/ and tests_e2e/: slow tests run only with --slow, and every test ends.

The limit of pytest-timeout is only for a test that would never end. Each wait of a test has a limit of its own, and its
failure names what was waited for. The time of a fixture counts for the first test that uses it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

REASON = "slow: run it with --slow"
LIMIT_S, BROWSER_LIMIT_S = 600, 900
SLOW_LIMIT_S = 3600


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option --slow."""
    parser.addoption("--slow", action="store_true", help="also run what is slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each test its time limit. Without --slow, skip the tests that are marked slow."""
    slow = config.getoption("--slow")
    for item in items:
        marked = item.get_closest_marker("slow")
        limit = BROWSER_LIMIT_S if "tests_e2e" in item.path.parts else LIMIT_S
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_LIMIT_S if slow and marked else limit))
        if marked and not slow:
            item.add_marker(pytest.mark.skip(reason=REASON))


@pytest.fixture
def skip_unless_slow(request: pytest.FixtureRequest) -> Callable[[], None]:
    """Return a function that skips the test without --slow. Call it for a combination of parameters that is slow."""

    def skip() -> None:
        if not request.config.getoption("--slow"):
            pytest.skip(REASON)

    return skip
