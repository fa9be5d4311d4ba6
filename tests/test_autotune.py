"""Autotune: forms of kernels are measured, picked, stored and used again. Stored data that does not apply here is
ignored.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from py_engine.checks import autotune
from py_engine.checks.autotune import chosen_forms, fastest, measure
from py_engine.checks.clock import Clock
from py_engine.checks.tunings import pack, store_forms, stored_forms, tuning_digest, unpack
from py_engine.graph.kernels import Kernels
from py_engine.graph.submit import GroupedSubmit
from py_engine.host.gpu import Gpu
from py_engine.host.gpu_counting import CountingGpu
from py_engine.host.io_native import NativeIo
from py_engine.ops.matvec import MatvecTask, MatvecTuning, candidates, fits, tuning
from py_engine.serve.engine import Engine
from tests import reference
from tests.conftest import Runner

NAME = "qwen3.5-mlx4-g64"
TASK = MatvecTask(64, 128, "q4", 64, "f16", "gated", True)
OTHER = MatvecTask(96, 64, "bf16", 0, "f16", "add", False)


@pytest.fixture
def gpu(open_software_gpu: Callable[..., Gpu]) -> Gpu:
    """A device that does not report itself as software, so that it is tuned."""
    gpu = open_software_gpu("wgpu")
    gpu.info = replace(gpu.info, fallback=False)
    return gpu


@pytest.fixture
def io(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NativeIo:
    monkeypatch.setenv("JERBOA_HOME", str(tmp_path))
    return NativeIo()


# ---- which form


def test_the_usual_form_stays_unless_clearly_beaten() -> None:
    usual, other, third = MatvecTuning(), MatvecTuning(rows=8), MatvecTuning(rows=2)
    assert fastest({usual: 1.0, other: 0.97, third: 2.0}, usual) == usual
    assert fastest({usual: 1.0, other: 0.90, third: 0.89}, usual) == third
    assert fastest({usual: 1.0}, usual) == usual


def test_candidates_fit_and_begin_with_the_usual_one() -> None:
    for info in (CountingGpu().info, replace(CountingGpu().info, subgroup_min_size=32)):
        for features in (frozenset[str](), frozenset({"subgroups"})):
            for task in (TASK, OTHER, replace(TASK, rows=248320, cols=1024, epilogue="store")):
                forms = candidates(task, features, info)
                usual = tuning(task.rows, task.cols, features, info)
                least = 2 if task.epilogue == "gated" else 1
                assert forms[0] == replace(usual, rows=max(least, usual.rows))
                assert len(forms) == len(set(forms)) >= 3
                assert all(fits(f, task.cols, features) for f in forms)
                assert features or not any(f.subgroups for f in forms)


# ---- measuring


def test_measure_tries_every_form(gpu: Gpu, run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every candidate really runs. The fastest one is picked (the test's clock decides which that is)."""
    seen: list[list[int]] = []

    async def compare(self: Any, alternatives: Any) -> list[float]:
        assert all(seconds > 0 for seconds in await real(self, alternatives))
        seen.append([len(dispatches) for dispatches in alternatives])
        return [1.0, 0.9, 0.5, *[0.8] * (len(alternatives) - 3)]

    real = Clock.compare
    monkeypatch.setattr(Clock, "compare", compare)
    before = gpu.counters.live_buffers
    found = run(measure([OTHER, TASK], gpu, Kernels(gpu), budget_s=60))
    order = sorted((TASK, OTHER), key=lambda t: -autotune._nbytes(t))
    forms = {task: candidates(task, gpu.features, gpu.info) for task in order}
    assert seen == [[24] * len(forms[task]) for task in order], "24 copies of the matrix take turns"
    assert found == {task: forms[task][2] for task in order}
    assert gpu.counters.live_buffers == before


