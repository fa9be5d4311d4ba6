"""Measures the speed of a loaded text encoder: medians over runs, after a warm-up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from py_engine.encode.encoder import Encoder
from py_engine.serve.engine import Engine
from py_engine.tasks.embed import EmbedJob
from py_engine.version import VERSION

BATCHES = ((1, 32), (64, 128))  # (texts, tokens of each)


async def bench_encoder(engine: Engine, encoder: Encoder, runs: int) -> dict[str, Any]:
    """Milliseconds from ids to vectors in the caller's memory, for each of BATCHES (texts cut to what the model takes).

    batches: {texts, tokens, ms, ms_all, first_ms} each; `first_ms` is that of the run before those, which makes what
    the others find made. The rest is as in `bench` of a model that generates text.
    """
    info = engine.info()
    batches = [await _measured(engine, encoder, texts, tokens, runs) for texts, tokens in BATCHES]
    passes = {name: len(plan.dispatches) for name, plan in encoder.programs.plans.items()}
    return {
        "version": VERSION,
        "model": info["model"],
        "runs": len(batches[0]["ms_all"]),
        "batches": batches,
        "dispatches": passes,
        **{
            key: info[key]
            for key in ("dtype", "load_s", "plan", "memory", "self_check", "adapter", "features")
        },
    }


async def _measured(
    engine: Engine, encoder: Encoder, texts: int, tokens: int, runs: int
) -> dict[str, Any]:
    tokens, vocab = min(tokens, encoder.context), encoder.model.vocab_size
    times = []
    for run in range(max(3, runs) + 1):
        ids: Sequence[list[int]] = [
            [(7 * i + 13 * run + 29 * text + 1) % vocab for i in range(tokens)]
            for text in range(texts)
        ]
        started = time.perf_counter()
        await engine.start(EmbedJob(ids, encoder.model.vector_size))
        times.append(1000 * (time.perf_counter() - started))
    first, *rest = (round(ms, 3) for ms in times)
    return {
        "texts": texts,
        "tokens": tokens,
        "ms": median(rest),
        "ms_all": rest,
        "first_ms": first,
    }
