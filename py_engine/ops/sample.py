"""Choosing the next token on the GPU (shaders/sample_*.wgsl): 2 dispatches when greedy, 4 when sampled.

Both write token, halt, pos and count of the step, rows = 1, and ids[0]: the next pass needs nothing from the host.
Once step.halt is set they change nothing.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from py_engine.errors import InputError, ModelError
from py_engine.graph.trace import Tensor, Trace, kernel

SAMPLING_BYTES = 112  # struct Sampling of shaders/lib/sampling.wgsl
MAX_STOP_IDS = 16

_RUN = 2048  # logits a workgroup
_MAX_RUNS = 256
_HISTOGRAM = 2 * 2048 + 1
_LIST = 1024


def pack_sampling(
    *,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    seed: int = 0,
    stop_ids: Sequence[int] = (),
) -> bytes:
    """The `sampling` buffer's bytes. Temperature 0 is greedy in either sequence; top_k 0, top_p 1, min_p 0 are off.

    Ranges are the caller's to check (generate/sampling.py). Raises InputError for more than 16 stop ids.
    """
    if len(stop_ids) > MAX_STOP_IDS:
        raise InputError(f"{len(stop_ids)} stop ids: the GPU watches for at most {MAX_STOP_IDS}")
    greedy = temperature <= 0.0
    penalised = (repetition_penalty, presence_penalty, frequency_penalty) != (1.0, 0.0, 0.0)
    return struct.pack(
        "<fIfffffIIIII16I",
        1.0 if greedy else 1.0 / max(temperature, 1e-5),
        1 if greedy else min(top_k, 0xFFFFFFFF),
        1.0 if greedy else top_p,
        1e30 if greedy or min_p <= 0.0 else -math.log(min_p),
        repetition_penalty,
        presence_penalty,
        frequency_penalty,
        penalised,
        seed & 0xFFFFFFFF,
        len(stop_ids),
        0,
        0,
        *[*stop_ids, *[0] * MAX_STOP_IDS][:MAX_STOP_IDS],
    )


def sample_greedy(trace: Trace, logits: Tensor, sampling: Tensor, counts: Tensor) -> None:
    """The best token of logits [V] f32 after penalties; the lowest of equals; NaN never (2 dispatches).

    sampling: pack_sampling's words; counts u32 [V], the history of each token. Raises ModelError for V > 524288.
    """
    v, runs = _sizes(logits, counts)
    best = trace.tensor("sample best", _MAX_RUNS, 2, dtype="u32")
    trace.call(
        "sample argmax",
        kernel("sample_argmax", ["sampling", "sample_best"], {"V": v}),
        [(logits, "r"), (counts, "r"), (sampling, "r"), (best, "w")],
        (runs, 1, 1),
    )
    trace.call(
        "sample take",
        kernel("sample_take", ["step", "sampling", "sample_best", "sample_step"], {"GROUPS": runs}),
        [(best, "r"), (sampling, "r"), (counts, "w"), (trace.ids, "w"), (trace.step, "w")],
        (1, 1, 1),
    )


def sample_random(trace: Trace, logits: Tensor, sampling: Tensor, counts: Tensor) -> None:
    """A token by its probability after penalties, temperature, top-k, top-p and min-p, in this order (4 dispatches).

    logits [V] f32 are changed in place. Exact unless over 1024 tokens share 1/64 nat at the border of top-k or top-p
    (shaders/sample_select.wgsl); tokens 32 nats below the best one have probability 0. The noise depends on seed,
    step.count and token. Raises ModelError for V > 524288.
    """
    v, runs = _sizes(logits, counts)
    highest = trace.tensor("sample highest", _MAX_RUNS)
    histogram = trace.tensor("sample histogram", _HISTOGRAM, dtype="u32")
    best = trace.tensor("sample best", _MAX_RUNS, 2, dtype="u32")
    candidates = trace.tensor("sample candidates", 4 + 2 * _LIST, dtype="u32")
    trace.call(
        "sample scale",
        kernel("sample_scale", ["sampling", "sample_best", "sample_buckets"], {"V": v}),
        [(logits, "w"), (counts, "r"), (sampling, "r"), (highest, "w"), (histogram, "w")],
        (runs, 1, 1),
    )
    trace.call(
        "sample histogram",
        kernel("sample_histogram", ["sample_buckets", "sample_highest"], {"V": v, "GROUPS": runs}),
        [(logits, "r"), (highest, "r"), (histogram, "w")],
        (runs, 1, 1),
    )
    uses = ["step", "sampling", "sample_best", "sample_buckets"]
    trace.call(
        "sample select",
        kernel(
            "sample_select",
            [*uses, "sample_highest", "hash", "sample_noise"],
            {"V": v, "GROUPS": runs},
        ),
        [
            (logits, "r"),
            (highest, "r"),
            (sampling, "r"),
            (trace.step, "r"),
            (histogram, "w"),
            (best, "w"),
            (candidates, "w"),
        ],
        (runs, 1, 1),
    )
    trace.call(
        "sample choose",
        kernel("sample_choose", [*uses, "hash", "sample_noise", "sample_step"], {"GROUPS": runs}),
        [
            (candidates, "r"),
            (histogram, "r"),
            (best, "r"),
            (sampling, "r"),
            (counts, "w"),
            (trace.ids, "w"),
            (trace.step, "w"),
        ],
        (1, 1, 1),
    )


def mark_prompt(trace: Trace, counts: Tensor) -> None:
    """Note trace.ids[:step.rows] as tokens of the prompt (at most trace.rows of them)."""
    trace.call(
        "sample mark",
        kernel("sample_mark", ["step", "sampling"], {"V": counts.shape[0]}),
        [(trace.ids, "r"), (trace.step, "r"), (counts, "w")],
        (-(-trace.rows // 64), 1, 1),
    )


def clear_counts(trace: Trace, counts: Tensor) -> None:
    """Forget prompt and answer."""
    v = counts.shape[0]
    trace.call(
        "sample clear",
        kernel("sample_clear", constants={"V": v}),
        [(counts, "w")],
        (-(-v // 256), 1, 1),
    )


def _sizes(logits: Tensor, counts: Tensor) -> tuple[int, int]:
    """V and the workgroups for it."""
    v = logits.shape[-1]
    if counts.shape != (v,):
        raise ValueError(f"sample: counts {counts.shape} for {v} logits")
    if v > _RUN * _MAX_RUNS:
        raise ModelError(
            f"a vocabulary of {v} tokens: the sampling kernels take at most {_RUN * _MAX_RUNS}"
        )
    return v, -(-v // _RUN)
