"""rope_append against float64 NumPy: head norms before and after the rotation; full, partial and no rotation, with
pairs of halves or of neighbours; far positions, growing queries, append, padding, halt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from py_engine.errors import ModelError
from py_engine.graph.trace import Tensor
from py_engine.host.gpu import Gpu
from py_engine.ops.norm import Norm
from py_engine.ops.rope import Heads, rope_append
from py_engine.ops.step import Pass
from tests.conftest import Runner
from tests.ops.harness import DTYPES, Bench, nmse, spread


@dataclass(frozen=True)
class Case:
    heads: int = 4
    kv_heads: int = 2
    d: int = 32
    width: int = 32
    rows: int = 5
    valid: int = 5
    pos: int = 0
    context: int = 96
    dtype: str = "f32"  # of the KV cache
    q_dtype: str = "f32"
    norms: bool = True
    offset: float = 0.0
    base: float = 1e4
    halted: bool = False
    gated: bool = False
    neighbours: bool = False
    norm_last: bool = False
    growth: tuple[float, int] | None = None
    magnitude: float = 1.0


def heads_reference(
    x: np.ndarray,
    w: np.ndarray | None,
    offset: float,
    width: int,
    base: float,
    pos: int,
    *,
    neighbours: bool = False,
    norm_last: bool = False,
    magnitude: float = 1.0,
) -> np.ndarray:
    """Heads [T, heads, D], normed and rotated, in float64."""
    x = x.astype(np.float64)

    def normed(x: np.ndarray) -> np.ndarray:
        if w is None:
            return x
        made: np.ndarray = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * (w + offset)
        return made

    if not norm_last:
        x = normed(x)
    x = rotated_reference(x, width, base, pos, neighbours, magnitude) if width else x
    return normed(x) if norm_last else x


def growth_reference(growth: tuple[float, int] | None, pos: int, rows: int) -> np.ndarray:
    """The factors of q, [T, 1, 1]."""
    beta, period = growth or (0.0, 1)
    made: np.ndarray = 1 + beta * np.log1p((pos + np.arange(rows)) // period)
    return made[:, None, None]


def rotated_reference(
    x: np.ndarray, width: int, base: float, pos: int, neighbours: bool, magnitude: float
) -> np.ndarray:
    """x [T, heads, D] with the pairs of its first `width` entries rotated."""
    angle = (pos + np.arange(len(x)))[:, None] * base ** (-2.0 * np.arange(width // 2) / width)
    cos, sin = magnitude * np.cos(angle)[:, None], magnitude * np.sin(angle)[:, None]
    if neighbours:
        a, b = x[..., 0:width:2], x[..., 1:width:2]
        pairs = np.stack([a * cos - b * sin, b * cos + a * sin], -1)
        return np.concatenate([pairs.reshape(*x.shape[:-1], width), x[..., width:]], -1)
    a, b = x[..., : width // 2], x[..., width // 2 : width]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, x[..., width:]], -1)


CASES = [
    Case(),
    Case(norms=False, dtype="f16"),
    Case(
        d=20, width=10, kv_heads=4, rows=3, valid=3, pos=61
    ),  # crosses a border of the table's blocks
    Case(
        d=256,
        width=64,
        heads=3,
        kv_heads=1,
        rows=2,
        valid=2,
        pos=70,
        offset=1.0,
        base=1e7,
        gated=True,
    ),
    Case(d=128, width=128, rows=8, valid=3, pos=2, dtype="f16", offset=1.0),
    Case(d=4, width=2, heads=2, kv_heads=1, rows=1, valid=1, pos=95),
    Case(d=64, width=64, rows=4, valid=4, pos=40003, context=40960, kv_heads=1, heads=1, base=1e6),
    Case(halted=True, q_dtype="f16"),
    Case(d=32, width=32, pos=60, neighbours=True, growth=(0.3, 16), magnitude=1.3),
    Case(d=20, width=10, pos=61, rows=3, valid=3, neighbours=True, norms=False),
    Case(d=92, width=32, norm_last=True, offset=1.0, magnitude=0.7, pos=3, dtype="f16"),
    Case(d=24, width=0, pos=7, growth=(0.1, 4)),
    Case(
        d=140, width=64, pos=60, kv_heads=1, heads=2, dtype="q8"
    ),  # two groups of 64 and one of 12
    Case(d=24, width=0, norms=False, rows=1, valid=1),
    Case(
        d=256,
        width=256,
        heads=2,
        kv_heads=1,
        neighbours=True,
        norm_last=True,
        rows=2,
        valid=2,
        pos=9,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_against_reference(gpu: Gpu, run: Runner, case: Case) -> None:
    c = case
    rng = np.random.default_rng(c.d)
    bench = Bench(gpu)
    qkv = rng.standard_normal((c.rows, c.heads + 2 * c.kv_heads, c.d)).astype(np.float32)
    stacked = qkv
    if c.gated:  # a gate behind each q head
        places = [i for h in range(c.heads) for i in (h, 0)]
        stacked = np.concatenate([qkv[:, places], qkv[:, c.heads :]], 1)
        stacked[:, 1 : 2 * c.heads : 2] = np.nan
    w_q, w_k = (rng.uniform(0.5, 1.5, c.d).astype(np.float32) for _ in range(2))
    cache = np.full((c.kv_heads, c.context, c.d), 9.0, {"f16": np.float16}.get(c.dtype, np.float32))
    s = bench.put_step(c.pos, c.valid, c.halted)
    trace = Pass(c.rows, step=s)
    q = bench.put("q", np.full((c.rows, c.heads, c.d), 7.0, DTYPES[c.q_dtype]))
    k, v = bench.put("k", cache, c.dtype), bench.put("v", cache, c.dtype)
    norms = [Norm(bench.put("w", w), 1e-6, c.offset) if c.norms else None for w in (w_q, w_k)]
    heads = Heads(
        c.heads,
        c.kv_heads,
        c.d,
        bench.put_rope(c.width, c.base, c.context, c.magnitude),
        c.width,
        norms[0],
        norms[1],
        0.25,
        c.gated,
        c.neighbours,
        c.norm_last,
        c.growth,
    )
    rope_append(trace, heads, bench.put("qkv", stacked.reshape(c.rows, -1)), q, (k, v))
    run(bench.run(trace))

    xq, xk, xv = np.split(qkv[: c.valid], [c.heads, c.heads + c.kv_heads], 1)
    rotation = (c.offset, c.width, c.base, c.pos)
    kind: dict[str, Any] = {
        "neighbours": c.neighbours,
        "norm_last": c.norm_last,
        "magnitude": c.magnitude,
    }
    want_q = heads_reference(xq, w_q if c.norms else None, *rotation, **kind)
    want_q = spread(want_q * 0.25 * growth_reference(c.growth, c.pos, c.valid), c.dtype)
    want_k, want_v = cache.astype(np.float64), cache.astype(np.float64)
    if not c.halted:
        rows = slice(c.pos, c.pos + c.valid)
        turned = heads_reference(xk, w_k if c.norms else None, *rotation, **kind)
        want_k[:, rows] = spread(turned, c.dtype).swapaxes(0, 1)
        want_v[:, rows] = xv.swapaxes(0, 1)
    got_q = run(bench.get(q))
    assert nmse(got_q[: c.valid], want_q) < (1e-12 if c.q_dtype == "f32" else 1e-7)
    assert (got_q[c.valid :] == 7.0).all()
    rows = slice(c.pos, c.pos + c.valid)
    for cached, want in ((k, want_k), (v, want_v)):
        got = run(bench.get(cached)).astype(np.float64)
        # f16 has 11 bits, so rounding costs at most 6e-8.
        bar = {"f32": 1e-12, "f16": 1e-7, "q8": 1e-4}[c.dtype]
        assert nmse(got[:, rows], want[:, rows]) < bar
        untouched = np.ones(c.context, bool)
        untouched[rows] = False
        assert (got[:, untouched] == 9.0).all()
    bench.close()


@pytest.mark.parametrize("dtype", ["f16", "q8"])
def test_cache_holds_no_infinity(gpu: Gpu, run: Runner, dtype: str) -> None:
    bench = Bench(gpu)
    s = bench.put_step(0, 1)
    cache = [
        bench.put(n, np.zeros((1, 64, 4), {"f16": np.float16}.get(dtype, np.float32)), dtype)
        for n in "kv"
    ]
    trace = Pass(1, step=s)
    q = bench.put("q", np.zeros((1, 1, 4), np.float32))
    heads = Heads(1, 1, 4, bench.put_rope(4, 1e4, 64), 4)
    qkv = bench.put("qkv", np.full((1, 12), -1e6, np.float32))
    rope_append(trace, heads, qkv, q, (cache[0], cache[1]))
    run(bench.run(trace))
    assert (run(bench.get(cache[1]))[0, 0] == -65504.0).all()
    bench.close()


def test_refused_sizes() -> None:
    def call(d: int, width: int) -> None:
        x = Tensor("x", (1, 3 * d))
        cache = (Tensor("k", (1, 8, d)), Tensor("v", (1, 8, d)))
        q = Tensor("q", (1, 1, d))
        rope_append(Pass(1, step=x), Heads(1, 1, d, x, width), x, q, cache)

    for d in (6, 260):
        with pytest.raises(ModelError, match=f"head size {d}"):
            call(d, 4)
    for width in (3, 12):
        with pytest.raises(ValueError, match=f"rotate {width}"):
            call(8, width)
