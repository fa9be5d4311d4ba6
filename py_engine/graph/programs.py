"""The passes of a model by name and size. Each is traced once and planned once; callers write its inputs and run it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from py_engine.graph.kernels import Kernels
from py_engine.graph.plan import Plan, Planner
from py_engine.graph.submit import SubmitStrategy
from py_engine.graph.trace import Call, Tensor, Trace
from py_engine.host.gpu import Gpu

Features = frozenset[str]
Forms = Mapping[Hashable, Any]  # forms of kernels, as in Trace.forms


@dataclass(frozen=True, eq=False)
class Program:
    """One kind of pass: an encoder, a chunk of a prompt, a head.

    `write(rows, features, forms)` gives the trace of a pass over so many rows. `sizes`: the numbers of rows that have a
    plan, ascending. `later`: one more, the largest, whose kernels are compiled with the others, but whose buffers and
    plan are made by `Programs.extend`. `alone`: it also runs by itself, not only in chains.
    """

    name: str
    write: Callable[[int, Features, Forms], Trace]
    sizes: tuple[int, ...] = (1,)
    later: int | None = None
    alone: bool = True


class Programs:
    """The programs of one model on one device. They share activations, since only one of them runs at a time.

    `chains`: programs that also run one after another as one plan; all but the first have one size. `features`: the
    features of the device that kernels may use.
    """

    def __init__(
        self,
        gpu: Gpu,
        kernels: Kernels,
        programs: Sequence[Program],
        chains: Iterable[tuple[str, ...]] = (),
        *,
        strategy: SubmitStrategy,
        features: Features,
        forms: Forms,
    ) -> None:
        self._gpu = gpu
        self._kernels = kernels
        self._programs = {program.name: program for program in programs}
        self._chains = tuple(chains)
        self.features = features
        self._forms = forms
        self._planner = Planner(gpu, kernels, strategy)
        self._traces: dict[tuple[str, int], Trace] = {}
        self._plans: dict[str, Plan] = {}  # as they were lowered, with the calls of the traces
        self._bound: dict[str, Plan] = {}  # those that were asked for, bound to the present tensors

    @property
    def plans(self) -> Mapping[str, Plan]:
        """All plans: "NAME", or "NAME ROWS" where a program has several sizes, or "NAME NAME" for a chain."""
        return {name: self._plan(name) for name in self._plans}

    @property
    def calls(self) -> Iterator[Call]:
        """The calls of every traced pass."""
        return (call for trace in self._traces.values() for call in trace.calls)

    @property
    def kernels(self) -> Mapping[str, Sequence[str]]:
        """The labels of the kernels of every traced pass, by its name and rows."""
        return {
            f"{name} {rows}": [call.kernel.label for call in trace.calls]
            for (name, rows), trace in self._traces.items()
        }

    @property
    def strategy(self) -> SubmitStrategy:
        """How the plans are submitted. Setting another one cuts them anew; nothing may be running."""
        return self._planner.strategy

    @strategy.setter
    def strategy(self, strategy: SubmitStrategy) -> None:
        if strategy == self._planner.strategy:
            return
        self._planner.strategy = strategy
        self._plans = {name: self._planner.recut(plan) for name, plan in self._plans.items()}
        self._bound.clear()

    @property
    def activation_bytes(self) -> int:
        """GPU bytes of the pooled activations."""
        return self._planner.activation_bytes

    def sizes(self, name: str) -> tuple[int, ...]:
        """The numbers of rows for which a program has a plan, ascending."""
        return self._programs[name].sizes

    def later(self, name: str) -> int | None:
        """The number of rows for which `extend` would make a plan."""
        return self._programs[name].later

    def find(self, name: str, rows: int = 1) -> Plan:
        """The smallest plan of a program that holds so many rows."""
        return self.chain(name, rows=rows)

    def chain(self, name: str, *others: str, rows: int = 1) -> Plan:
        """The smallest plan that runs these programs one after another, the first over so many rows."""
        program = self._programs[name]
        first = _label(program, next(n for n in program.sizes if n >= rows))
        return self._plan(" ".join((first, *others)))

    def replace(self, old: Tensor, new: Tensor) -> None:
        """From now on plans use `new` where they used `old`. Each is bound anew when it is next asked for, so that a
        growing cache holds up one plan and not all."""
        self._planner.replace(old, new)
        self._bound.clear()

    def _plan(self, name: str) -> Plan:
        if name not in self._bound:
            self._bound[name] = self._planner.rebound(self._plans[name])
        return self._bound[name]

    def trace(self, without: Features = frozenset()) -> None:
        """Write down every pass and start to compile its kernels. The weights need not be there yet. It may be called
        again before `plan`; kernels then do `without` these features for good."""
        self.features -= without
        self._forms = {task: f for task, f in self._forms.items() if f.needs <= self.features}
        self._planner = Planner(self._gpu, self._kernels, self._planner.strategy)
        self._traces = {}
        for program in self._programs.values():
            for rows in program.sizes:
                self._trace(program, rows)
        self._planner.reserve(self._traces.values())
        for program in self._programs.values():
            if program.later is not None:
                trace = self._trace(program, program.later)
                self._kernels.start(call.kernel for call in trace.calls)

    def _trace(self, program: Program, rows: int) -> Trace:
        trace = program.write(rows, self.features, self._forms)
        self._traces[program.name, rows] = trace
        return trace

    async def plan(self) -> None:
        """Make the buffers and plans. Raises HostError naming the kernel or buffer that the device refused."""
        await self._planner.allocate()
        self._plans = await self._lowered(self._traces, self._programs.values(), self._chains)

    async def extend(self, name: str) -> None:
        """Make the buffers and the plan for a program's `later` rows. Raises OutOfMemoryError, HostError; then there is
        no such plan."""
        program = self._programs[name]
        assert program.later is not None
        trace = self._traces[name, program.later]
        self._planner.reserve([trace])
        await self._planner.allocate()
        self._plans[_label(program, program.later)] = await self._planner.lower([trace])
        sizes = (*program.sizes, program.later)
        self._programs[name] = replace(program, sizes=sizes, later=None)

    def release(self) -> None:
        """Free the activations. The plans must not run any more."""
        self._planner.release()

    async def _lowered(
        self,
        traces: Mapping[tuple[str, int], Trace],
        programs: Iterable[Program],
        chains: Iterable[tuple[str, ...]],
    ) -> dict[str, Plan]:
        plans = {}
        for program in programs:
            for rows in program.sizes if program.alone else ():
                plan = await self._planner.lower([traces[program.name, rows]])
                plans[_label(program, rows)] = plan
        for name, *others in chains:
            ends = [traces[other, self._programs[other].sizes[0]] for other in others]
            for rows in self._programs[name].sizes:
                label = " ".join((_label(self._programs[name], rows), *others))
                plans[label] = await self._planner.lower([traces[name, rows], *ends])
        return plans


def _label(program: Program, rows: int) -> str:
    alone = len(program.sizes) == 1 and program.later is None
    return program.name if alone else f"{program.name} {rows}"
