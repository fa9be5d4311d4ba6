"""The self-check: what it covers, what it costs, and what happens when a driver computes wrongly.
tests/models/test_goldens.py tests that it passes on sound devices.

The faulty drivers here are real devices whose compiler gets other source than was sent to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from py_engine.abort import Abort
from py_engine.checks import CHECKS, FOLLOWERS, chains, distinct, make_check
from py_engine.checks.self_check import SelfCheck, run_checks
from py_engine.checks.workbench import Bench, difference
from py_engine.errors import HostError, SelfCheckError
from py_engine.graph.kernels import Kernels
from py_engine.graph.matrix import Linear
from py_engine.graph.submit import GroupedSubmit, SingleSubmit
from py_engine.graph.trace import Call, Trace, kernel
from py_engine.host.gpu import AdapterInfo, Buffer, Copy, Gpu, Limits, Pipeline, Recording, Upload
from py_engine.host.gpu_counting import CountingGpu
from py_engine.ops.attention_full import FullHeads, HeadRows, full_attention
from py_engine.ops.linear import linear
from py_engine.ops.narrow import narrow
from py_engine.ops.norm import Norm
from py_engine.ops.patch_positions import add_positions, gather_rows
from py_engine.ops.per_layer import end_layer, gate_by_signal
from py_engine.ops.rope import Heads, rope_angles, rope_append, rotate_rows
from py_engine.ops.step import Pass
from py_engine.pictures.reader import picture_calls
from py_engine.pictures.rules import Area, Rules
from py_engine.serve.engine import Engine
from py_engine.serve.options import Progress
from py_engine.serve.runtime import build_runtime, build_sight
from py_engine.serve.source import RandomSource
from py_engine.weights.random import PRESETS, RandomStore
from tests import reference
from tests.conftest import Runner, remember_pipelines
from tests.ops.harness import Bench as Matrices
from tests.ops.matrices import random_matrix

NAME = "qwen3.5-mlx4-g64"
Change = Callable[[str, str, Mapping[str, float]], tuple[str, Mapping[str, float]]]
UNITS = frozenset({"shader-f16", "subgroups", "subgroup-matrix"})
DOT4 = frozenset({"dot4"})


class Compiler:
    """A device's compiler that can be made faulty. A fault that changes nothing that is compiled fails the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        # Number of pipelines compiled from other input; None: not faulty.
        self.changed: int | None = None

    def break_(self, gpu: Gpu, change: Change) -> None:
        """From now on the device compiles what `change` returns for (label, code, constants)."""
        compiler = gpu.create_pipeline
        self.changed = 0

        async def faulty(label: str, code: str, constants: Mapping[str, float]) -> Pipeline:
            try:
                given = change(label, code, constants)
            except HostError:
                self.changed += 1  # type: ignore[operator]
                raise
            self.changed += given != (code, constants)  # type: ignore[operator]
            return await compiler(label, *given)

        self._monkeypatch.setattr(gpu, "create_pipeline", faulty)
        # Kernels are compiled again, and dropped afterwards.
        self._monkeypatch.setattr(gpu, "kernels", None)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiler]:
    it = Compiler(monkeypatch)
    yield it
    assert it.changed != 0, (
        "the fault touched nothing: what it looks for is no longer in the shaders"
    )


def other_source(stem: str, old: str, new: str) -> Change:
    """A driver that compiles `new` in place of `old` in the kernels of this stem."""

    def change(
        label: str, code: str, constants: Mapping[str, float]
    ) -> tuple[str, Mapping[str, float]]:
        return (code.replace(old, new) if label.startswith(f"{stem}(") else code), constants

    return change


def lonely_shuffles(
    label: str, code: str, constants: Mapping[str, float]
) -> tuple[str, Mapping[str, float]]:
    """A driver whose shuffles by one give each lane its own value."""
    return code.replace("subgroupShuffleXor(v, 1u)", "v"), constants


# ---- what is checked, and what it costs: on a GPU that only counts


class Paper(CountingGpu):
    """A GPU that runs nothing, and counts what the checks move."""

    uploaded = uploads = copied = copies = 0

    async def replay(self, recording: Recording) -> None:
        """Do nothing."""

    def write_parts(self, data: Any, uploads: Sequence[Upload]) -> None:
        self.uploads += len(uploads)
        self.uploaded += sum(upload.nbytes for upload in uploads)

    async def copy(self, copies: Sequence[Copy]) -> None:
        self.copies += len(copies)
        self.copied += sum(copy.nbytes for copy in copies)

    async def read(self, buffer: Buffer, offset: int = 0, nbytes: int | None = None) -> bytes:
        return bytes(nbytes or buffer.nbytes)


def paper(features: frozenset[str]) -> Paper:
    gpu = Paper(
        AdapterInfo("nvidia", subgroup_min_size=32, subgroup_max_size=32),
        Limits(max_buffer_bytes=1 << 32, max_binding_bytes=1 << 31),
        features,
    )
    return gpu


