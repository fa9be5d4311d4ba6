"""Measures where a token's time goes: times every kernel of a plan on the GPU, and counts the bytes that it reads.

It records the dispatches of plans anew; the plans themselves do not change. A pass is measured in three ways:

  us each   all calls of one kernel (its 28 layers, say) back to back in one compute pass between two timestamps, over
            and over until the pass takes some milliseconds: the layers' weights take turns as in a real token, the cost
            of starting a dispatch is in it, and a rounded clock does no harm
  pass      the whole plan in one compute pass between two timestamps: a token as the GPU sees it
  alone     the plan with a compute pass and two timestamps a dispatch; their sum is what the kernels themselves take,
            and what is left of `pass` are the gaps between dependent dispatches. Only where the clock is fine enough

Passes are submitted whole, whatever the model's submit strategy. Without timestamp queries the wall clock times
repeated replays, and `pass` and `alone` are missing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from py_engine.checks.clock import MOST_DISPATCHES, Clock
from py_engine.diagnostics.traffic import Reads, Traffic
from py_engine.errors import InputError
from py_engine.generate.decoder import Decoder
from py_engine.graph.plan import Plan
from py_engine.graph.trace import Call
from py_engine.host.gpu import MAX_TIMED_PASSES, Dispatch
from py_engine.ops.step import pack_step

_ROUNDS = 3
_STEPS = 16  # passes in a row, each at the next position
_FINE_NS = 2000  # a clock with coarser steps cannot time a single dispatch
_NO_LIMIT = 0xFFFFFFFF
_BORDER = 64  # chunks of a prompt begin at multiples of this


async def profile(decoder: Decoder, head: str, position: int, bandwidth: float) -> dict[str, Any]:
    """Profile one decode pass at `position`, and one prefill chunk in the middle of a prompt of `position` tokens (the
    cost of attention grows evenly with the position, so the middle chunk stands for the mean).

    `head`: "greedy" or "sampled", with the sampler's settings of the last generation. `bandwidth`: GB/s that the device
    can read. The content of the caches is lost. Raises InputError when the context has no room at `position`.
    """
    context = decoder.state.context
    if position >= context:
        raise InputError(f"position {position} is outside the context of {context}")
    clock = Clock(decoder.gpu)
    await clock.start()
    rows = min(decoder.chunk_rows, max(position, 1))
    middle = (position - rows) // 2 // _BORDER * _BORDER
    await decoder.fit(min(position + _STEPS, context))
    token, chunk = [decoder.token_plan(head)], decoder.chunk_plans(rows, head)
    sections = {
        "decode": await _section(decoder, clock, token, 1, position, bandwidth),
        "prefill": await _section(decoder, clock, chunk, rows, middle, bandwidth),
    }
    return {
        "clock": "timestamps" if clock.timestamps else "wall clock of repeated submits",
        "clock_step_ns": clock.step_ns,
        "bandwidth_gb_s": bandwidth,
        **sections,
    }


async def _section(
    decoder: Decoder,
    clock: Clock,
    plans: Sequence[Plan],
    rows: int,
    position: int,
    bandwidth: float,
) -> dict[str, Any]:
    """Profile one pass of `rows` tokens from `position`, which consists of `plans`, one after the other."""
    gpu, state = decoder.gpu, decoder.state
    traffic = Traffic(decoder.model, state, decoder.sampler.logits)
    step = state.step.buffer

    def reset() -> None:
        gpu.write(step, 0, pack_step(pos=position, rows=rows, limit=_NO_LIMIT))

    dispatches = [dispatch for plan in plans for dispatch in plan.dispatches]
    alike: dict[tuple[Any, ...], list[tuple[Call, Dispatch, Reads]]] = defaultdict(list)
    for plan in plans:
        for call, dispatch in zip(plan.calls, plan.dispatches, strict=True):
            reads = traffic.reads(call, min(rows, plan.rows), position)
            alike[call.label, call.kernel, call.groups].append((call, dispatch, reads))
    kernels = []
    for members in alike.values():
        seconds = await clock.each([dispatch for _, dispatch, _ in members], reset)
        reads = sum((r for *_, r in members), Reads())
        kernels.append(_kernel(members[0][0], len(members), reads, seconds, bandwidth))
    total = sum(k["us"] for k in kernels)
    for k in kernels:
        k["share"] = round(k["us"] / total, 4) if total else 0.0
    kernels.sort(key=lambda k: -k["us"])
    return {
        "tokens": rows,
        "position": position,
        "dispatches": len(dispatches),
        "kernels": kernels,
        "kernels_us": round(total, 2),
        "read_bytes": round(traffic.of_plans(plans, rows, position).lasting),
        **await _whole(
            clock, dispatches, reset, state.cache.capacity - position if rows == 1 else 1
        ),
    }


def _kernel(
    call: Call, count: int, reads: Reads, seconds: float, bandwidth: float
) -> dict[str, Any]:
    """A row of the table: `count` calls with the same label and pipeline. `reads`: of all of them together."""
    nbytes = reads.lasting + reads.activations
    gb_s = nbytes / count / seconds / 1e9 if seconds else 0.0
    return {
        "label": call.label,
        "shader": call.kernel.stem,
        "kernel": call.kernel.label,
        "groups": list(call.groups),
        "count": count,
        "us_each": round(seconds * 1e6, 3),
        "us": round(seconds * 1e6 * count, 2),
        "reads": {kind: round(n) for kind, n in asdict(reads).items()},
        "bytes_each": round(nbytes / count),
        "gb_s": round(gb_s, 1),
        "bandwidth_percent": round(100 * gb_s / bandwidth, 1) if bandwidth else 0.0,
    }


async def _whole(
    clock: Clock, dispatches: Sequence[Dispatch], reset: Callable[[], None], most: int
) -> dict[str, float | None]:
    """Microseconds of the pass as a whole, and of its single dispatches; None for what this clock cannot measure."""
    if not clock.timestamps:
        return {"pass_us": None, "alone_us": None}
    steps = max(1, min(most, _STEPS, MOST_DISPATCHES // len(dispatches)))
    whole, alone = float("inf"), None
    for _ in range(_ROUNDS):
        reset()
        whole = min(whole, (await clock.passes([list(dispatches) * steps]))[0] / steps)
    if len(dispatches) <= MAX_TIMED_PASSES:
        for _ in range(2):  # the first run warms up
            reset()
            alone = sum(await clock.passes([[d] for d in dispatches]))
    if clock.step_ns > _FINE_NS:
        alone = None
    return {
        "pass_us": round(whole * 1e6, 2),
        "alone_us": None if alone is None else round(alone * 1e6, 2),
    }
