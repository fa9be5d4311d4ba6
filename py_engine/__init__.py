"""Jerboa: AI models on the user's own GPU, from Python.

    from py_engine import Engine
    async with await Engine.load("mlx-community/Qwen3-0.6B-4bit") as engine:
        print((await engine.chat([{"role": "user", "content": "Hello"}])).text)

Names are imported when they are first used, so that the small commands start without the engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from py_engine.version import VERSION as __version__  # noqa: F401

_NAMES = {
    "Abort": "py_engine.abort",
    "Answer": "py_engine.generate.answer",
    "Delta": "py_engine.generate.stream",
    "Engine": "py_engine.serve.engine",
    "EngineError": "py_engine.errors",
    "Generation": "py_engine.generate.answer",
    "GroupedSubmit": "py_engine.graph.submit",
    "Progress": "py_engine.serve.loading",
    "SingleSubmit": "py_engine.graph.submit",
    "can_cache_model": "py_engine.host.device_storage",
    "get_install_guidance": "py_engine.host.device_storage",
    "get_storage_status": "py_engine.host.device_storage",
    "is_ios": "py_engine.host.device_storage",
    "is_standalone": "py_engine.host.device_storage",
    "request_persistent_storage": "py_engine.host.device_storage",
}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'py_engine' has no attribute {name!r}")
