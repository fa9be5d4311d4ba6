"""Lowers a traced pass, once, to a plan: pooled buffers, pipelines, bind groups, and a recording to replay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from py_engine.graph.kernels import Kernels
from py_engine.graph.memory import Slots
from py_engine.graph.submit import SubmitStrategy
from py_engine.graph.trace import NOTHING, Call, Tensor, Trace, exact
from py_engine.host.gpu import Binding, Buffer, Dispatch, Gpu, Pipeline, Place, Recording


@dataclass(frozen=True, eq=False)
class Plan:
    """A forward pass as data. `repr` prints a line for each dispatch."""

    rows: int
    calls: Sequence[Call]  # the call that each dispatch was made from
    dispatches: Sequence[Dispatch]
    recording: Recording

    def __repr__(self) -> str:
        lines = [f"Plan of {len(self.dispatches)} dispatches for {self.rows} rows"]
        lines += [
            f"{i:4d}  {d.label:<40} {d.pipeline.label}  {d.groups}"
            for i, d in enumerate(self.dispatches)
        ]
        return "\n".join(lines)


class Planner:
    """Lowers traces to plans that share activation buffers, pipelines and equal bind groups.

    First `reserve` every trace, then `allocate`, then `lower` them, so that buffers are made when all sizes are known.
    Traces that come later use the existing buffers, and add new ones where those do not fit. A lowered plan has
    the calls of its traces; `rebound` gives it with the tensors that replaced theirs.
    """

    def __init__(self, gpu: Gpu, kernels: Kernels, strategy: SubmitStrategy) -> None:
        self._gpu = gpu
        self._kernels = kernels
        self.strategy = strategy  # for plans that are lowered from now on
        self._slots = Slots()
        self._buffers: list[Buffer] = []
        # The buffer of NOTHING, once a call leaves an input out.
        self._nothing: Buffer | None = None
        self._chosen: WeakKeyDictionary[Trace, dict[Tensor, int]] = WeakKeyDictionary()
        # call of a trace -> that call with the present tensors, and its dispatch
        self._lowered: dict[Call, tuple[Call, Dispatch]] = {}
        # place of a trace's tensor -> tensor that replaced it; place of that -> place of the trace's tensor
        self._replaced: dict[Place, Tensor] = {}
        self._origins: dict[Place, Place] = {}

    @property
    def activation_bytes(self) -> int:
        """GPU bytes of the pooled buffers."""
        nothing = self._nothing.nbytes if self._nothing else 0
        return nothing + sum(buffer.nbytes for buffer in self._buffers)

    def reserve(self, traces: Iterable[Trace]) -> None:
        """Give every activation of these traces a slot, the largest pass first, and begin to compile pipelines."""
        for trace in sorted(traces, key=lambda t: -t.rows):
            self._chosen[trace] = self._slots.assign(trace.calls)
            self._kernels.start(call.kernel for call in trace.calls)

    async def allocate(self) -> None:
        """Make the pooled buffers that do not exist yet. Raises OutOfMemoryError; then none of them is made, and the
        traces that were reserved for them cannot be lowered."""
        sizes, made = self._slots.sizes, list[Buffer]()
        try:
            for i in range(len(self._buffers), len(sizes)):
                made.append(self._gpu.create_buffer(f"activations {i}", sizes[i]))
            await self._gpu.check()
        except BaseException:
            for buffer in made:
                self._gpu.destroy_buffer(buffer)
            del sizes[len(self._buffers) :]
            raise
        self._buffers += made
        self._slots.fixed = len(sizes)

    async def lower(self, traces: Sequence[Trace], *, check: bool = True) -> Plan:
        """One plan of reserved traces, which run one after another. Raises HostError naming the kernel or buffer.
        Without `check`, an error that only the driver finds is raised later, when the caller checks the GPU."""
        calls = [call for trace in traces for call in trace.calls]
        for trace in traces:
            new = [call for call in trace.calls if call not in self._lowered]
            now = [self._present(call) for call in new]
            made = [await self._dispatch(call, self._chosen[trace]) for call in now]
            self._lowered.update(zip(new, zip(now, made, strict=True), strict=True))
        dispatches = [self._rebound(call)[1] for call in calls]
        if check:
            await self._gpu.check()
        rows = traces[0].rows
        return Plan(rows, calls, dispatches, self._record(rows, dispatches))

    def recut(self, plan: Plan) -> Plan:
        """The same plan, submitted by the present `strategy`."""
        return replace(plan, recording=self._record(plan.rows, plan.dispatches))

    def replace(self, old: Tensor, new: Tensor) -> None:
        """Use `new` for `old` in plans that are lowered or rebound from now on. It is bound to its own bytes only,
        since kernels read the length of a binding. `old`: a tensor of a trace, or one that replaced it."""
        assert old.binding is not None and new.binding is not None
        place = self._origins.pop(old.binding.place, old.binding.place)
        self._replaced[place] = exact(new)
        self._origins[new.binding.place] = place

    def rebound(self, plan: Plan) -> Plan:
        """The same plan with the present tensors. No kernel is compiled, and a bind group is made only for a call whose
        tensors were replaced since its last one was made, for this plan or another."""
        bound = [self._rebound(call) for call in plan.calls]
        calls, dispatches = [call for call, _ in bound], [dispatch for _, dispatch in bound]
        if calls == plan.calls:
            return plan
        return Plan(plan.rows, calls, dispatches, self._record(plan.rows, dispatches))

    def _rebound(self, call: Call) -> tuple[Call, Dispatch]:
        """A call of a trace with the present tensors, and its dispatch."""
        last, dispatch = self._lowered[call]
        now = self._present(call)
        pairs = [*zip(last.tensors, now.tensors, dispatch.bindings, strict=True)]
        if all(new is old for old, new, _ in pairs):
            return last, dispatch
        bindings = [b if new is old else new.binding or b for old, new, b in pairs]
        dispatch = self._bound(call.label, dispatch.pipeline, bindings, call.groups)
        self._lowered[call] = now, dispatch
        return now, dispatch

    def _present(self, call: Call) -> Call:
        """The call with its replaced tensors exchanged; the call itself if it has none."""
        tensors = [self._replaced.get(t.binding.place, t) if t.binding else t for t in call.tensors]
        same = all(new is old for new, old in zip(tensors, call.tensors, strict=True))
        return call if same else replace(call, tensors=tensors)

    def _record(self, rows: int, dispatches: Sequence[Dispatch]) -> Recording:
        """Decode steps are submitted ahead, so only plans of more than one row find an idle GPU."""
        cut = self.strategy.cut(dispatches, early=rows > 1)
        return self._gpu.record(cut, self.strategy.await_each)

    def release(self) -> None:
        """Free the pooled buffers. Plans that use them must not run any more."""
        for buffer in self._buffers:
            self._gpu.destroy_buffer(buffer)
        self._buffers.clear()
        if self._nothing is not None:
            self._gpu.destroy_buffer(self._nothing)
            self._nothing = None

    def _binding(self, tensor: Tensor, chosen: dict[Tensor, int]) -> Binding:
        if tensor is NOTHING:
            if self._nothing is None:
                self._nothing = self._gpu.create_buffer("nothing", NOTHING.nbytes)
            return Binding(self._nothing)
        return tensor.binding or Binding(self._buffers[chosen[tensor]], 0, tensor.nbytes)

    async def _dispatch(self, call: Call, chosen: dict[Tensor, int]) -> Dispatch:
        bindings = [self._binding(tensor, chosen) for tensor in call.tensors]
        pipeline = await self._kernels.pipeline(call.kernel)
        return self._bound(call.label, pipeline, bindings, call.groups)

    def _bound(
        self,
        label: str,
        pipeline: Pipeline,
        bindings: Sequence[Binding],
        groups: tuple[int, int, int],
    ) -> Dispatch:
        group = self._gpu.bind_group(label, pipeline, bindings)
        return Dispatch(label, pipeline, group, groups, tuple(bindings))
