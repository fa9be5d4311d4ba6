"""quantise against float64 NumPy: with and without the norm, widths that the workgroup does not divide, and rows that
are huge, tiny or zero."""

from __future__ import annotations

import numpy as np
import pytest

from py_engine.graph.trace import Trace
from py_engine.host.gpu import Gpu
from py_engine.ops.norm import Norm
from py_engine.ops.quantise import quantise, quantised_words
from tests.conftest import Runner
from tests.ops.harness import Bench, nmse
from tests.ops.test_norm import rms_reference


def in_order(words: np.ndarray) -> np.ndarray:
    """Integers [T, K] from words [T, K / 4] of bytes. In each eight, the bytes of even places come first."""
    fields = np.ascontiguousarray(words).view(np.int8).reshape(len(words), -1, 2, 4)
    return fields.transpose(0, 1, 3, 2).reshape(len(words), -1).astype(np.int64)


def quantised_parts(words: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unpack what the kernel writes: integers [T, K], sums [T, K / 64], scales [T]."""
    integers = 128 * in_order(words[:, : k // 4]) + in_order(words[:, k // 4 : k // 2])
    numbers = np.ascontiguousarray(words[:, k // 2 :]).view(np.float32)
    return integers, numbers[:, : k // 64], numbers[:, k // 64]


def quantised_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantise rows [T, K] as the kernel does. Returns its words and the float64 values [T, K] that they stand for."""
    rows, k = x.shape
    scales = (np.abs(x).max(-1) / 16256).astype(np.float32)
    integers = np.rint(x / np.asarray(scales, np.float64)[:, None]).astype(np.int64)
    high = (integers + 64) >> 7
    parts = [
        np.ascontiguousarray(p.astype(np.int8).reshape(rows, -1, 4, 2).transpose(0, 1, 3, 2))
        for p in (high, integers - 128 * high)
    ]
    sums = integers.reshape(rows, -1, 64).sum(-1).astype(np.float32)
    words = np.zeros((rows, quantised_words(k)), np.uint32)
    words[:, : k // 2] = np.concatenate([p.reshape(rows, k).view(np.uint32) for p in parts], 1)
    words[:, k // 2 : k // 2 + k // 64] = sums.view(np.uint32)
    words[:, k // 2 + k // 64] = scales.view(np.uint32)
    return words, integers * np.asarray(scales, np.float64)[:, None]


@pytest.mark.parametrize("cols, offset", [(64, 0.0), (640, 1.0), (2112, 0.0)])
def test_quantise(gpu: Gpu, run: Runner, cols: int, offset: float) -> None:
    rng = np.random.default_rng(cols)
    bench = Bench(gpu)
    x = (30 * rng.standard_normal((5, cols))).astype(np.float32)
    x[1] *= 1e-35  # so tiny that it becomes zero
    x[2] = 0.0
    x[3] *= 1e15
    w = rng.standard_normal(cols).astype(np.float32)
    empty = np.zeros((5, quantised_words(cols)), np.uint32)
    plain, normed = bench.put("plain", empty), bench.put("normed", empty)
    trace = Trace(5)
    given = bench.put("x", x)
    quantise(trace, given, plain)
    quantise(trace, given, normed, Norm(bench.put("w", w), 1e-6, offset))
    run(bench.run(trace))
    for made, wanted in (
        (plain, np.where(np.abs(x) < 1e-30, 0.0, x)),
        (normed, rms_reference(x, w, 1e-6, offset)),
    ):
        integers, sums, scales = quantised_parts(run(bench.get(made)), cols)
        assert np.allclose(scales, np.abs(wanted).max(-1) / 16256, rtol=1e-5, atol=1e-32)
        # f32 may round a value near the middle to the other side, with an error of 1e-7 of the largest value.
        errors = np.abs(integers * np.asarray(scales, np.float64)[:, None] - wanted)
        assert (errors <= 0.51 * scales[:, None] + 1e-29).all()
        assert np.abs(integers).max() == 16256
        assert np.array_equal(sums, integers.reshape(5, -1, 64).sum(-1).astype(np.float32))
    assert nmse(quantised_rows(x[:1])[1], x[:1]) < 1e-8
    bench.close()


def test_shapes_that_differ(gpu: Gpu) -> None:
    bench = Bench(gpu)
    odd = bench.put("x", np.zeros((2, 96), np.float32))
    with pytest.raises(ValueError, match="whole 64s"):
        quantise(Trace(2), odd, odd)
    bench.close()
