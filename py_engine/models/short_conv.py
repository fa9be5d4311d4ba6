"""LFM2's gated short convolution as a mixer. Reference: transformers, models/lfm2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from py_engine.graph.matrix import Linear
from py_engine.graph.trace import Tensor, Trace
from py_engine.models.layers import project
from py_engine.models.state import State
from py_engine.ops.linear import linear
from py_engine.ops.norm import Norm
from py_engine.ops.short_conv import short_conv


@dataclass(frozen=True, eq=False)
class ShortConv:
    """in_proj [3 h, h] gives B, C, X; out(C * convolution(B * X)), out [h, h]; weight f32 [h taps], bias f32 [h]."""

    recurrent: ClassVar[bool] = True

    taps: int
    in_proj: Linear
    weight: Tensor
    bias: Tensor | None
    out: Linear

    def make_state(self, state: State, name: str) -> Tensor:
        """The last taps - 1 rows of B * X, [taps - 1, h]."""
        return state.recurrent(f"{name}.conv", self.taps - 1, self.in_proj.cols)

    def forward(
        self, trace: Trace, state: State, slot: Tensor, norm: Norm, out: Tensor | None
    ) -> None:
        proj = trace.tensor("conv in", trace.rows, self.in_proj.rows)
        linear(trace, "conv in", state.x, self.in_proj, proj, norm=norm)
        y = trace.tensor("conv", trace.rows, self.in_proj.cols)
        short_conv(trace, proj, self.weight, self.bias, slot, y)
        project(trace, state, "conv out", y, self.out, out)
