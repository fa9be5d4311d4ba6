"""The epilogue of a product: bias, activation, scale, and where the result goes (shaders/lib/gate.wgsl, *_out.wgsl)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from py_engine.graph.trace import NOTHING, Tensor

Activation = Literal["silu", "gelu_tanh", "gelu", "relu", "relu2"]

# Numbers known to shaders/lib/gate.wgsl. "gelu" is the exact one (erf); "relu2" is relu(x)^2.
ACTIVATIONS: dict[Activation, int] = {"silu": 0, "gelu_tanh": 1, "gelu": 2, "relu": 3, "relu2": 4}

Epilogue = Literal["store", "add", "gated", "multiply"]

EPILOGUES: dict[Epilogue, int] = {"store": 0, "add": 1, "gated": 2, "multiply": 3}


@dataclass(frozen=True)
class Finish:
    """How products become values of y. For an output i of the whole layer, with p_i = sum_k W[i, k] x[k] + bias[i]:

    "store": y_i = v_i and "add": y_i += v_i, where v_i = act(p_i) * factors[i] * scale (no `activation`: p_i itself);
    "gated": y_i = act(p_i) * p_(i + rows/2); "multiply": y_i = act(y_i) * p_i, both without factors, scale and cap.
    `cap`: v_i becomes cap * tanh(v_i / cap); 0: it stays.

    `vectors` f32: the bias [rows]; from element `factors_at` on, a factor for each output (layer scale). Where that is
    0, there is no bias.
    """

    epilogue: Epilogue = "store"
    activation: Activation | None = None
    vectors: Tensor | None = None
    factors_at: int | None = None
    scale: float = 1.0
    cap: float = 0.0

    @property
    def binding(self) -> Tensor:
        """What the kernels bind as `bias`."""
        return NOTHING if self.vectors is None else self.vectors

    def constants(self, first: int) -> Mapping[str, float]:
        """The kernels' constants. `first` is the layer's output that row 0 gives. Unused constants are left out, so
        that kernels without them keep the same pipeline."""
        gates = self.epilogue in ("gated", "multiply")
        if gates and (self.factors_at is not None or self.scale != 1.0 or self.cap):
            raise ValueError(f"a {self.epilogue} product takes neither factors nor a scale")
        bias = self.vectors is not None and self.factors_at != 0
        found: dict[str, float] = {
            "BIAS": bias,
            "BIAS_OFFSET": first if bias else 0,
            "EPILOGUE": EPILOGUES[self.epilogue],
            "ACTIVATION": ACTIVATIONS[self.activation or "silu"],
        }
        if self.activation and not gates:
            found["ACTIVATE"] = True
        if self.factors_at is not None:
            found |= {"FACTORS": True, "FACTORS_AT": self.factors_at + first}
        if self.scale != 1.0:
            found["SCALE"] = self.scale
        if self.cap:
            found["CAP"] = self.cap
        return found


STORE = Finish()
