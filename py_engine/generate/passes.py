"""The passes of a decoder: a chunk of a prompt, one token, a head that makes a token of the logits, the history."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from py_engine.blocks.layers import Model
from py_engine.blocks.state import State
from py_engine.generate.sampler import Sampler
from py_engine.graph.programs import Program
from py_engine.host.gpu import AdapterInfo
from py_engine.ops.step import Pass, pass_program

PREFILL_ROWS = (512, 16)  # plan sizes; a chunk takes the smallest plan that holds it
WIDE_ROWS = 2048  # one more plan size, for long prompts, where memory allows it
HEADS = ("logits", "greedy", "sampled")
CHAINS = tuple(("decode", head) for head in HEADS)


def chunk_rows(context: int, most: int) -> int:
    """Rows of a chunk of at most `most`: no more than the context can fill."""
    return min(most, -(-context // 16) * 16)


def passes(
    model: Model, state: State, sampler: Sampler, info: AdapterInfo, wide: bool
) -> Sequence[Program]:
    """ "prefill" (rows of a chunk), "decode" (one token), HEADS that follow either, and "forget" and "mark" of the
    sampler's history. `wide`: chunks of WIDE_ROWS are made when they are needed."""

    program = partial(pass_program, step=state.step, info=info)

    def body(trace: Pass) -> None:
        model.forward(trace, state)

    def logits(trace: Pass) -> None:
        model.head(trace, state, sampler.logits)

    def greedy(trace: Pass) -> None:
        logits(trace)
        sampler.greedy(trace)

    def sampled(trace: Pass) -> None:
        logits(trace)
        sampler.sampled(trace)

    sizes = tuple(sorted({min(rows, state.rows.count) for rows in PREFILL_ROWS}))
    later = chunk_rows(state.context, WIDE_ROWS)
    return (
        program("prefill", body, sizes=sizes, later=later if wide and later > sizes[-1] else None),
        program("decode", body, alone=False),
        program("logits", logits),
        program("greedy", greedy),
        program("sampled", sampled),
        program("forget", sampler.forget),
        program("mark", sampler.mark, sizes=sizes[-1:]),
    )
