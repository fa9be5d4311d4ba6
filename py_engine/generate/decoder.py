"""A model with its state and plans: prefills token ids, decodes on the GPU, reads logits. Knows no text."""

from __future__ import annotations

from array import array
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from py_engine.abort import Abort
from py_engine.blocks.kv_cache import plainer
from py_engine.blocks.layers import Model
from py_engine.blocks.snapshots import Snapshots
from py_engine.blocks.state import State
from py_engine.checks.tunings import Forms, tuning_digest
from py_engine.errors import ContextError, InputError
from py_engine.generate.cache_growth import CacheGrowth, Sizes
from py_engine.generate.chunks import Chunks
from py_engine.generate.given import Given, Positions, check_ids, words
from py_engine.generate.passes import CHAINS, HEADS, passes
from py_engine.generate.prefix import Prefix
from py_engine.generate.runtime import Runtime
from py_engine.generate.sampler import Sampler
from py_engine.generate.sampling import Sampling
from py_engine.graph.kernels import Kernels
from py_engine.graph.plan import Plan
from py_engine.graph.programs import Features
from py_engine.graph.submit import SubmitStrategy
from py_engine.graph.trace import Tensor
from py_engine.host.gpu import Gpu
from py_engine.ops.step import pack_step

# One awaited step costs 3 ms in Chromium whatever it does, four in flight cost 0.3 ms each.
STEPS_IN_FLIGHT = 4
# A cache that is made for a prompt also has room for so many tokens of the answer, if that many are wanted.
ANSWER_ROOM = 128


@dataclass(frozen=True)
class Sampled:
    """One token from the decode loop; `halt` as in ops/step.py."""

    token: int
    halt: int