def test_alternatives_are_timed_alike_with_and_without_timestamps(
    run: Runner, open_software_gpu: Callable[..., Gpu]
) -> None:
    """Each alternative gets a time with either clock, and every dispatch of a round really runs."""
    for features in (None, frozenset[str]()):
        gpu = open_software_gpu("wgpu", features=features)
        before = gpu.counters.dispatches
        seconds = run(compare_sizes(gpu, [TASK, replace(TASK, rows=8192)]))
        assert len(seconds) == 2 and all(s > 0 for s in seconds)
        assert (gpu.counters.dispatches - before) % 24 == 0
        assert gpu.counters.dispatches - before >= 4 * 24


async def compare_sizes(gpu: Gpu, tasks: list[MatvecTask]) -> list[float]:
    kernels = Kernels(gpu)
    bench = autotune._Bench(gpu, kernels, tasks)
    try:
        form = MatvecTuning(16, 1, 2)
        plans = [await bench.planner.lower([bench.trace(task, form)]) for task in tasks]
        clock = Clock(gpu, 0.002)
        await clock.start()
        return await clock.compare([plan.dispatches for plan in plans])
    finally:
        bench.release()


def test_a_task_without_time_is_left_out(gpu: Gpu, run: Runner) -> None:
    assert run(measure([TASK], gpu, Kernels(gpu), budget_s=-1.0)) == {}


def test_matrices_larger_than_a_buffer_are_left_out(run: Runner, gpu: Gpu) -> None:
    gpu.limits = replace(gpu.limits, max_buffer_bytes=32768)
    assert run(measure([replace(TASK, rows=4096)], gpu, Kernels(gpu))) == {}


# ---- keeping


def test_forms_are_kept_for_this_adapter(gpu: Gpu, io: NativeIo, run: Runner) -> None:
    forms: Any = {TASK: MatvecTuning(64, 4, 2), OTHER: MatvecTuning(128, 2, 8, staged=True)}
    assert run(stored_forms(gpu, io)) == {}
    run(store_forms(forms, gpu, io))
    assert run(stored_forms(gpu, io)) == forms
    gpu.info = replace(gpu.info, device="another")
    assert run(stored_forms(gpu, io)) == {}


def broken() -> list[Any]:
    """File contents that must count as no file."""
    gpu = CountingGpu()
    good = pack({TASK: MatvecTuning(64, 4, 2)}, gpu)
    assert unpack(good, gpu) == {TASK: MatvecTuning(64, 4, 2)}

    def changed(**values: Any) -> Any:
        return {**copy.deepcopy(good), **values}

    def entry(part: str, **values: Any) -> Any:
        data = copy.deepcopy(good)
        data["matvec"][0][part] |= values
        return data

    return [
        None, [], {}, 7, "x", changed(engine="0.0"), changed(layout=0), changed(adapter={}), changed(matvec=None),
        changed(matvec=[3]), changed(matvec=[{}]), changed(matvec=[{"task": {}, "form": {}}]),
        entry("form", threads=300), entry("form", threads=-64), entry("form", rows=3), entry("form", lanes=0),
        entry("form", lanes=4.0), entry("form", staged=1), entry("form", subgroups=True), entry("form", extra=1),
        entry("form", rows="2"), entry("task", rows="64"), entry("task", epilogue="none"), entry("task", norm=1),
    ]  # fmt: skip


BROKEN = [*map(json.dumps, broken()), "", "{", "\x00", "[" * 99_999]


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
def test_a_file_that_makes_no_sense_counts_as_none(content: str, io: NativeIo, run: Runner) -> None:
    gpu = CountingGpu()
    run(store_forms({TASK: MatvecTuning(64, 4, 2)}, gpu, io))

    async def spoil() -> None:
        store = await io.open_store("tunings")
        (name,) = await store.names()
        await store.replace(name, content.encode())

    run(spoil())
    assert run(stored_forms(gpu, io)) == {}


