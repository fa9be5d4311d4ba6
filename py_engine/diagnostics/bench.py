"""Speed of one loaded model: medians over runs after a warm-up. Times are benchmarks, never asserted."""

from __future__ import annotations

from statistics import median
from typing import Any

from py_engine.serve.engine import Engine


async def bench(engine: Engine, prompt_tokens: int, new_tokens: int, runs: int) -> dict[str, Any]:
    """Greedy, batch 1, end tokens ignored, nothing reused from the cache between runs.

    prefill_tps: prompt tokens by the time to the first token. decode_tps: the `new_tokens` after the first by the time
    from first to last. `tokens`: what the last run sampled, the same on every host.
    Raises ContextError when both do not fit the context.
    """
    rows: list[dict[str, float]] = []
    tokens: list[int] = []
    vocab = engine.vocab_size
    for run in range(max(3, runs) + 1):
        # Another first token every run: no common prefix with the last prompt, so nothing comes from the cache.
        ids = [(7 * i + 13 * run + 1) % min(vocab, 250) for i in range(prompt_tokens)]
        answer = await engine.generate(
            ids, max_tokens=new_tokens + 1, temperature=0.0, ignore_eos=True
        )
        tokens = answer.tokens
        t = answer.timings
        if run:  # the first warms caches and pipelines up
            rows.append(
                {"prefill_tps": t.prefill_tps, "decode_tps": t.decode_tps, "ttft_s": t.ttft_s}
            )
    info = engine.info()
    result: dict[str, Any] = {
        "model": info["model"],
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "runs": len(rows),
        "tokens": tokens,
    }
    for key in ("prefill_tps", "decode_tps", "ttft_s"):
        result[key] = round(median(row[key] for row in rows), 4)
        result[key + "_all"] = [round(row[key], 4) for row in rows]
    return result | {
        k: info[k] for k in ("load_s", "plan", "memory", "traffic", "adapter", "features")
    }
