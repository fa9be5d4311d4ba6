"""Projections of an encoder's pooled vectors: sentence-transformers' Dense modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from py_engine.blocks.dense import MAX_WIDTH
from py_engine.errors import ModelError
from py_engine.graph.matrix import Linear
from py_engine.graph.trace import Tensor
from py_engine.ops.gate import Activation
from py_engine.ops.linear import linear
from py_engine.ops.step import Pass
from py_engine.sources.config import Part, named, require_bool, require_int, require_str
from py_engine.weights.store import WeightStore

_TANH = "torch.nn.modules.activation.Tanh"
_ACTIVATIONS: Mapping[str, Activation | None] = {
    _TANH: None,
    "torch.nn.modules.linear.Identity": None,
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.SiLU": "silu",
}


@dataclass(frozen=True, eq=False)
class Projection:
    """act(W x + bias), or tanh(W x + bias) where `tanh`."""

    layer: Linear
    activation: Activation | None = None
    tanh: bool = False

    def forward(self, trace: Pass, x: Tensor, y: Tensor) -> None:
        """y [T, rows] f32 of x [T, cols] f32."""
        cap = 1.0 if self.tanh else 0.0  # with a cap of 1, v becomes tanh(v)
        linear(trace, "dense", x, self.layer, y, activation=self.activation, cap=cap)


def projections(modules: Sequence[Part], store: WeightStore, width: int) -> list[Projection]:
    """The projections of Dense modules, given by their config.json, in order. Tensors are beside that file, such as
    `2_Dense/linear.weight`, and are never quantised. `width`: numbers of a pooled vector. Raises ModelError naming file
    and key."""
    found = []
    for module in modules:
        require_str(
            module, "module_input_name", ("sentence_embedding",), "sentence_embedding"
        )  # projecting the rows before pooling is not supported
        given = require_int(module, "in_features", 1, MAX_WIDTH)
        if given != width:
            raise ModelError(
                f"{named(module, 'in_features')} is {given}, but the vectors before it have {width} numbers."
                " Files of different models or revisions: fetch them again."
            )
        width = require_int(module, "out_features", 1, MAX_WIDTH)
        name = require_str(module, "activation_function", _ACTIVATIONS, _TANH)
        layer = store.linear(
            [f"{module.folder}/linear"], [width], given,
            bias=require_bool(module, "bias", True), plain=True,
        )  # fmt: skip
        found.append(Projection(layer, _ACTIVATIONS[name], name == _TANH))
    return found