def test_a_store_that_refuses_is_no_error(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JERBOA_HOME", str(tmp_path / "file"))
    gpu, io = CountingGpu(), NativeIo()
    run(store_forms({TASK: MatvecTuning(64, 4, 2)}, gpu, io))
    assert run(stored_forms(gpu, io)) == {}


# ---- using


async def load(gpu: Gpu, io: NativeIo, **options: Any) -> Engine:
    folder = str(reference.folder(NAME))
    return await Engine.load(folder, gpu=gpu, io=io, dtype="f32", context=64, **options)


def test_a_tuned_model_answers_as_the_reference(
    gpu: Gpu, io: NativeIo, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tuning picks other forms here, because the clock makes the usual one slow. The logits still match the reference,
    the digest shows the difference, and a later load takes the same forms from the store without measuring."""
    import numpy as np

    async def compare(self: Any, alternatives: Any) -> list[float]:
        counted.append(alternatives)
        return [1.0 / (1 + i) for i in range(len(alternatives))]  # the last one is the fastest

    counted: list[Any] = []
    monkeypatch.setattr(Clock, "compare", compare)
    golden = reference.prompt(NAME, 7)

    async def logits(**options: Any) -> tuple[Any, str]:
        async with await load(gpu, io, **options) as engine:
            values = np.array(await engine.logits(golden.ids))
            return values, str(engine.info()["tuning"])

    plain, usual = run(logits())
    assert not counted, "nothing is measured unless asked for"
    tuned, digest = run(logits(tune=True))
    assert counted and digest != usual
    measured = len(counted)
    again, kept = run(logits())
    assert kept == digest and np.array_equal(again, tuned), "kept forms are used, bit for bit"
    run(logits(tune=True))
    assert len(counted) == measured, "nothing is measured twice"
    off, digest_off = run(logits(tune=False))
    assert digest_off == usual and np.array_equal(off, plain)
    for values in (plain, tuned):
        error = ((values - golden.logits) ** 2).sum() / (golden.logits**2).sum()
        assert error < reference.NMSE_F32


def test_tuning_beside_a_model_that_answers(gpu: Gpu, io: NativeIo, run: Runner) -> None:
    """Neither disturbs the other: every form is timed, and the answer is the same as on an idle device."""

    async def work() -> None:
        async with await load(gpu, io) as one:

            async def answer() -> list[int]:
                return await one.generate_ids([5, 6, 7], 40, ignore_eos=True)

            alone = await answer()
            asked = asyncio.ensure_future(answer())
            tuned = await load(gpu, io, tune=True)
            assert await asked == alone
            assert await answer() == alone
            assert await tuned.generate_ids([5, 6, 7], 3, ignore_eos=True) == alone[:3]
            await tuned.close()

    run(work())
    assert run(stored_forms(gpu, io))


def test_a_grouped_submit_is_not_tuned(
    gpu: Gpu, io: NativeIo, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measuring puts hundreds of dispatches into a command buffer: too many where the device takes few."""

    async def compare(self: Any, alternatives: Any) -> list[float]:
        raise AssertionError("measured")

    monkeypatch.setattr(Clock, "compare", compare)

    async def tokens() -> list[int]:
        async with await load(gpu, io, tune=True, strategy=GroupedSubmit(8)) as engine:
            return await engine.generate_ids([5, 6, 7], 2, ignore_eos=True)

    assert len(run(tokens())) == 2


def test_software_adapters_are_not_tuned(
    open_software_gpu: Callable[..., Gpu], io: NativeIo, run: Runner
) -> None:
    software = open_software_gpu("wgpu")
    assert software.info.fallback
    run(store_forms({TASK: MatvecTuning(64, 4, 2)}, software, io))
    calls: Any = []
    assert run(chosen_forms(calls, software, io, Kernels(software), True)) == {}


def test_digest_of_nothing_and_of_calls_without_forms() -> None:
    assert tuning_digest([]) == tuning_digest([])
    assert len(tuning_digest([])) == 16
