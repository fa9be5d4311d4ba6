"""Calls probe.py in CPython on a software adapter. Tests compare the browser's results with these."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.conftest import software_adapter
from tests_e2e import probe


def native(name: str, *args: Any, host: str = "dawn") -> Any:
    """Call the probe function of the same name. It runs in a thread of its own, because Playwright's loop runs in
    this one."""

    def work() -> Any:
        return json.loads(asyncio.run(probe.call(name, json.dumps(args))))

    with (
        software_adapter(host),
        pytest.MonkeyPatch.context() as patch,
        ThreadPoolExecutor(1) as pool,
    ):
        patch.setenv("JERBOA_HOST", host)
        return pool.submit(work).result()
