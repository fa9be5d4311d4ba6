"""Asks an engine for answers to token ids, for tests of its bookkeeping."""

from __future__ import annotations

from typing import Any

from py_engine.serve.engine import Engine
from tests.conftest import Runner


def answer(engine: Engine, run: Runner, ids: list[int], count: int, **options: Any) -> Any:
    """The answer to `ids`: greedy, and end tokens do not end it, unless the options say otherwise."""

    async def start() -> Any:
        return await engine.generate(
            ids, max_tokens=count, **{"temperature": 0.0, "ignore_eos": True, **options}
        )

    return run(start())


def fresh(engine: Engine, run: Runner, ids: list[int], count: int) -> list[int]:
    """The tokens of the answer when nothing of `ids` is cached."""
    run(engine.logits([1]))
    got = answer(engine, run, ids, count)
    assert got.cached_tokens == 0
    return list(got.tokens)
