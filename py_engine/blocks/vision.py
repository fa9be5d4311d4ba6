"""A vision tower: patches of a picture to rows, which a language model takes in the place of embeddings.

Patch embedding, learned positions resampled to the picture's grid, where there are some rotary ones by row and column,
pre-norm blocks with attention to both sides, a projector. The T rows of a pass hold the frames of one picture (a still
has one), one after another; a frame's rows see each other and no others.
Papers: Dosovitskiy et al. 2020, arXiv:2010.11929; Tschannen et al. 2025 (SigLIP 2), arXiv:2502.14786; Oquab et al. 2023
(DINOv2), arXiv:2304.07193; Bai et al. 2025 (Qwen3-VL), arXiv:2511.21631.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from py_engine.blocks.position_taps import Resampling, most_taps, packed
from py_engine.blocks.state import Rope
from py_engine.graph.matrix import Linear
from py_engine.graph.trace import Tensor
from py_engine.ops.attention_full import FullHeads, HeadRows, full_attention
from py_engine.ops.gate import Activation
from py_engine.ops.linear import linear
from py_engine.ops.norm import Norm, apply_norm
from py_engine.ops.patch_positions import add_positions, gather_rows
from py_engine.ops.rope import Heads, rope_angles, rotate_rows
from py_engine.ops.step import Pass


@dataclass(frozen=True, eq=False)
class TowerInputs:
    """What a pass reads. `patches` f32 [R, k]; u32: `places` [R, 2], row and column of each patch in the grid, `spans`
    [R, 2], the rows that a row sees, `order` [R], in which patches of a block stand side by side, `axes` [pairs], which
    of its places turns a rotary pair. `taps` f32 [2, sides, 2 + n] as in ops/patch_positions.py; `rope` f32, a table
    (blocks/state.py). `merged`: a step whose rows are blocks."""

    patches: Tensor
    places: Tensor
    spans: Tensor
    order: Tensor
    axes: Tensor
    taps: Tensor
    rope: Tensor
    merged: Tensor


@dataclass(frozen=True, eq=False)
class PatchPositions:
    """Learned positions: table f32 [side^2, h]; with `cls` [h], a row that comes before the patches, [1 + side^2, h],
    the first for that row."""

    table: Tensor
    side: int
    kind: Resampling
    cls: Tensor | None = None

    @property
    def taps(self) -> int:
        """The most taps of an axis."""
        return most_taps(self.kind, self.side)

    def packed(self, count: int) -> bytes:
        """The taps of so many rows or columns, f32 [count, 2 + taps]."""
        return packed(self.kind, self.side, count)


@dataclass(frozen=True, eq=False)
class TowerBlock:
    """x += o(attention(norm x)); x += down(act(up(norm x))). qkv stacked [3 H D, h], o [h, H D], up [I, h], down
    [h, I], with biases; layer scale is in the factors of o and down."""

    attention_norm: Norm
    qkv: Linear
    o: Linear
    mlp_norm: Norm
    up: Linear
    down: Linear

    def forward(
        self, trace: Pass, tower: Tower, inputs: TowerInputs, x: Tensor, angles: Tensor | None
    ) -> None:
        """Run one layer over x [T, h], in place. `angles` f32 [T, D / 2, 2]: how far the heads of each row turn."""
        heads = tower.heads
        width = heads.count * heads.dim
        qkv = trace.tensor("qkv", trace.rows, self.qkv.rows)
        linear(trace, "qkv", x, self.qkv, qkv, norm=self.attention_norm)
        if angles is not None:
            turning = Heads(heads.count, heads.count, heads.dim, angles, heads.dim, per_row=True)
            rotate_rows(trace, turning, qkv)
        seen = trace.tensor("attention", trace.rows, width)
        full_attention(
            trace, heads, HeadRows(qkv), HeadRows(qkv, width), HeadRows(qkv, 2 * width),
            inputs.spans, seen,
        )  # fmt: skip
        linear(trace, "o", seen, self.o, x, residual=True)
        middle = trace.tensor("mlp", trace.rows, self.up.rows)
        linear(trace, "up", x, self.up, middle, norm=self.mlp_norm, activation=tower.activation)
        linear(trace, "down", middle, self.down, x, residual=True)


@dataclass(frozen=True, eq=False)
class Projector:
    """fc2(act(fc1(norm(block)))) of blocks of `side` x `side` patches, put side by side row by row. fc1 [., side^2 h],
    fc2 [out, .]."""

    side: int
    fc1: Linear
    fc2: Linear
    activation: Activation
    norm: Norm | None = None

    def forward(self, trace: Pass, inputs: TowerInputs, x: Tensor, out: Tensor) -> None:
        """out [>= T / side^2, out] of x [T, h]."""
        n = self.side**2
        blocks = trace.tensor("blocks", trace.rows // n, n * x.shape[-1])
        gather_rows(trace, x, inputs.order, blocks)
        whole = Pass(
            trace.rows // n,
            trace.features,
            trace.info,
            trace.forms,
            trace.calls,
            step=inputs.merged,
        )
        middle = trace.tensor("projector", whole.rows, self.fc1.rows)
        linear(whole, "fc1", blocks, self.fc1, middle, norm=self.norm, activation=self.activation)
        linear(whole, "fc2", middle, self.fc2, out)


@dataclass(frozen=True, eq=False)
class Tower:
    """A vision tower. `patch` [h, k]: a patch's numbers to its row. `rope`: turns heads by row and column (axes 0 and
    1); None: not. `norm`: after the blocks, on each patch. `by_blocks`: patches come block by block of the projector
    (Qwen), else row by row of the picture."""

    patch: Linear
    positions: PatchPositions
    blocks: Sequence[TowerBlock]
    heads: FullHeads
    activation: Activation
    norm: Norm
    projector: Projector | None = None
    rope: Rope | None = None
    by_blocks: bool = False

    @property
    def side(self) -> int:
        """Patches on a side of the block that becomes one row."""
        return self.projector.side if self.projector else 1

    @property
    def width(self) -> int:
        """Numbers of a row that comes out."""
        return self.projector.fc2.rows if self.projector else self.patch.rows

    @property
    def extra(self) -> int:
        """Rows of a picture that are no patches: CLS, which comes first."""
        return int(self.positions.cls is not None)

    def forward(self, trace: Pass, inputs: TowerInputs, out: Tensor) -> None:
        """out f32 [>= T / side^2, width]: the rows of the picture in this pass."""
        positions = self.positions
        x = trace.tensor("x", trace.rows, self.patch.rows)
        linear(trace, "patches", inputs.patches, self.patch, x)
        add_positions(trace, x, inputs.places, inputs.taps, positions.table, positions.cls)
        angles = None
        if self.rope is not None:
            angles = rope_angles(trace, inputs.places, inputs.axes, inputs.rope)
        for block in self.blocks:
            block.forward(trace, self, inputs, x, angles)
        if self.projector is None:
            apply_norm(trace, x, self.norm, out)
            return
        normed = trace.tensor("x", trace.rows, self.patch.rows)
        apply_norm(trace, x, self.norm, normed)
        self.projector.forward(trace, inputs, normed, out)