@pytest.mark.parametrize("features", [frozenset(), UNITS, DOT4], ids=["plain", "units", "dot4"])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_pipeline_is_checked_and_none_is_added(
    name: str, features: frozenset[str], run: Runner
) -> None:
    """With published shapes: a load of random weights has at most 41 pipelines. All of them are checked, except
    those that only loading uses, with few bytes up and down."""

    async def count() -> None:
        gpu = paper(features)
        store, kernels = RandomStore(gpu, PRESETS[name], "stored"), Kernels(gpu)
        context = min(4096, PRESETS[name]["max_position_embeddings"])
        runtime = build_runtime(
            PRESETS[name], store, gpu, kernels, context=context, kv_dtype="f16", exact=False
        )
        forward = len(kernels)
        await store.fill(kernels, Abort())
        bench = Bench(gpu)
        checks = [make_check(bench, chain) for chain in distinct(runtime.programs.calls).values()]
        checked = {call.kernel for check in checks for call in check.calls}
        assert checked == {call.kernel for call in runtime.programs.calls}
        kernels.start(checked)
        await runtime.plan()
        # A checkpoint's load has at most five pipelines of its own: checksum, scales, biases, and two kinds of vectors.
        assert len(checked) == forward <= 36
        assert len(kernels) <= 41
        # The check uses little more memory than the activations that are made after it, or than the staging buffers of
        # the load. DeltaNet in chunks with tensor units takes up to 8 MiB more.
        assert bench.nbytes <= max(runtime.memory()["activation_bytes"], 16 << 20) + (8 << 20)
        await bench.run(kernels, SingleSubmit())
        assert 0 < gpu.uploaded <= 5 << 20 and gpu.uploads <= 200
        assert 0 < gpu.copied <= 350_000 and gpu.copies <= 470
        await kernels.settle()

    run(count())


@pytest.mark.parametrize("features", [frozenset(), UNITS, DOT4], ids=["plain", "units", "dot4"])
@pytest.mark.parametrize("name", ["lfm2.5-vl-450m-4bit", "qwen3.5-0.8b-vl-4bit"])
def test_every_pipeline_of_a_tower_is_checked(
    name: str, features: frozenset[str], run: Runner
) -> None:
    """A tower adds few pipelines to those of its text model."""

    async def count() -> None:
        gpu = paper(features)
        store, kernels = (
            RandomSource(f"random:{name}").make_store(gpu, "stored", tower=True),
            Kernels(gpu),
        )
        sight = build_sight(PRESETS[name], store, gpu, kernels, exact=False)
        assert sight is not None
        calls = list(sight.runner.programs.calls)
        bench = Bench(gpu)
        checks = [make_check(bench, chain) for chain in distinct(calls).values()]
        checked = {call.kernel for check in checks for call in check.calls}
        assert checked == {call.kernel for call in calls} and len(checked) <= 24
        assert bench.nbytes <= 40 << 20
        await bench.run(kernels, SingleSubmit())
        await kernels.settle()

    run(count())


def test_every_kernel_file_has_its_check() -> None:
    """Except the kernels of loading and of diagnostics."""
    folder = reference.GOLDENS.parents[1] / "shaders"
    stems = {path.stem for path in folder.glob("*.wgsl")}
    others = {s for s in stems if s.startswith(("layout_", "probe_"))} | {"checksum"}
    assert stems - others == CHECKS.keys() | FOLLOWERS
    assert not CHECKS.keys() & FOLLOWERS


def test_differences_are_told() -> None:
    assert difference([1.0, 2.0], [1.0, 2.0 + 1e-5], 1e-5) == ""
    assert difference([1.0, 2.0], [1.5, 2.0], 0.1) == "gives 1 where 1.5 is right"
    assert difference([1.0, float("nan")], [1.0, 2.0]) == "gives nan where 2 is right"
    assert "inf" in difference([float("inf"), 2.0], [1.0, 2.0])
    # NaN and infinity that come from the checkpoint itself are not the GPU's fault.
    nan = float("nan")
    assert difference([nan, 2.0], [nan, 2.0]) == difference([nan], [nan]) == ""
    assert difference([1.0, 3.0], [float("inf"), 2.0]) == "gives 3 where 2 is right"


# ---- on devices


@pytest.fixture(scope="module")
def device(open_software_gpu: Callable[..., Gpu]) -> Gpu:
    """A device that does not report itself as software, so that models are checked on it and use subgroups. Checks
    compile only those kernels anew that a test breaks."""
    gpu = open_software_gpu("wgpu")
    remember_pipelines(gpu)
    gpu.info = replace(gpu.info, fallback=False)
    return gpu


