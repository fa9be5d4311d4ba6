"""Runs inside Pyodide, in a worker that booted as the engine's does (probe.mjs): tests call functions by name, which
stand by subject in probe_gpu.py, probe_models.py and probe_store.py.

Also runs in CPython over the native host (native.py), so that both can be compared.
"""

from __future__ import annotations

import json

from py_engine.errors import EngineError
from tests_e2e import probe_gpu, probe_models, probe_store

CALLS = {**vars(probe_gpu), **vars(probe_models), **vars(probe_store)}


async def call(name: str, arguments: str) -> str:
    """Run the function of that name; errors of the engine come back as {"error": [type, message]}."""
    try:
        return json.dumps(await CALLS[name](*json.loads(arguments)))
    except EngineError as error:
        return json.dumps({"error": [error.type, str(error)]})
