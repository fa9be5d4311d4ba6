"""Runs inside Pyodide, in a worker that booted as the engine's does (probe.mjs). Tests call functions by name;
probe_bytes.py, probe_gpu.py, probe_models.py, probe_pictures.py and probe_store.py hold them, by subject.

It also runs in CPython over the native host (native.py), so that tests can compare the two.
"""

from __future__ import annotations

import json

from py_engine.errors import EngineError
from tests_e2e import probe_bytes, probe_gpu, probe_models, probe_pictures, probe_store

CALLS = {
    **vars(probe_bytes),
    **vars(probe_gpu),
    **vars(probe_models),
    **vars(probe_pictures),
    **vars(probe_store),
}


async def call(name: str, arguments: str) -> str:
    """Run the function of that name. The engine's errors are returned as {"error": [type, message]}."""
    try:
        return json.dumps(await CALLS[name](*json.loads(arguments)))
    except EngineError as error:
        return json.dumps({"error": [error.type, str(error)]})
