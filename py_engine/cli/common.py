"""What several commands do: load a model, open a GPU, tell something on stderr."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from py_engine.errors import InputError

# The engine is imported by the commands that run it: `convert` and `--help` need none of it.
if TYPE_CHECKING:
    from py_engine.host.gpu import Gpu
    from py_engine.serve.engine import Engine


def at_least_one(args: argparse.Namespace, *names: str) -> None:
    """Raise InputError for a number below 1; None is left to the engine."""
    for name in names:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(
                f"--{name.replace('_', '-')} {value}: give a whole number of at least 1"
            )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def open_device(host: str | None) -> Gpu:
    """The GPU, and a word about it if there is one to say."""
    from py_engine.host import open_gpu

    gpu = await open_gpu(host)
    if gpu.warning:
        say(gpu.warning)
    return gpu


async def load_engine(args: argparse.Namespace) -> Engine:
    at_least_one(args, "context")
    from py_engine.graph.submit import asked_group
    from py_engine.serve.engine import Engine

    return await Engine.load(
        args.model,
        host=args.host,
        dtype=args.dtype,
        context=args.context,
        memory_budget=args.memory_budget,
        strategy=asked_group(args.group, args.passes),
        tune=args.tune,
        self_check=args.self_check,
        progress=True,
    )
