"""Finds out, on the device itself, how many dispatches it takes in one command buffer: only where the default is the
floor (graph/submit.py), that is on WebKit, and only when nobody said how to submit.

A candidate (graph/calibrate.py) is written to the record, and that awaited, before it is tried: it may end the tab, and
then the next start finds it there. It is tried on the loaded model itself: two prompts, each prefilled and continued by
a few tokens, must give the same tokens and the same bits of logits as the floor gave. Two that take turns, so that
what is stale is another prompt's, and wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from array import array
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from py_engine.abort import Abort
from py_engine.errors import EngineError, FormatError, StorageError
from py_engine.generate.decoder import Decoder
from py_engine.generate.sampling import Sampling
from py_engine.generate.tunings import record_name
from py_engine.graph.calibrate import Calibration, parse_pair
from py_engine.graph.submit import FLOOR, GroupedSubmit
from py_engine.host.gpu import Gpu
from py_engine.host.io import Io
from py_engine.host.json_text import parse_json
from py_engine.host.store import BlobStore

STORE = "submit"
LOCK = "calibrate"
PROMPT_TOKENS = 24  # more than the smaller prefill plan takes
NEW_TOKENS = 3  # the first is the prefill's own; two decode steps

Exclusive = Callable[[], contextlib.AbstractAsyncContextManager[Decoder]]


class Calibrator:
    """Of one loaded model, which `model` tells from others on this device."""

    def __init__(self, gpu: Gpu, io: Io, decoder: Decoder, model: str) -> None:
        self._gpu = gpu
        self._io = io
        self._most = max(len(plan.dispatches) for plan in decoder.plans.values())
        labels = [call.label for call in decoder.plans["decode greedy"].calls]
        told = json.dumps([record_name(gpu), model, decoder.state.context, labels])
        self.key = hashlib.sha256(told.encode()).hexdigest()[:16]  # of device and plans

    async def start(self, decoder: Decoder, known: Mapping[str, Any] | None) -> None:
        """Submit by what was proven for these plans on this device: the record says so, or `known`, which the page
        keeps of earlier confirmations ({key: {"group", "passes"}}). Nothing is proven: the floor stays."""
        record = await self._look()
        if self.key not in record.proven and known and self.key in known:
            with contextlib.suppress(ValueError):
                record.proven[self.key] = parse_pair(known[self.key])
        best = record.best(self.key)
        if best != decoder.strategy:
            decoder.strategy = best

    async def climb(
        self,
        exclusive: Exclusive,
        quiet: Callable[[], Awaitable[bool]],
        on_confirmed: Callable[[str, GroupedSubmit], object],
        run: str = "",
        left: Sequence[str] = (),
    ) -> None:
        """Climb until there is nothing left to try. `exclusive`: Engine.exclusive. `quiet` waits for a moment when
        nothing else runs; False: give up. `on_confirmed(key, strategy)` hears of each step up; from then on the
        model is submitted by it. `run`: a name for this run of the page; `left`: of runs known to have ended in peace.

        Without a store that outlives the process nothing is tried. One tab at a time calibrates a device.
        Raises HostError, also DeviceLostError, when a candidate broke the device; it is on record as failed then.
        """
        store = await self._io.open_store(STORE, records=True)
        try:
            if not store.persistent:
                return
            async with store.lock(LOCK, wait=False) as held:
                if held:
                    await self._try_all(store, exclusive, quiet, on_confirmed, run, left)
        finally:
            await store.close()

    async def _try_all(
        self,
        store: BlobStore,
        exclusive: Exclusive,
        quiet: Callable[[], Awaitable[bool]],
        on_confirmed: Callable[[str, GroupedSubmit], object],
        run: str,
        left: Sequence[str],
    ) -> None:
        record = await self._read(store)
        if record.trying and record.by in left:
            record.withdraw()  # the page was closed while it tried: that says nothing
        if record.bury():
            await self._write(store, record)
        right: bytes | None = None
        while candidate := record.next(self.key, self._most):
            if not await quiet():
                return
            async with exclusive() as decoder:
                if right is None:
                    right = await _numbers(decoder, FLOOR)
                record.begin(candidate, run)
                await self._write(store, record)
                settled = decoder.strategy
                try:
                    same = await _numbers(decoder, candidate) == right
                except (asyncio.CancelledError, GeneratorExit):
                    record.withdraw()
                    raise
                except EngineError as error:
                    record.refuse(f"{error.type}: {error}")
                    raise
                else:
                    if same:
                        record.confirm(self.key)
                        settled = candidate
                    else:
                        record.refuse("wrong numbers")
                finally:
                    decoder.strategy = settled
                    await self._write(store, record)
            if same:
                on_confirmed(self.key, candidate)

    async def _look(self) -> Calibration:
        """The record as it stands; an empty one where it cannot be read."""
        try:
            store = await self._io.open_store(STORE, records=True)
        except StorageError:
            return Calibration()
        try:
            return await self._read(store)
        finally:
            await store.close()

    async def _read(self, store: BlobStore) -> Calibration:
        try:
            data = self._io.to_bytes(await store.read(record_name(self._gpu)))
            return Calibration.from_dict(parse_json(data, "calibration"))
        except (FileNotFoundError, StorageError, FormatError, ValueError):
            return Calibration()

    async def _write(self, store: BlobStore, record: Calibration) -> None:
        await store.replace(record_name(self._gpu), json.dumps(record.to_dict()).encode())


async def _numbers(decoder: Decoder, strategy: GroupedSubmit) -> bytes:
    """What the model makes of both prompts, submitted so: tokens and the logits behind the last of them."""
    settled, decoder.strategy = decoder.strategy, strategy
    try:
        return b"".join([await _numbers_of(decoder, ids) for ids in _prompts(decoder)])
    finally:
        decoder.strategy = settled


def _prompts(decoder: Decoder) -> list[list[int]]:
    vocab, length = decoder.model.vocab_size, min(PROMPT_TOKENS, decoder.state.context - NEW_TOKENS)
    return [
        [(start + step * i) % vocab for i in range(length)] for start, step in ((1, 7), (5, 13))
    ]


async def _numbers_of(decoder: Decoder, ids: list[int]) -> bytes:
    decoder.prefix.forget()
    tokens = array("I")
    async with contextlib.aclosing(
        decoder.generate(ids, Sampling(), NEW_TOKENS, Abort())
    ) as batches:
        async for batch in batches:
            tokens.extend(sampled.token for sampled in batch)
    logits = decoder.sampler.logits
    assert logits.binding is not None
    return tokens.tobytes() + await decoder.gpu.read(
        logits.binding.buffer, 0, 4 * decoder.model.vocab_size
    )
