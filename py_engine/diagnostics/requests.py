"""What the worker answers to messages of type `bench` and `diagnose`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from py_engine.abort import Abort, or_abort
from py_engine.diagnostics.bench import BenchOptions
from py_engine.diagnostics.bench import bench as bench_engine
from py_engine.diagnostics.dispatch_tests import run_dispatch_tests
from py_engine.diagnostics.load_bench import bench_load as bench_loads
from py_engine.host import open_gpu, open_io
from py_engine.serve.engine import Engine
from py_engine.serve.protocol import Bench, Diagnose
from py_engine.serve.wire import given


async def bench(engine: Engine, message: Bench, abort: Abort) -> dict[str, Any]:
    """The speed of a loaded engine. Raises AbortError."""
    options = BenchOptions(
        message.prompt_tokens,
        message.new_tokens,
        message.runs,
        given(message.sampling),
        message.probe,
        message.profile,
    )
    return await or_abort(bench_engine(engine, options), abort)


async def bench_load(message: Bench, abort: Abort, note: Callable[[str], None]) -> dict[str, Any]:
    """How long the kept weights of a model take to load. Raises AbortError."""
    gpu = await open_gpu()
    try:
        dtype = message.options.dtype or "auto"
        work = bench_loads(message.model, gpu, open_io(), message.runs, note, dtype)
        return await or_abort(work, abort)
    finally:
        gpu.close()


async def diagnose(
    message: Diagnose, abort: Abort, tell: Callable[[dict[str, Any]], Awaitable[None]]
) -> dict[str, Any]:
    """The dispatch tests; `tell` gets each row. Raises AbortError."""
    gpu = await open_gpu()
    try:
        return await or_abort(run_dispatch_tests(gpu, tell, message.tests, message.most), abort)
    finally:
        gpu.close()
