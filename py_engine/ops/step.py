"""The `Step` struct of shaders/lib/step.wgsl in Python, and passes whose rows it describes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from py_engine.graph.programs import Features, Forms, Program
from py_engine.graph.trace import Tensor, Trace
from py_engine.host.gpu import AdapterInfo

STEP_BYTES = 32

HALT_STOP = 1  # a stop token was sampled
HALT_LENGTH = 2  # the token limit was reached


@dataclass(eq=False)
class Pass(Trace):
    """A trace over at most `rows` rows (1 in decode, a chunk in prefill). `step` on the GPU says how many of them
    are valid, and the position of the first one."""

    step: Tensor = field(kw_only=True)
    shared: dict[Hashable, Tensor] = field(
        default_factory=dict
    )  # activations that several layers read


def pass_program(
    name: str,
    fill: Callable[[Pass], None],
    *,
    step: Tensor,
    info: AdapterInfo,
    sizes: tuple[int, ...] = (1,),
    later: int | None = None,
    alone: bool = True,
) -> Program:
    """A program (graph/programs.py) whose passes over `step` are traced by `fill`."""

    def write(rows: int, features: Features, forms: Forms) -> Pass:
        trace = Pass(rows, features, info, forms, step=step)
        fill(trace)
        return trace

    return Program(name, write, sizes, later, alone)


def pack_step(
    *, pos: int, rows: int, limit: int = 0, token: int = 0, count: int = 0, shift: int = 0
) -> bytes:
    """The step as the host writes it before a pass (halt = 0). `shift`: rotary position minus row of the KV cache;
    it is negative after images."""
    return struct.pack("<8I", token, 0, pos, count, rows, limit, shift % (1 << 32), 0)
