"""Counts the bytes that a kernel call must read from memory, by its bindings: weights, KV cache, recurrent state, rest.

Each byte that a call needs counts once, even if a cache saves the read or a tiled kernel reads it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

from py_engine.blocks.layers import Attention, Model
from py_engine.blocks.state import State
from py_engine.graph.plan import Plan
from py_engine.graph.trace import Call, Tensor
from py_engine.host.gpu import Buffer

# Kernels that read a KV cache. Others to which one is bound write it, or use only its length.
_ATTENDS = ("attention_decode", "attention_prefill", "attention_prefill_units")
_BITS = {"f32": 32, "f16": 16, "bf16": 16, "q4": 4, "q8": 8}


@dataclass(frozen=True)
class Reads:
    """Bytes by kind. `activations`: written by another kernel of the same pass; they seldom leave the GPU's caches."""

    weights: float = 0
    kv: float = 0
    state: float = 0
    activations: float = 0

    def __add__(self, other: Reads) -> Reads:
        return Reads(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def lasting(self) -> float:
        """All bytes except activations."""
        return self.weights + self.kv + self.state


class Traffic:
    """Knows the kind of each tensor of a model. `logits`: the sampler's input."""

    def __init__(self, model: Model, state: State, logits: Tensor) -> None:
        # By buffer, since ops read the same memory through different tensors (for example f16 pairs as words).
        self._recurrent = _by_buffer(state.recurrents)
        self._kv = {tensor.buffer for pair in state.cache.tensors for tensor in pair}
        # Not counted: what is small (some hundred bytes for each token), or bound but not read.
        self._small = _by_buffer([state.step, state.ids])
        for block in model.blocks:
            if isinstance(block.mixer, Attention) and block.mixer.rope is not None:
                self._small |= _by_buffer(state.rope(block.mixer.rope))
        self._stream = _by_buffer(state.x)
        self._logits = _by_buffer(logits)

    def reads(self, call: Call, rows: int, position: int) -> Reads:
        """What `call` reads in a pass of `rows` tokens that begins at `position`."""
        total = Reads()
        for i, tensor in enumerate(call.tensors):
            if tensor.binding is None:
                total += Reads(activations=0 if i in call.writes else tensor.nbytes)
                continue
            buffer = tensor.binding.buffer
            if buffer in self._recurrent:
                total += Reads(state=self._recurrent[buffer].nbytes)  # read before it is written
            elif buffer in self._kv:
                if call.kernel.stem in _ATTENDS:
                    total += Reads(kv=self._seen(call, tensor, rows, position))
            elif i in call.writes or buffer in self._small:
                continue
            elif buffer in self._stream:
                total += Reads(activations=4.0 * rows * tensor.shape[1])
            elif buffer in self._logits:
                total += Reads(activations=tensor.nbytes)
            elif not call.kernel.stem.startswith("sample"):
                # The sampler's other buffers are settings, and counts that only penalties read.
                total += Reads(weights=_weights(call, i, tensor, rows))
        return total

    def of_plans(self, plans: Sequence[Plan], rows: int, position: int) -> Reads:
        """What plans that run one after the other read. A plan for one row (a head) reads the last of `rows`."""
        each = (
            self.reads(call, min(rows, plan.rows), position)
            for plan in plans
            for call in plan.calls
        )
        return sum(each, Reads())

    @staticmethod
    def _seen(call: Call, cache: Tensor, rows: int, position: int) -> float:
        """Bytes of the rows of a cache [heads, context, D] that some query of the pass sees."""
        visible = position + rows
        window = int(dict(call.kernel.constants).get("WINDOW", 0))
        if window:
            visible = min(visible, window + rows - 1)
        return cache.nbytes * min(1.0, visible / cache.shape[1])


def matrix_format(call: Call) -> str:
    """How the matrix that a call multiplies by (or looks up in) is stored, as "q4 g64" or "bf16"; "" without one."""
    form = next((u.split("_")[1] for u in call.kernel.uses if u.startswith("weight_")), "")
    if form not in _BITS:
        return ""
    group = dict(call.kernel.constants).get("GROUP")
    return f"{form} g{group:g}" if group else form


def _weights(call: Call, index: int, tensor: Tensor, rows: int) -> float:
    """Bytes of weights. A vector is read whole; of a matrix (binding 1, scales 2) only the rows that the call uses."""
    constants = dict(call.kernel.constants)
    form = matrix_format(call).split(" ")[0]
    if index not in (1, 2) or not form or "N" not in constants:
        return tensor.nbytes
    elements = (rows if call.kernel.stem == "embed" else constants["N"]) * constants["K"]
    if index == 1:
        return min(tensor.nbytes, elements * _BITS[form] / 8)
    pair = 8 if constants.get("SCALE_FORMAT") == 2 else 4
    return min(tensor.nbytes, elements / constants.get("GROUP", 1) * pair)


def _by_buffer(slot: Any) -> dict[Buffer, Tensor]:
    """The lasting tensors of a slot (a tensor, or a tuple or object of them), by buffer."""
    if isinstance(slot, Tensor):
        return {slot.binding.buffer: slot} if slot.binding else {}
    parts = slot if isinstance(slot, (tuple, list)) else getattr(slot, "__dict__", {}).values()
    return {buffer: tensor for part in parts for buffer, tensor in _by_buffer(part).items()}
