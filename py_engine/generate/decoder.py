"""A model with its state and plans: prefill token ids, decode on the GPU, hand out logits. Knows no text."""

from __future__ import annotations

from array import array
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from py_engine.abort import Abort
from py_engine.blocks.kv_cache import F16_KV
from py_engine.blocks.layers import Model
from py_engine.blocks.snapshots import Snapshots
from py_engine.blocks.state import State
from py_engine.checks.self_check import SelfCheck
from py_engine.checks.tunings import Forms, tuning_digest
from py_engine.errors import ContextError, InputError, OutOfMemoryError
from py_engine.generate.passes import CHAINS, HEADS, passes
from py_engine.generate.prefix import Prefix
from py_engine.generate.sampler import Sampler
from py_engine.generate.sampling import Sampling
from py_engine.graph.kernels import Kernels
from py_engine.graph.plan import Plan
from py_engine.graph.programs import Programs
from py_engine.graph.submit import SubmitStrategy, default_strategy
from py_engine.graph.trace import Tensor
from py_engine.host.gpu import Buffer, Gpu
from py_engine.ops.step import pack_step

STEPS_IN_FLIGHT = (
    4  # one awaited step costs 3 ms in Chromium whatever it does, four in flight 0.3 ms (PEERS)
)
ANSWER_ROOM = (
    128  # tokens that a cache made for a prompt has room for beyond it, if they are wanted
)


@dataclass(frozen=True)
class Sampled:
    """One token from the decode loop; `halt` as in ops/step.py."""

    token: int
    halt: int


