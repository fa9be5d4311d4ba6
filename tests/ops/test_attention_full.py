"""full_attention against float64 NumPy: several texts in one pass, windows to both sides, keys of another sequence,
shared heads, packed f16, texts of one row and of none. Keys and rows that no text may see are NaN."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from py_engine.errors import ModelError
from py_engine.graph.trace import Tensor
from py_engine.host.gpu import MATRIX_KERNEL, AdapterInfo, Gpu
from py_engine.ops.attention_full import FullHeads, HeadRows, full_attention
from py_engine.ops.step import Pass
from tests.conftest import Runner
from tests.ops.harness import Bench, nmse


@dataclass(frozen=True)
class Case:
    """`texts`: (rows, keys) of each text. In CROSS, a NaN key stands between two texts."""

    texts: tuple[tuple[int, int], ...]
    heads: int = 2
    kv_heads: int = 2
    d: int = 32
    window: tuple[int, int] | None = None
    dtype: str = "f32"
    sharp: float = 1.0  # factor of the scores
    apart: bool = False  # keys and values are [Hkv, rows, D], in buffers of their own
    vendor: str = ""  # run the form for this vendor's GPUs; "": the adapter's own form


SELF = [
    Case(((1, 1),)),
    Case(((70, 70),), sharp=30.0),
    Case(((5, 5), (1, 1), (33, 33), (0, 0), (20, 20)), heads=4, kv_heads=2, d=36),
    Case(((80, 80), (9, 9)), window=(7, 7), heads=3, kv_heads=1, d=64),
    Case(((50, 50),), window=(20, 0), d=4),
    Case(((3, 3), (40, 40)), window=(0, 16), d=256, heads=1, kv_heads=1),
    Case(((3, 3), (140, 140)), window=(1 << 24, 0), d=512, heads=2, kv_heads=1),
]
CROSS = [
    Case(((1, 70),), apart=True, d=64),
    Case(((13, 150), (4, 1), (2, 0), (6, 33)), heads=4, kv_heads=2, apart=True, d=52),
    Case(((9, 40), (3, 60)), apart=True, dtype="f16", d=96),
    Case(((20, 45),), d=128, heads=6, kv_heads=2),
]
# For GPUs: the kernels of a chunk. Rows of 128 and more, blocks whose rows see different texts, or nothing.
CHUNKS = [
    Case(((60, 60), (2, 0), (71, 71), (1, 1), (30, 30)), heads=4, kv_heads=2, d=36, vendor="intel"),
    Case(((5, 5), (140, 140)), window=(90, 30), d=64, heads=3, kv_heads=1, vendor="nvidia"),
]
# For the tensor units, of both forms.
UNITS = [
    Case(((60, 60), (2, 0), (71, 71), (1, 1), (90, 90)), heads=4, kv_heads=2, d=32),
    Case(((300, 300),), d=64, heads=3, kv_heads=3, sharp=8.0),
    Case(((5, 5), (250, 250)), d=128, window=(60, 3), heads=2, kv_heads=1),
    Case(((130, 130), (0, 0), (7, 7)), d=96),
    Case(((140, 140), (2, 0), (60, 60)), d=256, window=(0, 70), heads=3, kv_heads=1),
    Case(((200, 200),), d=192, heads=2, kv_heads=1),
]


def reference(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, spans: np.ndarray, c: Case, scale: float
) -> np.ndarray:
    """q [T, H, D], k, v [S, Hkv, D] -> [T, H * D]."""
    out = np.zeros(q.shape)
    for t, (begin, end) in enumerate(spans):
        if c.window:
            begin, end = max(begin, t - c.window[0]), min(end, t + c.window[1] + 1)
        for h in range(c.heads):
            g = h // (c.heads // c.kv_heads)
            if begin < end:
                s = scale * (k[begin:end, g].astype(np.float64) @ q[t, h].astype(np.float64))
                p = np.exp(s - s.max())
                out[t, h] = p @ v[begin:end, g].astype(np.float64) / p.sum()
    return out.reshape(len(q), -1)


@pytest.mark.parametrize("c", [*SELF, *CROSS], ids=lambda c: f"{c.texts} {c.d} {c.window}")
def test_attention(gpu: Gpu, run: Runner, c: Case) -> None:
    # Rounding of f32 sums and exp; measured: 1e-13.
    assert check_case(gpu, run, c, gpu.info, 1e-10) == "attention_full"


@pytest.mark.parametrize("c", CHUNKS, ids=lambda c: f"{c.texts} {c.d} {c.window}")
def test_attention_as_a_chunk(gpu: Gpu, run: Runner, c: Case) -> None:
    info = gpu.info
    if info.fallback:
        if info.host != "wgpu":
            pytest.skip("SwiftShader compiles these forms for minutes")
        info = replace(info, fallback=False, vendor=c.vendor)
    assert check_case(gpu, run, c, info, 1e-10) == "attention_prefill"


@pytest.mark.parametrize("c", UNITS, ids=lambda c: f"{c.texts} {c.d} {c.window}")
def test_attention_on_tensor_units(gpu: Gpu, run: Runner, c: Case) -> None:
    """Where a real GPU has them (JERBOA_TEST_GPU=1, JERBOA_DAWN_TOGGLES)."""
    if "subgroup-matrix" not in gpu.features:
        pytest.skip("no subgroup-matrix: no software adapter has it")
    # q, k, v and weights are rounded to 11 bits.
    found = check_case(gpu, run, c, gpu.info, 1e-6 * c.sharp**2, MATRIX_KERNEL)
    assert found == "attention_prefill_units"


def check_case(
    gpu: Gpu,
    run: Runner,
    c: Case,
    info: AdapterInfo,
    bar: float,
    features: frozenset[str] = frozenset(),
) -> str:
    """Compare y with the reference up to an NMSE of `bar`; other rows must not change. Returns the last kernel."""
    rng, bench = np.random.default_rng(c.d), Bench(gpu)
    itself = c not in CROSS
    spans, rows, keys = [], 0, 0
    for n, seen in c.texts:
        first = rows if itself else keys
        spans += [(first, first + seen)] * n
        rows, keys = rows + n, keys + seen + (0 if itself else 1)
    keys = rows if itself else keys
    total = rows + 3  # rows of the plan; the last ones are not valid
    if features:
        total = -(-total // 16) * 16
    q = rng.standard_normal((total, c.heads, c.d)).astype(np.float32)
    k, v = rng.standard_normal((2, total if itself else keys, c.kv_heads, c.d)).astype(np.float32)
    visible = np.zeros(len(k), bool)
    visible[: rows if itself else 0] = True  # also of rows that see nothing
    for begin, end in spans:
        visible[begin:end] = True
    if c.dtype == "f16":
        k, v = k.astype(np.float16), v.astype(np.float16)
    q[rows:], k[~visible], v[~visible] = np.nan, np.nan, np.nan
    scale = c.sharp * c.d**-0.5
    if c.apart:
        given = [HeadRows(bench.put("q", q.reshape(total, -1)))]
        given += [HeadRows(bench.put("kv", x.transpose(1, 0, 2))) for x in (k, v)]
    elif itself:
        qkv = np.concatenate([q, k, v], 1).reshape(total, -1)
        stacked = bench.put("qkv", qkv)
        ats = (0, c.heads * c.d, (c.heads + c.kv_heads) * c.d)
        given = [HeadRows(stacked, at) for at in ats]
    else:
        kv = bench.put("kv", np.concatenate([k, v], 1).reshape(len(k), -1))
        given = [
            HeadRows(bench.put("q", q.reshape(total, -1))),
            HeadRows(kv),
            HeadRows(kv, c.kv_heads * c.d),
        ]
    before = rng.standard_normal((total, c.heads * c.d)).astype(np.float32)
    y = bench.put("y", before)
    # Spans of rows that are not valid must not be read.
    bounds = np.full((total, 2), 1 << 30, np.uint32)
    bounds[:rows] = np.array(spans, np.uint32).reshape(rows, 2)
    trace = Pass(total, features, info, step=bench.put_step(0, rows))
    heads = FullHeads(c.heads, c.kv_heads, c.d, scale, c.window)
    q_rows, k_rows, v_rows = given
    full_attention(trace, heads, q_rows, k_rows, v_rows, bench.put("spans", bounds), y)
    run(bench.run(trace))
    got = run(bench.get(y))
    wanted = reference(q[:rows], k, v, np.array(spans).reshape(rows, 2), c, scale)
    assert nmse(got[:rows], wanted) < bar
    empty = [t for t, (begin, end) in enumerate(spans) if begin == end]
    assert not got[empty].any()
    assert np.array_equal(got[rows:], before[rows:])
    bench.close()
    return trace.calls[-1].kernel.stem


@pytest.mark.parametrize(
    "rows, d, at, features, takes",
    [
        (128, 64, 0, MATRIX_KERNEL, "attention_prefill_units"),
        (128, 80, 0, MATRIX_KERNEL, "attention_prefill"),
        (136, 64, 0, MATRIX_KERNEL, "attention_prefill"),
        (128, 64, 0, frozenset(), "attention_prefill"),
        (64, 64, 0, MATRIX_KERNEL, "attention_full"),
        (128, 512, 0, MATRIX_KERNEL, "attention_full"),
        (128, 64, 64, MATRIX_KERNEL, "attention_full"),  # keys are where values are
    ],
)
def test_which_kernel(rows: int, d: int, at: int, features: frozenset[str], takes: str) -> None:
    x, y, spans = Tensor("x", (rows, 3 * d)), Tensor("y", (rows, d)), Tensor("spans", (rows, 2))
    for info, kernels in (
        (AdapterInfo(), ["rope", takes] if takes != "attention_full" else [takes]),
        (AdapterInfo(fallback=True), ["attention_full"]),
    ):
        trace = Pass(rows, features, info, step=Tensor("step", (8,)))
        places = HeadRows(x), HeadRows(x, d + at), HeadRows(x, 2 * d)
        full_attention(trace, FullHeads(1, 1, d, 1.0), *places, spans, y)
        assert [call.kernel.stem for call in trace.calls] == kernels


def test_what_does_not_fit(gpu: Gpu) -> None:
    bench = Bench(gpu)
    x = bench.put("x", np.zeros((4, 96), np.float32))
    spans = bench.put("spans", np.zeros((4, 2), np.uint32))
    trace = Pass(4, step=bench.put_step(0, 4))

    def attend(heads: FullHeads, at: int, y: Tensor) -> None:
        full_attention(trace, heads, HeadRows(x), HeadRows(x, 32), HeadRows(x, at), spans, y)

    y = bench.put("y", np.zeros((4, 32), np.float32))
    with pytest.raises(ModelError, match="head size 30"):
        attend(FullHeads(1, 1, 30, 1.0), 64, y)
    with pytest.raises(ValueError, match="do not fit"):
        attend(FullHeads(1, 1, 32, 1.0), 68, y)
    with pytest.raises(ValueError, match="window"):
        attend(FullHeads(1, 1, 32, 1.0, (-1, 2)), 64, y)
    with pytest.raises(ValueError, match="over 3"):
        attend(FullHeads(1, 3, 32, 1.0), 64, y)
    bench.close()
