"""attention against float64 NumPy: one token (split, merged), chunks (tiled); grouped queries, windows, f16 caches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from py_engine.graph.step import pack_step
from py_engine.graph.trace import Tensor, Trace
from py_engine.host.gpu import Gpu
from py_engine.ops.attention import attention, decode_splits
from tests.conftest import Runner
from tests.ops.harness import Bench, nmse


@dataclass(frozen=True)
class Case:
    heads: int = 4
    kv_heads: int = 2
    d: int = 32
    context: int = 128
    pos: int = 0
    rows: int = 1
    valid: int = 1
    window: int | None = None
    dtype: str = "f32"
    sharp: float = 1.0  # of the scores
    gated: bool = False


def attention_reference(q: np.ndarray, k: np.ndarray, v: np.ndarray, c: Case) -> np.ndarray:
    """[T, H * D] for the valid rows."""
    out = np.zeros((c.valid, c.heads, c.d))
    for t in range(c.valid):
        i = c.pos + t
        first = 0 if c.window is None else max(0, i - c.window + 1)
        for h in range(c.heads):
            g = h // (c.heads // c.kv_heads)
            s = k[g, first : i + 1].astype(np.float64) @ q[t, h].astype(np.float64)
            p = np.exp(s - s.max())
            out[t, h] = p @ v[g, first : i + 1].astype(np.float64) / p.sum()
    return out.reshape(c.valid, -1)


# Few cases, each with many peculiarities: a pipeline takes a software adapter seconds to compile.
DECODE = [
    Case(),  # one key
    Case(pos=127, sharp=40.0),  # the context is full
    Case(pos=32, heads=14, kv_heads=2, d=64, dtype="f16", gated=True),
    Case(pos=333, heads=4, kv_heads=1, d=256, context=512, window=100),
    Case(
        pos=99, heads=11, kv_heads=1, d=20, context=300
    ),  # a group in two workgroups, one with a head less
    Case(pos=4, window=5, d=80, kv_heads=4),
    Case(
        pos=4999, heads=16, kv_heads=8, d=128, context=8192, dtype="f16"
    ),  # splits of several tiles
]
PREFILL = [
    Case(rows=65, valid=65, d=64, context=200, pos=11, dtype="f16"),
    Case(rows=128, valid=77, d=128, context=256, pos=100, heads=3, kv_heads=1, gated=True),
    Case(rows=70, valid=70, d=256, heads=4, kv_heads=1, context=128, window=17, dtype="f16"),
    Case(rows=32, valid=1, d=20, context=300, pos=200, window=33),
    Case(
        rows=33, valid=33, d=92, context=128, pos=50, window=1
    ),  # D / 4 is a prime: one quad of K at a time
    Case(rows=32, valid=32, pos=96, sharp=40.0),  # to the context's last row
]


@pytest.mark.parametrize("case", DECODE + PREFILL, ids=repr)
def test_against_reference(gpu: Gpu, run: Runner, case: Case) -> None:
    c = case
    rng = np.random.default_rng(c.pos + c.d)
    bench = Bench(gpu)
    q = rng.standard_normal((c.rows, c.heads, c.d)) * c.sharp / math.sqrt(c.d)
    q = q.astype(np.float32)
    k, v = (
        rng.standard_normal((c.kv_heads, c.context, c.d)).astype(
            np.float32 if c.dtype == "f32" else np.float16
        )
        for _ in range(2)
    )
    # What nobody may look at: rows of later positions.
    k[:, c.pos + c.valid :], v[:, c.pos + c.valid :] = np.nan, np.nan
    s = bench.put("step", np.frombuffer(pack_step(pos=c.pos, rows=c.valid), np.uint32))
    y = bench.put("y", np.full((c.rows, c.heads * c.d), 7.0, np.float32))
    trace = Trace(c.rows, s, s, s)
    stacked = rng.normal(0, 9, (c.rows, 2 * (c.heads + c.kv_heads), c.d)).astype(np.float32)
    stacked[0, 1, :2] = -1e5, 1e5
    gates = bench.put("gates", stacked.reshape(c.rows, -1)) if c.gated else None
    cache = bench.put("k", k), bench.put("v", v)
    attention(trace, bench.put("q", q), cache, y, window=c.window, gates=gates)
    run(bench.run(trace))
    got = run(bench.get(y))
    wanted = attention_reference(q, k, v, c)
    if c.gated:
        g = stacked[: c.valid, 1 : 2 * c.heads : 2].astype(np.float64)
        wanted *= 0.5 * (1 + np.tanh(0.5 * g)).reshape(c.valid, -1)
    # Scores of +-40 lose 5 bits in exp; an f16 cache is exact here, since the reference reads the same values.
    assert nmse(got[: c.valid], wanted) < (1e-12 if c.sharp == 1.0 else 1e-9)
    assert (got[c.valid :] == 7.0).all()
    bench.close()


def test_splits_fill_a_gpu_and_stay_within_the_reduction() -> None:
    for context in (1, 31, 512, 4096, 32768, 262144):
        for kv_heads in (1, 2, 8, 64):
            splits = decode_splits(context, kv_heads, None)
            assert 1 <= splits <= 128 and splits <= -(-context // 32)
            assert decode_splits(context, kv_heads, 64) <= 2
    assert decode_splits(4096, 8, None) * 8 >= 256


def test_shapes_that_differ() -> None:
    x = Tensor("x", (8,))
    k, v = Tensor("k", (2, 64, 32)), Tensor("v", (2, 64, 32))
    with pytest.raises(ValueError, match="belong together"):
        attention(Trace(1, x, x, x), Tensor("q", (1, 3, 32)), (k, v), Tensor("y", (1, 96)))
    with pytest.raises(ValueError, match="window of 0"):
        attention(
            Trace(1, x, x, x), Tensor("q", (1, 4, 32)), (k, v), Tensor("y", (1, 128)), window=0
        )
    with pytest.raises(ValueError, match="gates"):
        attention(
            Trace(1, x, x, x), Tensor("q", (1, 4, 32)), (k, v), Tensor("y", (1, 128)), gates=x
        )
