"""The passes of a model as plans: prefill by size of a chunk, decode by what becomes of the logits, the sampler's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from py_engine.generate.sampler import Sampler
from py_engine.generate.tunings import Forms
from py_engine.graph.kernels import Kernels
from py_engine.graph.plan import Plan, Planner
from py_engine.graph.submit import SubmitStrategy
from py_engine.graph.trace import Call, Trace
from py_engine.host.gpu import Gpu
from py_engine.models.layers import Model
from py_engine.models.state import State

PREFILL_ROWS = (512, 16)  # plan sizes; a chunk takes the smallest plan that holds it
F16_KV = "f16-kv"  # packed pairs in the KV cache: no feature of a device, but one that a model can do without
HEADS = ("logits", "greedy", "sampled")


class Passes:
    """`plans`: "prefill ROWS", "decode HEAD" (one token and a head), a head alone, and the sampler's "forget", "mark".

    Those that see the KV cache are bound to its buffers: `resize` replaces cache and plans together. `features`: of the
    device, those that kernels use here.
    """

    def __init__(
        self,
        gpu: Gpu,
        kernels: Kernels,
        model: Model,
        state: State,
        sampler: Sampler,
        strategy: SubmitStrategy,
        forms: Forms,
    ) -> None:
        self._gpu = gpu
        self._kernels = kernels
        self._model = model
        self._state = state
        self._sampler = sampler
        # The tensor units round activations to 11 bits: not where f32 was asked for.
        rounding = {"subgroup-matrix"} if state.cache.dtype == "f32" else set[str]()
        self.features = gpu.features - rounding
        self._forms = forms
        self._planner = Planner(gpu, kernels, strategy)
        self._traces: dict[str, Trace] = {}
        self._plans: dict[str, Plan] = {}
        self.sizes = sorted({min(r, state.max_rows) for r in PREFILL_ROWS})  # rows of a chunk

    @property
    def plans(self) -> Mapping[str, Plan]:
        """The plans in use, by name."""
        return self._plans

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

    @property
    def activation_bytes(self) -> int:
        """GPU bytes of the pooled activations."""
        return self._planner.activation_bytes

    @property
    def decode_dispatches(self) -> int:
        """dispatchWorkgroups calls of one token, the worse of greedy and sampled."""
        return max(len(self._plans[k].dispatches) for k in ("decode greedy", "decode sampled"))

    def prefill(self, rows: int, head: str | None) -> list[Plan]:
        """The plans that run so many rows, with `head` behind the last of them."""
        if rows == 1 and head:
            return [self._plans[f"decode {head}"]]
        size = next(s for s in self.sizes if s >= rows)
        return [self._plans[f"prefill {size}"], *([self._plans[head]] if head else [])]

    @property
    def calls(self) -> Iterator[Call]:
        """The calls of every pass that was written down."""
        return (call for trace in self._traces.values() for call in trace.calls)

    def trace(self, without: frozenset[str] = frozenset()) -> None:
        """Write down every pass and start compiling; weights need not be there yet. Before `plan` it may be done again,
        with kernels that are `without` these features (or F16_KV) from then on. Raises OutOfMemoryError."""
        self.features -= without
        cache = self._state.cache
        if F16_KV in without and cache.dtype == "f16":
            self._state.cache = cache.resized(cache.capacity, "f32")
            cache.release()
        self._forms = {task: f for task, f in self._forms.items() if f.needs <= self.features}
        self._planner = Planner(self._gpu, self._kernels, self._planner.strategy)
        self._traces = self._bodies()
        for name in HEADS:
            self._traces[name] = self._head(name)
        self._traces["forget"] = self._new(1)
        self._sampler.forget(self._traces["forget"])
        self._traces["mark"] = self._new(self.sizes[-1])
        self._sampler.mark(self._traces["mark"])
        self._planner.reserve(self._traces.values())

    async def plan(self) -> None:
        """Make the buffers and plans. Raises HostError naming the kernel or buffer that the device refused."""
        await self._planner.allocate()
        for name in (*HEADS, "forget", "mark"):
            self._plans[name] = await self._planner.lower([self._traces[name]])
        self._plans |= await self._lower(self._traces)

    async def resize(self, capacity: int, rows: int) -> None:
        """A KV cache for `capacity` tokens that keeps the first `rows` of the old one, and plans for it.

        Raises OutOfMemoryError, HostError; then everything is as it was.
        """
        old, new = self._state.cache, self._state.cache.resized(capacity)
        try:
            await self._gpu.check()
            self._state.cache = new
            traces = self._bodies()
            self._planner.reserve(traces.values())
            await self._planner.allocate()
            plans = await self._lower(self._traces | traces)
            await new.copy_rows(old, rows)
        except BaseException:
            self._state.cache = old
            new.release()
            raise
        old.release()
        self._traces |= traces
        self._plans |= plans

    def release(self) -> None:
        """Free the activations; the plans are dead."""
        self._planner.release()

    def _bodies(self) -> dict[str, Trace]:
        """The passes that see the KV cache."""
        bodies = {f"prefill {rows}": self._body(rows) for rows in self.sizes}
        return bodies | {"body": self._body(1)}

    async def _lower(self, traces: Mapping[str, Trace]) -> dict[str, Plan]:
        """Their plans."""
        plans = {
            f"prefill {rows}": await self._planner.lower([traces[f"prefill {rows}"]])
            for rows in self.sizes
        }
        for name in HEADS:
            plans[f"decode {name}"] = await self._planner.lower([traces["body"], traces[name]])
        return plans

    def _body(self, rows: int) -> Trace:
        trace = self._new(rows)
        self._model.forward(trace, self._state)
        return trace

    def _head(self, kind: str) -> Trace:
        trace = self._new(1)
        self._model.head(trace, self._state, self._sampler.logits)
        if kind == "greedy":
            self._sampler.greedy(trace)
        elif kind == "sampled":
            self._sampler.sampled(trace)
        return trace

    def _new(self, rows: int) -> Trace:
        state, limits = self._state, self._gpu.limits
        return Trace(
            rows, state.step, state.ids, state.zeros,
            self.features, limits.max_binding_bytes, self._gpu.info, self._forms,
        )  # fmt: skip
