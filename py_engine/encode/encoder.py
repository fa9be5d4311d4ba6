"""Runs a text encoder: many texts in one pass, for each a vector of unit length, or a cross-encoder's logit. Knows no
text, only ids."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from py_engine.abort import Abort
from py_engine.blocks.encoder import EncoderInputs, EncoderModel, RopeTables
from py_engine.checks.tunings import Forms
from py_engine.generate.runtime import Runtime
from py_engine.graph.buffers import Buffers
from py_engine.graph.kernels import Kernels
from py_engine.graph.programs import Program
from py_engine.graph.submit import SubmitStrategy
from py_engine.host.gpu import AdapterInfo, Copy, Gpu
from py_engine.ops.pool import POOLINGS, Pooling, pool
from py_engine.ops.step import STEP_BYTES, Pass, pack_step, pass_program

PASS_ROWS = (32, 512, 2048)  # sizes of plans; a pass takes the smallest that holds its texts
PASS_TEXTS = 64  # the most texts of a pass
# Passes of one flight are submitted without a wait between them, and their results are read at once. A stop, and other
# models, wait for its end, so a flight of more than one pass is expected to take no longer than this.
FLIGHT_PASSES = 4
FLIGHT_S = 0.02
# The most bytes for the rows of a pass in the widest layer. Large models get fewer rows.
_WIDEST_BYTES = 32 << 20


class Encoder(Runtime):
    """One encoder that runs. `context`: the most tokens of a text."""

    def __init__(
        self,
        gpu: Gpu,
        kernels: Kernels,
        model: EncoderModel,
        context: int,
        *,
        exact: bool,
        strategy: SubmitStrategy | None = None,
        forms: Forms | None = None,
    ) -> None:
        """`exact`, `strategy`, `forms`: as for Runtime."""
        self.model, self.context = model, context
        self._sizes = _sizes(model, context)
        rows, h = self._sizes[-1], model.hidden_size
        self._buffers = Buffers(gpu)
        try:
            make = self._buffers.make
            self._step = make("step", STEP_BYTES // 4, dtype="u32")
            self._inputs = EncoderInputs(
                make("ids", rows, dtype="u32"),
                make("positions", rows, dtype="u32"),
                make("token types", rows, dtype="u32"),
                make("spans", rows, 2, dtype="u32"),
                RopeTables(gpu, self._buffers, model.first_position + context),
            )
            self._texts = make("texts", PASS_TEXTS, 2, dtype="u32")
            self._hidden = make("hidden states", rows, h)
            if model.classifier:
                self._results = make("logits", PASS_TEXTS, 1)
            else:
                self._results = make("vectors", PASS_TEXTS, model.vector_size)
            self._gathered = make("results", FLIGHT_PASSES * PASS_TEXTS, self._results.shape[1])
            # Seconds of a pass when it last ran, by rows of its plan.
            self._took: dict[int, float] = {}
            if model.projections:  # each vector by itself, as pooling sees rows
                self._alone = make("rows", PASS_TEXTS, 2, dtype="u32")
                rows_of = array("I", [n for i in range(PASS_TEXTS) for n in (i, i + 1)])
                gpu.write(self._alone.buffer, 0, rows_of.tobytes())
        except BaseException:
            self._buffers.release()
            raise
        first, *ends = self._passes(gpu.info)
        super().__init__(
            gpu,
            kernels,
            [first, *ends],
            [(first.name, end.name) for end in ends],
            exact=exact,
            strategy=strategy,
            forms=forms,
        )

    def _passes(self, info: AdapterInfo) -> Sequence[Program]:
        """ "encode" (rows of texts), and those that are chained to it: one for each kind of pooling, or "score"."""
        program = partial(pass_program, step=self._step, info=info)

        def encode(trace: Pass) -> None:
            self.model.forward(trace, self._inputs, self._hidden)

        def pooled(kind: Pooling, trace: Pass) -> None:
            if not self.model.projections:
                pool(trace, self._hidden, self._texts, self._results, kind)
                return
            x = trace.tensor("pooled", PASS_TEXTS, self.model.hidden_size)
            pool(trace, self._hidden, self._texts, x, kind, normalise=False)
            for projection in self.model.projections:
                y = trace.tensor("projected", PASS_TEXTS, projection.layer.rows)
                projection.forward(trace, x, y)
                x = y
            pool(trace, x, self._alone, self._results, "first", label="unit length")

        def score(trace: Pass) -> None:
            classifier = self.model.classifier
            assert classifier is not None
            x = trace.tensor("pooled", PASS_TEXTS, self.model.hidden_size)
            pool(trace, self._hidden, self._texts, x, classifier.pooling, normalise=False)
            classifier.forward(trace, x, self._results)

        ends: Mapping[str, Callable[[Pass], None]]
        ends = {kind: partial(pooled, kind) for kind in POOLINGS}
        if self.model.classifier:
            ends = {"score": score}
        return [
            program("encode", encode, sizes=self._sizes, alone=False),
            *(program(name, end, sizes=(PASS_TEXTS,), alone=False) for name, end in ends.items()),
        ]

    def memory(self) -> dict[str, int]:
        """GPU bytes of everything here, by kind."""
        return {
            "state_bytes": self._buffers.nbytes,
            "snapshot_bytes": 0,
            "activation_bytes": self.programs.activation_bytes,
        }

    async def fill(self) -> None:
        """Do nothing: there is room for a text of `context` tokens from the start."""

    async def widen(self) -> bool:
        """Return False: all texts run in passes of one size."""
        return False

    async def embed(
        self, texts: Sequence[Sequence[int]], pooling: Pooling, abort: Abort
    ) -> bytearray:
        """A vector of unit length for each text, float32 [texts, model.vector_size], in their order.

        Each text is a list of 1 to `context` token ids. Passes of as many texts as fit run one after another, in
        flights; other models have their turns between flights. Raises AbortError at a pass, DeviceLostError.
        """
        return await self._run(texts, None, pooling, abort)

    async def score(
        self, texts: Sequence[Sequence[int]], types: Sequence[Sequence[int]], abort: Abort
    ) -> bytearray:
        """The logit that the model's classifier gives each text, float32 [texts], in their order.

        Each text is a list of 1 to `context` token ids, `types` has the token type of each. Runs and raises as `embed`.
        """
        return await self._run(texts, types, "score", abort)

    async def _run(
        self,
        texts: Sequence[Sequence[int]],
        types: Sequence[Sequence[int]] | None,
        end: str,
        abort: Abort,
    ) -> bytearray:
        """Run all texts in passes, each followed by the program `end`. Returns the results, in the order of texts."""
        found, done = bytearray(), 0
        for flight in self._flights(texts):
            count = sum(map(len, flight))
            of_flight = types[done : done + count] if types else None
            found += await self._fly(flight, of_flight, end, abort)
            done += count
        return found

    async def _fly(
        self,
        flight: Sequence[Sequence[Sequence[int]]],
        types: Sequence[Sequence[int]] | None,
        end: str,
        abort: Abort,
    ) -> bytes:
        """Submit passes that have the same plan, and read the results of all their texts."""
        size = self._size(flight[0])
        recording = self.programs.chain("encode", end, rows=size).recording
        nbytes, done, started = 4 * self._results.shape[1], 0, time.perf_counter()
        for batch in flight:
            abort.check()
            # Uploads and submits are done in this order: no pass sees the inputs of the next one.
            self._write(batch)
            if types:
                of_batch = array("I", [n for ids in types[done:][: len(batch)] for n in ids])
                self.gpu.write(self._inputs.types.buffer, 0, of_batch.tobytes())
            await self.gpu.replay(recording)
            if len(flight) > 1:
                source, target = self._results.buffer, self._gathered.buffer
                part = Copy(source, target, nbytes * len(batch), target_offset=nbytes * done)
                await self.gpu.copy([part])
            done += len(batch)
        if self._took.get(size, FLIGHT_S) >= FLIGHT_S:
            # A native read blocks the event loop. Waiting first lets a stop arrive; it costs a millisecond or two.
            await self.gpu.idle()
        results = self._gathered if len(flight) > 1 else self._results
        found = await self.gpu.read(results.buffer, 0, nbytes * done)
        self._took[size] = (time.perf_counter() - started) / len(flight)
        return found

    def _flights(self, texts: Sequence[Sequence[int]]) -> Iterator[list[list[Sequence[int]]]]:
        """The passes of each flight: of one plan, and as many as FLIGHT_S lets be. A pass whose time is not known yet
        flies alone."""
        flight: list[list[Sequence[int]]] = []
        size = 0
        for batch in self._batches(texts):
            most = min(FLIGHT_PASSES, FLIGHT_S / self._took.get(size, FLIGHT_S))
            if flight and (self._size(batch) != size or len(flight) + 1 > most):
                yield flight
                flight = []
            flight.append(batch)
            size = self._size(batch)
        if flight:
            yield flight

    def _size(self, batch: Sequence[Sequence[int]]) -> int:
        """Rows of the plan that a pass over these texts takes."""
        rows = sum(map(len, batch))
        return next(size for size in self.programs.sizes("encode") if size >= rows)

    def _batches(self, texts: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
        """The texts of each pass: as many as fit, in their order."""
        batch: list[Sequence[int]] = []
        rows = 0
        for ids in texts:
            if batch and (rows + len(ids) > self._sizes[-1] or len(batch) == PASS_TEXTS):
                yield batch
                batch, rows = [], 0
            batch.append(ids)
            rows += len(ids)
        if batch:
            yield batch

    def _write(self, batch: Sequence[Sequence[int]]) -> None:
        """Upload the inputs of a pass over these texts."""
        ids, positions, spans, bounds = (array("I") for _ in range(4))
        for text in batch:
            begin, end = len(ids), len(ids) + len(text)
            ids.extend(text)
            first = self.model.first_position
            positions.extend(range(first, first + len(text)))
            spans.extend((begin, end) * len(text))
            bounds.extend((begin, end))
        bounds.extend([0] * (2 * PASS_TEXTS - len(bounds)))
        rows = len(ids)
        for tensor, data in (
            (self._inputs.ids, ids),
            (self._inputs.positions, positions),
            (self._inputs.spans, spans),
            (self._texts, bounds),
        ):
            self.gpu.write(tensor.buffer, 0, data.tobytes())
        self.gpu.write(self._step.buffer, 0, pack_step(pos=0, rows=rows))

    def release(self) -> None:
        """Free inputs, outputs and activations; the weights belong to whoever loaded them."""
        self.programs.release()
        self._buffers.release()


def _sizes(model: EncoderModel, context: int) -> tuple[int, ...]:
    """Sizes of the plans, in rows. The largest holds at least one text of the full context."""
    longest = -(-context // 16) * 16
    most = PASS_ROWS[-1]
    while most > longest and 4 * most * model.widest > _WIDEST_BYTES:
        most //= 2
    most = max(most, longest)
    return (*(rows for rows in PASS_ROWS if rows < most), most)
