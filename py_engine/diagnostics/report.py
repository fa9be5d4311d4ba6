"""`jerboa doctor`: makes the text to paste into a bug report."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import Any

from py_engine.diagnostics.probes import probe
from py_engine.host import open_gpu
from py_engine.version import VERSION


async def report(host: str | None = None) -> dict[str, Any]:
    """Version, Python, adapter, limits, features, measured speeds. Raises NoAdapterError, HostError."""
    gpu = await open_gpu(host)
    try:
        measured = await probe(gpu)
        return {
            "jerboa": VERSION,
            "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
            "adapter": asdict(gpu.info),
            "limits": asdict(gpu.limits),
            "features": sorted(gpu.features),
            "measured": asdict(measured),
            **({"warning": gpu.warning} if gpu.warning else {}),
        }
    finally:
        gpu.close()
