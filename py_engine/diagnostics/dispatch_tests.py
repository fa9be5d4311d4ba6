"""Tests of a device's dispatches and submits, for the page /diagnostics and `doctor --probes`. They give rows for a
file.

Each point gives two rows: "begin" before it is tried, which is stored before the test starts, and "end" after it. So
when a point crashes the tab, its "begin" is the last row. The only model is a tiny one from a hash; in all less than
200 MB.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from py_engine.blocks.kv_cache import KV_DTYPES, KvDtype
from py_engine.checks import chains, distinct, make_check
from py_engine.checks.self_check import run_checks
from py_engine.checks.workbench import Bench
from py_engine.diagnostics.chains import SENTINEL, Chain, ChainSetting
from py_engine.errors import DeviceLostError, HostError, InputError, OutOfMemoryError
from py_engine.generate.decoder import Decoder
from py_engine.graph.buffers import Buffers
from py_engine.graph.kernels import Kernels
from py_engine.graph.plan import Planner
from py_engine.graph.submit import GroupedSubmit, SingleSubmit, SubmitStrategy
from py_engine.graph.trace import Call, Tensor, Trace, kernel
from py_engine.host.gpu import Binding, Dispatch, Gpu
from py_engine.host.gpu_counting import CountingGpu
from py_engine.ops.step import pack_step
from py_engine.serve.engine import Engine
from py_engine.serve.runtime import build_runtime
from py_engine.weights.random import PRESETS, RandomStore

Row = dict[str, Any]
Tell = Callable[[Row], Awaitable[None]]

MODEL = "random:tiny-4bit"
_CONTEXT = 64
_TOKENS = 20  # in the tiny model's cache before the token that is tested
_PROBED, _OTHER = 77, 78  # the token that is tested, and the one that runs before it
_SAME = 300  # dispatches of one pipeline in one pass
_GROUPS = 64  # bind groups of one shader
_LOOPS = 200  # of attention
_PASS: SubmitStrategy = SingleSubmit()
_ONE_BY_ONE: SubmitStrategy = GroupedSubmit(1)
_MODES = {"batched": _PASS, "one by one": _ONE_BY_ONE}
# One axis is varied at a time; the others keep the defaults of ChainSetting.
AXES: dict[str, Sequence[int]] = {
    "nbytes": (4 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20),
    "pipelines": (2, 4, 8, 16, 32),
    "length": (3, 9, 27, 81, 243, 441),
    "bindings": (2, 4, 6),
    "shared": (0, 1),
}
_BISECTED = ("pipelines", "length")  # axes for which any whole number is valid
SWEEP = (1, 8, 32, 64, 128, 441)  # dispatches in a command buffer


@dataclass
class Session:
    """One run of the tests on one device. `most`: the most points of a test; None: all."""

    gpu: Gpu
    kernels: Kernels
    tell: Tell
    most: int | None = None

    def some(self, values: Iterable[Any]) -> list[Any]:
        """The first `most` of these."""
        return list(values)[: self.most]

    async def point(self, test: str, setting: Row, work: Callable[[], Awaitable[str]]) -> bool:
        """Try one point. `work` says what is wrong ("": nothing). False if something is. Raises DeviceLostError."""
        await self.tell({"phase": "begin", "test": test, "setting": setting})
        started = time.perf_counter()
        ok: bool | None = False
        lost = None
        try:
            detail = await work()
            ok = not detail
        except DeviceLostError as error:
            lost, detail = error, f"the device is lost: {error}"
        except OutOfMemoryError as error:
            ok, detail = None, str(error)  # there is no memory for it, which is not a wrong result
        except HostError as error:
            detail = str(error)
        ms = round((time.perf_counter() - started) * 1e3, 3)
        row = {"phase": "end", "test": test, "setting": setting, "ok": ok}
        await self.tell({**row, "detail": detail, "ms": ms})
        if lost:
            raise lost
        return ok is not False

    async def chain(self, test: str, setting: ChainSetting, name: str, how: SubmitStrategy) -> bool:
        """A point that is a chain."""

        async def work() -> str:
            chain = await Chain.make(self.gpu, self.kernels, setting)
            try:
                return await chain.run(how)
            finally:
                chain.release()

        return await self.point(test, {**asdict(setting), "mode": name}, work)


async def run_dispatch_tests(
    gpu: Gpu, tell: Tell, names: Sequence[str] | None = None, most: int | None = None
) -> Row:
    """Run the tests of these names (None: all, in order) and report their rows. Returns {"points", "wrong", "skipped"}.

    The first row has phase "device": adapter, limits, features. Raises InputError for an unknown name, DeviceLostError.
    """
    for name in names or ():
        if name not in TESTS:
            raise InputError(f"no dispatch test {name!r}: known are {', '.join(TESTS)}")
    counts = {"points": 0, "wrong": 0, "skipped": 0}

    async def counted(row: Row) -> None:
        if row["phase"] == "end":
            counts["points"] += 1
            counts["wrong"] += row["ok"] is False
            counts["skipped"] += row["ok"] is None
        await tell(row)

    await tell(
        {
            "phase": "device",
            "adapter": asdict(gpu.info),
            "limits": asdict(gpu.limits),
            "features": sorted(gpu.features),
        }
    )
    session = Session(gpu, Kernels(gpu), counted, most)
    try:
        for name in names or TESTS:
            await TESTS[name](session)
    finally:
        await session.kernels.settle()
    return counts


# ---- one pass


async def same_pipeline(session: Session) -> None:
    """One pipeline 300 times in one pass; each time adds one to the same words."""

    async def work() -> str:
        buffers = Buffers(session.gpu)
        try:
            count = buffers.make("count", 64, dtype="u32")
            await _replay(session, [("tick", kernel("probe_tick"), [count])] * _SAME)
            got = set(memoryview(await _read(session.gpu, count)).cast("I"))
            return "" if got == {_SAME} else f"counted {sorted(got)}, not {_SAME}"
        finally:
            buffers.release()

    await session.point("same-pipeline", {"dispatches": _SAME, "mode": "batched"}, work)


async def bind_groups(session: Session) -> None:
    """One shader with a bind group for each of 64 places of one buffer, in one pass."""

    async def work() -> str:
        buffers = Buffers(session.gpu)
        try:
            whole = buffers.make("places", 64 * _GROUPS, dtype="u32")
            buffer = whole.buffer
            calls = []
            for i in range(_GROUPS):
                place = Tensor(f"place {i}", (64,), "u32", Binding(buffer, 256 * i, 256))
                calls += [("tick", kernel("probe_tick"), [place])] * (1 + i % 3)
            await _replay(session, calls)
            got = memoryview(await _read(session.gpu, whole)).cast("I").tolist()
            wrong = sum(v != 1 + at // 64 % 3 for at, v in enumerate(got))
            return f"{wrong} of {len(got)} words are wrong" if wrong else ""
        finally:
            buffers.release()

    await session.point("bind-groups", {"groups": _GROUPS, "mode": "batched"}, work)


async def different_pipelines(session: Session) -> None:
    """Pipelines that take turns on two shared buffers, in one pass and one by one."""
    for name, how in _MODES.items():
        await session.chain("different-pipelines", ChainSetting(pipelines=32, length=64), name, how)


async def model_kernels(session: Session) -> None:
    """Check every kernel of the tiny model on known inputs: norms, matrices, attention, DeltaNet, the sampler."""
    async with await _tiny(session.gpu) as engine, engine.exclusive() as decoder:
        for chain in session.some(distinct(decoder.programs.calls).values()):

            async def work(chain: list[Call] = chain) -> str:
                found = await run_checks(session.gpu, session.kernels, _PASS, [chain])
                return "".join(reason for _, reason in found)

            label = f"{chain[0].kernel.stem} ({chain[0].label})"
            await session.point("kernels", {"kernel": label, "mode": "batched"}, work)


# ---- a forward pass


async def forward(session: Session) -> None:
    """A token of the tiny model, with its first n dispatches in one command buffer, for every n; compared with one by
    one."""
    async with await _tiny(session.gpu) as engine, engine.exclusive() as decoder:
        probe = _Forward(session.gpu, decoder)
        await probe.prepare()
        dispatches = decoder.token_plan("logits").dispatches
        last = len(dispatches)
        entries = range(1, last + 1)
        for n in session.some(reversed(entries)):  # the whole token first
            label = dispatches[n - 1].label
            setting = {"entry": n, "of": last, "label": label, "mode": "batched"}
            await session.point("forward", setting, lambda n=n: probe.batched(n))  # type: ignore[misc]


class _Forward:
    """Runs one token of a decoder again and again. `step.halt` is set, so that no lasting state changes. Another token
    runs before it each time, so that a value that is read too early is that token's, and differs."""

    def __init__(self, gpu: Gpu, decoder: Decoder) -> None:
        self._gpu, self._decoder = gpu, decoder
        self._dispatches = list(decoder.token_plan("logits").dispatches)
        self._wanted = b""

    async def prepare(self) -> None:
        """Fill the cache and find the right logits, with one dispatch in a command buffer."""
        decoder = self._decoder
        await decoder.logits(list(range(1, 1 + _TOKENS)))
        step = bytearray(pack_step(pos=_TOKENS, rows=1))
        struct.pack_into("<I", step, 4, 1)  # halt
        self._write(decoder.state.step, bytes(step))
        self._wanted = await self._logits(_PROBED, [])

    async def batched(self, count: int) -> str:
        """Run the first `count` dispatches in one pass, the others one by one. Says what is wrong; "" if nothing."""
        await self._logits(_OTHER, [])
        got = await self._logits(_PROBED, self._dispatches[:count])
        if got == self._wanted:
            return ""
        pairs = list(
            zip(memoryview(got).cast("I"), memoryview(self._wanted).cast("I"), strict=True)
        )
        wrong = [a for a, b in pairs if a != b]
        told = f"{len(wrong)} of {len(pairs)} logits differ"
        return f"{told}: {wrong.count(0)} zero, {wrong.count(SENTINEL)} untouched (7777.0)"

    async def _logits(self, token: int, together: Sequence[Dispatch]) -> bytes:
        """The logits, with the first `together` dispatches in one pass, the others one by one."""
        logits = self._decoder.sampler.logits
        size = 4 * self._decoder.model.vocab_size
        self._write(self._decoder.state.ids, struct.pack("<I", token))
        self._write(logits, SENTINEL.to_bytes(4, "little") * (size // 4))
        rest = self._dispatches[len(together) :]
        buffers = ([[list(together)]] if together else []) + _ONE_BY_ONE.cut(rest)
        await self._gpu.replay(self._gpu.record(buffers, await_each=True))
        return await self._gpu.read(logits.buffer, 0, size)

    def _write(self, tensor: Tensor, data: bytes) -> None:
        self._gpu.write(tensor.buffer, 0, data)


# ---- how far submits may go


async def bisect(session: Session) -> None:
    """Vary one axis of a chain at a time, batched and one by one. When a number of links or pipelines fails, find the
    smallest that does by bisection."""
    base = ChainSetting()
    for name, how in _MODES.items():
        for axis, values in AXES.items():
            good, bad = 0, 0
            for value in session.some(values):
                setting = _with(base, axis, value)
                if await session.chain(f"bisect {axis}", setting, name, how):
                    good = value
                else:
                    bad = value
                    break
            while axis in _BISECTED and bad - good > 1:
                middle = (good + bad) // 2
                setting = _with(base, axis, middle)
                if await session.chain(f"bisect {axis}", setting, name, how):
                    good = middle
                else:
                    bad = middle


def _with(setting: ChainSetting, axis: str, value: int) -> ChainSetting:
    changed: dict[str, Any] = {axis: bool(value) if axis == "shared" else value}
    return replace(setting, **changed)


async def sweep(session: Session) -> None:
    """A chain as long as a large model's token, in command buffers of SWEEP dispatches, in one pass or a pass each."""
    setting = ChainSetting(pipelines=32, length=max(SWEEP))
    for dispatches in session.some(SWEEP):
        for passes in sorted({1, dispatches}):
            how = GroupedSubmit(dispatches, passes)
            await session.chain("sweep", setting, f"group={dispatches} passes={passes}", how)


# ---- attention


async def determinism(session: Session) -> None:
    """Attention of a token and of a chunk 200 times on the same inputs: every run must leave the same bits."""
    loops = _LOOPS if session.most is None else min(_LOOPS, 10 * session.most)
    for chain in await _attention(session.gpu, "f16"):

        async def work(chain: list[Call] = chain) -> str:
            bench = Bench(session.gpu)
            try:
                make_check(bench, chain)
                different = len(set(await bench.run(session.kernels, _PASS, loops)))
            finally:
                bench.release()
            return f"{different} different results" if different > 1 else ""

        setting = {"kernel": chain[0].kernel.stem, "loops": loops, "mode": "batched"}
        await session.point("determinism", setting, work)


async def kv_dtypes(session: Session) -> None:
    """The same attention over a KV cache in f32, in packed f16 and in bytes, each compared with the right result."""
    for dtype in KV_DTYPES:
        calls = await _attention(session.gpu, dtype)

        async def work(calls: list[list[Call]] = calls) -> str:
            found = await run_checks(session.gpu, session.kernels, _PASS, calls)
            return "; ".join(f"{check.name} {reason}" for check, reason in found)

        await session.point("kv-dtype", {"dtype": dtype, "mode": "batched"}, work)


TESTS: dict[str, Callable[[Session], Awaitable[None]]] = {
    "same-pipeline": same_pipeline,
    "different-pipelines": different_pipelines,
    "bind-groups": bind_groups,
    "kernels": model_kernels,
    "forward": forward,
    "bisect": bisect,
    "sweep": sweep,
    "determinism": determinism,
    "kv-dtype": kv_dtypes,
}


async def _tiny(gpu: Gpu) -> Engine:
    """Load the tiny model on this device."""
    return await Engine.load(MODEL, gpu=gpu, context=_CONTEXT, tune=False, self_check=False)


async def _attention(gpu: Gpu, dtype: KvDtype) -> list[list[Call]]:
    """Trace the tiny model's attention of a token and of a chunk, over a cache of this dtype. Nothing is allocated."""
    paper = CountingGpu.like(gpu)
    kernels = Kernels(paper)
    config = PRESETS[MODEL.removeprefix("random:")]
    runtime = build_runtime(
        config,
        RandomStore(paper, config, "stored"),
        paper,
        kernels,
        context=_CONTEXT,
        kv_dtype=dtype,
        exact=False,
    )
    await kernels.settle()
    stems = ("attention_decode", "attention_prefill")
    found = {chain[0].kernel.stem: chain for chain in chains(runtime.programs.calls)}
    return [found[stem] for stem in stems]


async def _replay(session: Session, calls: Sequence[tuple[str, Any, list[Tensor]]]) -> None:
    """Replay calls in one pass, each a dispatch of one workgroup that writes its tensors."""
    trace = Trace(1)
    for label, kind, tensors in calls:
        trace.call(label, kind, [(t, "w") for t in tensors], (1, 1, 1))
    planner = Planner(session.gpu, session.kernels, _PASS)
    planner.reserve([trace])
    await session.gpu.replay((await planner.lower([trace])).recording)


async def _read(gpu: Gpu, tensor: Tensor) -> bytes:
    return await gpu.read(tensor.buffer, 0, tensor.nbytes)
