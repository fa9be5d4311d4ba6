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
HEADS = ("logits", "greedy", "sampled")
CHAINS = tuple(("decode", head) for head in HEADS)


def passes(model: Model, state: State, sampler: Sampler, info: AdapterInfo) -> Sequence[Program]:
    """ "prefill" (rows of a chunk), "decode" (one token), HEADS that follow either, and "forget" and "mark" of the
    sampler's history."""

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

    sizes = tuple(sorted({min(rows, state.max_rows) for rows in PREFILL_ROWS}))
    return (
        program("prefill", body, sizes=sizes),
        program("decode", body, alone=False),
        program("logits", logits),
        program("greedy", greedy),
        program("sampled", sampled),
        program("forget", sampler.forget),
        program("mark", sampler.mark, sizes=sizes[-1:]),
    )
