"""The activations of gated MLPs, fused into the matrix kernels (shaders/lib/gate.wgsl)."""

from __future__ import annotations

from typing import Literal

Activation = Literal["silu", "gelu_tanh"]

ACTIVATIONS: dict[Activation, int] = {"silu": 0, "gelu_tanh": 1}
