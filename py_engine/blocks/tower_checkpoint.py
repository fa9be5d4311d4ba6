"""The tensors of a vision tower in a checkpoint, wherever its prefix puts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isqrt

from py_engine.blocks.dense import MAX_WIDTH
from py_engine.errors import ModelError
from py_engine.graph.matrix import Linear
from py_engine.graph.trace import Tensor
from py_engine.ops.attention_full import FullHeads
from py_engine.ops.norm import Norm
from py_engine.sources.config import Config, named, require_int
from py_engine.weights.store import WeightStore

MAX_SIDE = 512  # of a table of positions


def found_prefix(store: WeightStore, prefixes: Sequence[str], part: str) -> str | None:
    """The first of these under which the checkpoint has this part; None: it has it nowhere."""
    return next((prefix for prefix in prefixes if store.has_under(prefix + part)), None)


def square_side(config: Config, key: str, default: int | None = None) -> int:
    """The side of a square of config[key] places. Raises ModelError."""
    count = require_int(config, key, 1, MAX_SIDE**2, default)
    side = isqrt(count)
    if side * side != count:
        raise ModelError(f"{named(config, key)} is {count}, which is no square of places.")
    return side


def tower_heads(config: Config, key: str, hidden: int, default: int | None = None) -> FullHeads:
    """Heads of attention to both sides. Raises ModelError."""
    heads = require_int(config, key, 1, 1024, default)
    if hidden % heads:
        raise ModelError(f"{named(config, key)}: hidden_size {hidden} is no multiple of {heads}")
    return FullHeads(heads, heads, hidden // heads, (hidden // heads) ** -0.5)


def width_of(config: Config, key: str, default: int | None = None) -> int:
    """A width from config[key]. Raises ModelError."""
    return require_int(config, key, 1, MAX_WIDTH, default)


class TowerCheckpoint:
    """Layers and norms [hidden] under a prefix. `eps`: of the norms."""

    def __init__(self, store: WeightStore, prefix: str, hidden: int, eps: float) -> None:
        self.store, self.prefix, self.hidden, self.eps = store, prefix, hidden, eps

    def norm(self, name: str, n: int | None = None, eps: float | None = None) -> Norm:
        """A LayerNorm with bias over n numbers (the hidden size, if not given)."""
        at, n = self.prefix + name, n or self.hidden
        weight, bias = (self.store.vector(f"{at}.{part}", n) for part in ("weight", "bias"))
        return Norm(weight, eps or self.eps, centred=True, bias=bias)

    def linear(
        self, names: Sequence[str], rows: int, cols: int, *, bias: bool = True, plain: bool = False
    ) -> Linear:
        """Layers of `rows` each, stacked."""
        full = [self.prefix + name for name in names]
        return self.store.linear(full, [rows] * len(full), cols, bias=bias, plain=plain)

    def scaled(self, name: str, factors: str, rows: int, cols: int) -> Linear:
        """A layer with bias whose outputs are multiplied by the vector `factors` (layer scale)."""
        at = self.prefix + name
        both = {f"{at}.bias": [(rows,)], self.prefix + factors: [(rows,)]}
        layer = self.store.linear([at], [rows], cols)
        return replace(layer, bias=self.store.vectors(both), factors_at=rows)

    def positions(self, name: str, rows: int, shape: Sequence[int] = ()) -> Tensor:
        """A table f32 [rows, hidden]; `shape`: its shape in the file, if another one."""
        wanted = (rows, self.hidden)
        return replace(self.store.table(self.prefix + name, shape or wanted), shape=wanted)
