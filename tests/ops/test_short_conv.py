"""LFM2's short convolution and its projection against float64 NumPy: single tokens and chunks, odd widths, cut prompts,
padding rows, halt, biases, a projection in several parts, large inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from py_engine.errors import ModelError
from py_engine.graph.matrix import Linear
from py_engine.graph.trace import Tensor
from py_engine.host.gpu import Gpu
from py_engine.ops.matvec import Convolution
from py_engine.ops.norm import Norm
from py_engine.ops.short_conv import short_conv
from py_engine.ops.step import Pass, pack_step
from tests.conftest import Runner
from tests.ops.harness import Bench, nmse
from tests.ops.matrices import random_linear
from tests.ops.test_matvec import rms_norm

ROWS = 41


@dataclass(frozen=True)
class Case:
    channels: int
    taps: int
    parts: tuple[tuple[int, str], ...]  # rows and format
    cols: int = 64
    biased: bool = False
    normed: bool = True
    size: float = 1.0
    fallback: bool = True  # take the matvec's form for software adapters


CASES = [
    Case(5, 3, ((15, "q4"),)),
    Case(130, 2, ((390, "bf16"),), cols=36, biased=True, fallback=False),
    Case(64, 16, ((192, "q8"),), cols=2048 + 64, biased=True, normed=False, fallback=False),
    Case(700, 3, ((2100, "q4"),), biased=True),  # several channels per thread
    Case(21, 3, ((63, "q4"),), biased=True, fallback=False),  # few lanes, which sum by shuffles
    Case(44, 4, ((40, "q4"), (92, "f16")), biased=True),
    Case(12, 3, ((36, "f32"),), size=1e5, normed=False),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_prompt_in_pieces(gpu: Gpu, run: Runner, case: Case) -> None:
    c = case
    bench, rng = Bench(gpu), np.random.default_rng(c.channels)
    layer, w, b = random_linear(bench, rng, list(c.parts), c.cols, bias=True)
    x = np.float32(c.size) * rng.standard_normal((ROWS, c.cols)).astype(np.float32)
    nw = rng.standard_normal(c.cols).astype(np.float32)
    taps = rng.standard_normal((c.channels, c.taps)).astype(np.float32)
    bias = rng.standard_normal(c.channels).astype(np.float32)
    stacked = [b.astype(np.float32), taps.ravel(), bias] if c.biased else [taps.ravel()]
    weights = bench.put("weights", np.concatenate(stacked))
    layer = replace(layer, bias=weights if c.biased else None)

    given = x.astype(np.float64)
    if c.normed:
        given = rms_norm(given, nw.astype(np.float64), 0.0, 1e-6)
    gate, out, value = np.split(given @ w.T + b * c.biased, 3, axis=1)
    padded = np.concatenate([np.zeros((c.taps - 1, c.channels)), gate * value])
    mixed = sum(padded[j : j + ROWS] * taps[:, j] for j in range(c.taps)) + bias * c.biased
    wanted = out * mixed

    step = bench.put("step", np.zeros(8, np.uint32))
    norm = Norm(bench.put("norm", nw), 1e-6) if c.normed else None

    for pieces in (
        [(ROWS, 48)],
        [(17, 24), (1, 1), (2, 16), (1, 1), (1, 1), (19, 32)],
        [(1, 1)] * ROWS,
    ):
        # Entries that no token has written must not be read.
        history = bench.put("history", np.full((c.taps, c.channels), np.nan, np.float32))
        conv = Convolution(weights, history, c.biased)

        def run_rows(pos: int, rows: int, plan: int, halt: int = 0) -> np.ndarray:
            padding = np.full((plan, c.cols), np.nan, np.float32)
            padding[:rows] = x[pos : pos + rows]
            words = bytearray(pack_step(pos=pos, rows=rows))
            words[4] = halt
            assert step.binding is not None
            gpu.write(step.binding.buffer, 0, bytes(words))
            y = bench.put("y", np.zeros((plan, c.channels), np.float32))
            info = replace(gpu.info, fallback=c.fallback)
            trace = Pass(plan, gpu.features, info=info, step=step)
            short_conv(trace, bench.put("x", padding), layer, conv, y, norm)  # noqa: B023
            assert plan > 1 or len(trace.calls) == (1 if len(c.parts) == 1 else 3)
            run(bench.run(trace))
            got: np.ndarray = run(bench.get(y))
            assert not got[rows:].any()
            return got[:rows]

        got, pos = [], 0
        for rows, plan in pieces:
            got.append(run_rows(pos, rows, plan))
            pos += rows
            if pos % 8 == 1:
                run_rows(0, 1, 1, halt=2)  # after a halt the state must not change
        assert nmse(np.concatenate(got), wanted) < 1e-11
    bench.close()


def test_what_cannot_be() -> None:
    x = Tensor("x", (1, 8))
    trace = Pass(1, step=x)
    with pytest.raises(ValueError, match="do not belong together"):
        short_conv(trace, x, Linear(24, 8, ()), Convolution(x, Tensor("h", (3, 8)), False), x)
    with pytest.raises(ModelError, match="17 taps"):
        short_conv(trace, x, Linear(24, 8, ()), Convolution(x, Tensor("h", (17, 8)), False), x)
