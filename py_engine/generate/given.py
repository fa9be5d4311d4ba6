"""Rows of a prompt that are given as embeddings, of images or sounds, beside the rows of token ids."""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from py_engine.abort import Abort
from py_engine.errors import InputError
from py_engine.graph.trace import Tensor
from py_engine.host.gpu import Copy, Gpu

NO_TOKEN = 0xFFFFFFFF  # stands for a negative id on the GPU: embed.wgsl does not write that row

# Gives f32 [n, h], on the host as little-endian bytes or on the GPU. Called when the first of its rows is needed.
Source = Callable[[], Awaitable["bytes | memoryview | Tensor"]]


@dataclass(frozen=True)
class Positions:
    """Rotary positions of a prompt that differ from the numbers of its rows.

    `rows`: for each id of the prompt a position on every axis (M-RoPE: time, height, width). Later ids continue from
    the largest of these + 1.
    """

    rows: Sequence[Sequence[int]]

    @cached_property
    def shift(self) -> int:
        """Position minus number of a row after these."""
        return max((max(row) for row in self.rows), default=-1) + 1 - len(self.rows)

    def of(self, row: int, axes: int) -> Sequence[int]:
        """The position, on each axis, of a row of the prompt or after it."""
        return self.rows[row] if row < len(self.rows) else [row + self.shift] * axes

    def straight(self, start: int, end: int) -> int | None:
        """Position minus number, if it is the same for all rows start..end on all axes; else None."""
        if start >= len(self.rows):
            return self.shift
        found = {p - i for i in range(start, end) for p in self.of(i, 1)}
        return found.pop() if len(found) == 1 else None


class Given:
    """Embeddings, by the negative ids (inputs/content_ids.py) that stand for them in a prompt. `positions`: where the
    family counts them in a way of its own.

    Rows enter the residual stream as they are: they are not multiplied by a family's scale of embeddings.
    """

    def __init__(self, positions: Positions | None = None) -> None:
        self.positions = positions
        self._places: dict[int, tuple[int, int]] = {}  # id -> (number of the source, row in it)
        self._sources: list[tuple[Source, int]] = []  # (source, number of its rows)

    def add(self, ids: Sequence[int], source: Source) -> None:
        """Give the rows of `ids`: rows 0, 1, ... of what `source` returns. It is called once in a prefill, before
        anything of that runs, and only if the state has not seen all of them. A tensor must stay as it is until the
        prefill ends. Ids that were given already are left to their first source. Raises InputError for ids that are
        not negative."""
        if any(i >= 0 for i in ids):
            raise InputError(
                "rows that are given take negative ids: those of inputs/content_ids.py"
            )
        for row, i in enumerate(ids):
            self._places.setdefault(i, (len(self._sources), row))
        self._sources.append((source, len(ids)))

    def __contains__(self, i: int) -> bool:
        return i in self._places

    async def make(self, gpu: Gpu, ids: Iterable[int], hidden: int, abort: Abort) -> Feed:
        """A Feed that brings rows of `hidden` numbers into the residual stream during the prefill of `ids`, for which
        all of them are made here. Raises AbortError, between two sources; InputError when a source gives other rows
        than it should; what sources raise; GPU errors."""
        feed = Feed(gpu, self._places)
        for source in dict.fromkeys(self._places[i][0] for i in ids if i < 0):
            abort.check()
            make, count = self._sources[source]
            feed.take(source, await make(), count, hidden)
        return feed


class Feed:
    """Brings the given rows of one prefill into the residual stream."""

    def __init__(self, gpu: Gpu, places: Mapping[int, tuple[int, int]]) -> None:
        self._gpu = gpu
        self._places = places
        self._made: dict[int, memoryview | Tensor] = {}

    def __bool__(self) -> bool:
        """Whether there are rows."""
        return bool(self._made)

    def take(self, source: int, made: bytes | memoryview | Tensor, count: int, hidden: int) -> None:
        """Keep what a source gave for `count` ids. Raises InputError for other rows."""
        data = made if isinstance(made, Tensor) else memoryview(made).cast("B")
        wanted = 4 * count * hidden
        if data.nbytes != wanted:
            raise InputError(
                f"rows that are given for {count} ids have {data.nbytes} bytes; {count} rows of"
                f" {hidden} f32 have {wanted}"
            )
        self._made[source] = data

    async def put(self, ids: Sequence[int], x: Tensor) -> None:
        """Write the rows of a chunk's negative ids to the residual stream x [max rows, h], each to its row. Raises
        GPU errors."""
        buffer, row_bytes = x.buffer, 4 * x.shape[1]
        for source, first, row, count in _runs(ids, self._places):
            made = self._made[source]
            start, size, target = first * row_bytes, count * row_bytes, row * row_bytes
            if isinstance(made, Tensor):
                assert made.binding is not None
                start += made.binding.offset
                await self._gpu.copy([Copy(made.binding.buffer, buffer, size, start, target)])
            else:
                self._gpu.write(buffer, target, bytes(made[start : start + size]))


def _runs(
    ids: Sequence[int], places: Mapping[int, tuple[int, int]]
) -> Iterable[tuple[int, int, int, int]]:
    """Runs of rows side by side in source and chunk: (source, row in it, row of the chunk, count)."""
    run: tuple[int, int, int, int] | None = None
    for row, i in enumerate(ids):
        if i >= 0:
            continue
        source, place = places[i]
        if run and run[0] == source and run[1] + run[3] == place and run[2] + run[3] == row:
            run = (*run[:3], run[3] + 1)
            continue
        if run:
            yield run
        run = (source, place, row, 1)
    if run:
        yield run


def words(ids: Iterable[int]) -> bytes:
    """Ids as u32 bytes for the kernels."""
    return array("I", [i if i >= 0 else NO_TOKEN for i in ids]).tobytes()


def check_ids(ids: Iterable[int], vocab_size: int, given: Given | None) -> None:
    """Raise InputError for an id that is neither in the vocabulary nor the id of a given row."""
    for i in ids:
        if i >= vocab_size:
            raise InputError(f"token id {i} is outside the vocabulary of {vocab_size}")
        if i < 0 and (given is None or i not in given):
            raise InputError(
                f"id {i} stands for a row of an image or a sound that is not given with this prompt, or is no id of"
                f" the vocabulary of {vocab_size}"
            )
