"""LFM2's gated short convolution as a mixer. Reference: transformers, models/lfm2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from py_engine.blocks.layers import project
from py_engine.blocks.state import State
from py_engine.graph.matrix import Linear
from py_engine.graph.trace import Tensor
from py_engine.ops.matvec import Convolution
from py_engine.ops.norm import Norm
from py_engine.ops.short_conv import short_conv
from py_engine.ops.step import Pass


@dataclass(frozen=True, eq=False)
class ShortConv:
    """in_proj [3 h, h] gives B, C, X; out(C * convolution(B * X)), out [h, h]; weights f32: see ops/matvec.py."""

    recurrent: ClassVar[bool] = True

    taps: int
    in_proj: Linear
    weights: Tensor
    out: Linear

    def make_state(self, state: State, name: str) -> Tensor:
        """B * X of the last `taps` tokens, [taps, h]."""
        return state.recurrent(f"{name}.conv", self.taps, self.in_proj.cols)

    def forward(
        self, trace: Pass, state: State, slot: Tensor, norm: Norm | None, out: Tensor | None
    ) -> None:
        y = trace.tensor("conv", trace.rows, self.in_proj.cols)
        conv = Convolution(self.weights, slot, self.in_proj.bias is not None)
        short_conv(trace, state.x, self.in_proj, conv, y, norm)
        project(trace, state, "conv out", y, self.out, out)
