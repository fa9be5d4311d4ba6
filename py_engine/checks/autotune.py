"""Times the forms of decode's matvecs on this device and picks the fastest, before a model's buffers are made.

This is done only when asked for (Engine.load(tune=True)), since every form that is tried must be compiled; and not on
software adapters, whose form is fixed. The result is stored (checks/tunings.py), and later loads use it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from py_engine.checks.clock import Clock
from py_engine.checks.tunings import Forms, store_forms, stored_forms
from py_engine.errors import DeviceLostError, HostError
from py_engine.graph.kernels import Kernels
from py_engine.graph.matrix import Matrix
from py_engine.graph.plan import Planner
from py_engine.graph.submit import SingleSubmit
from py_engine.graph.trace import Call, Tensor
from py_engine.host.gpu import Binding, Buffer, Gpu
from py_engine.host.io import Io
from py_engine.host.profile import adapter_profile
from py_engine.ops.gate import Finish
from py_engine.ops.matvec import MatvecTask, MatvecTuning, candidates, matvec
from py_engine.ops.norm import Norm
from py_engine.ops.step import STEP_BYTES, Pass, pack_step

MARGIN = 0.05  # a form must be faster than the usual one by this share
BUDGET_S = 0.5  # seconds for measuring, after compiling
COMPILE_S = 10.0  # seconds for compiling; forms that are not ready then are not tried
_RUN_S = 0.002  # seconds that one measurement runs
_COPIES = 24  # of a matrix, used in turn: caches help no more than with a model's layers
_POOL_BYTES = 128 << 20  # for copies of weights; more only if one matrix needs more
_ALIGN = 256  # a binding's offset is a multiple of this
_BITS = {"f32": 32, "f16": 16, "bf16": 16, "q4": 4, "q8": 8}


async def chosen_forms(
    calls: Iterable[Call], gpu: Gpu, io: Io, kernels: Kernels, tune: bool | None
) -> Forms:
    """Forms for the tasks of a decode pass: stored ones, and with `tune` measured ones for tasks that have none.

    `tune` None: only what is stored; False: none at all, the ops choose. Raises DeviceLostError.
    """
    if tune is False or not adapter_profile(gpu.info.fallback).measured_forms:
        return {}
    forms = await stored_forms(gpu, io)
    tasks = {c.task: None for c in calls if isinstance(c.task, MatvecTask) and c.task not in forms}
    if tune and tasks:
        try:
            found = await measure(list(tasks), gpu, kernels)
        except DeviceLostError:
            raise
        except (
            HostError
        ):  # for example no room for the buffers; the model can be loaded without measuring
            found = {}
        if found:
            forms |= found
            await store_forms(forms, gpu, io)
    return forms


def fastest(times: Mapping[MatvecTuning, float], usual: MatvecTuning) -> MatvecTuning:
    """The fastest form, if it beats the usual one by the margin; else the usual one."""
    best = min(times, key=lambda form: times[form])
    return best if times[best] < times[usual] * (1 - MARGIN) else usual


async def measure(
    tasks: Sequence[MatvecTask], gpu: Gpu, kernels: Kernels, budget_s: float = BUDGET_S
) -> Forms:
    """The fastest form of each task. Tasks with the most weights go first; tasks for which no time is left are missing.

    A form that does not compile is skipped. Raises HostError when the device refuses buffers or is lost.
    """
    bench = _Bench(gpu, kernels, tasks)
    try:
        traces = {
            task: {f: bench.trace(task, f) for f in candidates(task, gpu.features, gpu.info)}
            for task in sorted(tasks, key=lambda t: -_nbytes(t))
            if bench.holds(task)
        }
        wanted = [trace.calls[0].kernel for forms in traces.values() for trace in forms.values()]
        ready = await kernels.ready(wanted, COMPILE_S)
        clock = Clock(gpu, _RUN_S)
        await clock.start()
        deadline = time.perf_counter() + budget_s
        found: Forms = {}
        for task, forms in traces.items():
            usual = next(iter(forms))
            compiled = {f: t for f, t in forms.items() if t.calls[0].kernel in ready}
            if usual not in compiled or time.perf_counter() > deadline:
                continue
            plans = [await bench.planner.lower([trace]) for trace in compiled.values()]
            seconds = await clock.compare([plan.dispatches for plan in plans])
            found[task] = fastest(dict(zip(compiled, seconds, strict=True)), usual)
        return found
    finally:
        bench.release()


def _nbytes(task: MatvecTask) -> int:
    """Bytes of a task's matrix and its scales."""
    return sum(_sizes(task))


def _sizes(task: MatvecTask) -> tuple[int, int]:
    """Bytes of weights and of scales, each rounded up to the alignment of a binding's offset."""
    elements = task.rows * task.cols
    pair = 8 if task.scale_format == "f32" else 4
    scales = elements // task.group_size * pair if task.group_size else 0
    weights = -(-elements * _BITS[task.format] // 8)
    return -(-weights // _ALIGN) * _ALIGN, -(-scales // _ALIGN) * _ALIGN


class _Bench:
    """Buffers of zeros on which any task can run; speed does not depend on the values."""

    def __init__(self, gpu: Gpu, kernels: Kernels, tasks: Sequence[MatvecTask]) -> None:
        self._gpu = gpu
        self._buffers: list[Buffer] = []
        pool = min(max(_POOL_BYTES, *map(_nbytes, tasks)), gpu.limits.max_buffer_bytes)
        try:
            self._pool = self._make("tuning weights", pool)
            self._x = self._make("tuning x", 4 * max(256, *(t.cols for t in tasks)))
            self._y = self._make("tuning y", 4 * max(256, *(t.rows for t in tasks)))
            self._step = Tensor("step", (STEP_BYTES // 4,), "u32", Binding(self._make("step", 256)))
        except HostError:
            self.release()
            raise
        gpu.write(self._step.buffer, 0, pack_step(pos=0, rows=1))
        self.planner = Planner(gpu, kernels, SingleSubmit())

    def holds(self, task: MatvecTask) -> bool:
        """Whether one copy of the task's matrix fits a buffer of this device."""
        return _nbytes(task) <= self._pool.nbytes

    def trace(self, task: MatvecTask, form: MatvecTuning) -> Pass:
        """One dispatch for each copy of the task's matrix that the pool has room for."""
        trace = Pass(1, self._gpu.features, self._gpu.info, step=self._step)
        weights, scales = _sizes(task)
        copies = max(1, min(_COPIES, self._pool.nbytes // (weights + scales)))
        x = Tensor("x", (1, task.cols), "f32", Binding(self._x))
        y = Tensor("y", (1, task.rows), "f32", Binding(self._y))
        norm = Norm(x, 1e-6) if task.norm else None
        for i in range(copies):
            at = i * (weights + scales)
            matrix = Matrix(
                task.rows,
                task.cols,
                task.format,
                Tensor("weight", (weights // 4,), "u32", Binding(self._pool, at, weights)),
                0,
                Tensor("scales", (scales // 4,), "u32", Binding(self._pool, at + weights, scales))
                if scales
                else None,
                task.group_size,
                task.scale_format,
            )
            matvec(
                trace, str(task), x, matrix, y, norm=norm, finish=Finish(task.epilogue), form=form
            )
        self.planner.reserve([trace])
        return trace

    def release(self) -> None:
        """Free the buffers."""
        self.planner.release()
        for buffer in self._buffers:
            self._gpu.destroy_buffer(buffer)

    def _make(self, name: str, nbytes: int) -> Buffer:
        self._buffers.append(self._gpu.create_buffer(name, nbytes))
        return self._buffers[-1]
