"""Measures the speed of a loaded model: medians over runs, after a warm-up."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from py_engine.diagnostics.encoder_bench import bench_encoder
from py_engine.diagnostics.picture_bench import bench_picture
from py_engine.diagnostics.probes import probe
from py_engine.diagnostics.profile import profile
from py_engine.diagnostics.traffic import Traffic, matrix_format
from py_engine.encode.encoder import Encoder
from py_engine.generate.answer import Answer, Generation
from py_engine.serve.engine import Engine
from py_engine.version import VERSION


@dataclass(frozen=True)
class BenchOptions:
    """What to measure. `sampling`: options of Engine.chat; without them decoding is greedy.

    `probe`: measure the device's memory bandwidth too, and how much of it decoding uses. `profile`: time every kernel
    too (needs the probe).
    """

    prompt_tokens: int = 512
    new_tokens: int = 128
    runs: int = 3
    sampling: Mapping[str, Any] = field(default_factory=dict)
    probe: bool = False
    profile: bool = False


async def bench(engine: Engine, options: BenchOptions) -> dict[str, Any]:
    """Measure a model: of an encoder the time of texts (diagnostics/encoder_bench.py), of a decoder the speed.

    It is measured with one text at a time, ignoring end tokens and reusing nothing from the cache between runs.

    prefill_tps: prompt tokens divided by the time to the first token. decode_tps: the `new_tokens` after the first,
    divided by the time from the first to the last. first_ttft_s: the time to the first token of the run before those,
    on a new engine its first answer. longest_gap_ms: the longest time between two tokens in any run but that one;
    longest_gap_at: how long the text was there, prompt included. A browser gives tokens to Python once in 16 ms, so
    only what is above that is a pause. `tokens`: what the last run sampled; when greedy the same on every host.
    picture_ms: where the model sees pictures (picture_bench.py).
    Raises ContextError when prompt and new tokens do not fit the context, InputError for sampling settings out of
    range.
    """
    runtime = engine.runtime
    if isinstance(runtime, Encoder):
        return await bench_encoder(engine, runtime, options.runs)
    prompt_tokens, new_tokens = options.prompt_tokens, options.new_tokens
    sampling = {"temperature": 0.0, "seed": 1, **options.sampling}
    rows: list[dict[str, float]] = []
    gaps: list[tuple[float, int]] = []
    tokens: list[int] = []
    vocab = engine.vocab_size
    for run in range(max(3, options.runs) + 1):
        # Each run has another first token, so that no prefix of its prompt is in the cache.
        ids = [(7 * i + 13 * run + 1) % min(vocab, 250) for i in range(prompt_tokens)]
        work = engine.generate(ids, max_tokens=new_tokens + 1, ignore_eos=True, **sampling)
        answer, gap, at = await _watched(work)
        gaps.append((gap, prompt_tokens + at))
        tokens = answer.tokens
        t = answer.timings
        rows.append({"prefill_tps": t.prefill_tps, "decode_tps": t.decode_tps, "ttft_s": t.ttft_s})
    first = rows.pop(0)  # it makes what the others find made
    longest, longest_at = max(gaps[1:])
    info = engine.info()
    result: dict[str, Any] = {
        "version": VERSION,
        "model": info["model"],
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "sampling": dict(options.sampling),
        "runs": len(rows),
        "tokens": tokens,
        "first_ttft_s": round(first["ttft_s"], 4),
        "longest_gap_ms": round(1000 * longest, 2),
        "longest_gap_at": longest_at,
    }
    for key in ("prefill_tps", "decode_tps", "ttft_s"):
        result[key] = round(median(row[key] for row in rows), 4)
        result[key + "_all"] = [round(row[key], 4) for row in rows]
    result |= await bench_picture(engine, len(rows))
    result |= {
        k: info[k]
        for k in (
            "dtype",
            "load_s",
            "plan",
            "memory",
            "traffic",
            "tuning",
            "self_check",
            "adapter",
            "features",
        )
    }
    head = "greedy" if sampling["temperature"] == 0 else "sampled"
    if options.probe or options.profile:
        result |= await _bandwidth(engine, head, result)
    if options.profile:
        probes = result["probes"]
        async with engine.exclusive() as decoder:
            found = await profile(decoder, head, prompt_tokens, probes["read_gb_s"])
        result["profile"] = _beside_wall(found, result)
    return result


async def _watched(work: Generation) -> tuple[Answer, float, int]:
    """The answer, the longest time in seconds between two of its batches of tokens, and how many came before it."""
    longest, before, last = 0.0, 0, 0.0
    async for delta in work:
        now = time.perf_counter()
        if last and now - last > longest:
            longest, before = now - last, delta.num_tokens - delta.tokens
        last = now
    return await work, longest, before


async def _bandwidth(engine: Engine, head: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """The bandwidth of the device, and what a token in the middle of the run had to read."""
    middle = result["prompt_tokens"] + result["new_tokens"] // 2
    async with engine.exclusive() as decoder:
        probes = await probe(decoder.gpu)
        traffic = Traffic(decoder.model, decoder.state, decoder.sampler.logits)
        plan = decoder.token_plan(head)
        nbytes = traffic.of_plans([plan], 1, middle).lasting
        formats = Counter[str]()
        for call in plan.calls:
            if name := matrix_format(call):
                formats[name] += round(traffic.reads(call, 1, middle).weights)
    used = nbytes * result["decode_tps"] / 1e9
    return {
        "probes": asdict(probes),
        "weights": formats.most_common(1)[0][0] if formats else "",  # the format of most bytes
        "decode_dispatches": len(plan.dispatches),
        "read_bytes_per_token": round(nbytes),
        "bandwidth_percent": round(100 * used / probes.read_gb_s, 1) if probes.read_gb_s else 0.0,
    }


def _beside_wall(found: dict[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """The profile, with the time of a pass in normal use, and how much of that time the GPU was idle."""
    bandwidth, empty_us = result["probes"]["read_gb_s"], result["probes"]["dispatch_us"]
    walls: dict[str, float | None] = {"decode": None, "prefill": None}
    if result["decode_tps"]:
        walls["decode"] = 1e6 / result["decode_tps"]
    # The mean of the prompt's chunks.
    walls["prefill"] = 1e6 * result["ttft_s"] * found["prefill"]["tokens"] / result["prompt_tokens"]
    for name, wall in walls.items():
        section = found[name]
        whole, alone = section["pass_us"], section["alone_us"]
        seconds = (wall or whole or section["kernels_us"]) / 1e6
        gb_s = section["read_bytes"] / seconds / 1e9 if seconds else 0.0
        section |= {
            "between_kernels_us": None
            if whole is None or alone is None
            else round(whole - alone, 2),
            "empty_us": round(empty_us * section["dispatches"], 2),
            "wall_us": None if wall is None else round(wall, 2),
            "idle_us": None if whole is None or wall is None else round(wall - whole, 2),
            "gb_s": round(gb_s, 1),
            "bandwidth_percent": round(100 * gb_s / bandwidth, 1) if bandwidth else 0.0,
        }
    return found
