"""A model with its state and plans: prefill token ids, decode on the GPU, hand out logits. Knows no text."""

from __future__ import annotations

from array import array
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from py_engine.abort import Abort
from py_engine.errors import ContextError, InputError
from py_engine.generate.sampler import Sampler
from py_engine.generate.sampling import Sampling
from py_engine.graph.kernels import Kernels
from py_engine.graph.plan import Plan, Planner
from py_engine.graph.step import pack_step
from py_engine.graph.submit import SingleSubmit, SubmitStrategy
from py_engine.graph.trace import Tensor, Trace
from py_engine.host.gpu import Buffer, Gpu
from py_engine.models.layers import Model
from py_engine.models.state import State

STEPS_IN_FLIGHT = (
    4  # one awaited step costs 3 ms in Chromium whatever it does, four in flight 0.3 ms (PEERS)
)
PREFILL_ROWS = (512, 16)  # plan sizes; a chunk takes the smallest plan that holds it


@dataclass(frozen=True)
class Sampled:
    """One token from the decode loop. `kv_length`: rows in the KV cache after the pass that sampled it."""

    token: int
    halt: int
    kv_length: int


class Decoder:
    """Plans of one model at one context size. `kept` are the ids whose KV rows are in the cache, from position 0.

    A recurrent model's state cannot go back to fewer tokens: `kept` are then exactly the ids that the state has seen,
    or none, and only a prompt that extends them goes on from there. (Position 0 begins with a zero state.)
    """

    def __init__(
        self,
        gpu: Gpu,
        kernels: Kernels,
        model: Model,
        state: State,
        strategy: SubmitStrategy | None = None,
    ) -> None:
        self.gpu = gpu
        self.model = model
        self.state = state
        self.kept: list[int] = []
        self._ran: int | None = None  # tokens that the state has seen; None: not known
        self.prefill_dispatches = 0  # of the last prefill, all chunks and the head
        self.upload_bytes_per_token = 0  # of the last decode, at steady state
        self.readback_bytes_per_token = 0
        self.prefilled = 0  # tokens that the last prefill ran, without those found in the cache
        self.sampler = Sampler(gpu, model.vocab_size)
        self._planner = Planner(gpu, kernels, strategy or SingleSubmit())
        self._traces: dict[str, Trace] = {}
        self._plans: dict[str, Plan] = {}
        self._sizes = sorted({min(r, state.max_rows) for r in PREFILL_ROWS})

    @property
    def activation_bytes(self) -> int:
        """GPU bytes of the pooled activations and of the sampler's buffers."""
        return self._planner.activation_bytes + self.sampler.nbytes

    def memory(self) -> dict[str, int]:
        """GPU bytes of everything here, by kind."""
        return {"state_bytes": self.state.nbytes, "activation_bytes": self.activation_bytes}

    @property
    def decode_dispatches(self) -> int:
        """dispatchWorkgroups calls of one token, the worse of greedy and sampled."""
        return max(len(self._plans[k].dispatches) for k in ("decode greedy", "decode sampled"))

    def trace(self) -> None:
        """Write down every pass and start compiling; weights need not be there yet."""
        for rows in self._sizes:
            self._traces[f"prefill {rows}"] = self._body(rows)
        self._traces["body"] = self._body(1)
        for name in ("logits", "greedy", "sampled"):
            self._traces[name] = self._head(name)
        self._traces["forget"] = self._new_trace(1)
        self.sampler.forget(self._traces["forget"])
        self._traces["mark"] = self._new_trace(self._sizes[-1])
        self.sampler.mark(self._traces["mark"])
        self._planner.reserve(self._traces.values())

    async def plan(self) -> None:
        """Make the buffers and plans. Raises HostError naming the kernel or buffer that the device refused."""
        self._planner.allocate()
        for name, trace in self._traces.items():
            if name != "body":  # of no use without a head
                self._plans[name] = await self._planner.lower([trace])
        for name in ("logits", "greedy", "sampled"):
            self._plans[f"decode {name}"] = await self._planner.lower(
                [self._traces["body"], self._traces[name]]
            )

    async def logits(self, ids: Sequence[int], abort: Abort | None = None) -> bytes:
        """Logits after the last id, float32 [vocab_size], as bytes."""
        self.kept = []
        await self._prefill(ids, "logits", 0, abort or Abort())
        self.kept, self._ran = list(ids), len(ids)
        return await self.gpu.read(_buffer(self.sampler.logits), 0, 4 * self.model.vocab_size)

    async def generate(
        self, ids: Sequence[int], sampling: Sampling, max_tokens: int, abort: Abort
    ) -> AsyncGenerator[list[Sampled], None]:
        """Prefill what the cache does not hold of `ids`, then decode; batches of tokens as they come.

        Ends after a stop token, `max_tokens`, or when the consumer closes the iterator; the caller then says with
        `keep` which tokens stay. Raises ContextError, AbortError (in prefill), DeviceLostError.
        """
        if not ids:
            raise InputError("the prompt is empty: give at least one token")
        if len(ids) + max_tokens > self.state.context:
            raise ContextError(
                f"{len(ids)} prompt tokens + {max_tokens} new tokens exceed the context of {self.state.context}: "
                "shorten the conversation, ask for fewer tokens, or load the model with a larger context",
                len(ids),
                self.state.context,
            )
        bad = next((i for i in ids if not 0 <= i < self.model.vocab_size), None)
        if bad is not None:
            raise InputError(f"token id {bad} is outside the vocabulary of {self.model.vocab_size}")
        head = "greedy" if sampling.greedy else "sampled"
        await self._start_sampler(sampling, ids)
        await self._prefill(ids, head, max_tokens, abort)
        self.kept, self._ran = list(ids), len(ids)
        result = _buffer(self.state.step)
        # The first token was sampled by the prefill's head; read it by replaying nothing.
        words = memoryview(await self.gpu.read(result, 0, 16)).cast("I")
        first = Sampled(words[0], words[1], words[2])
        yield [first]
        if first.halt or max_tokens < 2:
            return
        plan = self._plans[f"decode {head}"]
        loop = self.gpu.decode_loop(plan.recording, result, max_tokens - 1, STEPS_IN_FLIGHT)
        counters, steps = self.gpu.counters, 0
        before = (counters.upload_bytes, counters.readback_bytes)
        self._ran = None
        try:
            while batch := await loop.next():
                self._note(batch)
                steps += len(batch)
                self.upload_bytes_per_token = -(-(counters.upload_bytes - before[0]) // steps)
                self.readback_bytes_per_token = -(-(counters.readback_bytes - before[1]) // steps)
                yield [Sampled(token, halt, position) for token, halt, position, _ in batch]
        finally:
            loop.stop()
            while batch := await loop.next():  # must land before anyone else uses the state
                self._note(batch)

    def _note(self, batch: Sequence[tuple[int, int, int, int]]) -> None:
        """Once halted, the state stands still: then it is known what it has seen."""
        _, halt, position, _ = batch[-1]
        if halt:
            self._ran = position

    def keep(self, ids: Sequence[int], kv_length: int) -> None:
        """Say which ids the cache holds from now on: at most `kv_length` rows are really there.

        A recurrent state that has run past them (the host stopped with steps in flight, or a stop string cut tokens
        off) is of no use: it is begun anew. A snapshot to go back to would be taken up here.
        """
        self.kept = list(ids[:kv_length])
        if self.model.recurrent and len(self.kept) != self._ran:
            self.kept = []

    def release(self) -> None:
        """Free state, activations and sampler; the weights belong to whoever loaded them."""
        self._planner.release()
        self.sampler.release()
        self.state.release()
        self.kept = []

    def _body(self, rows: int) -> Trace:
        trace = self._new_trace(rows)
        self.model.forward(trace, self.state)
        return trace

    def _head(self, kind: str) -> Trace:
        trace = self._new_trace(1)
        self.model.head(trace, self.state, self.sampler.logits)
        if kind == "greedy":
            self.sampler.greedy(trace)
        elif kind == "sampled":
            self.sampler.sampled(trace)
        return trace

    def _new_trace(self, rows: int) -> Trace:
        return Trace(
            rows,
            self.state.step,
            self.state.ids,
            self.state.zeros,
            self.gpu.features,
            self.gpu.limits.max_binding_bytes,
            self.gpu.info,
        )

    async def _start_sampler(self, sampling: Sampling, ids: Sequence[int]) -> None:
        """Settings up; the history only where a penalty looks at it."""
        self.sampler.write(sampling)
        if not sampling.penalised:
            return
        await self.gpu.replay(self._plans["forget"].recording)
        for at in range(0, len(ids), self._sizes[-1]):
            part = ids[at : at + self._sizes[-1]]
            self._write(self.state.ids, array("I", part).tobytes())
            self._write(self.state.step, pack_step(pos=0, rows=len(part)))
            await self.gpu.replay(self._plans["mark"].recording)

    async def _prefill(self, ids: Sequence[int], head: str, limit: int, abort: Abort) -> None:
        """Run the ids that the cache does not hold; the last one goes through the head."""
        recurrent = self.model.recurrent
        start = 0
        for kept, wanted in zip(self.kept, ids[:-1], strict=False):
            if kept != wanted:
                break
            start += 1
        if recurrent and start < len(self.kept):
            start = 0
        self.kept = self.kept[:start]
        self.prefilled = len(ids) - start
        self.prefill_dispatches = 0
        while start < len(ids):
            abort.check()
            n = min(len(ids) - start, self._sizes[-1])
            last = start + n == len(ids)
            if recurrent:
                self.kept = []  # until this chunk is known to have run whole
            self._write(self.state.ids, array("I", ids[start : start + n]).tobytes())
            self._write(self.state.step, pack_step(pos=start, rows=n, limit=limit))
            if last and n == 1:
                names = [f"decode {head}"]
            else:
                size = next(s for s in self._sizes if s >= n)
                names = [f"prefill {size}"] + ([head] if last else [])
            for name in names:
                plan = self._plans[name]
                await self.gpu.replay(plan.recording)
                self.prefill_dispatches += len(plan.dispatches)
            start += n
            if not last:
                # A long prompt stays stoppable, and its chunks do not pile up.
                await self.gpu.idle()
                self.kept = list(ids[:start])

    def _write(self, tensor: Tensor, data: bytes) -> None:
        self.gpu.write(_buffer(tensor), 0, data)


def _buffer(tensor: Tensor) -> Buffer:
    """The buffer of a persistent tensor."""
    assert tensor.binding is not None
    return tensor.binding.buffer