class Decoder(Runtime):
    """One model that generates. `prefix` knows what its state has seen."""

    def __init__(
        self,
        gpu: Gpu,
        kernels: Kernels,
        model: Model,
        state: State,
        sizes: Sizes,
        exact: bool,
        strategy: SubmitStrategy | None = None,
        forms: Forms | None = None,
        wide: bool = False,
    ) -> None:
        """`sizes`: of the KV cache. `strategy`, `forms`: as for Runtime. `wide`: as for `passes`."""
        self.model = model
        self.state = state
        # Tokens that had run when the last decode ended; None: it has not begun, or failed.
        self._seen: int | None = None
        self.prefill_dispatches = 0  # of the last prefill: all chunks and the head
        self.upload_bytes_per_token = 0  # of the last decode
        self.readback_bytes_per_token = 0
        self.prefilled = 0  # tokens that the last prefill ran, those in the cache left out
        self.snapshots = Snapshots(gpu, state.recurrents)
        self.prefix = Prefix(self.snapshots)
        try:
            self.sampler = Sampler(gpu, model.vocab_size, state.ids)
        except BaseException:
            self.snapshots.release()
            raise
        super().__init__(
            gpu,
            kernels,
            passes(model, state, self.sampler, gpu.info, wide),
            CHAINS,
            exact=exact,
            strategy=strategy,
            forms=forms,
        )
        self._growth = CacheGrowth(state, self.programs, sizes)
        self._chunks = Chunks(gpu, state, self.programs)

    @property
    def context(self) -> int:
        """The most tokens of a text, prompt and answer together."""
        return self.state.context

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
        """A digest of the forms of its kernels. States computed with another digest may differ in the last bits."""
        return tuning_digest(self.programs.calls)

    def token_plan(self, head: str) -> Plan:
        """The plan for one token and a head: "logits", "greedy" or "sampled"."""
        return self.programs.chain("decode", head)

    def chunk_plans(self, rows: int, head: str | None, *, apart: bool = False) -> list[Plan]:
        """The plans that run so many rows, followed by `head`. `apart`: rotary position minus row number differs from
        that of later tokens (`_place`)."""
        if rows == 1 and head and not apart:
            return [self.token_plan(head)]
        chunk = self.programs.find("prefill", rows)
        return [chunk, self.programs.find(head)] if head else [chunk]

    @property
    def chunk_rows(self) -> int:
        """The most rows of a chunk at present."""
        return self._chunks.most

    @property
    def decode_dispatches(self) -> int:
        """dispatchWorkgroups calls for one token, with the head that takes the most."""
        return max(len(self.token_plan(head).dispatches) for head in HEADS)

    def trace(self, without: Features = frozenset()) -> None:
        """As Runtime.trace. `without` may also hold Q8_KV and F16_KV (blocks/kv_cache.py)."""
        cache = self.state.cache
        dtype = plainer(cache.dtype, without)
        if dtype != cache.dtype:
            self.state.cache = cache.in_dtype(dtype)
            cache.release()
        super().trace(without)

    async def fit(self, tokens: int) -> None:
        """Make the KV cache large enough for `tokens`, with its content.

        Raises OutOfMemoryError; then the old cache stays in use.
        """
        await self._growth.fit(tokens, len(self.prefix.ids))

    async def fill(self) -> None:
        """Grow the KV cache to the whole context, in the step that needs most memory. Raises OutOfMemoryError."""
        sizes = self._growth.sizes
        for capacity in (sizes.last_but_one, sizes.context):
            await self._growth.resize(capacity, 0)

    async def widen(self) -> bool:
        """Make room for wide chunks, now and not when a prompt needs them. Returns False where there are none. Raises
        OutOfMemoryError."""
        if self.programs.later("prefill") is None:
            return False
        await self._chunks.widen()
        return True

    async def begin_for(self, tokens: int) -> None:
        """Forget everything, and take a KV cache for a text of `tokens`. Raises OutOfMemoryError; then nothing has
        changed."""
        await self._growth.fit(tokens, 0)
        self.prefix.forget()

    async def logits(
        self,
        ids: Sequence[int],
        abort: Abort | None = None,
        *,
        reuse: bool = False,
        border: int | None = None,
        given: Given | None = None,
        of: Sequence[int] | None = None,
    ) -> bytes:
        """Logits after the last id, float32 [vocab_size], or [len(of)], as bytes. `reuse`: run only what the state has
        not seen. `border`, `given`: as for `generate`. Raises InputError, AbortError, GPU errors."""
        check_ids(ids, self.model.vocab_size, given)
        if not reuse:
            self.prefix.forget()
        await self._prefill(ids, "logits", 0, abort or Abort(), border, given=given)
        n, places = (4 * self.model.vocab_size, [0]) if of is None else (4, [4 * i for i in of])
        return b"".join([await self.gpu.read(self.sampler.logits.buffer, at, n) for at in places])

    async def generate(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        max_tokens: int,
        abort: Abort,
        border: int | None = None,
        answered: Sequence[int] = (),
        given: Given | None = None,
    ) -> AsyncGenerator[list[Sampled], None]:
        """Prefill what the state has not seen of `ids`, then decode. Gives batches of tokens as they come.

        `border`: how many of `ids` the next prompt is likely to begin with (a chat without its generation prompt);
        None: all. A recurrent state can be brought back to there. `answered`: tokens of an answer that was cut off. It
        continues after them, with the sampling (`seed` and history) and the `max_tokens` that it would have had without
        the cut. `given`: rows of the negative ids, and rotary positions that differ from row numbers.
        Ends after a stop token, after `max_tokens`, or when the consumer closes the iterator. The caller then says with
        `keep` which tokens stay.
        Raises InputError, ContextError, AbortError (in prefill), DeviceLostError, OutOfMemoryError (there is no room
        for a longer text; what came so far stays).
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
        check_ids(ids, self.model.vocab_size, given)
        head = "greedy" if sampling.greedy else "sampled"
        await self._start_sampler(sampling, ids, answered)
        ids = [*ids, *answered]
        text, left = list(ids), max_tokens - len(answered)
        self._seen, more = None, True
        while more:
            seen, begun = self._seen, False
            # Run the prompt; and run the whole text again when it is too long for the RoPE tables of its keys.
            if seen is None or self.state.turns_behind(seen) == 0:
                self._seen, seen, begun = None, len(text), True
                done = len(answered) + len(text) - len(ids)
                await self._prefill(text, head, max_tokens, abort, border, done, given)
            else:
                await self._growth.ahead(seen, left)
                await self._growth.fit(seen + 1, seen)
            async with aclosing(self._decode(head, left, seen, begun)) as batches:
                async for batch in batches:
                    text += [sampled.token for sampled in batch]
                    left = 0 if batch[-1].halt else left - len(batch)
                    yield batch
            more = left > 0 and self._seen is not None

    async def _decode(
        self, head: str, most: int, seen: int, begun: bool
    ) -> AsyncGenerator[list[Sampled], None]:
        """Decode up to `most` tokens after the first `seen`; fewer when the KV cache must grow, or when the text needs
        other RoPE tables. `begun`: a prefill has sampled the first of them. It is read back while the next steps
        run."""
        room = self._growth.room(seen, most)
        turns = self.state.turns_behind(seen)
        if turns is not None:
            room = min(room, turns)
        loop = self.gpu.decode_loop(
            self.token_plan(head).recording,
            self.state.step.buffer,
            min(most, room + begun),
            STEPS_IN_FLIGHT,
            begun=begun,
        )
        counters, done = self.gpu.counters, 0
        before = (counters.upload_bytes, counters.readback_bytes)
        self.prefix.leave()
        self._seen = ran = None
        try:
            while batch := await loop.next():
                ran = batch[-1][2]
                done += len(batch)
                self.upload_bytes_per_token = -(-(counters.upload_bytes - before[0]) // done)
                self.readback_bytes_per_token = -(-(counters.readback_bytes - before[1]) // done)
                yield [Sampled(token, halt) for token, halt, _, _ in batch]
        finally:
            loop.stop()
            while batch := await loop.next():  # steps in flight end before the state is used again
                ran = batch[-1][2]
            self._seen = ran

    def keep(self, ids: Sequence[int]) -> None:
        """Say after a decode which ids stay. Only those that ran have rows in the cache.

        A recurrent state may have run past them, when the host stopped with steps in flight or a stop string cut tokens
        off. The next prompt then continues from the last snapshot.
        """
        if self._seen is None:
            return
        kept = ids[: self._seen]
        if self.state.turned_for(len(kept)):
            self.prefix.keep(kept, self._seen)
        else:  # the kept keys were rotated for a longer text
            self.prefix.forget()

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
        """Upload the settings, and the history where a penalty needs it."""
        self.sampler.write(sampling)
        if not sampling.penalised:
            return
        if answered:
            self.sampler.remember(ids, answered)
            return
        await self.gpu.replay(self.programs.find("forget").recording)
        if sampling.repetition_penalty == 1.0:
            return  # the other penalties are about the answer alone
        rows = self.programs.sizes("mark")[-1]
        for at in range(0, len(ids), rows):
            part = ids[at : at + rows]
            self._write(self.state.ids, words(part))
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
        given: Given | None = None,
    ) -> None:
        """Run the ids that the state has not seen, and `head` on the last one. `count`: tokens that were sampled
        already, of at most `limit`."""
        prefix = self.prefix
        positions = (given.positions if given else None) or Positions(())
        if self.state.turn_for(len(ids)):
            prefix.forget()
        start = await prefix.resume(ids)
        await self._growth.fit(len(ids), start, min(limit, ANSWER_ROOM))
        await self._chunks.fit(len(ids) - start)
        width = self.state.x.shape[1]
        feed = await given.make(self.gpu, ids[start:], width, abort) if given else None
        if feed and len(ids) - start > self._chunks.most:
            await self.gpu.idle()  # the time of the first chunk says how large the next ones are
        self.prefilled = len(ids) - start
        self.prefill_dispatches = 0
        marks = self._marks(ids, border)
        pace = self._chunks.pace()
        while start < len(ids):
            abort.check()
            stop = next((mark for mark in marks if mark > start), len(ids))
            end = self._chunks.end(start, stop)
            last = end == len(ids)
            pace.submitted(end - start)
            prefix.leave()
            self._write(self.state.ids, words(ids[start:end]))
            if feed:
                await feed.put(ids[start:end], self.state.x)
            apart = self._place(start, end, positions)
            self._write(
                self.state.step,
                pack_step(
                    pos=start, rows=end - start, limit=limit, count=count, shift=positions.shift
                ),
            )
            for plan in self.chunk_plans(end - start, head if last else None, apart=apart):
                await self.gpu.replay(plan.recording)
                self.prefill_dispatches += len(plan.dispatches)
            start = end
            if not last and start not in marks:
                await pace.follow(len(ids) - start)
            prefix.reached(ids[:start])
            if start in marks:
                await prefix.mark()

    def _marks(self, ids: Sequence[int], border: int | None) -> list[int]:
        """Where a prefill ends a chunk and keeps a recurrent state: at the border, and in a chat behind the last
        picture, of which more may be asked."""
        if not self.prefix.recurrent or not border:
            return [len(ids)]
        seen = next((i + 1 for i in reversed(range(border)) if ids[i] < 0), border)
        return sorted({seen, border})

    def _place(self, start: int, end: int, positions: Positions) -> bool:
        """Upload the rotary positions of rows start..end, if passes read them. Returns whether position minus row
        number differs from that of later tokens. Raises InputError if it does and the model's positions are always the
        row numbers."""
        apart = positions.straight(start, end) != positions.shift
        table = self.state.positions
        if table is not None:
            axes = table.shape[1]
            rows = (p for i in range(start, end) for p in positions.of(i, axes))
            self._write(table, array("I", rows).tobytes())
        elif apart:
            raise InputError(
                "this model's rotary positions are the numbers of its rows; others were given with the prompt"
            )
        return apart

    def _write(self, tensor: Tensor, data: bytes) -> None:
        self.gpu.write(tensor.buffer, 0, data)