@pytest.fixture(scope="module")
def models(device: Gpu, run: Runner) -> Iterator[Callable[[str, str], Engine]]:
    """Each model, loaded once, unchecked: by name and dtype, which the form of the KV cache may follow."""
    loaded: dict[tuple[str, str], Engine] = {}

    def load(name: str, dtype: str) -> Engine:
        if (name, dtype) not in loaded:
            path = str(reference.folder(name))
            form, _, kv = dtype.partition(" ")
            loading = Engine.load(
                path, gpu=device, dtype=form, kv=kv or "auto", context=64, self_check=False
            )
            loaded[name, dtype] = run(loading)
        return loaded[name, dtype]

    yield load
    for engine in loaded.values():
        run(engine.close())
    assert device.counters.live_buffers == 0


class Found:
    """What a self-check of one kernel's calls found."""

    def __init__(self, gpu: Gpu, run: Runner, engine: Engine, stem: str) -> None:
        self.dropped: frozenset[str] | None = None
        self.wrong: list[str] = []
        self.error = ""
        before = gpu.counters.live_buffers
        run(self._run(gpu, engine, stem))
        assert gpu.counters.live_buffers == before

    async def _run(self, gpu: Gpu, engine: Engine, stem: str) -> None:
        kernels = Kernels(gpu)
        calls = [
            call
            for chain in chains(calls_of(engine))
            if stem in {call.kernel.stem for call in chain}
            for call in chain
        ]
        assert calls, f"the model has no {stem}"
        checking = SelfCheck(gpu, kernels, SingleSubmit(), lambda: calls, lambda _: None)
        try:
            outcome = await checking.run()
            self.dropped, self.wrong = outcome.dropped, [str(w) for w in outcome.wrong]
        except SelfCheckError as error:
            self.error = str(error)
        await kernels.settle()


