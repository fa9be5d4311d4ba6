"""Finds out, on the device itself, how many dispatches it can run in one command buffer. This is done only where the
default is the floor (graph/submit.py), that is on WebKit, and only when the caller did not say how to submit.

Each candidate (graph/calibrate.py) is written to a record before it is tried, since it may end the tab; the next start
then finds it there. It is tried on the loaded model: prompts are prefilled and continued by a few tokens, which must
give the same tokens and the same bits of logits as with the floor. Every plan that generations use runs with two
prompts in turn, so that stale data is that of another prompt, and shows. A KV cache that grows changes the sizes of a
plan's dispatches, but not their number or pipelines, so it is enough to try one size.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from py_engine.abort import Abort
from py_engine.checks.tunings import record_name
from py_engine.errors import EngineError, FormatError, StorageError
from py_engine.generate.decoder import Decoder
from py_engine.generate.sampling import Sampling
from py_engine.graph.calibrate import Calibration, parse_pair
from py_engine.graph.submit import FLOOR, GroupedSubmit
from py_engine.host.gpu import Gpu
from py_engine.host.io import Io
from py_engine.host.json_text import parse_json
from py_engine.host.store import BlobStore
from py_engine.host.webkit import webkit_version

STORE = "submit"
LOCK = "calibrate"
NEW_TOKENS = 3  # the first is the prefill's own; two decode steps
# Prompt lengths for the larger and for the smaller prefill plan, and ways to choose the next token: the best one, or
# drawn with everything that the sampler can do.
_LONG, _SHORT = 24, 13
_BEST = Sampling()
_DRAWN = Sampling(
    temperature=1.0,
    top_k=40,
    top_p=0.95,
    min_p=0.01,
    repetition_penalty=1.1,
    frequency_penalty=0.1,
    seed=7,
)
_RUNS = ((_LONG, _BEST), (_LONG, _DRAWN), (_SHORT, _DRAWN), (_SHORT, _BEST))

Exclusive = Callable[[], contextlib.AbstractAsyncContextManager[Decoder]]


class Calibrator:
    """Calibrates one loaded model. `model` is a name that tells it from others on this device."""

    def __init__(self, gpu: Gpu, io: Io, decoder: Decoder, model: str) -> None:
        # An update of the browser may mend what failed, or break what was proven.
        self._record = record_name(gpu, webkit_version())
        self._io = io
        self._most = max(len(plan.dispatches) for plan in decoder.programs.plans.values())
        plans = {
            name: [f"{call.label} {call.kernel.label}" for call in plan.calls]
            for name, plan in decoder.programs.plans.items()
        }
        told = json.dumps([self._record, model, decoder.state.context, plans], sort_keys=True)
        self.key = hashlib.sha256(told.encode()).hexdigest()[:16]  # of device, browser and plans

    async def start(self, decoder: Decoder, known: Mapping[str, Any] | None) -> None:
        """Submit by what was proven for these plans on this device, according to the record or to `known`: what the
        page has stored of earlier confirmations, {key: {"group", "passes"}}. Without either the floor stays."""
        record = await self._look()
        if self.key not in record.proven and known and self.key in known:
            with contextlib.suppress(ValueError):
                record.proven[self.key] = parse_pair(known[self.key])
        decoder.strategy = record.best(self.key)

    async def climb(
        self,
        exclusive: Exclusive,
        quiet: Callable[[], Awaitable[bool]],
        on_confirmed: Callable[[str, GroupedSubmit], object],
        run: str = "",
        excused: Sequence[str] = (),
    ) -> None:
        """Try candidates until none is left.

        `exclusive`: Engine.exclusive. `quiet` waits for a moment when nothing else runs; it gives False to end the
        climb. `on_confirmed(key, strategy)` is called after each step up, from when on the model uses that strategy.
        `run`: a name for this run of the page. `excused`: names of runs whose end proves nothing, because the user
        closed them or they were out of sight.

        Nothing is tried without a store that outlives the process. One tab at a time calibrates a device.
        Raises HostError, also DeviceLostError, when a candidate broke the device. The record then says that it failed,
        unless it was the floor.
        """
        store = await self._io.open_store(STORE, records=True)
        try:
            if not store.persistent:
                return
            async with store.lock(LOCK, wait=False) as held:
                if held:
                    await self._try_all(store, exclusive, quiet, on_confirmed, run, excused)
        finally:
            await store.close()

    async def _try_all(
        self,
        store: BlobStore,
        exclusive: Exclusive,
        quiet: Callable[[], Awaitable[bool]],
        on_confirmed: Callable[[str, GroupedSubmit], object],
        run: str,
        excused: Sequence[str],
    ) -> None:
        record = await self._read(store)
        if record.trying and record.by in excused:
            record.withdraw()
        if record.bury():
            await self._write(store, record)
        right: bytes | None = None
        while candidate := record.next(self.key, self._most):
            if not await quiet():
                return
            async with exclusive() as decoder:
                if right is None:
                    async with self._tried(store, record, FLOOR, run):
                        right = await _numbers(decoder, FLOOR)
                        record.withdraw()
                async with self._tried(store, record, candidate, run):
                    same = await _numbers(decoder, candidate) == right
                    if same:
                        record.confirm()
                        decoder.strategy = candidate
                    else:
                        record.refuse("wrong numbers")
            if same:
                on_confirmed(self.key, candidate)

    @contextlib.asynccontextmanager
    async def _tried(
        self, store: BlobStore, record: Calibration, candidate: GroupedSubmit, run: str
    ) -> AsyncIterator[None]:
        """Keep `candidate` on record for the length of a block. The block enters the result, unless it raises."""
        record.begin(candidate, self.key, run)
        await self._write(store, record)
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            record.withdraw()
            raise
        except EngineError as error:
            if candidate == FLOOR:
                record.withdraw()  # answers are submitted this way too, so grouping is not to blame
            else:
                record.refuse(f"{error.type}: {error}")
            raise
        finally:
            await self._write(store, record)

    async def _look(self) -> Calibration:
        """The record; an empty one where it cannot be read."""
        try:
            store = await self._io.open_store(STORE, records=True)
            try:
                return await self._read(store)
            finally:
                await store.close()
        except StorageError:
            return Calibration()

    async def _read(self, store: BlobStore) -> Calibration:
        """The record; an empty one where there is none or it is damaged. Raises StorageError."""
        try:
            data = self._io.to_bytes(await store.read(self._record))
            return Calibration.from_dict(parse_json(data, "calibration"))
        except (FileNotFoundError, FormatError, ValueError):
            return Calibration()

    async def _write(self, store: BlobStore, record: Calibration) -> None:
        await store.replace(self._record, json.dumps(record.to_dict()).encode())


async def _numbers(decoder: Decoder, strategy: GroupedSubmit) -> bytes:
    """What the model computes in every run of _RUNS with this strategy: its tokens, and the logits after the last."""
    settled, decoder.strategy = decoder.strategy, strategy
    vocab, most = decoder.model.vocab_size, decoder.state.context - NEW_TOKENS
    found = []
    try:
        for start, (length, sampling) in enumerate(_RUNS, 1):
            ids = [(start * (1 + 7 * i)) % vocab for i in range(min(length, most))]
            found.append(await _numbers_of(decoder, ids, sampling))
    finally:
        decoder.strategy = settled
    return b"".join(found)


async def _numbers_of(decoder: Decoder, ids: list[int], sampling: Sampling) -> bytes:
    decoder.prefix.forget()
    tokens = array("I")
    async with contextlib.aclosing(decoder.generate(ids, sampling, NEW_TOKENS, Abort())) as batches:
        async for batch in batches:
            tokens.extend(sampled.token for sampled in batch)
    logits = decoder.sampler.logits
    return tokens.tobytes() + await decoder.gpu.read(logits.buffer, 0, 4 * decoder.model.vocab_size)
