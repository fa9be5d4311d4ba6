"""Runs a text encoder: many texts in one pass, for each a vector of unit length, or a cross-encoder's logit. Knows no
text, only ids."""

from __future__ import annotations

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
from py_engine.host.gpu import AdapterInfo, Gpu
from py_engine.ops.pool import POOLINGS, Pooling, pool
from py_engine.ops.step import STEP_BYTES, Pass, pack_step, pass_program

PASS_ROWS = (32, 512, 2048)  # sizes of plans; a pass takes the smallest that holds its texts
PASS_TEXTS = 64  # the most texts of a pass
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
            if model.projections:  # each vector by itself, as pooling sees rows
                self._alone = make("rows", PASS_TEXTS, 2, dtype="u32")
                rows_of = array("I", [n for i in range(PASS_TEXTS) for n in (i, i + 1)])
                gpu.write(self._alone.buffer, 0, rows_of.tobytes())
        except BaseException:
            self._buffers.release()
            raise
        super().__init__(
            gpu, kernels, self._passes(gpu.info), exact=exact, strategy=strategy, forms=forms
        )

    def _passes(self, info: AdapterInfo) -> Sequence[Program]:
        """ "encode" (rows of texts), and those that run after it: one for each kind of pooling, or "score"."""
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
            program("encode", encode, sizes=self._sizes),
            *(program(name, end, sizes=(PASS_TEXTS,)) for name, end in ends.items()),
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

        Each text is a list of 1 to `context` token ids. Passes of as many texts as fit run one after another; other
        models have their turns between them. Raises AbortError there, DeviceLostError.
        """
        found = bytearray()
        for batch in self._batches(texts):
            found += await self._run(batch, pooling, abort)
        return found

    async def score(
        self, texts: Sequence[Sequence[int]], types: Sequence[Sequence[int]], abort: Abort
    ) -> bytearray:
        """The logit that the model's classifier gives each text, float32 [texts], in their order.

        Each text is a list of 1 to `context` token ids, `types` has the token type of each. Runs and raises as `embed`.
        """
        found, done = bytearray(), 0
        for batch in self._batches(texts):
            of_batch = array("I", [n for of_text in types[done:][: len(batch)] for n in of_text])
            self.gpu.write(self._inputs.types.buffer, 0, of_batch.tobytes())
            found += await self._run(batch, "score", abort)
            done += len(batch)
        return found

    async def _run(self, batch: Sequence[Sequence[int]], end: str, abort: Abort) -> bytes:
        """Run one pass and the program `end` after it. Returns the results of its texts."""
        abort.check()
        rows = self._write(batch)
        await self.gpu.replay(self.programs.find("encode", rows).recording)
        await self.gpu.replay(self.programs.find(end).recording)
        # A native read blocks the event loop. Waiting first lets a stop arrive, and other models take their turns.
        await self.gpu.idle()
        nbytes = 4 * self._results.shape[1] * len(batch)
        return await self.gpu.read(self._results.buffer, 0, nbytes)

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

    def _write(self, batch: Sequence[Sequence[int]]) -> int:
        """Upload the inputs of a pass over these texts. Returns its number of rows."""
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
        return rows

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