LFM2 = "lfm2-conv-bias-untied-f32"
BERT = "bert-f32"
# The kernel, a text in its source or in a library's, what a driver makes of that text; the model, if it is not NAME.
FAULTS: list[tuple[str, ...]] = [
    ("embed", "put(at, k + 28u, chunk.v7)", "put(at, k + 28u, chunk.v6)"),
    ("embed", "min(ids[id.y], VOCAB - 1u)", "min(ids[0], VOCAB - 1u)"),
    ("embed", "given || k >= K", "k >= K"),
    ("norm", "tree_sum(lane, sum) /", "sum * 256.0 /"),
    ("norm", "i < TREE_PARTS; i++", "i + 1u < TREE_PARTS; i++"),
    ("norm", "group.x >= step.rows", "group.x > step.rows"),
    ("layer_norm", "let d = x[source + i] - mean;", "let d = x[source + i];", "starcoder2"),
    ("layer_norm", "(step.rows - 1u) * K", "0u", "starcoder2"),
    ("norm_parts", "weight[begin + i]", "weight[i]", "stablelm-parallel"),
    ("norm_parts", "mean = tree_sum(lane, sum) / f32(n);", "", "stablelm-parallel"),
    ("norm_parts", "n = WIDTH_2;", "n = WIDTH;", "olmo2"),
    ("matvec", "return positive * positive;", "return positive;", "nemotron"),
    ("matvec", "c += LANES) {", "c += LANES) { if (c + 1u == chunks) { break; }"),
    ("matvec", "if (R > 1u) { lo.y += row_dot(w.r1", "if (R > 1u) { lo.y += row_dot(w.r0"),
    ("matvec", "y[at] = held + finished(value, row)", "y[at] = finished(value, row)"),
    ("matvec", "affine.y * input_sum", "affine.x * input_sum"),
    ("matvec", "return v / (1.0 + exp(min(-v, 80.0)))", "return v / (1.0 + exp(min(-v, 0.0)))"),
    ("matvec", "{ return step.rows - 1u; }", "{ return 0u; }"),
    ("matvec", "bias[BIAS_OFFSET + row]", "bias[BIAS_OFFSET]", LFM2),
    ("matvec", "remember(channel);", "", LFM2),
    ("matvec", "tap(channel, TAPS - 1u) * gated_input", "tap(channel, 0u) * gated_input", LFM2),
    ("matmul", "let k4 = k + SLICES;", "let k4 = k;"),
    ("matmul", "acc2 += sums.c;", ""),
    ("matmul", "min(c + 1u, steps - 1u)", "c"),
    ("matmul", "acc4 = acc5;", ""),
    ("matmul", "if (row >= step.rows) { return; }", ""),
    ("rope", "v * turn.x + b", "v * turn.x"),
    ("matmul", "return v * (1.0 - tail)", "return v", BERT),
    ("matmul", "if (ACTIVATE) { v = activate(v); }", "", BERT),
    ("embed", "y[at] += v * SCALE", "y[at] = v * SCALE", BERT),
    ("layer_norm", "let d = x[source + i] - mean;", "let d = x[source + i];", BERT),
    ("layer_norm", "v += bias[i];", "", BERT),
    ("attention_full", "key < span.y", "key <= span.y", BERT),
    ("attention_full", "let decay = exp(", "let decay = 0.0 * exp(", BERT),
    ("attention_full", "s *= SCALE", "s *= 1.0", BERT),
    ("attention_full", "acc3 += p4.w * value", "acc3 += p4.z * value", BERT),
    ("attention_full", "V_AT + head /", "head /", BERT),
    ("pool", "row < end", "row + 1u < end", BERT),
    ("pool", "begin = end - 1u", "begin = begin", BERT),
    ("pool", "*= factor", "*= 1.0", BERT),
    ("rope", "(coarse + position % 64u)", "(coarse + position % 32u)"),
    ("rope", "position + step.shift", "position"),
    ("rope", "v_put((head - H - HKV)", "v_put((head - H)"),
    ("attention_prefill", "keys >= vec4<u32>(seen.y)", "keys > vec4<u32>(seen.y)"),
    ("attention_prefill", "exp(max(maxima.a - now.a", "0.0 * exp(max(maxima.a - now.a"),
    ("attention_prefill", "row + i * TR", "row + min(i, 1u) * TR"),
    ("attention_decode", "v_j = v;", ""),
    ("attention_decode", "is_q, position + step.shift)", "is_q, position)"),
    ("attention_decode", "k_put(cache + position, KEY_AT, lane);", ""),
    ("attention_decode", "dot(q.g0.b, k.b)", "0.0"),
    ("attention_decode", "exp(max(ends[at + t][lane % 4u] - most, -80.0))", "1.0"),
    ("attention_reduce", "let factor = exp(max(stats[s].y - maximum, -80.0));", "let factor = 1.0;"),
    ("delta_step", "alpha * s[c * QUADS + i] + d * k[i]", "s[c * QUADS + i] + d * k[i]"),
    ("delta_step", "history[ring_place(step.pos + row + TAPS - back, channel)]", "0.0"),
    ("delta_step", "var i = 0u; i < SIDE; i++", "var i = 1u; i < SIDE; i++"),
    ("delta_conv", "input(row - back, channel)", "input(row, channel)"),
    ("delta_conv", "remember(base + c)", "remember(base)"),
    ("delta_chunk", "if (i <= thread) { sum", "if (i < thread) { sum"),
    ("delta_chunk", "rows.i >= vec4<u32>(j)", "rows.i > vec4<u32>(j)"),
    ("delta_chunk", "j < i; j += 4u", "j < i; j += 8u"),
    ("delta_chunk", "x -= m[2] * x.z;", ""),
    ("delta_scan", "d[3] * decayed(whole", "d[3] * decayed(0.0 * whole"),
    ("delta_scan", "j < from_j + 32u", "j < from_j + 16u"),
    ("delta_scan", "alpha * (*s)[i] + d * k[i]", "(*s)[i] + d * k[i]"),
    ("delta_scan", "end = step.rows;", "end = from_row;"),
    ("delta_scan", "{ state[home + quad] = s[i]; }", "{ state[home + quad] = s[i] + s[i]; }"),
    ("delta_out", "j < within + height", "j < within"),
    ("delta_out", "* w * opened(given)", "* opened(given)"),
    ("short_conv", "sum += weight[TAPS_AT + CHANNELS * TAPS + channel]", "sum += 0.0", LFM2),
    ("short_conv", "position % TAPS * channels()", "0u * channels()", LFM2),
    ("sample_argmax", "if (history != 0u)", "if (history == 1u)"),
    ("sample_argmax", "sampling.frequency * f32(uses)", "sampling.frequency"),
    ("sample_take", "lanes[lane + span]", "lanes[lane]"),
    ("sample_take", "step.pos += step.rows", "step.pos += 1u"),
    ("sample_histogram", "atomicAdd(&histogram[bucket], 1u)", "atomicAdd(&histogram[0], 1u)"),
    ("sample_choose", "histogram[b] = 0u;", ""),
    ("sample_choose", "pcg(pcg(token) ^ key)", "pcg(token ^ key)"),
    ("sample_choose", "kept = min(n,", "kept = max(n,"),
    ("sample_mark", "id.x < step.rows", "id.x <= step.rows"),
    ("sample_clear", "if (id.x < arrayLength", "if (id.x + 1u < arrayLength"),
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f[0]}: {f[2] or 'nothing'}")
def test_a_fault_in_any_kernel_is_found(
    device: Gpu,
    run: Runner,
    compiler: Compiler,
    models: Callable[[str, str], Engine],
    fault: tuple[str, ...],
) -> None:
    stem, old, new, *model = fault
    engine = models(model[0] if model else NAME, "f32")
    compiler.break_(device, other_source(stem, old, new))
    found = Found(device, run, engine, stem)
    assert "computes wrongly" in found.error or "subgroups" in (found.dropped or ()), found.wrong
    named = found.error or found.wrong[0]
    leaders = {
        chain[0].kernel.stem
        for chain in chains(calls_of(engine))
        if stem in {call.kernel.stem for call in chain}
    }
    assert any(leader in named for leader in leaders)


def calls_of(engine: Engine) -> list[Call]:
    """The calls of a model that nothing else uses."""
    runtime: Any = engine._loaded.runtime
    return list(runtime.programs.calls)


