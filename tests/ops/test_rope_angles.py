"""Rotary positions with several axes against float64 NumPy: M-RoPE in both orders, and the two axes of vision towers;
angles per row in rope; a shift between a rotary position and its row of the cache.

Formulas: transformers, models/qwen3_5 (apply_interleaved_mrope), qwen2_vl (apply_multimodal_rotary_pos_emb, and
VisionRotaryEmbedding with rot_pos_emb for the towers).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from py_engine.blocks.state import Rope
from py_engine.graph.trace import Tensor
from py_engine.host.gpu import Gpu
from py_engine.ops.attention import attention
from py_engine.ops.rope import Heads, rope_angles, rope_append
from py_engine.ops.step import Pass, pack_step
from py_engine.sources.rope_config import grid_axes, mrope_axes
from tests.conftest import Runner
from tests.ops.harness import Bench, nmse
from tests.ops.test_rope import heads_reference

CONTEXT = 4096
INTERLEAVED, CHUNKED, GRID, ONE = "interleaved", "chunked", "grid", "one"


def plain(width: int, base: float) -> np.ndarray:
    return base ** (-2.0 * np.arange(width // 2) / width)


def reference(kind: str, positions: np.ndarray, width: int, base: float) -> np.ndarray:
    """Angles [T, width / 2], combined as transformers does."""
    pairs = width // 2
    if kind == GRID:  # angles of rows, then of columns, with the same frequencies
        half = plain(pairs, base)
        return np.concatenate([positions[:, :1] * half, positions[:, 1:2] * half], -1)
    freqs = positions.T[:, :, None] * plain(width, base)  # [axes, T, pairs]
    if kind == ONE:
        return freqs[0]
    section = sections(pairs)
    if kind == INTERLEAVED:
        out = freqs[0].copy()
        for axis in (1, 2):
            index = slice(axis, section[axis] * 3, 3)
            out[:, index] = freqs[axis][:, index]
        return out
    edges = np.cumsum(section)[:-1]
    return np.concatenate([np.split(freqs[a], edges, -1)[a] for a in range(3)], -1)


def sections(pairs: int) -> list[int]:
    side = pairs // 3
    return [pairs - 2 * side, side, side]


def rope(kind: str, width: int, base: float) -> Rope:
    pairs = width // 2
    if kind == GRID:
        half = tuple(plain(pairs, base))
        return Rope(width, base, half + half, axes=grid_axes(pairs))
    axes = (0,) * pairs if kind == ONE else mrope_axes(sections(pairs), kind == INTERLEAVED, pairs)
    return Rope(width, base, tuple(plain(width, base)), axes=axes)


def put_angles(bench: Bench, trace: Pass, made: Rope, positions: np.ndarray) -> Tensor:
    table = np.frombuffer(made.table(CONTEXT), np.float32)
    return rope_angles(
        trace,
        bench.put("positions", positions.astype(np.uint32)),
        bench.put("axes", np.array(made.axes, np.uint32)),
        bench.put("table", table),
    )


@pytest.mark.parametrize(
    ("kind", "axes", "width"),
    [(ONE, 1, 2), (ONE, 1, 36), (GRID, 2, 36), (INTERLEAVED, 3, 64), (CHUNKED, 3, 64),
     (INTERLEAVED, 3, 22), (CHUNKED, 3, 150)],
)  # fmt: skip
def test_heads_turn_by_their_rows_angles(
    gpu: Gpu, run: Runner, kind: str, axes: int, width: int
) -> None:
    """Positions jump, repeat and go back, whatever the row of the cache is. Rows that are not valid are NaN."""
    rng = np.random.default_rng(width)
    bench, heads, kv, rows, valid, pos, base = Bench(gpu), 3, 1, 5, 4, 7, 1e6
    d = -(-width // 4) * 4
    positions = rng.integers(0, CONTEXT, (rows, axes))
    positions[1] = positions[0]
    made = rope(kind, width, base)
    qkv = rng.standard_normal((rows, heads + 2 * kv, d)).astype(np.float32)
    qkv[valid:] = np.nan
    cache = np.full((kv, 16, d), 9.0, np.float32)
    trace = Pass(rows, step=bench.put_step(pos, valid))
    q = bench.put("q", np.full((rows, heads, d), 7.0, np.float32))
    k, v = bench.put("k", cache), bench.put("v", cache)
    table = put_angles(bench, trace, made, positions)
    how = Heads(heads, kv, d, table, width, per_row=True)
    rope_append(trace, how, bench.put("qkv", qkv.reshape(rows, -1)), q, (k, v))
    run(bench.run(trace))

    angle = reference(kind, positions[:valid], width, base)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]

    def turned(x: np.ndarray) -> np.ndarray:
        a, b = x[..., : width // 2], x[..., width // 2 : width]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin, x[..., width:]], -1)

    x = qkv[:valid].astype(np.float64)
    got = run(bench.get(q))
    assert nmse(got[:valid], turned(x[:, :heads])) < 1e-12
    assert (got[valid:] == 7.0).all()
    keys = run(bench.get(k))
    assert nmse(keys[:, pos : pos + valid], turned(x[:, heads : heads + kv]).swapaxes(0, 1)) < 1e-12
    assert (keys[:, :pos] == 9.0).all() and (keys[:, pos + valid :] == 9.0).all()
    bench.close()


@pytest.mark.parametrize("shift", [-61, 0, 300])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_shift_turns_and_moves_nothing(gpu: Gpu, run: Runner, rows: int, shift: int) -> None:
    """Queries and keys are rotated by the shifted position, but keys and values are stored at the unshifted row."""
    rng = np.random.default_rng(5)
    bench, heads, kv, d, pos, base = Bench(gpu), 2, 1, 16, 70, 1e4
    qkv = rng.standard_normal((rows, heads + 2 * kv, d)).astype(np.float32)
    old = rng.standard_normal((2, kv, 96, d)).astype(np.float32)
    step = np.frombuffer(pack_step(pos=pos, rows=rows, shift=shift), np.uint32)
    trace = Pass(rows, step=bench.put("step", step))
    y = bench.put("y", np.zeros((rows, heads * d), np.float32))
    k, v = bench.put("k", old[0]), bench.put("v", old[1])
    how = Heads(heads, kv, d, bench.put_rope(d, base, 512), d, scale=0.25)
    attention(trace, how, bench.put("qkv", qkv.reshape(rows, -1)), (k, v), y)
    run(bench.run(trace))

    x = qkv.astype(np.float64)
    queries, fresh = (
        heads_reference(part, None, 0.0, d, base, pos + shift)
        for part in (x[:, :heads], x[:, heads : heads + kv])
    )
    keys, values = old.astype(np.float64)
    keys[:, pos : pos + rows] = fresh.swapaxes(0, 1)
    values[:, pos : pos + rows] = x[:, heads + kv :].swapaxes(0, 1)
    wanted = np.zeros((rows, heads, d))
    for t in range(rows):
        seen = pos + t + 1
        scores = 0.25 * queries[t] @ keys[0, :seen].T
        share = np.exp(scores - scores.max(-1, keepdims=True))
        wanted[t] = share / share.sum(-1, keepdims=True) @ values[0, :seen]
    assert nmse(run(bench.get(k)), keys) < 1e-12
    assert nmse(run(bench.get(v)), values) < 1e-12
    assert nmse(run(bench.get(y)).reshape(wanted.shape), wanted) < 1e-11
    bench.close()


def test_sections_of_a_config() -> None:
    """The axes of Qwen3.5's interleaved sections, and of chunked ones."""
    axes = mrope_axes([11, 11, 10], True, 32)
    assert axes[:7] == (0, 1, 2, 0, 1, 2, 0) and axes[-3:] == (2, 0, 1)
    assert [axes.count(a) for a in range(3)] == [11, 11, 10]
    assert mrope_axes([16, 24, 24], False, 64) == (0,) * 16 + (1,) * 24 + (2,) * 24
    assert replace(rope(ONE, 8, 1e4), axes=()) == Rope(8, 1e4, tuple(plain(8, 1e4)))
