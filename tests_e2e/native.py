"""probe.py in CPython on a software adapter: what the browser's answers are compared with."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import software_adapter


def native(name: str, *args: Any, host: str = "dawn") -> Any:
    """The call of the same name. In a thread of its own, since Playwright's loop runs in this one."""
    spec = importlib.util.spec_from_file_location("probe", Path(__file__).with_name("probe.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def work() -> Any:
        return json.loads(asyncio.run(module.call(name, json.dumps(args))))

    with (
        software_adapter(host),
        pytest.MonkeyPatch.context() as patch,
        ThreadPoolExecutor(1) as pool,
    ):
        patch.setenv("JERBOA_HOST", host)
        return pool.submit(work).result()
