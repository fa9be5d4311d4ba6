"""Gated DeltaNet against float64 NumPy: odd heads, cut prompts, chunks, padding rows, halt, large inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from py_engine.errors import ModelError
from py_engine.graph.trace import Tensor
from py_engine.host.gpu import AdapterInfo, Gpu
from py_engine.ops.delta import DeltaShape, delta_net
from py_engine.ops.norm import Norm
from py_engine.ops.step import Pass, pack_step
from tests.conftest import Runner
from tests.ops.harness import Bench, nmse


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


class Layer:
    """Random weights and inputs of one layer, and its reference output."""

    def __init__(self, shape: DeltaShape, rows: int, size: float = 1.0) -> None:
        self.shape = s = shape
        rng = np.random.default_rng(rows + s.channels)

        def normal(*dims: int) -> np.ndarray:
            return rng.standard_normal(dims).astype(np.float32)

        self.proj = np.float32(size) * normal(rows, s.projected)
        self.conv = normal(s.channels, s.taps)
        self.a_log = normal(s.value_heads) - 2  # forgets slowly
        self.dt_bias = normal(s.value_heads)
        self.weight = normal(s.value_dim)

    def reference(self) -> np.ndarray:
        """float64 [T, values], by the recurrence of the paper (Gated DeltaNet, arXiv:2412.06464)."""
        s, proj = self.shape, self.proj.astype(np.float64)
        rows = len(proj)
        raw, z, b, a = np.split(
            proj, np.cumsum([s.channels, s.values, s.value_heads]), axis=1
        )  # q|k|v, z, b, a
        padded = np.concatenate([np.zeros((s.taps - 1, s.channels)), raw])
        c = sum(padded[j : j + rows] * self.conv[:, j] for j in range(s.taps))
        c = c * sigmoid(c)
        keys = s.key_heads * s.key_dim
        q, k = (c[:, i * keys : (i + 1) * keys].reshape(rows, -1, s.key_dim) for i in (0, 1))
        v = c[:, 2 * keys :].reshape(rows, s.value_heads, s.value_dim)
        q, k = (x / np.sqrt((x**2).sum(-1, keepdims=True) + 1e-6) for x in (q, k))
        q = q / np.sqrt(s.key_dim)
        beta = sigmoid(b)
        alpha = np.exp(-np.exp(self.a_log) * np.logaddexp(0, a + self.dt_bias))
        out = np.zeros((rows, s.value_heads, s.value_dim))
        for h in range(s.value_heads):
            n = h // (s.value_heads // s.key_heads)
            state = np.zeros((s.key_dim, s.value_dim))
            for t in range(rows):
                state *= alpha[t, h]
                state += np.outer(k[t, n], beta[t, h] * (v[t, h] - state.T @ k[t, n]))
                out[t, h] = state.T @ q[t, n]
        out /= np.sqrt((out**2).mean(-1, keepdims=True) + 1e-6)
        z = z.reshape(out.shape)
        return (out * self.weight * z * sigmoid(z)).reshape(rows, -1)


class Running:
    """The layer on a device; its state lasts from pass to pass."""

    def __init__(self, bench: Bench, layer: Layer, info: AdapterInfo) -> None:
        s = layer.shape
        self.bench, self.layer, self.info = bench, layer, info
        self.step = bench.put("step", np.zeros(8, np.uint32))
        rubbish = np.full(
            (s.taps, s.channels), np.nan, np.float32
        )  # entries that no token has written must not be read
        self.history = bench.put("history", rubbish)
        self.state = bench.put(
            "state", np.full((s.value_heads, s.value_dim, s.key_dim), np.nan, np.float32)
        )
        decay = np.concatenate([layer.a_log, layer.dt_bias])
        self.weights = [
            bench.put("conv", layer.conv),
            bench.put("decay", decay),
            bench.put("w", layer.weight),
        ]

    def __call__(self, run: Runner, pos: int, rows: int, plan: int, halt: int = 0) -> np.ndarray:
        """Run rows pos .. pos + rows through a plan of `plan` rows, whose other rows are NaN."""
        s, bench = self.layer.shape, self.bench
        given = np.full((plan, s.projected), np.nan, np.float32)
        given[:rows] = self.layer.proj[pos : pos + rows]
        words = bytearray(pack_step(pos=pos, rows=rows))
        words[4] = halt
        assert self.step.binding is not None
        bench.gpu.write(self.step.binding.buffer, 0, bytes(words))
        y = bench.put("y", np.zeros((plan, s.values), np.float32))
        trace = Pass(plan, info=self.info, step=self.step)
        conv, decay, weight = self.weights
        delta_net(
            trace, s, bench.put("proj", given), conv, decay, Norm(weight, 1e-6),
            (self.history, self.state), y,
        )  # fmt: skip
        run(bench.run(trace))
        got: np.ndarray = run(bench.get(y))
        assert not got[rows:].any()
        return got[:rows]


SHAPES = [
    DeltaShape(1, 1, 4, 4, 2),
    DeltaShape(3, 3, 12, 20, 4),
    DeltaShape(2, 6, 36, 16, 3),
    DeltaShape(1, 2, 128, 132, 4),
    DeltaShape(1, 1, 256, 256, 8),
]


def run_pieces(
    gpu: Gpu,
    run: Runner,
    layer: Layer,
    pieces: list[tuple[int, int]],
    info: AdapterInfo | None = None,
) -> list[np.ndarray]:
    """Output, state and history after `pieces` of (rows, rows of the plan), with the kernels' forms for `info`."""
    bench = Bench(gpu)
    running = Running(bench, layer, info or gpu.info)
    got, pos = [], 0
    for rows, plan in pieces:
        got.append(running(run, pos, rows, plan))
        pos += rows
    lasting = [run(bench.get(t)) for t in (running.state, running.history)]
    bench.close()
    return [np.concatenate(got), *lasting]


