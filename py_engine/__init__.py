"""Jerboa: AI models on the user's own GPU, from Python.

    import jerboa  # or py_engine: the same objects

    model = jerboa.load("mlx-community/Qwen3-0.6B-4bit")
    print(model.chat([{"role": "user", "content": "Hello"}]).text)

and, where a program has an event loop:

    async with await jerboa.Engine.load("mlx-community/Qwen3-0.6B-4bit") as engine:
        print((await engine.chat([{"role": "user", "content": "Hello"}])).text)

Names are imported when they are first used, so that the small commands start without the engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from py_engine.version import VERSION as __version__

if TYPE_CHECKING:
    from py_engine.abort import Abort
    from py_engine.errors import (
        AbortError,
        ClosedError,
        ContextError,
        DeviceLostError,
        DocumentError,
        EngineError,
        FormatError,
        HostError,
        HubError,
        InputError,
        MemoryBudgetError,
        ModelError,
        NoAdapterError,
        OutOfMemoryError,
        SelfCheckError,
        SessionError,
        StorageError,
        StorageFullError,
    )
    from py_engine.generate.answer import Answer, Generation, Timings
    from py_engine.generate.options import Options
    from py_engine.generate.stream import Delta
    from py_engine.generate.tools import ToolCall
    from py_engine.graph.submit import GroupedSubmit, SingleSubmit
    from py_engine.host.device_storage import (
        can_cache_model,
        get_install_guidance,
        get_storage_status,
        is_ios,
        is_standalone,
        request_persistent_storage,
    )
    from py_engine.memory.adding import Added, AddProgress
    from py_engine.memory.context import Item, Recalled
    from py_engine.memory.memory import Memory
    from py_engine.memory.records import Piece
    from py_engine.memory.sync import SyncMemory
    from py_engine.pictures.picture import Picture
    from py_engine.serve.device import Device
    from py_engine.serve.engine import Engine
    from py_engine.serve.memory import Estimate
    from py_engine.serve.options import Progress
    from py_engine.serve.recovery import DeviceEvent
    from py_engine.serve.sessions import SessionInfo
    from py_engine.serve.sync import SyncEngine, load
    from py_engine.serve.sync_device import SyncDevice
    from py_engine.serve.sync_work import SyncGeneration, SyncWork
    from py_engine.tasks.chat import ChatRequest
    from py_engine.tasks.complete import CompleteRequest
    from py_engine.tasks.describe import DescribeRequest
    from py_engine.tasks.embed import Embeddings, EmbedRequest
    from py_engine.tasks.features import Features, FeaturesRequest
    from py_engine.tasks.rerank import Ranked, Ranking, RerankRequest
    from py_engine.tasks.similarity import Similarities, SimilarityRequest
    from py_engine.work import Work

_NAMES = {
    "Abort": "abort",
    "AbortError": "errors",
    "AddProgress": "memory.adding",
    "Added": "memory.adding",
    "Answer": "generate.answer",
    "ChatRequest": "tasks.chat",
    "ClosedError": "errors",
    "CompleteRequest": "tasks.complete",
    "ContextError": "errors",
    "Delta": "generate.stream",
    "Device": "serve.device",
    "DeviceEvent": "serve.recovery",
    "DeviceLostError": "errors",
    "DescribeRequest": "tasks.describe",
    "DocumentError": "errors",
    "EmbedRequest": "tasks.embed",
    "Embeddings": "tasks.embed",
    "Engine": "serve.engine",
    "EngineError": "errors",
    "Estimate": "serve.memory",
    "Features": "tasks.features",
    "FeaturesRequest": "tasks.features",
    "FormatError": "errors",
    "Generation": "generate.answer",
    "GroupedSubmit": "graph.submit",
    "HostError": "errors",
    "HubError": "errors",
    "InputError": "errors",
    "Item": "memory.context",
    "Memory": "memory.memory",
    "MemoryBudgetError": "errors",
    "ModelError": "errors",
    "NoAdapterError": "errors",
    "Options": "generate.options",
    "OutOfMemoryError": "errors",
    "Picture": "pictures.picture",
    "Piece": "memory.records",
    "Progress": "serve.options",
    "Ranked": "tasks.rerank",
    "Ranking": "tasks.rerank",
    "Recalled": "memory.context",
    "RerankRequest": "tasks.rerank",
    "SelfCheckError": "errors",
    "SessionError": "errors",
    "SessionInfo": "serve.sessions",
    "Similarities": "tasks.similarity",
    "SimilarityRequest": "tasks.similarity",
    "SingleSubmit": "graph.submit",
    "StorageError": "errors",
    "StorageFullError": "errors",
    "SyncDevice": "serve.sync_device",
    "SyncEngine": "serve.sync",
    "SyncGeneration": "serve.sync_work",
    "SyncMemory": "memory.sync",
    "SyncWork": "serve.sync_work",
    "Timings": "generate.answer",
    "ToolCall": "generate.tools",
    "Work": "work",
    "can_cache_model": "host.device_storage",
    "get_install_guidance": "host.device_storage",
    "get_storage_status": "host.device_storage",
    "is_ios": "host.device_storage",
    "is_standalone": "host.device_storage",
    "load": "serve.sync",
    "request_persistent_storage": "host.device_storage",
}
# Written out, since type checkers read it; a test holds the two equal.
__all__ = [
    "Abort",
    "AbortError",
    "AddProgress",
    "Added",
    "Answer",
    "ChatRequest",
    "ClosedError",
    "CompleteRequest",
    "ContextError",
    "Delta",
    "DescribeRequest",
    "Device",
    "DeviceEvent",
    "DeviceLostError",
    "DocumentError",
    "EmbedRequest",
    "Embeddings",
    "Engine",
    "EngineError",
    "Estimate",
    "Features",
    "FeaturesRequest",
    "FormatError",
    "Generation",
    "GroupedSubmit",
    "HostError",
    "HubError",
    "InputError",
    "Item",
    "Memory",
    "MemoryBudgetError",
    "ModelError",
    "NoAdapterError",
    "Options",
    "OutOfMemoryError",
    "Picture",
    "Piece",
    "Progress",
    "Ranked",
    "Ranking",
    "Recalled",
    "RerankRequest",
    "SelfCheckError",
    "SessionError",
    "SessionInfo",
    "Similarities",
    "SimilarityRequest",
    "SingleSubmit",
    "StorageError",
    "StorageFullError",
    "SyncDevice",
    "SyncEngine",
    "SyncGeneration",
    "SyncMemory",
    "SyncWork",
    "Timings",
    "ToolCall",
    "Work",
    "__version__",
    "can_cache_model",
    "get_install_guidance",
    "get_storage_status",
    "is_ios",
    "is_standalone",
    "load",
    "request_persistent_storage",
]

if not TYPE_CHECKING:  # else every misspelt name would be typed Any

    def __getattr__(name: str) -> Any:
        if name in _NAMES:
            value = getattr(import_module(f"py_engine.{_NAMES[name]}"), name)
            globals()[name] = value
            return value
        raise AttributeError(f"module 'py_engine' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
