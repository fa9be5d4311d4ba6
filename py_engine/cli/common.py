"""What several commands do: load a model, open a GPU, print to stderr."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from py_engine.errors import InputError

# Only commands that run the engine import it: `convert` and `--help` start without it.
if TYPE_CHECKING:
    from py_engine.host.gpu import Gpu
    from py_engine.serve.engine import Engine


def at_least_one(args: argparse.Namespace, *names: str) -> None:
    """Raise InputError for a number below 1. None is allowed: the engine then chooses."""
    for name in names:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(
                f"--{name.replace('_', '-')} {value}: give a whole number of at least 1"
            )


def say(text: str) -> None:
    """Print a line to stderr."""
    print(text, file=sys.stderr, flush=True)


async def open_device(host: str | None) -> Gpu:
    """Open the GPU, and print its warning if it has one."""
    from py_engine.host import open_gpu

    gpu = await open_gpu(host)
    if gpu.warning:
        say(gpu.warning)
    return gpu


async def load_engine(args: argparse.Namespace) -> Engine:
    """Load the model that the command line names, with its options."""
    at_least_one(args, "context")
    from py_engine.graph.submit import asked_group
    from py_engine.serve.engine import Engine

    return await Engine.load(
        args.model,
        host=args.host,
        dtype=args.dtype,
        kv=args.kv,
        vision=args.vision,
        context=args.context,
        memory_budget=args.memory_budget,
        strategy=asked_group(args.group, args.passes),
        tune=args.tune,
        self_check=args.self_check,
        progress=True,
    )
