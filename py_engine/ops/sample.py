"""Choosing the next token on the GPU (shaders/sample_*.wgsl): 2 dispatches when greedy, 3 when sampled.

Both write token, halt, pos and count of the step, rows = 1, and ids[0]: the next pass needs nothing from the host.
Once step.halt is set they change nothing.

How exact sampling is (README says the same for users):

- Top-k up to 1024, alone or with top-p and min-p after it, keeps exactly the tokens of the definition, whatever the
  logits. Of equal logits it keeps the lowest ids. Weights are summed in f32, so top-p's cut may move past tokens whose
  running share is within 1e-5 of top_p.
- Top-p without top-k, or after a larger top-k, is as exact while at most 1024 tokens lie in the bucket of 1/64 nat in
  which it cuts. In a fuller bucket all tokens count with their mean weight. The cut then moves by at most 0.4 % of
  that bucket's weight, and not at all when the weights are equal. After a top-k beyond 1024 the total has the same
  bound, relative to the weight of top-k's last bucket.
- Tokens 32 nats or more below the best one are never drawn. Together they have at most 2^19 e^-32 = 7e-9 of its
  probability.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from py_engine.errors import InputError, ModelError
from py_engine.graph.trace import Tensor, exact, kernel
from py_engine.ops.step import Pass

SAMPLING_BYTES = 112  # struct Sampling of shaders/lib/sampling.wgsl
MAX_STOP_IDS = 16

# The bit of a token's history that says it stands in the prompt; the other bits count its uses in the answer
# (shaders/lib/sampling.wgsl).
IN_PROMPT = 1 << 31

HISTOGRAM_WORDS = 2 * 2048  # lib/sample_buckets.wgsl

_RUN = 2048  # logits a workgroup
_RUN_BLOCKS = 16  # blocks a run (lib/sample_blocks.wgsl)
_MAX_RUNS = 256


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

    The caller checks the ranges (generate/sampling.py). Raises InputError for more than 16 stop ids.
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


def sample_greedy(
    trace: Pass, ids: Tensor, logits: Tensor, sampling: Tensor, counts: Tensor
) -> None:
    """The best token of logits [V] f32 after penalties (2 dispatches). Of equal logits the lowest id wins; NaN never
    does.

    sampling: pack_sampling's words; counts u32 [V], the history of each token. Raises ModelError for V > 524288.
    """
    best = _best_of_blocks(trace, logits, sampling, counts)
    trace.call(
        "sample take",
        kernel("sample_take", ["step", "sampling", "sample_best", "sample_top", "sample_step"]),
        [(best, "r"), (sampling, "r"), (exact(counts), "w"), (ids, "w"), (trace.step, "w")],
        (1, 1, 1),
    )


def sample_random(
    trace: Pass, ids: Tensor, logits: Tensor, sampling: Tensor, counts: Tensor, histogram: Tensor
) -> None:
    """A token by its probability after penalties, temperature, top-k, top-p and min-p, in this order (3 dispatches).

    histogram: u32 [HISTOGRAM_WORDS] of zeros, and zeros again afterwards. This file's docstring says how
    exact the choice is. The noise depends on seed, step.count and token. Raises ModelError for V > 524288.
    """
    best = _best_of_blocks(trace, logits, sampling, counts)
    blocks = best.shape[0]
    scores = trace.tensor("sample scores", blocks, 2, dtype="u32")
    uses = ["step", "sampling", "sample_best", "sample_blocks", "sample_top", "sample_buckets"]
    trace.call(
        "sample histogram",
        kernel("sample_histogram", [*uses, "sample_mode", "hash", "sample_noise"]),
        [
            (exact(logits), "r"),
            (exact(counts), "r"),
            (best, "r"),
            (sampling, "r"),
            (trace.step, "r"),
            (histogram, "w"),
            (scores, "w"),
        ],
        (blocks // _RUN_BLOCKS, 1, 1),
    )
    trace.call(
        "sample choose",
        kernel(
            "sample_choose",
            [*uses, "sample_mode", "hash", "sample_noise", "sample_pick", "sample_step"],
        ),
        [
            (exact(logits), "r"),
            (best, "r"),
            (scores, "r"),
            (sampling, "r"),
            (histogram, "w"),
            (exact(counts), "w"),
            (ids, "w"),
            (trace.step, "w"),
        ],
        (1, 1, 1),
    )


def mark_prompt(trace: Pass, ids: Tensor, counts: Tensor) -> None:
    """Note ids[:step.rows] as tokens of the prompt (at most trace.rows of them)."""
    trace.call(
        "sample mark",
        kernel("sample_mark", ["step", "sampling"]),
        [(ids, "r"), (trace.step, "r"), (exact(counts), "w")],
        (-(-trace.rows // 64), 1, 1),
    )


def clear_counts(trace: Pass, counts: Tensor) -> None:
    """Clear the history of every token, in prompt and answer."""
    v = counts.shape[0]
    trace.call(
        "sample clear",
        kernel("sample_clear"),
        [(exact(counts), "w")],
        (-(-v // 256), 1, 1),
    )


def _best_of_blocks(trace: Pass, logits: Tensor, sampling: Tensor, counts: Tensor) -> Tensor:
    """(order_key, token) of the best token of each block of 128, u32 [blocks, 2]."""
    v = logits.shape[-1]
    if counts.shape != (v,):
        raise ValueError(f"sample: counts {counts.shape} for {v} logits")
    if v > _RUN * _MAX_RUNS:
        raise ModelError(
            f"a vocabulary of {v} tokens: the sampling kernels take at most {_RUN * _MAX_RUNS}"
        )
    runs = -(-v // _RUN)
    best = trace.tensor("sample best", runs * _RUN_BLOCKS, 2, dtype="u32")
    trace.call(
        "sample argmax",
        kernel("sample_argmax", ["sampling", "sample_best", "sample_blocks"]),
        [(exact(logits), "r"), (exact(counts), "r"), (sampling, "r"), (best, "w")],
        (runs, 1, 1),
    )
    return best