@pytest.mark.parametrize("stem", ["rope", "attention_prefill", "attention_decode"])
def test_packed_f16_of_the_cache_is_given_up(
    device: Gpu, run: Runner, compiler: Compiler, models: Callable[[str, str], Engine], stem: str
) -> None:
    """A driver that swaps the two values when it unpacks, or packs, f16."""
    engine = models(NAME, "auto")
    if stem == "rope":
        compiler.break_(device, other_source(stem, "pack2x16float(c.xy)", "pack2x16float(c.yx)"))
    else:
        old = "unpack2x16float(quad.y)"
        compiler.break_(device, other_source(stem, old, old + ".yx"))
    found = Found(device, run, engine, stem)
    # The more special feature is given up first.
    given_up = "subgroups" if stem == "attention_decode" else "f16-kv"
    assert (
        found.dropped == frozenset({given_up}) and f"going on without {given_up}" in found.wrong[0]
    )


@pytest.mark.parametrize(
    ("stem", "old", "new"),
    [
        ("rope", "pack4x8unorm(parts)", "pack4x8unorm(parts.yxzw)"),
        ("rope", "sum -= new_rows[first + i];", "sum += new_rows[first + i];"),
        ("rope", "greatest = max(greatest, new_rows[start + i]);", ""),
        ("attention_prefill", "unpack4x8unorm(quad.x)", "unpack4x8unorm(quad.x).yxzw"),
        ("attention_decode", "ends.x + (ends.y - ends.x) *", "ends.y + (ends.x - ends.y) *"),
    ],
)
def test_bytes_of_the_cache_are_given_up(
    device: Gpu,
    run: Runner,
    compiler: Compiler,
    models: Callable[[str, str], Engine],
    stem: str,
    old: str,
    new: str,
) -> None:
    engine = models(NAME, "auto q8")
    assert Found(device, run, engine, stem).wrong == []
    compiler.break_(device, other_source(stem, old, new))
    found = Found(device, run, engine, stem)
    # The more special feature is given up first.
    given_up = "subgroups" if stem == "attention_decode" else "q8-kv"
    assert (
        found.dropped == frozenset({given_up}) and f"going on without {given_up}" in found.wrong[0]
    )


def test_angles_of_several_axes(device: Gpu, run: Runner) -> None:
    """No text model uses several axes."""

    async def failures() -> list[Any]:
        bench = Bench(device)
        step = bench.make("step", 8, dtype="u32")
        trace = Pass(3, step=step)
        axes, positions = bench.make("axes", 8, dtype="u32"), bench.make("p", 3, 3, dtype="u32")
        table = rope_angles(trace, positions, axes, bench.make("table", 128, 8, 2))
        cache = bench.make("k", 1, 64, 16), bench.make("v", 1, 64, 16)
        heads = Heads(2, 1, 16, table, 16, per_row=True)
        qkv, q = bench.make("qkv", 3, 64), bench.make("q", 3, 2, 16)
        rope_append(trace, heads, qkv, q, cache)
        bench.release()
        return await run_checks(
            device, Kernels(device), SingleSubmit(), [[call] for call in trace.calls]
        )

    assert run(failures()) == []
    faults = [
        ("rope_angles", "min(axes[pair], AXES - 1u)", "min(axes[pair], 0u)"),
        ("rope_angles", "(coarse + position % 64u)", "coarse"),
        ("rope", "if (PER_ROW) { return table[position * pairs + pair]; }", ""),
        ("rope", "if (PER_ROW) { angle = t; }", ""),
    ]
    for fault in faults:
        with pytest.MonkeyPatch.context() as patch:
            broken = Compiler(patch)
            broken.break_(device, other_source(*fault))
            assert len(run(failures())) == 1, fault
            assert broken.changed


def test_heads_rotated_in_place(device: Gpu, run: Runner) -> None:
    """As encoders and towers rotate them."""

    async def failures(per_row: bool) -> list[Any]:
        bench = Bench(device)
        norm = Norm(bench.make("weight", 16), 1e-6)
        table = bench.make("table", 3 if per_row else 65, 8, 2)
        heads = Heads(2, 1, 16, table, 16, norm, norm, 0.25, per_row=per_row)
        trace = Pass(3, step=bench.make("step", 8, dtype="u32"))
        positions = None if per_row else bench.make("positions", 3, dtype="u32")
        rotate_rows(trace, heads, bench.make("qkv", 3, 64), positions, v_eps=1e-6)
        bench.release()
        return await run_checks(device, Kernels(device), SingleSubmit(), [trace.calls])

    assert run(failures(False)) == run(failures(True)) == []
    faults = [
        (False, "position = positions[t];", "position = positions[0];"),
        (True, "var position = t;", "var position = 0u;"),
        (False, "if (lane < quads) { rows[place] = v * factor; }", ""),
        (False, "if (t >= step.rows)", "if (t > step.rows)"),
        (False, "workgroupBarrier();\n  var position", "qkv[lane].x += 1.0;\n  var position"),
    ]
    for per_row, *fault in faults:
        with pytest.MonkeyPatch.context() as patch:
            broken = Compiler(patch)
            broken.break_(device, other_source("rotate_rows", *fault))
            assert len(run(failures(per_row))) == 1, fault
            assert broken.changed


