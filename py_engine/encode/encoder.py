"""A text encoder at work: many texts in one pass, a vector of unit length for each. Knows no text, only ids."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from py_engine.abort import Abort
from py_engine.blocks.encoder import EncoderInputs, EncoderModel
from py_engine.checks.self_check import SelfCheck
from py_engine.checks.tunings import Forms
from py_engine.graph.buffers import Buffers
from py_engine.graph.kernels import Kernels
from py_engine.graph.programs import Features, Program, Programs
from py_engine.graph.programs import Forms as Measured
from py_engine.graph.submit import SubmitStrategy, default_strategy
from py_engine.graph.trace import Tensor
from py_engine.host.gpu import Buffer, Gpu
from py_engine.ops.pool import POOLINGS, Pooling, pool
from py_engine.ops.step import STEP_BYTES, Pass, pack_step

PASS_ROWS = (32, 512, 2048)  # plan sizes; a pass takes the smallest that holds its texts
PASS_TEXTS = 64  # the most texts of a pass
# Rows of a pass are not to take more than this in their widest layer: large models take fewer rows.
_WIDEST_BYTES = 32 << 20


class Encoder:
    """One model at work. `context`: the most tokens of a text."""

    classes: Sequence[int] = ()  # there is no KV cache that grows

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
        """`exact`: without the tensor units, which round activations to 11 bits."""
        self.gpu, self.model, self.context = gpu, model, context
        self._kernels = kernels
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
            )
            self._texts = make("texts", PASS_TEXTS, 2, dtype="u32")
            self._hidden = make("hidden states", rows, h)
            self._vectors = make("vectors", PASS_TEXTS, h)
        except BaseException:
            self._buffers.release()
            raise
        self.programs = Programs(
            gpu,
            kernels,
            self._passes(),
            strategy=strategy or default_strategy(),
            features=gpu.features - ({"subgroup-matrix"} if exact else set[str]()),
            forms=forms or {},
        )

    def _passes(self) -> Sequence[Program]:
        """ "encode" (rows of texts), and a pooling of each kind, which follows it."""

        def encode(rows: int, features: Features, forms: Measured) -> Pass:
            trace = Pass(rows, features, self.gpu.info, forms, step=self._step)
            self.model.forward(trace, self._inputs, self._hidden)
            return trace

        def pooled(kind: Pooling) -> Program:
            def write(rows: int, features: Features, forms: Measured) -> Pass:
                trace = Pass(rows, features, self.gpu.info, forms, step=self._step)
                pool(trace, self._hidden, self._texts, self._vectors, kind)
                return trace

            return Program(kind, write)

        return [Program("encode", encode, self._sizes), *map(pooled, POOLINGS)]

    @property
    def strategy(self) -> SubmitStrategy:
        """How its plans are submitted; may be set while nothing runs."""
        return self.programs.strategy

    @strategy.setter
    def strategy(self, strategy: SubmitStrategy) -> None:
        self.programs.strategy = strategy

    def memory(self) -> dict[str, int]:
        """GPU bytes of everything here, by kind."""
        return {
            "state_bytes": self._buffers.nbytes,
            "snapshot_bytes": 0,
            "activation_bytes": self.programs.activation_bytes,
        }

    def trace(self, without: Features = frozenset()) -> None:
        """See Programs.trace."""
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
        """Room for a text of so many tokens: it is there from the start."""

    async def embed(
        self, texts: Sequence[Sequence[int]], pooling: Pooling, abort: Abort
    ) -> bytearray:
        """A vector of unit length for each text, float32 [texts, hidden_size], in their order.

        Texts are ids of the model's, 1 to `context` of them each. Passes of as many texts as fit run one behind the
        other. Raises AbortError between them, DeviceLostError.
        """
        found = bytearray()
        for batch in self._batches(texts):
            abort.check()
            rows = self._write(batch)
            await self.gpu.replay(self.programs.find("encode", rows).recording)
            await self.gpu.replay(self.programs.find(pooling).recording)
            nbytes = 4 * self.model.hidden_size * len(batch)
            found += await self.gpu.read(_buffer(self._vectors), 0, nbytes)
        return found

    def _batches(self, texts: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
        """Texts in their order, as many as fit a pass."""
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
        """The inputs of a pass over these texts; its rows."""
        ids, positions, spans, bounds = (array("I") for _ in range(4))
        for text in batch:
            begin, end = len(ids), len(ids) + len(text)
            ids.extend(text)
            positions.extend(range(len(text)))
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
            self.gpu.write(_buffer(tensor), 0, data.tobytes())
        self.gpu.write(_buffer(self._step), 0, pack_step(pos=0, rows=rows))
        return rows

    def release(self) -> None:
        """Free inputs, outputs and activations; the weights belong to whoever loaded them."""
        self.programs.release()
        self._buffers.release()


def _sizes(model: EncoderModel, context: int) -> tuple[int, ...]:
    """Rows of the plans: at least one text of the greatest length fits."""
    longest = -(-context // 16) * 16
    most = PASS_ROWS[-1]
    while most > longest and 4 * most * model.widest > _WIDEST_BYTES:
        most //= 2
    most = max(most, longest)
    return (*(rows for rows in PASS_ROWS if rows < most), most)


def _buffer(tensor: Tensor) -> Buffer:
    assert tensor.binding is not None
    return tensor.binding.buffer
