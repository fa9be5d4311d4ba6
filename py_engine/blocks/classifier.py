"""The head of a cross-encoder: one number, the logit of relevance, for each text (pair) that an encoder has read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from py_engine.blocks.projections import Projection
from py_engine.errors import ModelError
from py_engine.graph.matrix import Linear
from py_engine.graph.trace import Tensor
from py_engine.ops.gate import Activation
from py_engine.ops.linear import linear
from py_engine.ops.norm import Norm, apply_norm
from py_engine.ops.pool import Pooling
from py_engine.ops.step import Pass
from py_engine.sources.config import Config
from py_engine.weights.store import WeightStore

_ENDING = "ForSequenceClassification"


@dataclass(frozen=True, eq=False)
class Classifier:
    """out(norm(act(dense x))) of the row x that `pooling` makes of a text's rows: dense [h, h], out [1, h]."""

    pooling: Pooling
    dense: Projection
    out: Linear
    norm: Norm | None = None

    def forward(self, trace: Pass, x: Tensor, y: Tensor) -> None:
        """y [S, 1] f32, the logits, of pooled rows x [S, h] f32."""
        middle = trace.tensor("classifier", *x.shape)
        self.dense.forward(trace, x, middle)
        if self.norm is not None:
            normed = trace.tensor("classifier", *x.shape)
            apply_norm(trace, middle, self.norm, normed)
            middle = normed
        linear(trace, "classifier", middle, self.out, y)


def classifies(config: Config) -> bool:
    """Whether `architectures` of config.json names a model with a classifier."""
    names = config.get("architectures")
    first = names[0] if isinstance(names, list) and names else None
    return isinstance(first, str) and first.endswith(_ENDING)


def read_classifier(
    config: Config,
    store: WeightStore,
    width: int,
    dense: str,
    out: str,
    *,
    pooling: Pooling = "first",
    activation: Activation | None = None,
    bias: bool = True,
    norm: Norm | None = None,
) -> Classifier | None:
    """The classifier of an encoder of this `width`, if config.json says that the checkpoint has one. Its layers are
    never quantised.

    `dense`, `out`: names of its layers. `activation` of the first one: None is tanh. `bias`: whether that has one.
    Raises ModelError for several labels: what their numbers mean is another task's affair.
    """
    if not classifies(config):
        return None
    labels = _labels(config)
    if labels != 1:
        raise ModelError(
            f"config.json: {config['architectures'][0]} with {labels} labels (num_labels, id2label): supported are "
            "models with one, whose number says how well a document answers a query (cross-encoders)"
        )
    return Classifier(
        pooling,
        Projection(
            store.linear([dense], [width], width, bias=bias, plain=True),
            activation,
            tanh=activation is None,
        ),
        store.linear([out], [1], width, bias=True, plain=True),
        norm,
    )


def _labels(config: Mapping[str, Any]) -> int:
    """The number of labels: of `id2label`, else `num_labels`, else transformers' default."""
    names = config.get("id2label")
    if isinstance(names, dict) and names:
        return len(names)
    number = config.get("num_labels", 2)
    return number if type(number) is int else 0
