"""attention against float64 NumPy: one token (split, merged), chunks (tiled); head norms, rotary positions, appends,
grouped queries, windows, capped scores, neighbour pairs, no positions, f16 and q8 caches, halt."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from py_engine.blocks.state import Rope
from py_engine.graph.trace import Tensor
from py_engine.host.gpu import MATRIX_KERNEL, Gpu
from py_engine.ops.attention import attention, decode_splits
from py_engine.ops.norm import Norm
from py_engine.ops.rope import Heads
from py_engine.ops.step import Pass
from tests.conftest import Runner
from tests.ops.harness import Bench, nmse, spread
from tests.ops.test_rope import growth_reference, heads_reference

LARGE = "nvidia"  # on these GPUs the kernels take their large forms


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
    sharp: float = 1.0  # factor of the scores
    gated: bool = False
    width: int = 4  # rotated entries of a head
    normed: str = ""  # which heads have a norm: "q", "k" or "qk"
    offset: float = 0.0
    halted: bool = False
    cap: float = 0.0
    neighbours: bool = False
    norm_last: bool = False
    growth: tuple[float, int] | None = None
    vendor: str = ""  # run the kernel's form for this vendor; "": the adapter's own form


def attention_reference(q: np.ndarray, k: np.ndarray, v: np.ndarray, c: Case) -> np.ndarray:
    """The result for the valid rows: float64 [T, H * D]."""
    out = np.zeros((c.valid, c.heads, c.d))
    for t in range(c.valid):
        i = c.pos + t
        first = 0 if c.window is None else max(0, i - c.window + 1)
        for h in range(c.heads):
            g = h // (c.heads // c.kv_heads)
            s = k[g, first : i + 1].astype(np.float64) @ q[t, h].astype(np.float64)
            s = c.cap * np.tanh(s / c.cap) if c.cap else s
            p = np.exp(s - s.max())
            out[t, h] = p @ v[g, first : i + 1].astype(np.float64) / p.sum()
    return out.reshape(c.valid, -1)


# Each case combines many features, because a software adapter compiles a pipeline for seconds.
DECODE = [
    Case(),  # one key
    Case(pos=127, sharp=40.0, width=32, normed="qk"),  # the context is full
    Case(
        pos=32,
        heads=14,
        kv_heads=2,
        d=64,
        dtype="f16",
        gated=True,
        width=16,
        normed="qk",
        offset=1.0,
    ),
    Case(
        pos=333,
        heads=4,
        kv_heads=1,
        d=256,
        context=512,
        window=100,
        width=256,
        normed="qk",
        offset=1.0,
    ),
    # 11 query heads share a KV head: two workgroups, one of them with a head less; pairs that begin within a quad
    Case(pos=99, heads=11, kv_heads=1, d=20, context=300, width=10, normed="q"),
    Case(pos=4, window=5, d=80, kv_heads=4, normed="k", width=80),
    # each split has several tiles
    Case(pos=4999, heads=16, kv_heads=8, d=128, context=8192, dtype="f16", width=128, normed="qk"),
    Case(pos=40, heads=8, kv_heads=1, d=256, width=64, gated=True, normed="qk"),
    Case(pos=63, halted=True),
    Case(pos=90, cap=2.0, sharp=8.0, width=32, neighbours=True, growth=(0.3, 16), normed="qk"),
    Case(pos=70, d=92, width=32, normed="qk", norm_last=True, offset=1.0, cap=50.0, window=40),
    Case(pos=40, heads=6, kv_heads=2, d=24, width=0, dtype="q8"),
    Case(
        pos=289,
        heads=8,
        kv_heads=2,
        d=256,
        context=400,
        dtype="q8",
        gated=True,
        width=64,
        normed="qk",
    ),
    Case(
        pos=95, heads=8, kv_heads=1, d=80, dtype="q8", width=80, window=50
    ),  # a group of 64 and one of 16
    Case(
        pos=100, heads=2, kv_heads=1, d=256, width=256, neighbours=True, normed="q", norm_last=True
    ),
]
PREFILL = [
    Case(
        rows=65,
        valid=65,
        d=64,
        context=200,
        pos=11,
        dtype="f16",
        width=64,
        normed="qk",
        vendor=LARGE,
    ),
    Case(
        rows=128,
        valid=77,
        d=128,
        context=256,
        pos=100,
        heads=3,
        kv_heads=1,
        gated=True,
        vendor=LARGE,
    ),
    Case(rows=70, valid=70, d=256, heads=4, kv_heads=1, window=17, dtype="f16", vendor=LARGE),
    Case(rows=2048, valid=35, d=256, pos=60, kv_heads=1, vendor=LARGE),  # the form for many rows
    Case(rows=40, valid=39, d=128, context=300, pos=250, heads=7, kv_heads=1, dtype="f16"),
    Case(rows=16, valid=16, d=256, context=300, pos=222, heads=8, kv_heads=2, gated=True),
    Case(rows=32, valid=1, d=20, context=300, pos=200, window=33),
    Case(
        rows=33, valid=33, d=92, context=128, pos=50, window=1
    ),  # D / 4 is a prime: one quad of K at a time
    Case(rows=32, valid=32, pos=96, sharp=40.0),  # to the context's last row
    Case(
        rows=40,
        valid=37,
        pos=5,
        cap=2.0,
        sharp=8.0,
        width=20,
        neighbours=True,
        growth=(0.3, 16),
        window=19,
    ),
    Case(rows=33, valid=33, d=24, width=0, normed="qk", norm_last=True, dtype="q8", cap=30.0),
    Case(rows=40, valid=37, d=128, context=100, pos=20, dtype="q8", width=128, normed="qk"),
]
# For the tensor units: several tiles whose maxima differ, rows behind the valid ones, and partial blocks.
UNITS = [
    Case(rows=144, valid=137, d=128, context=300, pos=101, dtype="f16", width=128, normed="qk"),
    Case(rows=160, valid=150, d=128, context=400, pos=230, dtype="f16", sharp=8.0, heads=3, kv_heads=1),
    Case(rows=144, valid=144, d=256, context=200, dtype="f16", gated=True, width=64, sharp=4.0),
    Case(rows=80, valid=70, d=256, heads=4, kv_heads=1, context=190, pos=120, window=37, dtype="f16"),
    Case(rows=272, valid=261, d=64, heads=14, context=512, pos=203, dtype="f16", width=64, cap=3.0),
    Case(rows=144, valid=130, d=64, context=400, pos=270, window=100, dtype="f16", sharp=8.0),
    Case(rows=16, valid=9, d=32, context=64, pos=40, dtype="f16", gated=True),
    Case(rows=64, valid=64, d=96, context=128, dtype="f16", normed="q"),
    Case(rows=64, valid=33, d=192, context=96, pos=63, dtype="f16", sharp=8.0),
]  # fmt: skip


@pytest.mark.parametrize("case", DECODE + PREFILL, ids=repr)
def test_against_reference(gpu: Gpu, run: Runner, case: Case) -> None:
    check_case(gpu, run, case, frozenset(), bar_of(gpu, case))


@pytest.mark.parametrize("case", [*DECODE[:2], DECODE[9], *DECODE[2:9]], ids=repr)
def test_teams_in_large_subgroups(gpu: Gpu, run: Runner, case: Case) -> None:
    """Decode with the subgroups feature, where the adapter has it."""
    if "subgroups" not in gpu.features:
        pytest.skip("no subgroups")
    if gpu.info.subgroup_min_size < 32 and case.d > 32:
        pytest.skip("subgroups may be smaller than a team")
    subgroups = frozenset({"subgroups"})
    assert check_case(gpu, run, case, subgroups, bar_of(gpu, case)) == subgroups


def bar_of(gpu: Gpu, case: Case) -> float:
    """The NMSE that is allowed without tensor units."""
    # Scores of +-40 lose 5 bits in exp. f16 and q8 add no error, because the reference reads the appended cache.
    bar = (1e-12 if case.dtype != "q8" else 1e-11) if case.sharp == 1.0 else 1e-9
    if not gpu.info.fallback:
        # A real GPU's compiler may leave out the rounding of the token's own key and value (an H200: 7e-9). It sums
        # 5,000 keys in another order (1.03e-12).
        bar = max(bar, 1e-7 if case.dtype == "f16" else 1e-11)
    return bar


@pytest.mark.parametrize("case", UNITS, ids=repr)
def test_units(gpu: Gpu, run: Runner, case: Case) -> None:
    """The tensor units, where a real GPU has them (JERBOA_TEST_GPU=1, JERBOA_DAWN_TOGGLES)."""
    if "subgroup-matrix" not in gpu.features:
        pytest.skip("no subgroup-matrix: no software adapter has it")
    # Queries and weights are rounded to 11 bits. That moves a score by up to 2^-12 of it, and so its exp by that share.
    check_case(gpu, run, case, MATRIX_KERNEL, 1e-6 * case.sharp**2)


def check_case(
    gpu: Gpu, run: Runner, case: Case, features: frozenset[str], bar: float
) -> frozenset[str]:
    """Compare y with the reference up to an NMSE of `bar`, and the caches nearly exactly. Other rows must not change.
    Returns the features that the first kernel needs."""
    c = case
    rng = np.random.default_rng(c.pos + c.d)
    bench = Bench(gpu)
    x = rng.standard_normal((c.rows, c.heads + 2 * c.kv_heads, c.d)).astype(np.float32)
    stacked = x
    g = rng.normal(0, 9, (c.rows, c.heads, c.d)).astype(np.float32)
    if c.gated:
        g[0, 0, :2] = -1e5, 1e5
        between = np.stack([x[:, : c.heads], g], 2).reshape(c.rows, 2 * c.heads, c.d)
        stacked = np.concatenate([between, x[:, c.heads :]], 1)
    dtype = np.float16 if c.dtype == "f16" else np.float32
    before = [rng.standard_normal((c.kv_heads, c.context, c.d)).astype(dtype) for _ in range(2)]
    for array in before:  # rows of later positions, which no kernel may read
        array[:, c.pos :] = np.nan
    s = bench.put_step(c.pos, c.valid, c.halted)
    y = bench.put("y", np.full((c.rows, c.heads * c.d), 7.0, np.float32))
    weights = {
        n: rng.uniform(0.5, 1.5, c.d).astype(np.float32) if n in c.normed else None for n in "qk"
    }
    norms = {
        n: None if w is None else Norm(bench.put(n, w), 1e-6, c.offset) for n, w in weights.items()
    }
    scale = c.sharp / math.sqrt(c.d)
    heads = Heads(
        c.heads,
        c.kv_heads,
        c.d,
        bench.put_rope(c.width, 1e4, c.context),
        c.width,
        norms["q"],
        norms["k"],
        scale,
        c.gated,
        c.neighbours,
        c.norm_last,
        c.growth,
    )
    cache = bench.put("k", before[0], c.dtype), bench.put("v", before[1], c.dtype)
    before = [run(bench.get(t)) for t in cache]
    info = gpu.info
    # Of the software adapters only lavapipe runs the large forms: SwiftShader compiles them for minutes in gigabytes.
    if info.fallback and info.host == "wgpu" and c.vendor:
        info = replace(info, fallback=False, vendor=c.vendor)
    trace = Pass(c.rows, features, info, step=s)
    attention(
        trace,
        heads,
        bench.put("qkv", stacked.reshape(c.rows, -1)),
        cache,
        y,
        window=c.window,
        cap=c.cap,
    )
    assert len(trace.calls) == 2
    assert (trace.calls[1].kernel.stem == "attention_prefill_units") == (
        "subgroup-matrix" in features
    )
    run(bench.run(trace))

    got, k, v = (run(bench.get(t)) for t in (y, *cache))
    bench.close()
    if c.halted:
        assert [k.tobytes(), v.tobytes()] == [array.tobytes() for array in before]
        return trace.calls[0].kernel.features
    q, new_k, new_v = np.split(x[: c.valid], [c.heads, c.heads + c.kv_heads], 1)
    kind = {"neighbours": c.neighbours, "norm_last": c.norm_last}
    q = heads_reference(q, weights["q"], c.offset, c.width, 1e4, c.pos, **kind)
    q = spread(q * scale * growth_reference(c.growth, c.pos, c.valid), c.dtype)
    new_k = heads_reference(new_k, weights["k"], c.offset, c.width, 1e4, c.pos, **kind)
    new_k = spread(new_k, c.dtype)
    rows = slice(c.pos, c.pos + c.valid)
    for cached, new, old in ((k, new_k, before[0]), (v, new_v, before[1])):
        # f16 has 11 bits, so rounding costs at most 6e-8. q8 rounds to 1/255 of a range of five standard deviations.
        rounding = {"f32": 1e-12, "f16": 1e-7, "q8": 1e-4}[c.dtype]
        assert nmse(cached[:, rows].swapaxes(0, 1), new) < rounding
        untouched = np.delete(np.arange(c.context), rows)
        assert cached[:, untouched].tobytes() == old[:, untouched].tobytes()
    wanted = attention_reference(q, k, v, c)
    if c.gated:
        wanted *= 0.5 * (1 + np.tanh(0.5 * g[: c.valid].astype(np.float64))).reshape(c.valid, -1)
    assert nmse(got[: c.valid], wanted) < bar
    assert (got[c.valid :] == 7.0).all()
    return trace.calls[0].kernel.features


@pytest.mark.parametrize(
    "d, rows, dtype, features, takes",
    [
        (128, 512, "f16", MATRIX_KERNEL, True),
        (256, 16, "f16", MATRIX_KERNEL, True),
        (128, 512, "f32", MATRIX_KERNEL, False),
        (80, 512, "f16", MATRIX_KERNEL, False),
        (160, 512, "f16", MATRIX_KERNEL, False),
        (128, 24, "f16", MATRIX_KERNEL, False),
        (128, 512, "f16", MATRIX_KERNEL - {"subgroup-matrix"}, False),
    ],
)
def test_who_takes_units(
    d: int, rows: int, dtype: str, features: frozenset[str], takes: bool
) -> None:
    x, cache = Tensor("x", (8,)), Tensor("k", (2, 64, d), dtype)  # type: ignore[arg-type]
    trace = Pass(rows, features, step=x)
    qkv, y = Tensor("qkv", (rows, 8 * d)), Tensor("y", (rows, 4 * d))
    attention(trace, Heads(4, 2, d, x, 16), qkv, (cache, cache), y)
    rope, prefill = trace.calls
    assert prefill.kernel.stem == ("attention_prefill_units" if takes else "attention_prefill")
    assert prefill.kernel.features == (MATRIX_KERNEL if takes else frozenset())
    assert rope.tensors[5] is prefill.tensors[0]
    assert prefill.tensors[0].dtype == ("f16" if takes else "f32")


@pytest.mark.parametrize("dtype", ["f16", "q8"])
def test_cache_holds_no_infinity(gpu: Gpu, run: Runner, dtype: str) -> None:
    """Values beyond the range of f16 become its largest value, in the cache and for the token itself."""
    bench = Bench(gpu)
    s = bench.put_step(0, 1)
    k, v = (
        bench.put(n, np.zeros((1, 64, 4), {"f16": np.float16}.get(dtype, np.float32)), dtype)
        for n in "kv"
    )
    table = np.frombuffer(Rope(4, 1e4, (1.0, 0.01)).table(64), np.float32)
    y = bench.put("y", np.zeros((1, 4), np.float32))
    trace = Pass(1, step=s)
    qkv = bench.put("qkv", np.full((1, 12), -1e6, np.float32))
    attention(trace, Heads(1, 1, 4, bench.put("table", table), 4), qkv, (k, v), y)
    run(bench.run(trace))
    assert (run(bench.get(v))[0, 0] == -65504.0).all()
    assert (run(bench.get(y)) == -65504.0).all()
    bench.close()


def test_splits_fill_a_gpu_and_stay_within_the_reduction() -> None:
    for context in (1, 31, 512, 4096, 32768, 262144):
        for kv_heads in (1, 2, 8, 64):
            for tile in (16, 32, 64):
                splits = decode_splits(context, tile, kv_heads, None)
                assert 1 <= splits <= 128 and splits <= -(-context // tile)
                assert decode_splits(context, tile, kv_heads, 64) <= 64 // tile
    assert decode_splits(4096, 32, 8, None) * 8 == 384


def test_shapes_that_differ() -> None:
    x = Tensor("x", (8,))
    cache = Tensor("k", (2, 64, 32)), Tensor("v", (2, 64, 32))

    def call(
        heads: int, width: int = 256, gated: bool = False, y: int = 128, window: int = 9
    ) -> None:
        attention(
            Pass(1, step=x), Heads(heads, 2, 32, x, 32, gated=gated), Tensor("qkv", (1, width)),
            cache, Tensor("y", (1, y)), window=window,
        )  # fmt: skip

    call(4)
    with pytest.raises(ValueError, match="heads and 2 of keys"):
        call(3, width=224, y=96)
    with pytest.raises(ValueError, match="heads and 2 of keys"):
        call(4, gated=True)
    with pytest.raises(ValueError, match=r"y \(1, 96\)"):
        call(4, y=96)
    with pytest.raises(ValueError, match="window of 0"):
        call(4, window=0)
