"""The commands by their names. Those of tasks are in cli/task.py, which finds them."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable

from py_engine.cli.embed import embed
from py_engine.cli.features import features
from py_engine.cli.measure import bench_command, doctor, estimate
from py_engine.cli.memory import memory
from py_engine.cli.models import cache, convert_command
from py_engine.cli.text import describe, generate, logits_command

COMMANDS: dict[str, Callable[[argparse.Namespace], Awaitable[int | None]]] = {
    "generate": generate,
    "describe": describe,
    "logits": logits_command,
    "embed": embed,
    "features": features,
    "bench": bench_command,
    "estimate": estimate,
    "convert": convert_command,
    "cache": cache,
    "memory": memory,
    "doctor": doctor,
}