@pytest.mark.parametrize(
    "stem, old, new",
    [
        ("per_layer_gate", "y[row + i] *= p[row + i]", "y[row + i] = p[row + i]"),
        ("per_layer_gate", "group.x >= step.rows", "group.x > step.rows"),
        ("per_layer_end", "* weight[i]) * factor[0]", "* weight[i] * factor[0])"),
    ],
)
def test_layers_with_signals_of_their_own(
    device: Gpu, run: Runner, compiler: Compiler, stem: str, old: str, new: str
) -> None:
    """EmbeddingGemma 2 has them."""

    async def failures() -> list[Any]:
        bench = Bench(device)
        x, y = bench.make("x", 3, 20), bench.make("y", 3, 20)
        norm, trace = (
            Norm(bench.make("weight", 20), 1e-6),
            Pass(3, step=bench.make("step", 8, dtype="u32")),
        )
        gate_by_signal(trace, x, norm, y)
        end_layer(trace, x, norm, bench.make("factor", 1), y)
        bench.release()
        chains = [[call] for call in trace.calls]
        return await run_checks(device, Kernels(device), SingleSubmit(), chains)

    assert run(failures()) == []
    compiler.break_(device, other_source(stem, old, new))
    assert len(run(failures())) == 1


def test_pictures(device: Gpu, run: Runner) -> None:
    """What prepares pictures is in no model's passes."""
    half = (0.5, 0.5, 0.5)
    qwen = Rules(Area(4096, 1 << 20), 16, 2, "bicubic", half, half, frames=2, blocks=True)
    lfm2 = Rules(Area(4096, 1 << 20), 16, 2, "bilinear", half, half, channels_last=True)
    grey = replace(
        picture_calls(qwen)[0], kernel=kernel("resample", (), {"CHANNELS": 1, "VERTICAL": 0})
    )
    calls = [*picture_calls(qwen), picture_calls(lfm2)[-1], grey]

    async def failures(stem: str = "") -> list[Any]:
        chains = [[call] for call in calls if stem in call.kernel.stem]
        return await run_checks(device, Kernels(device), SingleSubmit(), chains)

    assert run(failures()) == []
    faults = [
        ("resample", "sum >> vec3<u32>(PRECISION)", "sum >> vec3<u32>(PRECISION + 1u)"),
        ("resample", "vec3<i32>(HALF)", "vec3<i32>(0)"),
        ("resample", "vec3<i32>(255))", "vec3<i32>(254))"),
        ("resample", "t < width; t++", "t < width; t += 2"),
        ("resample", "step = parameters[ROW]", "step = parameters[COLUMN]"),
        ("resample", "line * parameters[TARGET_ROW]", "line * parameters[LINE]"),
        ("resample", "at += i32(starts[place]) * step", "at += i32(starts[0]) * step"),
        ("resample", "byte(3u * i + 2u)", "byte(3u * i + 1u)"),
        ("patches", "inside / MERGE", "inside % MERGE"),
        ("patches", "frame == 1u", "frame == 2u"),
        ("patches", "place = 3u * i + c", "place = c * area + i"),
        ("patches", "(colours >> (8u * c)) & 255u", "(colours >> (8u * c)) & 127u"),
        ("patches", "parameters[ROW] + patch_number", "patch_number"),
    ]
    for fault in faults:
        with pytest.MonkeyPatch.context() as patch:
            broken = Compiler(patch)
            broken.break_(device, other_source(*fault))
            assert run(failures(fault[0])), fault
            assert broken.changed


def test_what_only_towers_do(device: Gpu, run: Runner) -> None:
    """Positions of patches with CLS, and rows in another order."""

    async def failures() -> list[Any]:
        bench = Bench(device)
        trace = Pass(4, step=bench.make("step", 8, dtype="u32"))
        words = (bench.make(name, 4, n, dtype="u32") for name, n in (("places", 2), ("order", 1)))
        places, order = words
        x, y = bench.make("x", 4, 24), bench.make("y", 4, 24)
        add_positions(
            trace, x, places, bench.make("taps", 2, 9, 5), bench.make("table", 10, 24),
            bench.make("cls", 24),
        )  # fmt: skip
        gather_rows(trace, x, order, y)
        bench.release()
        return await run_checks(device, Kernels(device), SingleSubmit(), [[c] for c in trace.calls])

    assert run(failures()) == []
    faults = [
        ("patch_positions", "(SIDES + place.y)", "place.y"),
        ("patch_positions", "taps[row + 2u + i]", "taps[row + 2u]"),
        ("patch_positions", "taps[column + 2u + j]", "taps[column + 2u]"),
        ("patch_positions", "* SIDE + first", "* SIDE"),
        ("patch_positions", "cls[k] + table[k]", "cls[k]"),
        ("patch_positions", "x[at] += sum", "x[at] = sum"),
        ("patch_positions", "id.y >= step.rows", "id.y > step.rows"),
        ("gather_rows", "order[id.y]", "order[0]"),
        ("gather_rows", "id.y < step.rows", "id.y <= step.rows"),
    ]
    for fault in faults:
        with pytest.MonkeyPatch.context() as patch:
            broken = Compiler(patch)
            broken.break_(device, other_source(*fault))
            assert len(run(failures())) == 1, fault
            assert broken.changed