CHUNKED = [
    DeltaShape(1, 2, 12, 20, 4),
    DeltaShape(2, 2, 128, 64, 4),  # q|k|v of proj has room for the scratch memory
    DeltaShape(1, 1, 132, 8, 4),  # too wide for chunks
]


def spares_swiftshader(gpu: Gpu, shape: DeltaShape) -> bool:
    """Whether the shape runs with --slow only, because SwiftShader compiles each of its kernels for a second."""
    return gpu.info.host == "dawn" and gpu.info.fallback and shape not in (SHAPES[0], CHUNKED[0])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_prompt_in_pieces(
    gpu: Gpu, run: Runner, shape: DeltaShape, skip_unless_slow: Callable[[], None]
) -> None:
    """Cutting a prompt into passes of a few rows changes no bit. Single tokens differ by rounding."""
    if spares_swiftshader(gpu, shape):
        skip_unless_slow()
    layer = Layer(shape, 41)
    wanted = layer.reference()
    whole = run_pieces(gpu, run, layer, [(41, 48)])
    assert nmse(whole[0], wanted) < 1e-10
    chunks = run_pieces(gpu, run, layer, [(17, 24), (1, 2), (2, 16), (21, 32)])
    for a, b in zip(chunks, whole, strict=True):
        assert a.tobytes() == b.tobytes()
    for pieces in (
        [(17, 24), (1, 1), (2, 16), (1, 1), (20, 32)],
        [*[(1, 1)] * 19, (2, 2), *[(1, 1)] * 20],  # single tokens from the first one on
    ):
        output, state, history = run_pieces(gpu, run, layer, pieces)
        assert nmse(output, wanted) < 1e-10
        assert nmse(state, whole[1]) < 1e-10
        assert history.tobytes() == whole[2].tobytes()


@pytest.mark.parametrize("rows, plan", [(1, 1), (70, 80)])
def test_halted_state_stands_still(gpu: Gpu, run: Runner, rows: int, plan: int) -> None:
    layer = Layer(DeltaShape(2, 4, 8, 12, 4), 80)
    bench = Bench(gpu)
    running = Running(bench, layer, gpu.info)
    running(run, 0, 8, 8)
    before = [run(bench.get(t)).tobytes() for t in (running.state, running.history)]
    running(run, 8, rows, plan, halt=1)
    assert [run(bench.get(t)).tobytes() for t in (running.state, running.history)] == before
    got = [running(run, 8 + i, 1, 1) for i in range(4)]
    assert nmse(np.concatenate(got), layer.reference()[8:12]) < 1e-10
    bench.close()


