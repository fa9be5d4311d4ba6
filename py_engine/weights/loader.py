"""Streams a checkpoint's bytes into the buffers of a WeightStore, in slices, two in flight."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from py_engine.abort import Abort
from py_engine.errors import StorageError
from py_engine.graph.kernels import Kernels
from py_engine.graph.plan import Planner
from py_engine.graph.submit import SubmitStrategy, default_strategy
from py_engine.graph.trace import Tensor, Trace
from py_engine.host.gpu import Binding, Buffer, Copy, Gpu, Upload
from py_engine.host.io import Bytes
from py_engine.ops import layout
from py_engine.sources.derived import made_of
from py_engine.sources.jobs import FLOAT_BYTES, Job, TensorInfo
from py_engine.sources.repository import DerivedTensors, Repository
from py_engine.weights.checksums import Checksums

# Bytes of one read. At most two slices exist at a time, so the host holds at most 32 MiB of weights.
SLICE_BYTES = 16 << 20
IN_FLIGHT = 2  # slices that the GPU has not finished with
_GAP_BYTES = 64 << 10  # a gap up to this size is read too, when that saves a request
_STAGING_ALIGN = 256  # storage bindings start at multiples of this


@dataclass
class Slice:
    """Bytes [start, end) of a file, and the pieces of jobs in them: (job, start, end), in bytes of the job's tensor."""

    file: str
    start: int
    end: int
    pieces: list[tuple[Job, int, int]] = field(default_factory=list)


