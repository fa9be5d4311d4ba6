"""What a chat template costs in CPython."""

from __future__ import annotations

import tracemalloc
from typing import Any

from tests_e2e.probe_models import try_template


def measure_template(source: str) -> dict[str, Any]:
    """What try_template gives, and `peak`: the most memory that Python used for the template, in bytes."""
    found = try_template(source)
    tracemalloc.start()
    try_template(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {**found, "peak": peak}