class Decoder:
    """One model at work; `prefix` knows what its state has seen.

    `classes`: the sizes of KV cache to go through as a text grows, in tokens; the last is the state's context.
    """

    def __init__(
        self,
        gpu: Gpu,
        kernels: Kernels,
        model: Model,
        state: State,
        classes: Sequence[int],
        strategy: SubmitStrategy | None = None,
        forms: Forms | None = None,
    ) -> None:
        """`forms`: of kernels, as measured on this device (checks/tunings.py); the ops choose the rest."""
        self.gpu = gpu
        self.model = model
        self.state = state
        self.classes = classes
        self._seen: int | None = (
            None  # tokens that ran by the end of the last decode; None: not known
        )
        self.prefill_dispatches = 0  # of the last prefill, all chunks and the head
        self.upload_bytes_per_token = 0  # of the last decode, at steady state
        self.readback_bytes_per_token = 0
        self.prefilled = 0  # tokens that the last prefill ran, without those found in the cache
        self.snapshots = Snapshots(gpu, state.recurrents)
        self.prefix = Prefix(self.snapshots)
        try:
            self.sampler = Sampler(gpu, model.vocab_size, state.ids)
        except BaseException:
            self.snapshots.release()
            raise
        self._kernels = kernels
        # The tensor units round activations to 11 bits: not where f32 was asked for.
        rounding = {"subgroup-matrix"} if state.cache.dtype == "f32" else set[str]()
        self.programs = Programs(
            gpu,
            kernels,
            passes(model, state, self.sampler, gpu.info),
            CHAINS,
            strategy=strategy or default_strategy(),
            features=gpu.features - rounding,
            forms=forms or {},
        )

    @property
    def context(self) -> int:
        """The most tokens of a text."""
        return self.state.context

    @property
    def strategy(self) -> SubmitStrategy:
        """How its plans are submitted; may be set while nothing runs."""
        return self.programs.strategy

    @strategy.setter
    def strategy(self, strategy: SubmitStrategy) -> None:
        self.programs.strategy = strategy

    @property
    def activation_bytes(self) -> int:
        """GPU bytes of the pooled activations and of the sampler's buffers."""
        return self.programs.activation_bytes + self.sampler.nbytes

    def memory(self) -> dict[str, int]:
        """GPU bytes of everything here, by kind."""
        return {
            "state_bytes": self.state.nbytes,
            "snapshot_bytes": self.snapshots.nbytes,
            "activation_bytes": self.activation_bytes,
        }

    @property
    def tuning_digest(self) -> str:
        """What the forms of its kernels come to: a state from another digest may differ in the last bits."""
        return tuning_digest(self.programs.calls)

    def token_plan(self, head: str) -> Plan:
        """One token and a head: "logits", "greedy" or "sampled"."""
        return self.programs.chain("decode", head)

    def chunk_plans(self, rows: int, head: str | None) -> list[Plan]:
        """The plans that run so many rows, with `head` behind the last of them."""
        if rows == 1 and head:
            return [self.token_plan(head)]
        chunk = self.programs.find("prefill", rows)
        return [chunk, self.programs.find(head)] if head else [chunk]

    @property
    def chunk_rows(self) -> int:
        """The most rows of a chunk."""
        return self.programs.sizes("prefill")[-1]

    @property
    def decode_dispatches(self) -> int:
        """dispatchWorkgroups calls of one token, the worst of its heads."""
        return max(len(self.token_plan(head).dispatches) for head in HEADS)

    def trace(self, without: frozenset[str] = frozenset()) -> None:
        """Write down every pass and start compiling; weights need not be there yet. Before `plan` it may be done again,
        with kernels that are `without` these features (or F16_KV) from then on. Raises OutOfMemoryError."""
        cache = self.state.cache
        if F16_KV in without and cache.dtype == "f16":
            self.state.cache = cache.resized(cache.capacity, "f32")
            cache.release()
        self.programs.trace(without)

    def self_check(self) -> SelfCheck:
        """The check of the pipelines that were traced, once the weights are there; what is wrong is traced again."""
        return SelfCheck(
            self.gpu, self._kernels, self.strategy, lambda: self.programs.calls, self.trace
        )

    async def plan(self) -> None:
        """Make the buffers and plans. Raises HostError naming the kernel or buffer that the device refused."""
        await self.programs.plan()

    async def fit(self, tokens: int) -> None:
        """Make the KV cache large enough for `tokens`; what it holds stays.

        Raises OutOfMemoryError; then the old one stays in use, with all that it holds.
        """
        await self._resize(tokens, len(self.prefix.ids))

    async def begin_with(self, capacity: int) -> None:
        """Forget everything, with a KV cache for `capacity` tokens, one of `classes`. Raises OutOfMemoryError with
        everything as it was."""
        if capacity != self.state.cache.capacity:
            await self._grow(capacity, 0)
        self.prefix.forget()

    async def logits(
        self, ids: Sequence[int], abort: Abort | None = None, *, reuse: bool = False
    ) -> bytes:
        """Logits after the last id, float32 [vocab_size], as bytes. `reuse`: run only what the state has not seen."""
        if not reuse:
            self.prefix.forget()
        await self._prefill(ids, "logits", 0, abort or Abort())
        return await self.gpu.read(_buffer(self.sampler.logits), 0, 4 * self.model.vocab_size)

    async def generate(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        max_tokens: int,
        abort: Abort,
        border: int | None = None,
        answered: Sequence[int] = (),
    ) -> AsyncGenerator[list[Sampled], None]:
        """Prefill what the state has not seen of `ids`, then decode; batches of tokens as they come.

        `border`: how many of `ids` a next prompt is likely to begin with (a chat without its generation prompt), None:
        all; a recurrent state can be brought back to there. `answered`: tokens of an answer that was cut off before its
        end: it goes on behind them, its sampling (`seed` and history) and `max_tokens` as if it never had been.
        Ends after a stop token, `max_tokens`, or when the consumer
        closes the iterator; the caller then says with `keep` which tokens stay.
        Raises ContextError, AbortError (in prefill), DeviceLostError, OutOfMemoryError (no room for a longer text; what
        came so far stays).
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
        await self._start_sampler(sampling, ids, answered)
        ids = [*ids, *answered]
        await self._prefill(ids, head, max_tokens, abort, border, len(answered))
        self._seen = len(ids)
        # The first token was sampled by the prefill's head; read it by replaying nothing.
        words = memoryview(await self.gpu.read(_buffer(self.state.step), 0, 16)).cast("I")
        first = Sampled(words[0], words[1])
        yield [first]
        left = 0 if first.halt else max_tokens - len(answered) - 1
        while left > 0 and self._seen is not None:
            await self._resize(self._seen + 1, self._seen)
            async with aclosing(self._decode(head, left)) as batches:
                async for batch in batches:
                    left = 0 if batch[-1].halt else left - len(batch)
                    yield batch

    async def _decode(self, head: str, most: int) -> AsyncGenerator[list[Sampled], None]:
        """Up to `most` tokens, fewer when the KV cache is full then."""
        assert self._seen is not None
        steps = min(most, self.state.cache.capacity - self._seen)
        loop = self.gpu.decode_loop(
            self.token_plan(head).recording,
            _buffer(self.state.step),
            steps,
            STEPS_IN_FLIGHT,
        )
        counters, done = self.gpu.counters, 0
        before = (counters.upload_bytes, counters.readback_bytes)
        self.prefix.leave()
        seen = self._seen = None
        try:
            while batch := await loop.next():
                seen = batch[-1][2]
                done += len(batch)
                self.upload_bytes_per_token = -(-(counters.upload_bytes - before[0]) // done)
                self.readback_bytes_per_token = -(-(counters.readback_bytes - before[1]) // done)
                yield [Sampled(token, halt) for token, halt, _, _ in batch]
        finally:
            loop.stop()
            while batch := await loop.next():  # must land before anyone else uses the state
                seen = batch[-1][2]
            self._seen = seen

    def keep(self, ids: Sequence[int]) -> None:
        """Say after a decode which ids stay; of those, the rows that ran are really there.

        A recurrent state may have run past them: the host stopped with steps in flight, or a stop string cut tokens
        off. The next prompt then goes on from the last snapshot.
        """
        if self._seen is not None:
            self.prefix.keep(ids[: self._seen], self._seen)

    def release(self) -> None:
        """Free state, snapshots, activations and sampler; the weights belong to whoever loaded them."""
        self.programs.release()
        self.sampler.release()
        self.snapshots.release()
        self.state.release()
        self.prefix.forget()

    async def _start_sampler(
        self, sampling: Sampling, ids: Sequence[int], answered: Sequence[int]
    ) -> None:
        """Settings up; the history only where a penalty looks at it."""
        self.sampler.write(sampling)
        if not sampling.penalised:
            return
        if answered:
            self.sampler.remember(ids, answered)
            return
        await self.gpu.replay(self.programs.find("forget").recording)
        if sampling.repetition_penalty == 1.0:
            return  # the others look at the answer alone
        for at in range(0, len(ids), self.chunk_rows):
            part = ids[at : at + self.chunk_rows]
            self._write(self.state.ids, array("I", part).tobytes())
            self._write(self.state.step, pack_step(pos=0, rows=len(part)))
            await self.gpu.replay(self.programs.find("mark").recording)

    async def _prefill(
        self,
        ids: Sequence[int],
        head: str,
        limit: int,
        abort: Abort,
        border: int | None = None,
        count: int = 0,
    ) -> None:
        """Run the ids that the state has not seen; the last one goes through the head. `count`: tokens that were
        sampled already, of at most `limit`."""
        prefix = self.prefix
        start = await prefix.resume(ids)
        await self._resize(len(ids), start, min(limit, ANSWER_ROOM))
        self.prefilled = len(ids) - start
        self.prefill_dispatches = 0
        cut = (border if prefix.recurrent else None) or len(ids)
        while start < len(ids):
            abort.check()
            end = min(start + self.chunk_rows, cut if start < cut else len(ids))
            last = end == len(ids)
            prefix.leave()
            self._write(self.state.ids, array("I", ids[start:end]).tobytes())
            self._write(
                self.state.step, pack_step(pos=start, rows=end - start, limit=limit, count=count)
            )
            for plan in self.chunk_plans(end - start, head if last else None):
                await self.gpu.replay(plan.recording)
                self.prefill_dispatches += len(plan.dispatches)
            start = end
            if not last and start != cut:
                # A long prompt stays stoppable, and its chunks do not pile up.
                await self.gpu.idle()
            prefix.reached(ids[:start])
            if start == cut:
                await prefix.mark()

    async def _resize(self, tokens: int, rows: int, room: int = 0) -> None:
        """The smallest KV cache for `tokens` and, if it can be had, `room` more. One that holds nothing (`rows` 0) may
        shrink. Raises OutOfMemoryError with what there is unchanged."""
        wanted = next((n for n in self.classes if n >= tokens + room), self.classes[-1])
        now = self.state.cache.capacity
        if wanted == now or (rows and wanted < now):
            return
        try:
            await self._grow(wanted, rows)
        except OutOfMemoryError as error:
            if now >= tokens:
                return
            raise OutOfMemoryError(
                f"no room on the GPU for a KV cache of {wanted} tokens, which a text of {tokens} needs; the one of "
                f"{now} stays in use: ask for less, or begin a new conversation ({error})"
            ) from error

    async def _grow(self, capacity: int, rows: int) -> None:
        """A KV cache for `capacity` tokens that keeps the first `rows` of the old one, and plans for it.

        Raises OutOfMemoryError, HostError; then everything is as it was.
        """
        old, new = self.state.cache, self.state.cache.resized(capacity)
        try:
            await self.gpu.check()
            self.state.cache = new
            moved = await self.programs.moved()
            await new.copy_rows(old, rows)
        except BaseException:
            self.state.cache = old
            new.release()
            raise
        old.release()
        self.programs.adopt(moved)

    def _write(self, tensor: Tensor, data: bytes) -> None:
        self.gpu.write(_buffer(tensor), 0, data)


def _buffer(tensor: Tensor) -> Buffer:
    """The buffer of a persistent tensor."""
    assert tensor.binding is not None
    return tensor.binding.buffer
