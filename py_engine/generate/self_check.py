"""Runs a model's kinds of kernels on small inputs on the user's own GPU and compares with stored numbers.

A driver that computes wrongly gives wrong text without an error, so this stands before the first answer. A kind that
fails is tried again without the optional features it used, the most special one first; those features are then used no
more. What fails without any of them raises. The numbers: generate/golden.py.
"""

from __future__ import annotations

import math
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

from py_engine.errors import DeviceLostError, HostError, SelfCheckError
from py_engine.generate import golden
from py_engine.generate.golden_numbers import NUMBERS
from py_engine.generate.tunings import Forms
from py_engine.graph.buffers import Buffers, Dtype
from py_engine.graph.kernels import Kernels
from py_engine.graph.matrix import Linear, Matrix
from py_engine.graph.plan import Planner
from py_engine.graph.step import pack_step
from py_engine.graph.submit import SubmitStrategy
from py_engine.graph.trace import Call, Tensor, Trace
from py_engine.host.gpu import Gpu
from py_engine.host.gpu_counting import CountingGpu
from py_engine.models.kv_cache import KvDtype
from py_engine.models.state import Rope
from py_engine.ops.attention import attention
from py_engine.ops.delta import delta_net
from py_engine.ops.linear import linear
from py_engine.ops.matvec import MatvecTask, MatvecTuning, matvec, tuning
from py_engine.ops.norm import Norm, rms_norm
from py_engine.ops.rope import Heads

# Of the largest number of a result. Sums of a thousand f32 in another order, and WGSL's exp and inverseSqrt, differ by
# some 1e-5 of it; a lane or a row left out by 1e-2 and more.
TOLERANCE = 2e-4
# Where numbers are rounded to f16's 11 bits on the way: the current token's key in an f16 cache; and tensor units,
# which cut off low bits of what they add.
TOLERANCE_F16 = 2e-3
# What is given up first. Without subgroups there are no subgroup matrices either (ops/matmul.py).
OPTIONAL = ("subgroup-matrix", "subgroups", "shader-f16")
_MOST_FORMS = 3  # of matvec, the most used ones of the model: each costs a pipeline

Numbers: TypeAlias = "array[float]"


@dataclass(frozen=True)
class Wrong:
    """A kind of kernel that gave other numbers; `dropped`: the feature without which it was tried again."""

    check: str
    reason: str
    dropped: str

    def __str__(self) -> str:
        return f"{self.check}: {self.reason}; going on without {self.dropped}"


@dataclass
class Outcome:
    """What a self-check came to. `wrong` is empty where all was right at once."""

    checks: int = 0
    seconds: float = 0.0  # once pipelines were there
    wrong: list[Wrong] = field(default_factory=list)

    @property
    def dropped(self) -> frozenset[str]:
        """Features that this model must not use here."""
        return frozenset(w.dropped for w in self.wrong)

    def summary(self) -> dict[str, Any]:
        """As a plain object."""
        return {
            "checks": self.checks,
            "seconds": round(self.seconds, 4),
            "wrong": [str(w) for w in self.wrong],
            "dropped": sorted(self.dropped),
        }


