"""rotate_rows against float64 NumPy: heads of encoders and towers, normed and rotated in place by position or by angles
of each row; heads of values normed without weights; padding."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from py_engine.errors import ModelError
from py_engine.graph.trace import Tensor
from py_engine.host.gpu import Gpu
from py_engine.ops.norm import Norm
from py_engine.ops.rope import Heads, rotate_rows
from py_engine.ops.step import Pass
from tests.conftest import Runner
from tests.ops.harness import Bench, nmse

ROWS, VALID = 6, 5


@dataclass(frozen=True)
class Case:
    heads: int = 4
    kv_heads: int = 2
    d: int = 32
    width: int = 32
    norms: bool = True
    offset: float = 0.0
    v_eps: float | None = None
    neighbours: bool = False
    norm_last: bool = False
    per_row: bool = False
    scale: float = 0.25


CASES = [
    Case(),
    Case(d=256, width=256, heads=3, kv_heads=1, offset=1.0, v_eps=1e-6),  # EmbeddingGemma
    Case(d=64, width=64, heads=3, kv_heads=3, norms=False, scale=1.0),  # ModernBERT
    Case(d=72, width=72, heads=2, kv_heads=2, norms=False, per_row=True),  # a tower
    Case(d=64, width=32, heads=2, kv_heads=2, per_row=True, neighbours=True, v_eps=1e-5),
    Case(d=20, width=10, norm_last=True, neighbours=True),
    Case(d=4, width=0, heads=1, kv_heads=1, v_eps=1e-6),
]


def rms(x: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    made: np.ndarray = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    return made


def rotated(x: np.ndarray, angle: np.ndarray, neighbours: bool) -> np.ndarray:
    """x [T, heads, D], the pairs of its first entries turned by `angle` [T, pairs]."""
    cos, sin, pairs = np.cos(angle)[:, None], np.sin(angle)[:, None], angle.shape[1]
    index = np.arange(pairs)
    first, second = (2 * index, 2 * index + 1) if neighbours else (index, index + pairs)
    a, b, found = x[..., first], x[..., second], x.copy()
    found[..., first], found[..., second] = a * cos - b * sin, b * cos + a * sin
    return found


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_against_reference(gpu: Gpu, run: Runner, case: Case) -> None:
    c = case
    rng = np.random.default_rng(c.d)
    bench = Bench(gpu)
    qkv = rng.standard_normal((ROWS, c.heads + 2 * c.kv_heads, c.d)).astype(np.float32)
    w_q, w_k = (rng.uniform(0.5, 1.5, c.d).astype(np.float32) for _ in range(2))
    # Two texts, one behind the other, and a position far away.
    positions = np.array([0, 1, 2, 0, 4000, 9], np.uint32)
    frequencies = 1e4 ** (-2.0 * np.arange(c.width // 2) / max(c.width, 1))
    angle = positions[:, None] * frequencies
    if c.per_row:
        angle = rng.uniform(-40, 40, (ROWS, c.width // 2))
        table = bench.put("angles", np.stack([np.cos(angle), np.sin(angle)], -1).astype(np.float32))
    else:
        table = bench.put_rope(c.width, 1e4, 4096)
    norms = [Norm(bench.put("w", w), 1e-6, c.offset) if c.norms else None for w in (w_q, w_k)]
    heads = Heads(
        c.heads, c.kv_heads, c.d, table, c.width, norms[0], norms[1], c.scale,
        neighbours=c.neighbours, norm_last=c.norm_last, per_row=c.per_row,
    )  # fmt: skip
    rows = bench.put("qkv", qkv.reshape(ROWS, -1))
    trace = Pass(ROWS, step=bench.put_step(77, VALID))
    given = None if c.per_row else bench.put("positions", positions)
    rotate_rows(trace, heads, rows, given, v_eps=c.v_eps)
    run(bench.run(trace))
    got = run(bench.get(rows)).reshape(qkv.shape)
    bench.close()

    def head(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        weighted = (lambda x: rms(x) * (w + c.offset)) if c.norms else lambda x: x
        if c.norm_last:
            return weighted(rotated(x, angle, c.neighbours))
        return rotated(weighted(x), angle, c.neighbours)

    q, k, v = np.split(qkv.astype(np.float64), [c.heads, c.heads + c.kv_heads], 1)
    wanted = [head(q, w_q) * c.scale, head(k, w_k), v if c.v_eps is None else rms(v, c.v_eps)]
    for part, want in zip(np.split(got, [c.heads, c.heads + c.kv_heads], 1), wanted, strict=True):
        assert nmse(part[:VALID], want[:VALID]) < 1e-12
    assert (got[VALID:] == qkv[VALID:]).all()


def test_refused() -> None:
    def call(positions: bool, *, d: int = 8, columns: int = 4, **changes: Any) -> None:
        x = Tensor("x", (1, columns * d))
        heads = replace(Heads(2, 1, d, Tensor("table", (65, d // 2, 2)), d), **changes)
        rotate_rows(Pass(1, step=x), heads, x, x if positions else None)

    call(True)
    call(False, per_row=True)
    with pytest.raises(ModelError, match="head size 6"):
        call(True, d=6)
    for positions, changes in ((False, {}), (True, {"per_row": True})):
        with pytest.raises(ValueError, match="position or by angles"):
            call(positions, **changes)
    with pytest.raises(ValueError, match="for 2 heads and 1 of keys"):
        call(True, columns=5)
    with pytest.raises(ValueError, match="growing"):
        call(True, growth=(0.1, 4))