def cut(jobs: Sequence[Job], most: int = SLICE_BYTES) -> Iterator[Slice]:
    """Cut the jobs, in file order, into slices of at most `most` bytes. A job is cut at a multiple of its unit."""
    current: Slice | None = None
    for job in _in_order(jobs):
        at = job.start
        while at < job.end:
            place = job.tensor.start + at
            room = 0
            if current is not None and current.file == job.tensor.file:
                if 0 <= place - current.end <= _GAP_BYTES or current.start <= place < current.end:
                    room = most - (place - current.start)
            take = min(job.end - at, room if job.end - at <= room else room // job.unit * job.unit)
            if take <= 0:
                if current is not None:
                    yield current
                current = Slice(job.tensor.file, place, place)
                continue
            assert current is not None
            current.pieces.append((job, at, at + take))
            current.end = max(current.end, place + take)
            at += take
    if current is not None and current.pieces:
        yield current


def _in_order(jobs: Sequence[Job]) -> list[Job]:
    """In file order, but the lengths of rows come before the rows, wherever they stand."""

    def place(job: Job) -> tuple[str, int]:
        return job.tensor.file, job.tensor.start + job.start

    # Where the first rows stand that need these lengths, by the lengths' target.
    needed: dict[Tensor, tuple[str, int]] = {}
    for job in jobs:
        if job.form is not None and job.form.lengths is not None:
            lengths = job.form.lengths.target
            needed[lengths] = min(place(job), needed.get(lengths, place(job)))
    return sorted(
        jobs,
        key=lambda job: (min(place(job), needed.get(job.target, place(job))), job.kind == "rows"),
    )


def staging_bytes(slices: Iterable[Slice]) -> int:
    """GPU bytes, while loading, for the pieces of a slice that are converted; each has an aligned offset."""
    sizes = (
        sum(_align(end - start) for job, start, end in piece.pieces if job.kind != "copy")
        for piece in slices
    )
    return max(sizes, default=0) or _STAGING_ALIGN


class Loader:
    """Fills the buffers of one model.

    `peak_bytes`: the most host bytes that it held at a time. `total`: bytes to read; known before the first is read,
    and changed when some must be read in another form. `strategy`: how the dispatches that convert and sum are
    submitted; None: the host's default.
    """

    def __init__(
        self,
        gpu: Gpu,
        kernels: Kernels,
        repository: Repository,
        on_bytes: Callable[[int], None],
        abort: Abort,
        strategy: SubmitStrategy | None = None,
    ) -> None:
        self._strategy = strategy or default_strategy()
        self._gpu = gpu
        self._kernels = kernels
        self._repository = repository
        self._on_bytes = on_bytes
        self._abort = abort
        self._derived: DerivedTensors | None = None
        self._held = 0
        self.peak_bytes = 0
        self.total = 0

    async def run(self, jobs: Sequence[Job]) -> None:
        """Fill the buffers. Tensors that the repository finds damaged are read and uploaded again.
        Raises HubError, HostError, StorageError, AbortError."""
        self._derived = await self._repository.expect(jobs)
        left = list(jobs)
        while left:
            steps = self._derived.steps if self._derived is not None else lambda job: [job]
            plan = [(job, steps(job)) for job in left]
            self.total += sum(step.end - step.start for _, steps in plan for step in steps)
            self._on_bytes(0)
            wrong = await self._fill([step for _, steps in plan for step in steps])
            plan = [(job, steps) for job, steps in plan if wrong.intersection(self._names(job))]
            again = sum(step.end - step.start for _, steps in plan for step in steps)
            self.total -= again
            self._on_bytes(-again)
            left = [job for job, _ in plan]

    def _names(self, job: Job) -> list[str]:
        """Names of the tensors from which a job may be filled; the lengths of its rows count too."""
        here = [self._derived.table.here(job.tensor).name] if self._derived else []
        lengths = self._names(job.form.lengths) if job.form and job.form.lengths else []
        return [job.tensor.name, *here, *lengths]

    async def _fill(self, jobs: Sequence[Job]) -> set[str]:
        """Upload slice by slice, reading the next one meanwhile. Returns names of tensors that must be read again."""
        slices = list(cut(jobs))
        staging = self._gpu.create_buffer("staging", staging_bytes(slices))
        sums = None
        if self._repository.wants_sums:
            most = max((len(piece.pieces) for piece in slices), default=0)
            tensors = [job.tensor for job in jobs]
            if self._derived is not None:  # what was quantised is summed too
                most *= 3
                tensors += [here for _, here in self._derived.table.pairs]
            sums = Checksums(self._gpu, tensors, most)
        gone: set[TensorInfo] = set()
        ahead: asyncio.Task[Bytes | None] | None = None
        taken: deque[asyncio.Task[None]] = (
            deque()
        )  # each ends when the GPU has finished with a slice
        try:
            for i, piece in enumerate(slices):
                if ahead is None:
                    ahead = asyncio.ensure_future(self._read(piece))
                data = await ahead
                self._abort.check()
                if len(taken) == IN_FLIGHT:
                    await taken.popleft()
                ahead = (
                    asyncio.ensure_future(self._read(slices[i + 1]))
                    if i + 1 < len(slices)
                    else None
                )
                await asyncio.sleep(0)  # its request goes out before the work on this slice
                if data is None:
                    gone |= {job.tensor for job, _, _ in piece.pieces}
                else:
                    await self._upload(piece, data, staging, sums)
                    await self._keep(piece, data, staging, sums)
                    taken.append(asyncio.ensure_future(self._gpu.idle()))
                    self._repository.io.give_back(data)
                self._held -= piece.end - piece.start
                del data
            await asyncio.gather(*taken)
            await self._gpu.check()
            found = await sums.read() if sums else {}
            wrong = await self._repository.check({t: s for t, s in found.items() if t not in gone})
            return wrong | {tensor.name for tensor in gone}
        finally:
            left = [*taken, *([ahead] if ahead else [])]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            if sums is not None:
                sums.release()
            self._gpu.destroy_buffer(staging)

    async def _read(self, piece: Slice) -> Bytes | None:
        """The bytes of a slice; None when they belong to the derived file, which no longer has them."""
        self._hold(piece.end - piece.start)
        try:
            return await self._repository.read(piece.file, piece.start, piece.end, self._on_bytes)
        except StorageError:
            if self._derived is None or piece.file != self._derived.table.name:
                raise
            self._on_bytes(piece.end - piece.start)
            return None

    def _hold(self, nbytes: int) -> None:
        self._held += nbytes
        self.peak_bytes = max(self.peak_bytes, self._held)

    async def _upload(
        self, piece: Slice, data: Bytes, staging: Buffer, sums: Checksums | None
    ) -> None:
        trace = Trace(1, self._gpu.features)
        uploads: list[Upload] = []
        at = 0
        for job, start, end in piece.pieces:
            if job.kind == "copy":
                buffer, place = _place(job.target, job.target_element + start - job.start)
            else:
                buffer, place = staging, at
                bound = Binding(staging, at, _align4(end - start))
                source = Tensor("staging", ((end - start + 3) // 4,), "u32", bound)
                _convert(trace, job, source, start, end)
                at += _align(end - start)
            uploads += self._parts(
                piece, data, job.tensor.start + start, end - start, buffer, place
            )
            if sums is not None:
                sums.add(job.tensor, start, end, buffer, place)
            if sums is not None and job.kind == "quantise" and self._derived is not None:
                here = self._derived.table.here(job.tensor)
                for made in made_of(job, start, end):
                    sums.add(here, made.start, made.end, *_place(made.target, made.offset))
        self._gpu.write_parts(data, uploads)
        if sums is not None:
            sums.call(trace)
        if trace.calls:
            planner = Planner(self._gpu, self._kernels, self._strategy)
            planner.reserve([trace])
            plan = await planner.lower(
                [trace], check=False
            )  # errors of all slices are checked at the end
            await self._gpu.replay(plan.recording)

    async def _keep(
        self, piece: Slice, data: Bytes, staging: Buffer, sums: Checksums | None
    ) -> None:
        """Write into the derived file what became of a slice of the checkpoint. It is read back through `staging`: the
        kernels no longer need that then, and it is larger than what they made."""
        derived = self._derived
        if derived is None or not derived.wanted or piece.file == derived.table.name or not sums:
            return
        io = self._repository.io
        copies: list[Copy] = []
        parts: list[tuple[TensorInfo, int, Bytes]] = []
        # (tensor, first byte in it, start and end in what is read back)
        made: list[tuple[TensorInfo, int, int, int]] = []
        at = 0
        for job, start, end in piece.pieces:
            here = derived.table.here(job.tensor)
            if job.kind != "quantise":
                offset = job.tensor.start + start - piece.start
                parts.append((here, start, io.slice(data, offset, offset + end - start)))
                continue
            for m in made_of(job, start, end):
                buffer, place = _place(m.target, m.offset)
                copies.append(Copy(buffer, staging, m.end - m.start, place, at))
                made.append((here, m.start, at, at + m.end - m.start))
                at += m.end - m.start
        self._hold(at)
        if copies:
            await self._gpu.copy(copies)
            back = await self._gpu.download(staging, 0, at)
            parts += [(here, start, io.slice(back, a, b)) for here, start, a, b in made]
        # In the file's order: a store that cuts files into pieces has only one of them open.
        for here, start, part in sorted(parts, key=lambda part: part[0].start + part[1]):
            await derived.put(here, start, part)
        self._held -= at
        sources = dict.fromkeys(job.tensor for job, _, _ in piece.pieces)
        await derived.finish(sources, await sums.read())

    def _parts(
        self, piece: Slice, data: Bytes, place: int, nbytes: int, buffer: Buffer, offset: int
    ) -> list[Upload]:
        """The uploads for `nbytes` bytes that begin at byte `place` of the file. When the size is no multiple of 4, the
        last word is uploaded by itself and padded (the target has room for it)."""
        start, whole = place - piece.start, nbytes & ~3
        if whole < nbytes:
            io = self._repository.io
            tail = io.to_bytes(io.slice(data, start + whole, start + nbytes))
            self._gpu.write(buffer, offset + whole, tail + bytes(4 - len(tail)))
        return [Upload(start, start + whole, buffer, offset)] if whole else []


def _convert(trace: Trace, job: Job, source: Tensor, start: int, end: int) -> None:
    """Append the layout kernel that converts bytes start..end of the job's tensor, which lie in `source`."""
    if job.kind == "repack":
        rows = (end - start) * 8 // (job.bits * job.cols)
        done = (start - job.start) * 8 // job.bits
        layout.repack(
            trace, source, job.target, job.bits, rows, job.cols, job.target_element + done
        )
        return
    dtype = job.tensor.dtype
    n = (end - start) // FLOAT_BYTES[dtype]
    element = job.target_element + (start - job.start) // FLOAT_BYTES[dtype]
    if job.kind == "rows":
        assert job.form is not None
        row, lengths = start // FLOAT_BYTES[dtype] // job.cols, job.form.lengths
        layout.rows(
            trace, source, dtype, job.target, job.form.to, job.cols, n // job.cols, element // job.cols,
            channels=job.form.channels, lengths=(lengths.target, row) if lengths else None,
        )  # fmt: skip
    elif job.kind == "quantise":
        assert job.scales is not None
        layout.quantise(
            trace, source, dtype, job.target, job.scales, job.bits, job.group_size,
            n // job.group_size, element // job.group_size,
        )  # fmt: skip
    elif job.kind == "f32" or job.kind == "f16":
        layout.convert(trace, source, dtype, job.target, job.kind, n, element)
    elif job.kind == "scale" or job.kind == "bias":
        layout.interleave(trace, source, dtype, job.target, job.kind, n, element)


def _place(target: Tensor, offset: int) -> tuple[Buffer, int]:
    """The buffer of a persistent tensor, and where its byte `offset` lies in that."""
    assert target.binding is not None
    return target.binding.buffer, target.binding.offset + offset


def _align(n: int) -> int:
    return -(-n // _STAGING_ALIGN) * _STAGING_ALIGN


def _align4(n: int) -> int:
    return (n + 3) & ~3
