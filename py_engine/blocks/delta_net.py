"""Gated DeltaNet as a mixer: linear attention whose state is a matrix a head, updated by the delta rule.

Paper: Yang et al. 2024, Gated Delta Networks, arXiv:2412.06464. Reference: transformers, models/qwen3_5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from py_engine.blocks.layers import project
from py_engine.blocks.state import State
from py_engine.graph.matrix import Linear
from py_engine.graph.trace import Tensor
from py_engine.ops.delta import DeltaShape, delta_net
from py_engine.ops.linear import linear
from py_engine.ops.norm import Norm
from py_engine.ops.step import Pass


@dataclass(frozen=True, eq=False)
class DeltaNet:
    """projections stacked [q|k|v, z, b, a; h], out [h, values]; conv f32 [channels taps], decay f32 [2 value heads]:
    a_log and dt_bias, norm over a value head."""

    recurrent: ClassVar[bool] = True

    shape: DeltaShape
    projections: Linear
    conv: Tensor
    decay: Tensor
    norm: Norm
    out: Linear

    def make_state(self, state: State, name: str) -> tuple[Tensor, Tensor]:
        """q|k|v of the last `taps` tokens, and the matrices by columns [value heads, value_dim, key_dim]."""
        s = self.shape
        return (
            state.recurrent(f"{name}.conv", s.taps, s.channels),
            state.recurrent(f"{name}.delta", s.value_heads, s.value_dim, s.key_dim),
        )

    def forward(
        self,
        trace: Pass,
        state: State,
        slot: tuple[Tensor, Tensor],
        norm: Norm | None,
        out: Tensor | None,
    ) -> None:
        proj = trace.tensor("delta in", trace.rows, self.shape.projected)
        linear(trace, "delta in", state.x, self.projections, proj, norm=norm)
        y = trace.tensor("delta", trace.rows, self.shape.values)
        delta_net(trace, self.shape, proj, self.conv, self.decay, self.norm, slot, y)
        project(trace, state, "delta out", y, self.out, out)
