"""patches against NumPy's transposes: the orders of Qwen (squares, two frames), LFM2 (colours last) and DINOv2."""

from __future__ import annotations

import numpy as np
import pytest

from py_engine.graph.trace import Trace
from py_engine.host.gpu import Gpu
from py_engine.ops.patches import pack_parameters, patches, values
from tests.conftest import Runner
from tests.ops.harness import Bench

MEAN, STD = (0.485, 0.456, 0.5), (0.229, 0.224, 0.5)


@pytest.mark.parametrize(
    "patch, merge, frames, last",
    [(16, 2, 2, False), (16, 1, 1, True), (14, 1, 1, False), (4, 3, 1, False)],
)
def test_patches(gpu: Gpu, run: Runner, patch: int, merge: int, frames: int, last: bool) -> None:
    rng, bench = np.random.default_rng(patch), Bench(gpu)
    down, across = 2 * merge, 3 * merge
    # Pixels to the right of the last patch belong to none.
    height, width = down * patch, across * patch + 5
    pictures = rng.integers(0, 1 << 32, (2, height, width), np.uint32)
    count = down * across
    y = bench.put("y", np.full((count + 2, 3 * frames * patch**2), np.nan, np.float32))
    trace = Trace(1)
    patches(
        trace,
        (bench.put("first", pictures[0]), bench.put("second", pictures[1])),
        bench.put("values", np.frombuffer(values(MEAN, STD, 1 / 255), np.float32)),
        bench.put("parameters", np.frombuffer(pack_parameters(count, across, width, 1), np.uint32)),
        y,
        count,
        patch=patch,
        merge=merge,
        frames=frames,
        channels_last=last,
    )
    run(bench.run(trace))
    got = run(bench.get(y))
    colours = pictures[:frames].view(np.uint8).reshape(frames, height, width, 4)[..., :3]
    x = ((colours[:, :, : across * patch] / 255.0 - MEAN) / STD).astype(np.float32)
    x = x.reshape(frames, down // merge, merge, patch, across // merge, merge, patch, 3)
    order = (1, 4, 2, 5, 0, 3, 6, 7) if last else (1, 4, 2, 5, 7, 0, 3, 6)
    wanted = x.transpose(order)
    if merge == 1 or not last:
        assert np.abs(got[1 : count + 1] - wanted.reshape(count, -1)).max() < 1e-6
    # Rows before and behind are not touched.
    assert np.isnan(got[[0, count + 1]]).all()
    bench.close()


def test_rows_of_another_width(gpu: Gpu) -> None:
    bench = Bench(gpu)
    x = bench.put("x", np.zeros((4, 4), np.uint32))
    with pytest.raises(ValueError, match="patches of 4"):
        patches(Trace(1), (x, x), x, x, x, 1, patch=4)
    bench.close()
