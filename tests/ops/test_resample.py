"""resample against Pillow, bit for bit: both filters, larger and smaller, odd sizes, parts, grey, RGB and RGBX, rows or
columns first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from py_engine.graph.trace import Tensor, Trace
from py_engine.host.gpu import Gpu
from py_engine.ops.resample import Filter, Taps, columns_first, pack_parameters, resample, taps
from tests.conftest import Runner
from tests.ops.harness import Bench

PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def one_pass(
    bench: Bench, trace: Trace, given: Taps, tensors: Any, size: Any, source: Any, **options: Any
) -> None:
    """Trace a pass over tensors (x, y) that gives lines of size[0] pixels, close to each other."""
    words = np.frombuffer(
        pack_parameters(size[0], size[1], source, given.width, (0, size[0])), np.uint32
    )
    x, y = tensors
    resample(
        trace,
        x,
        bench.put("weights", np.array(given.weights, np.int32).view(np.uint32)),
        bench.put("starts", np.array(given.starts, np.uint32)),
        bench.put("parameters", words),
        y,
        size,
        **options,
    )


def resized(bench: Bench, given: np.ndarray, across: Taps, down: Taps, columns: bool) -> Any:
    """The trace of both passes, and its result."""
    height, width, channels = given.shape
    raw = given.tobytes()
    x = bench.put("x", np.frombuffer(raw + bytes(-len(raw) % 4), np.uint32))
    w, h, lines = len(across.starts), len(down.starts), down.end - down.begin
    y, trace = bench.put("y", np.zeros((h, w), np.uint32)), Trace(1)

    def middle(*shape: int) -> Tensor:
        return bench.put("middle", np.zeros(shape, np.uint32))

    if columns:
        m = middle(h, width)
        one_pass(
            bench, trace, down, (x, m), (width, h), (0, width, 1), channels=channels, vertical=True
        )
        one_pass(bench, trace, across, (m, y), (w, h), (0, width, 1), channels=4, vertical=False)
    else:
        m, start = middle(lines, w), down.begin
        place = (start * width, width, 1)
        one_pass(bench, trace, across, (x, m), (w, lines), place, channels=channels, vertical=False)
        one_pass(bench, trace, down, (m, y), (w, h), (-start * w, w, 1), channels=4, vertical=True)
    return trace, y


@pytest.mark.parametrize(
    "source, target, kind, channels",
    [
        ((37, 53), (64, 96), "bicubic", 3),  # larger
        ((131, 77), (32, 64), "bicubic", 4),  # smaller across, a little smaller down
        ((131, 77), (33, 19), "bilinear", 1),
        ((61, 97), (64, 32), "bicubic", 3),  # columns first
        ((5, 3), (64, 32), "bilinear", 3),
        ((200, 1), (32, 32), "bicubic", 3),  # one line
        ((64, 48), (64, 48), "bicubic", 3),  # the same size
    ],
)
def test_equal_to_pillow(
    gpu: Gpu, run: Runner, source: Any, target: Any, kind: Filter, channels: int
) -> None:
    rng, bench = np.random.default_rng(source[0]), Bench(gpu)
    (width, height), (w, h) = source, target
    # Extremes make the cubic overshoot, so that sums are clipped at both ends.
    given = rng.choice([0, 3, 128, 250, 255], (height, width, channels)).astype(np.uint8)
    rgb = np.ascontiguousarray(np.broadcast_to(given[..., :3], (height, width, 3)))
    wanted = np.asarray(Image.fromarray(rgb).resize(target, PILLOW[kind]))
    # A part of the output, from pixel (left, top) on, comes from the weights of that part alone.
    left, top = w // 5, h // 3
    across = taps(width, w, kind, left, w - left)
    down = taps(height, h, kind, top, h - top)
    trace, y = resized(bench, given, across, down, columns_first(source, target))
    run(bench.run(trace))
    got = run(bench.get(y)).view(np.uint8).reshape(h - top, w - left, 4)
    assert (got[..., :3] == wanted[top:, left:]).all()
    assert (got[..., 3] == 255).all()
    bench.close()


def test_order_of_the_passes() -> None:
    """Where the two orders give different pictures, Pillow's is the one that is told."""
    rng, seen = np.random.default_rng(1), set()
    for _ in range(150):
        width, height, w, h = (int(n) for n in rng.integers(3, 40, 4))
        given = rng.integers(0, 256, (height, width), np.uint8)
        wanted = np.asarray(Image.fromarray(given).resize((w, h), PILLOW["bilinear"]))
        across, down = taps(width, w, "bilinear"), taps(height, h, "bilinear")
        rows = (passed(passed(given, across).T, down).T == wanted).all()
        columns = (passed(passed(given.T, down).T, across) == wanted).all()
        assert rows or columns
        if rows != columns:
            assert columns == columns_first((width, height), (w, h)), (width, height, w, h)
            seen.add(bool(columns))
    assert seen == {True, False}


def passed(x: np.ndarray, given: Taps) -> np.ndarray:
    """One pass along the rows, in NumPy."""
    weights = np.array(given.weights, np.int64).reshape(-1, given.width)
    places = np.array(given.starts)[:, None] + np.arange(given.width)
    pixels = x[:, np.minimum(places, x.shape[1] - 1)].astype(np.int64)
    found: np.ndarray = np.clip(((pixels * weights).sum(-1) + (1 << 21)) >> 22, 0, 255)
    return found.astype(np.uint8)
