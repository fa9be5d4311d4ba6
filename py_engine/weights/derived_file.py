"""The derived file of one load, in the store: which tensors are there, and how others come to be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from py_engine.host.io import Bytes
from py_engine.weights.derived import Derived
from py_engine.weights.hub import Sum
from py_engine.weights.jobs import Job, TensorInfo
from py_engine.weights.manifest import Stored

if TYPE_CHECKING:
    from py_engine.weights.keeping import Keeper


class DerivedFile:
    """`table`: what lies where. `stored`: what is there of it."""

    def __init__(self, table: Derived, stored: Stored, keeper: Keeper) -> None:
        self.table = table
        self.stored = stored
        self.given_up = False  # there was no room for it
        self._keeper = keeper

    @property
    def wanted(self) -> bool:
        """Whether it is still being kept."""
        return self._keeper.kept and not self.given_up

    def has(self, here: TensorInfo) -> bool:
        """Whether a tensor's bytes are there."""
        return not self.given_up and self.stored.spans.cover(here.start, here.end)

    def steps(self, job: Job) -> list[Job]:
        """What is done for a job: itself, or, if what it would make is there, that is uploaded."""
        return self.table.jobs(job) if self.has(self.table.here(job.tensor)) else [job]

    def remove(self, here: TensorInfo) -> None:
        """A tensor's bytes are not what they should be."""
        self.stored.spans.remove(here.start, here.end)

    async def put(self, here: TensorInfo, start: int, data: Bytes) -> None:
        """Write bytes of a tensor from its byte `start` on."""
        if not self.has(here):
            await self._keeper.put(self, here.start + start, data)

    async def finish(self, sources: Iterable[TensorInfo], sums: Mapping[TensorInfo, Sum]) -> None:
        """Count what was made of these tensors of the checkpoint, where all of it was written by now. `sums`: of the
        bytes so far, theirs and those of what was made. It counts only if what it was made from was good."""
        done = {}
        for source in sources:
            here = self.table.here(source)
            sum_ = sums.get(here if here.name != source.name else source)
            if sum_ is None or (sum_.start, sum_.end) != (0, here.nbytes) or self.has(here):
                continue
            if self._keeper.good(source, sums.get(source)):
                done[here] = sum_
        await self._keeper.finish(self, done)