@pytest.mark.parametrize(
    "pieces", [[(20, 32)], [(1, 1)] * 20, [(70, 80)]], ids=["rows", "tokens", "chunk"]
)
def test_large_inputs(gpu: Gpu, run: Runner, pieces: list[tuple[int, int]]) -> None:
    layer = Layer(DeltaShape(1, 2, 16, 8, 4), sum(rows for rows, _ in pieces), size=1e5)
    output, state, _ = run_pieces(gpu, run, layer, pieces)
    assert nmse(output, layer.reference()) < 1e-9
    assert np.isfinite(state).all()


def test_every_run_is_the_same(gpu: Gpu, run: Runner, skip_unless_slow: Callable[[], None]) -> None:
    """200 runs of one token, in a layer whose heads share keys, give the same bits."""
    shape = DeltaShape(2, 6, 36, 132, 4)
    if spares_swiftshader(gpu, shape):
        skip_unless_slow()
    layer = Layer(shape, 9)
    bench = Bench(gpu)
    running = Running(bench, layer, gpu.info)
    running(run, 0, 8, 8)
    tensors = (running.state, running.history)
    before = [run(bench.get(t)) for t in tensors]
    seen = set()
    for _ in range(200):
        for tensor, array in zip(tensors, before, strict=True):
            assert tensor.binding is not None
            bench.gpu.write(tensor.binding.buffer, 0, array.tobytes())
        y = running(run, 8, 1, 1)
        seen.add(b"".join([y.tobytes(), *(run(bench.get(t)).tobytes() for t in tensors)]))
    assert len(seen) == 1
    bench.close()


def test_what_cannot_be() -> None:
    for numbers in ((2, 3, 8, 8, 4), (1, 1, 6, 8, 4), (1, 1, 8, 260, 4), (1, 1, 8, 8, 1)):
        with pytest.raises(ModelError):
            DeltaShape(*numbers)
    shape = DeltaShape(1, 1, 8, 8, 4)
    x = Tensor("x", (1, 8))
    with pytest.raises(ValueError, match="do not fit"):
        delta_net(Pass(1, step=x), shape, x, x, x, Norm(x, 1e-6), (x, x), x)


@pytest.mark.parametrize("shape", CHUNKED, ids=str)
@pytest.mark.parametrize("compact", [True, False], ids=["compact", "ahead"])
def test_chunks_of_rows(
    gpu: Gpu, run: Runner, shape: DeltaShape, compact: bool, skip_unless_slow: Callable[[], None]
) -> None:
    """Chunks of 64 rows begin at positions that are multiples of 64. Cutting a prompt there changes no bit. Cutting it
    elsewhere changes only the rounding."""
    if spares_swiftshader(gpu, shape):
        skip_unless_slow()
    layer = Layer(shape, 200)
    wanted = layer.reference()
    info = replace(gpu.info, fallback=compact)
    whole = run_pieces(gpu, run, layer, [(200, 208)], info)
    assert nmse(whole[0], wanted) < 1e-10
    for pieces in ([(64, 64), (128, 144), (8, 16)], [(128, 160), (72, 80)]):
        for a, b in zip(run_pieces(gpu, run, layer, pieces, info), whole, strict=True):
            assert a.tobytes() == b.tobytes()
    # Single rows before, between and after chunks.
    for pieces in ([(37, 64), (130, 192), (1, 80), (32, 64)], [(63, 64), (65, 80), (72, 80)]):
        output, state, history = run_pieces(gpu, run, layer, pieces, info)
        assert nmse(output, wanted) < 1e-10
        assert nmse(state, whole[1]) < 1e-10
        assert history.tobytes() == whole[2].tobytes()
