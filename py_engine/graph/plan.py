"""A traced pass, lowered once: pooled buffers, pipelines, bind groups, and a recording that the host replays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from py_engine.graph.kernels import Kernels
from py_engine.graph.memory import Slots
from py_engine.graph.submit import SubmitStrategy
from py_engine.graph.trace import NOTHING, Call, Tensor, Trace
from py_engine.host.gpu import Binding, Buffer, Dispatch, Gpu, Recording


@dataclass(frozen=True, eq=False)
class Plan:
    """A forward pass as data; `repr` prints one dispatch a line."""

    rows: int
    calls: Sequence[Call]  # what the dispatches were made from, one each
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
    """Lowers traces to plans that share activations buffers, pipelines and equal bind groups.

    Assign every trace first (`reserve`), then `lower` them: buffers are made once all sizes are known. Traces that
    come later use the buffers that are there, and add to them where those do not do.
    """

    def __init__(self, gpu: Gpu, kernels: Kernels, strategy: SubmitStrategy) -> None:
        self._gpu = gpu
        self._kernels = kernels
        self.strategy = strategy  # of the plans lowered from now on
        self._slots = Slots()
        self._buffers: list[Buffer] = []
        self._nothing: Buffer | None = (
            None  # what NOTHING is bound to, once a call leaves an input out
        )
        self._chosen: WeakKeyDictionary[Trace, dict[Tensor, int]] = WeakKeyDictionary()
        self._lowered: WeakKeyDictionary[Trace, list[Dispatch]] = WeakKeyDictionary()

    @property
    def activation_bytes(self) -> int:
        """Bytes of the pooled buffers."""
        nothing = self._nothing.nbytes if self._nothing else 0
        return nothing + sum(buffer.nbytes for buffer in self._buffers)

    def reserve(self, traces: Iterable[Trace]) -> None:
        """Give every activation of these traces a slot (largest pass first) and start their pipelines."""
        for trace in sorted(traces, key=lambda t: -t.rows):
            self._chosen[trace] = self._slots.assign(trace.calls)
            self._kernels.start(call.kernel for call in trace.calls)

    async def allocate(self) -> None:
        """Make the pooled buffers that are not there yet. Raises OutOfMemoryError; then none of them is made, and the
        traces that wanted them are of no use."""
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
        """One plan out of reserved traces, run one after the other. Raises HostError naming kernel or buffer; of what
        only the driver refuses later, without `check`, when the caller checks."""
        calls = [call for trace in traces for call in trace.calls]
        dispatches: list[Dispatch] = []
        for trace in traces:
            if trace not in self._lowered:
                chosen = self._chosen[trace]
                self._lowered[trace] = [await self._dispatch(call, chosen) for call in trace.calls]
            dispatches += self._lowered[trace]
        if check:
            await self._gpu.check()
        return Plan(traces[0].rows, calls, dispatches, self._record(dispatches))

    def recut(self, plan: Plan) -> Plan:
        """The same dispatches, submitted as `strategy` now says."""
        return replace(plan, recording=self._record(plan.dispatches))

    def _record(self, dispatches: Sequence[Dispatch]) -> Recording:
        return self._gpu.record(self.strategy.cut(dispatches), self.strategy.await_each)

    def release(self) -> None:
        """Free the pooled buffers; plans made from them are dead."""
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
        group = self._gpu.bind_group(call.label, pipeline, bindings)
        return Dispatch(call.label, pipeline, group, call.groups)
