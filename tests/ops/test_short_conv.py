"""LFM2's short convolution against float64 NumPy: odd widths, cut prompts, padding rows, halt, bias."""

from __future__ import annotations

import numpy as np
import pytest

from py_engine.graph.step import pack_step
from py_engine.graph.trace import Tensor, Trace
from py_engine.host.gpu import Gpu
from py_engine.ops.short_conv import short_conv
from tests.conftest import Runner
from tests.ops.harness import Bench, nmse


@pytest.mark.parametrize("channels, taps, biased", [(5, 3, False), (130, 2, True), (64, 8, True)])
def test_prompt_in_pieces(gpu: Gpu, run: Runner, channels: int, taps: int, biased: bool) -> None:
    rng = np.random.default_rng(channels)
    proj = rng.standard_normal((41, 3 * channels)).astype(np.float32)
    weight = rng.standard_normal((channels, taps)).astype(np.float32)
    bias = rng.standard_normal(channels).astype(np.float32) if biased else None
    b, c, x = np.split(proj.astype(np.float64), 3, axis=1)
    padded = np.concatenate([np.zeros((taps - 1, channels)), b * x])
    wanted = c * (
        sum(padded[j : j + 41] * weight[:, j] for j in range(taps)) + (bias if biased else 0.0)
    )
    outputs = []
    for pieces in ([(41, 48)], [(17, 24), (1, 1), (2, 16), (21, 32)]):
        bench = Bench(gpu)
        step = bench.put("step", np.zeros(8, np.uint32))
        rubbish = np.full((taps - 1, channels), np.nan, np.float32)  # position 0 must not read it
        history = bench.put("history", rubbish)
        w = bench.put("weight", weight.ravel())
        offset = bench.put("bias", bias) if bias is not None else None

        def run_rows(pos: int, rows: int, plan: int, halt: int = 0) -> np.ndarray:
            given = np.full((plan, 3 * channels), np.nan, np.float32)
            given[:rows] = proj[pos : pos + rows]
            words = bytearray(pack_step(pos=pos, rows=rows))
            words[4] = halt
            assert step.binding is not None  # noqa: B023
            bench.gpu.write(step.binding.buffer, 0, bytes(words))  # noqa: B023
            y = bench.put("y", np.zeros((plan, channels), np.float32))  # noqa: B023
            trace = Trace(plan, step, step, step)  # noqa: B023
            short_conv(trace, bench.put("proj", given), w, offset, history, y)  # noqa: B023
            run(bench.run(trace))  # noqa: B023
            got: np.ndarray = run(bench.get(y))  # noqa: B023
            assert not got[rows:].any()
            return got[:rows]

        got, pos = [], 0
        for rows, plan in pieces:
            got.append(run_rows(pos, rows, plan))
            pos += rows
            run_rows(0, 1, 1, halt=2)  # the state must stand still
        outputs.append(np.concatenate(got))
        bench.close()
    assert nmse(outputs[0], wanted) < 1e-12
    assert outputs[1].tobytes() == outputs[0].tobytes()


def test_shapes_that_differ() -> None:
    x = Tensor("x", (2, 8))
    with pytest.raises(ValueError, match="do not belong together"):
        short_conv(Trace(1, x, x, x), x, x, None, x, x)