def test_queries_for_tensor_units(device: Gpu, run: Runner, compiler: Compiler) -> None:
    """No software adapter has tensor units; what prepares their queries runs anywhere."""

    async def failures() -> list[Any]:
        bench = Bench(device)
        trace = Pass(3, step=bench.make("step", 8, dtype="u32"))
        cache = bench.make("k", 1, 64, 16), bench.make("v", 1, 64, 16)
        heads = Heads(2, 1, 16, bench.make("table", 66, 8, 2), 16)
        q = bench.make("q", 3, 2, 16, dtype="f16")
        rope_append(trace, heads, bench.make("qkv", 3, 64), q, cache)
        bench.release()
        return await run_checks(device, Kernels(device), SingleSubmit(), [trace.calls])

    assert run(failures()) == []
    compiler.break_(device, other_source("rope", "pack2x16float(c.zw)", "pack2x16float(c.wz)"))
    assert len(run(failures())) == 1


def test_attention_to_both_sides_on_gpus(device: Gpu, run: Runner) -> None:
    """The kernels of a chunk over spans, which software adapters take for nothing else."""

    async def failures() -> list[Any]:
        bench = Bench(device)
        trace = Pass(128, step=bench.make("step", 8, dtype="u32"))
        spans, y = bench.make("spans", 128, 2, dtype="u32"), bench.make("y", 128, 32)
        qkv = bench.make("qkv", 128, 64)
        q, k, v = (HeadRows(qkv, at) for at in (0, 32, 48))
        full_attention(trace, FullHeads(2, 1, 16, 0.25, (5, 8)), q, k, v, spans, y)
        assert [call.kernel.stem for call in trace.calls] == ["rope", "attention_prefill"]
        bench.release()
        return await run_checks(device, Kernels(device), SingleSubmit(), [[c] for c in trace.calls])

    assert run(failures()) == []
    for fault in [
        ("attention_prefill", "keys < vec4<u32>(seen.x)", "keys <= vec4<u32>(seen.x)"),
        ("attention_prefill", "min(row, BEFORE)", "min(row, BEFORE + 1u)"),
        (
            "attention_prefill",
            "seen_by(token_of(row + TR, tokens))",
            "seen_by(token_of(row, tokens))",
        ),
    ]:
        with pytest.MonkeyPatch.context() as patch:
            broken = Compiler(patch)
            broken.break_(device, other_source(*fault))
            assert len(run(failures())) == 1, fault
            assert broken.changed


@pytest.mark.parametrize("norm", [True, False])
def test_narrowing(
    device: Gpu, run: Runner, compiler: Compiler, monkeypatch: pytest.MonkeyPatch, norm: bool
) -> None:
    """No software adapter has tensor units, but the kernel before them runs anywhere."""

    async def failures() -> list[Any]:
        bench = Bench(device)
        x, weight = bench.make("x", 16, 208), bench.make("weight", 208)
        trace = Trace(16)
        how = Norm(weight, 1e-6, 1.0) if norm else None
        narrow(trace, x, bench.make("y", 16, 208, dtype="f16"), how)
        bench.release()
        return await run_checks(device, Kernels(device), SingleSubmit(), [trace.calls])

    assert run(failures()) == []
    old, new = ("v *= factor", "v *= 0.99") if norm else ("clamp(v, -LARGEST, LARGEST)", "v * 0.99")
    compiler.break_(device, other_source("narrow", old, new))
    assert len(run(failures())) == 1