class Bench:
    """The buffers of one check and the trace over them."""

    def __init__(self, gpu: Gpu, features: frozenset[str], rows: int, position: int) -> None:
        self._gpu = gpu
        self._buffers = Buffers(gpu)
        step = self.put("step", pack_step(pos=position, rows=rows), 8, dtype="u32")
        zeros = self.put("zeros", b"", 64)
        self.trace = Trace(
            rows, step, step, zeros, features, gpu.limits.max_binding_bytes, gpu.info
        )

    def put(self, name: str, data: bytes | Numbers, *shape: int, dtype: Dtype = "f32") -> Tensor:
        """A tensor that begins with `data`, zeros behind it."""
        tensor = self._buffers.make(name, *shape, dtype=dtype)
        if data:
            assert tensor.binding is not None
            raw = data if isinstance(data, bytes) else data.tobytes()
            self._gpu.write(tensor.binding.buffer, 0, raw)
        return tensor

    def matrix(self, golden_matrix: golden.GoldenMatrix, like: MatvecTask) -> Matrix:
        """The matrix in a task's format."""
        m = golden_matrix
        packed = m.pack(like.format, like.group_size, like.scale_format)
        words = self.put("weight", packed.weight, len(packed.weight) // 4, dtype="u32")
        scales = None
        if packed.scales:
            scales = self.put("scales", packed.scales, len(packed.scales) // 4, dtype="u32")
        return Matrix(
            m.rows, m.cols, like.format, words, 0, scales, like.group_size, like.scale_format
        )

    async def run(
        self, kernels: Kernels, strategy: SubmitStrategy, result: Tensor, times: int = 1
    ) -> list[Numbers]:
        """Replay the trace so many times and read each result."""
        planner = Planner(self._gpu, kernels, strategy)
        try:
            planner.reserve([self.trace])
            await planner.allocate()
            plan = await planner.lower([self.trace])
            results = []
            for _ in range(times):
                await self._gpu.replay(plan.recording)
                assert result.binding is not None
                data = await self._gpu.read(result.binding.buffer, 0, result.nbytes)
                results.append(array("f", data))
        finally:
            planner.release()
        return results

    def release(self) -> None:
        """Free the buffers."""
        self._buffers.release()


@dataclass(frozen=True)
class Check:
    """A kind of kernel: `write` puts its calls into the bench's trace and gives the tensor of the result, f32."""

    name: str
    numbers: str  # which of NUMBERS
    write: Callable[[Bench], Tensor]
    rows: int = 1
    position: int = 0
    rounds: bool = False  # to f16, whatever the features

    def bench(self, gpu: Gpu, features: frozenset[str]) -> tuple[Bench, Tensor]:
        """Buffers and trace, and the tensor of the result."""
        bench = Bench(gpu, features, self.rows, self.position)
        try:
            return bench, self.write(bench)
        except BaseException:
            bench.release()
            raise

    def error(self, got: Numbers) -> float:
        """The largest difference, as a part of the largest number; infinity where there are NaN."""
        every, text = NUMBERS[self.numbers]
        wanted = [float(v) for v in text.split()]
        found = got[::every]
        if not all(map(math.isfinite, found)):
            return math.inf
        return max(abs(a - b) for a, b in zip(found, wanted, strict=True)) / max(map(abs, wanted))

    def difference(self, got: Numbers, used: frozenset[str]) -> str:
        """What is wrong with a result, in words; "" if nothing."""
        worst = self.error(got)
        if worst == math.inf:
            return "gives numbers that are not finite"
        tolerance = TOLERANCE_F16 if self.rounds or "shader-f16" in used else TOLERANCE
        return "" if worst <= tolerance else f"is off by {worst:.1g} of the largest number"


class SelfCheck:
    """The checks for one model on one device; their pipelines compile from the moment this is made."""

    def __init__(
        self,
        gpu: Gpu,
        kernels: Kernels,
        strategy: SubmitStrategy,
        calls: Iterable[Call],
        features: frozenset[str],
        kv_dtype: KvDtype,
        forms: Forms,
    ) -> None:
        """`calls`: of all passes of the model; `features`: those that its kernels may use; `forms`: measured ones."""
        self._gpu, self._kernels, self._strategy = gpu, kernels, strategy
        self._features = features
        self._checks = checks_of(list(calls), gpu, features, kv_dtype, forms)
        paper = CountingGpu.like(gpu)
        for check in self._checks:
            bench, _ = check.bench(paper, features)
            kernels.start(call.kernel for call in bench.trace.calls)

    async def run(self) -> Outcome:
        """Run them all. Raises SelfCheckError when one is wrong without any optional feature; DeviceLostError."""
        outcome = Outcome(len(self._checks))
        for check in self._checks:
            while True:
                reason, used = await self._try(check, self._features - outcome.dropped, outcome)
                if not reason:
                    break
                feature = next((f for f in OPTIONAL if f in used), None)
                if feature is None:
                    info = self._gpu.info
                    names = " ".join(filter(None, (info.vendor, info.device, info.description)))
                    raise SelfCheckError(
                        f"this GPU computes wrongly: {check.name} {reason}, also without optional features. Answers "
                        "would be wrong, so the model was not loaded. Update the graphics driver or the browser, or "
                        f"use another GPU than this one ({names or 'unnamed'})."
                    )
                outcome.wrong.append(Wrong(check.name, reason, feature))
        return outcome

    async def _try(
        self, check: Check, features: frozenset[str], outcome: Outcome
    ) -> tuple[str, frozenset[str]]:
        """What is wrong, "" if nothing, and the features that its kernels use."""
        started = time.perf_counter()
        bench, result = check.bench(self._gpu, features)
        outcome.seconds += time.perf_counter() - started
        kinds = {call.kernel for call in bench.trace.calls}
        used = frozenset[str]().union(*(kind.features for kind in kinds))
        try:
            for kind in kinds:
                await self._kernels.pipeline(kind)
            started = time.perf_counter()
            [got] = await bench.run(self._kernels, self._strategy, result)
            outcome.seconds += time.perf_counter() - started
            return check.difference(got, used), used
        except DeviceLostError:
            raise
        except HostError as error:
            return f"does not run ({error})", used
        finally:
            bench.release()


def _ragged(call: Call) -> bool:
    """Whether its matrix has rows that are not whole chunks, which the golden one has."""
    return "chunk_any" in call.kernel.uses


def checks_of(
    calls: Sequence[Call],
    gpu: Gpu,
    features: frozenset[str],
    kv_dtype: KvDtype,
    forms: Forms,
) -> list[Check]:
    """The kinds of kernels among a model's calls, its matrices in their formats and most used forms."""
    stems = {call.kernel.stem for call in calls}
    kinds: Counter[tuple[MatvecTask, MatvecTuning]] = Counter()
    for call in calls:
        if isinstance(call.task, MatvecTask) and not _ragged(call):
            task = call.task
            form = forms.get(task) or tuning(task.rows, task.cols, features, gpu.info)
            # What differs between tasks of one form is not what the check is about.
            task = replace(
                task, rows=golden.MATVEC_ROWS, cols=golden.MATVEC_COLS, epilogue="store", norm=True
            )
            kinds[task, form] += 1
    checks = [Check("norm", "norm", _norm)]
    checks += [
        Check(f"matvec {task.format}", "matvec", partial(_matvec, task=task, form=form))
        for (task, form), _ in kinds.most_common(_MOST_FORMS)
    ]
    if kinds:
        (task, _), _ = kinds.most_common(1)[0]
        checks.append(
            Check(
                f"matmul {task.format}", "matmul", partial(_matmul, task=task), golden.MATMUL_TOKENS
            )
        )
    if "attention_decode" in stems:
        checks.append(attention_check(kv_dtype))
    if "delta_step" in stems:
        checks.append(Check("DeltaNet", "delta", _delta, 1, golden.DELTA_POSITION))
    return checks


def attention_check(kv_dtype: KvDtype) -> Check:
    """Attention of one token over a cache of this dtype."""
    write = partial(_attention, kv_dtype=kv_dtype)
    return Check("attention", "attention", write, 1, golden.POSITION, rounds=kv_dtype == "f16")


def _norm(bench: Bench) -> Tensor:
    data, width = golden.norm_inputs(), golden.NORM_WIDTH
    y = bench.put("y", b"", 1, width)
    norm = Norm(bench.put("weight", data["weight"], width), golden.EPS)
    rms_norm(bench.trace, bench.put("x", data["x"], 1, width), norm, y)
    return y


def _matvec(bench: Bench, task: MatvecTask, form: MatvecTuning) -> Tensor:
    if not form.needs <= bench.trace.features:
        form = replace(form, subgroups=False)
    data, cols = golden.matvec_inputs(), golden.MATVEC_COLS
    y = bench.put("y", b"", golden.MATVEC_ROWS)
    matrix = bench.matrix(golden.matvec_matrix(), task)
    norm = Norm(bench.put("norm", data["norm"], cols), golden.EPS)
    x = bench.put("x", data["x"], 1, cols)
    matvec(bench.trace, "matvec", x, matrix, y, norm=norm, form=form)
    return y


def _matmul(bench: Bench, task: MatvecTask) -> Tensor:
    tokens, rows, cols = golden.MATMUL_TOKENS, golden.MATMUL_ROWS, golden.MATMUL_COLS
    y = bench.put("y", b"", tokens, rows)
    matrix = bench.matrix(golden.matmul_matrix(), task)
    x = bench.put("x", golden.matmul_inputs()["x"], tokens, cols)
    linear(bench.trace, "matmul", x, Linear(rows, cols, (matrix,)), y)
    return y


def _attention(bench: Bench, kv_dtype: KvDtype) -> Tensor:
    data = golden.attention_inputs()
    heads, kv, dim, context = golden.HEADS, golden.KV_HEADS, golden.HEAD_DIM, golden.CONTEXT
    pairs = dim // 2
    frequencies = tuple(golden.THETA ** (-i / pairs) for i in range(pairs))
    table = Rope(dim, golden.THETA, frequencies).table(context)
    q_norm, k_norm = (
        Norm(bench.put(name, data[name], dim), golden.EPS) for name in ("q_norm", "k_norm")
    )
    cache = [
        bench.put(name, golden.pack(data[name], kv_dtype), kv, context, dim, dtype=kv_dtype)
        for name in "kv"
    ]
    how = Heads(
        heads, kv, dim, bench.put("table", table, len(table) // 4), dim, q_norm, k_norm, dim**-0.5
    )
    y = bench.put("y", b"", 1, heads * dim)
    qkv = bench.put("qkv", data["qkv"], 1, (heads + 2 * kv) * dim)
    attention(bench.trace, how, qkv, (cache[0], cache[1]), y)
    return y


def _delta(bench: Bench) -> Tensor:
    data, s = golden.delta_inputs(), golden.DELTA
    y = bench.put("y", b"", 1, s.values)
    delta_net(
        bench.trace,
        s,
        bench.put("proj", data["proj"], 1, s.projected),
        bench.put("conv", data["conv"], s.channels, s.taps),
        bench.put("decay", data["decay"], 2 * s.value_heads),
        Norm(bench.put("norm", data["norm"], s.value_dim), golden.EPS),
        (
            bench.put("history", data["history"], s.taps, s.channels),
            bench.put("state", data["state"], s.value_heads, s.value_dim, s.key_dim),
        ),
        y,
    )
    return y
