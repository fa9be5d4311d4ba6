"""The derived file in this device's store: what a load quantised, so that the next load uploads it.

sources/derived.py says which bytes of it are what.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from py_engine.host.io import Bytes
from py_engine.kept.manifest import Stored
from py_engine.kept.sums import TensorSums
from py_engine.sources.derived import Derived
from py_engine.sources.jobs import Job, TensorInfo
from py_engine.sources.repository import Sum


class DerivedWriter(Protocol):
    """What a derived file needs of the load's writer (kept/writer.py)."""

    @property
    def kept(self) -> bool:
        """Whether the load still writes."""

    async def put(self, file: DerivedFile, place: int, data: Bytes) -> None:
        """Write bytes at a place of the file."""

    async def finish(self, file: DerivedFile, done: Mapping[TensorInfo, Sum]) -> None:
        """Note that all bytes of these tensors are written, and their checksums."""


class DerivedFile:
    """`table`: which bytes are what. `stored`: which of them are here."""

    def __init__(
        self, table: Derived, stored: Stored, writer: DerivedWriter, sums: TensorSums
    ) -> None:
        self.table = table
        self.stored = stored
        self.given_up = False  # it was deleted, because there was no room for it
        self._writer = writer
        self._sums = sums

    @property
    def wanted(self) -> bool:
        """Whether it is still being written."""
        return self._writer.kept and not self.given_up

    def has(self, here: TensorInfo) -> bool:
        """Whether a tensor's bytes are all here."""
        return not self.given_up and self.stored.spans.cover(here.start, here.end)

    def steps(self, job: Job) -> list[Job]:
        """What a load does for a job: upload what the job would make, if that is here; else the job itself."""
        return self.table.jobs(job) if self.has(self.table.here(job.tensor)) else [job]

    def forget(self, file: str) -> None:
        """Forget what was made from one of the checkpoint's files, whose bytes were wrong."""
        for here in self.table.from_file(file):
            self.stored.spans.remove(here.start, here.end)

    async def put(self, here: TensorInfo, start: int, data: Bytes) -> None:
        """Write bytes of a tensor from its byte `start` on."""
        if not self.has(here):
            await self._writer.put(self, here.start + start, data)

    async def finish(self, sources: Iterable[TensorInfo], sums: Mapping[TensorInfo, Sum]) -> None:
        """Note what was made of these tensors of the checkpoint, where all of it is written by now. `sums`: checksums
        of the bytes up to now, of the checkpoint's tensors and of what was made. A tensor counts only if what it was
        made from was good."""
        done = {}
        for source in sources:
            here = self.table.here(source)
            sum_ = sums.get(here if here.name != source.name else source)
            if sum_ is None or (sum_.start, sum_.end) != (0, here.nbytes) or self.has(here):
                continue
            if self._sums.good(source, sums.get(source)):
                self._sums.doubt(source, sums.get(source))
                done[here] = sum_
        await self._writer.finish(self, done)