@pytest.mark.parametrize(
    "stem, old, new",
    [
        ("quantise", "tree_sum(lane, squares) /", "squares * 128.0 /"),
        ("quantise", "a - a_high * 128", "a - a_high * 127"),
        ("quantise", "sum += sums[lane + i]", "sum += sums[lane]"),
        ("matmul_dot4", "dot4I8Packed(a.w, b.w)", "dot4I8Packed(a.w, b.z)"),
        ("matmul_dot4", "x_sum * w.offset", "x_sum * w.scale"),
        ("matmul_dot4", "s3 = both(s3, x_tile[xk + 48u],", "s3 = both(s3, x_tile[xk + 32u],"),
        ("matmul_dot4", "if (row >= step.rows) { return; }", ""),
        ("matmul_dot4", "2u * next + w_half", "2u * next"),
    ],
)
@pytest.mark.parametrize("form", ["q4", "q8"])
def test_integer_products(
    device: Gpu,
    run: Runner,
    compiler: Compiler,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    stem: str,
    old: str,
    new: str,
) -> None:
    """Software adapters do not take them by themselves."""
    weights = Matrices(device)
    matrix, _ = random_matrix(weights, np.random.default_rng(5), 100, 192, form, 64)

    async def failures() -> list[Any]:
        bench = Bench(device)
        trace = Pass(64, DOT4, AdapterInfo("nvidia"), step=bench.make("step", 8, dtype="u32"))
        x, y = bench.make("x", 64, 192), bench.make("y", 64, 100)
        norm = Norm(bench.make("weight", 192), 1e-6)
        linear(trace, "layer", x, Linear(100, 192, (matrix,)), y, norm=norm)
        bench.release()
        assert [call.kernel.stem for call in trace.calls] == ["quantise", "matmul_dot4"]
        return await run_checks(
            device, Kernels(device), SingleSubmit(), [[call] for call in trace.calls]
        )

    assert run(failures()) == []
    compiler.break_(device, other_source(stem, old, new))
    [(check, _)] = run(failures())
    assert stem in check.name
    weights.close()


# ---- loads on faulty drivers


async def load(gpu: Gpu, told: list[Progress], **options: Any) -> tuple[np.ndarray, Engine]:
    """The logits of a prompt."""
    engine = await Engine.load(
        str(reference.folder(NAME)), gpu=gpu, context=64, on_progress=told.append, **options
    )
    try:
        ids = reference.prompt(NAME, 7).ids
        return np.array(await engine.logits(ids), np.float32), engine
    finally:
        await engine.close()


def test_a_feature_that_fails_is_not_used(device: Gpu, run: Runner, compiler: Compiler) -> None:
    assert "subgroups" in device.features
    compiler.break_(device, lonely_shuffles)
    wanted = reference.prompt(NAME, 7).logits
    told: list[Progress] = []
    unchecked, engine = run(load(device, told, dtype="f32", self_check=False))
    assert engine.info()["self_check"] is None
    assert not reference.nmse(unchecked, wanted) < 1e-2  # without the check the logits are wrong
    got, engine = run(load(device, told, dtype="f32", self_check=True))
    assert reference.nmse(got, wanted) <= reference.NMSE_F32
    found = engine.info()["self_check"]
    assert found["dropped"] == ["subgroups"]
    assert "matvec" in found["wrong"][0]
    assert found["pipelines"] > found["checks"] > 20
    notes = [p.message for p in told if p.phase == "note"]
    assert notes == [f"self-check: {wrong}" for wrong in found["wrong"]]
    assert "without subgroups" in notes[0]


def test_a_cache_in_f32_takes_the_place_of_packed_f16(
    device: Gpu, run: Runner, compiler: Compiler
) -> None:
    old = "unpack2x16float(quad.y)"

    def swapped(
        label: str, code: str, constants: Mapping[str, float]
    ) -> tuple[str, Mapping[str, float]]:
        return code.replace(old, old + ".yx"), constants

    compiler.break_(device, swapped)
    got, engine = run(load(device, [], dtype="auto"))
    assert engine.info()["self_check"]["dropped"] == ["f16-kv", "subgroups"]
    assert reference.nmse(got, reference.prompt(NAME, 7).logits) <= reference.NMSE_F32


def test_a_cache_in_f16_takes_the_place_of_bytes(
    device: Gpu, run: Runner, compiler: Compiler
) -> None:
    old = "unpack4x8unorm(quad.x)"

    def swapped(
        label: str, code: str, constants: Mapping[str, float]
    ) -> tuple[str, Mapping[str, float]]:
        return code.replace(old, old + ".yxzw"), constants

    compiler.break_(device, swapped)
    got, engine = run(load(device, [], dtype="auto", kv="q8"))
    assert engine.info()["self_check"]["dropped"] == ["q8-kv", "subgroups"]
    assert reference.nmse(got, reference.prompt(NAME, 7).logits) <= reference.NMSE_F16


def test_a_kernel_that_does_not_compile_is_replaced_too(
    device: Gpu, run: Runner, compiler: Compiler
) -> None:
    def refuse(
        label: str, code: str, constants: Mapping[str, float]
    ) -> tuple[str, Mapping[str, float]]:
        if "subgroupShuffleXor" in code:
            raise HostError(f"kernel {label!r} does not compile")
        return code, constants

    compiler.break_(device, refuse)
    found = run(load(device, []))[1].info()["self_check"]
    assert found["dropped"] == ["subgroups"] and "does not run" in found["wrong"][0]


def test_a_load_that_fails_the_check_leaves_nothing(
    device: Gpu, run: Runner, compiler: Compiler
) -> None:
    before = device.counters.live_buffers
    compiler.break_(device, other_source("norm", "+ EPS", "+ 0.5"))
    with pytest.raises(SelfCheckError, match=r"computes wrongly: norm \(norm\) gives .* is right"):
        run(load(device, [], strategy=GroupedSubmit(1)))
    assert device.counters.live_buffers == before
