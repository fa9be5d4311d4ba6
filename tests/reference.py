"""Reference results: the goldens of tests/goldens/, and how close the engine must come to them.

make_goldens.py and make_real_models.py computed them with transformers in float32. Nothing here imports the engine.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

GOLDENS = Path(__file__).parent / "goldens"

# The reference's own float32 rounding is 1e-11 against float64 (stored in golden.npz's meta). A mistake in order, RoPE
# or window changes these logits by 2e-3 or more. make_goldens.py asserts both. 1e-6 leaves room for another order of
# summation and for the GPU's exp and tanh (a few ulp each).
NMSE_F32 = 1e-6
# Rounding weights and KV to float16 alone costs up to 1e-5 here (meta: nmse_f16_weights_and_kv).
NMSE_F16 = 1e-4
# If the two best logits are closer than this, float32 on another machine may choose the other token.
MARGIN = 1e-3


@dataclass(frozen=True)
class Prompt:
    """One prompt: `logits` [vocab] float32 after it, and its greedy continuation with margins."""

    ids: list[int]
    logits: NDArray[np.float32]
    greedy: list[int]
    margins: list[float]


def checkpoints() -> list[str]:
    """Names of the tiny checkpoints, sorted."""
    return sorted(path.parent.name for path in GOLDENS.glob("*/golden.npz"))


def folder(name: str) -> Path:
    """The checkpoint's own folder: config.json, safetensors, tokenizer."""
    return GOLDENS / name


def lengths(name: str) -> list[int]:
    """Lengths of a checkpoint's prompts."""
    with np.load(folder(name) / "golden.npz") as golden:
        return sorted(int(key.split("_")[1]) for key in golden if key.startswith("ids_"))


def prompt(name: str, length: int) -> Prompt:
    """The golden of one checkpoint's prompt of `length` tokens, one of `lengths`."""
    with np.load(folder(name) / "golden.npz") as golden:
        return Prompt(
            golden[f"ids_{length}"].tolist(),
            golden[f"logits_{length}"],
            golden[f"greedy_{length}"].tolist(),
            golden[f"margins_{length}"].tolist(),
        )


def nmse(ours: ArrayLike, reference: ArrayLike) -> float:
    """sum((a-b)^2) / sum(b^2), in float64. NaN or infinity in `ours` gives NaN or infinity, so the test fails."""
    a, b = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    assert a.shape == b.shape, f"shape {a.shape}, the reference has {b.shape}"
    return float(((a - b) ** 2).sum() / (b**2).sum())


def assert_same_tokens(ours: Sequence[int], golden: Prompt) -> None:
    """Compare tokens up to the first that differs. Fails if the reference's margin there is above MARGIN."""
    expected = golden.greedy
    assert len(ours) == len(expected), f"{len(ours)} tokens, the reference has {len(expected)}"
    for step, (a, b, margin) in enumerate(zip(ours, expected, golden.margins, strict=True)):
        if a == b:
            continue
        assert margin <= MARGIN, (
            f"token {step}: {a}, the reference chose {b} with a margin of {margin:.4f}\n"
            f"ours      {list(ours)}\nreference {expected}"
        )
        return


def real_models() -> dict[str, Any]:
    """real_models.json's `models`: by name, the GGUF file, its sha256, and six greedy answers."""
    models: dict[str, Any] = json.loads((GOLDENS / "real_models.json").read_text())["models"]
    return models
