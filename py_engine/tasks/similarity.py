"""Task `similarity`: the cosines between texts, or between vectors that were made before."""

from __future__ import annotations

import asyncio
import math
from array import array
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from operator import mul
from typing import Annotated, Any, Never

from py_engine.arguments import shown
from py_engine.encode.encoder import Encoder
from py_engine.errors import InputError
from py_engine.tasks.embed import encoded, lacks_encoder, vectors, wanted_dimensions
from py_engine.tasks.loaded import Loaded
from py_engine.tasks.task import Job, Request, Task
from py_engine.work import Work

MAX_PAIRS = 1_000_000

Vectors = list[Sequence[float]]


@dataclass(frozen=True)
class Similarities:
    """Row i holds the cosines of the i-th text with every text of the others, float32 each. `prompt_tokens`: tokens of
    all texts, 0 for vectors."""

    similarities: Sequence[memoryview[float]]
    prompt_tokens: int


@dataclass(frozen=True)
class SimilarityRequest(Request[Work[Never, Similarities]]):
    """Two lists of texts, or of vectors."""

    texts: Annotated[
        Sequence[str] | Sequence[Sequence[float]], "texts, or vectors such as embed gives them"
    ]
    others: Annotated[
        Sequence[str] | Sequence[Sequence[float]] | None,
        "texts or vectors to compare each of them with; without it they are compared with each other",
    ] = None
    _: KW_ONLY
    task: Annotated[str | None, "what the texts are (query, document, ...), as of embed"] = None
    others_task: Annotated[str | None, "the same for the others; without it as task"] = None
    dimensions: Annotated[int | None, "compare only the first so many numbers of vectors"] = None


class Similarity(Task[SimilarityRequest]):
    """Compare texts by the cosine of their vectors."""

    name, request, command = "similarity", SimilarityRequest, False

    def lacks(self, loaded: Loaded) -> str | None:
        """A model of another kind lacks an encoder."""
        return lacks_encoder(loaded)

    def prepare(self, loaded: Loaded, request: SimilarityRequest) -> Job[Never, Similarities]:
        """Make token ids of texts, and lengths of 1 of vectors."""
        dimensions = wanted_dimensions(loaded.require(Encoder, "compare texts"), request.dimensions)
        first = _side(loaded, "texts", request.texts, request.task, dimensions)
        second = first
        if request.others is not None:
            second = _side(
                loaded, "others", request.others, request.others_task, dimensions, request.task
            )
        elif request.others_task is not None:
            raise InputError("others_task is for others; give these too")
        if len(first) * len(second) > MAX_PAIRS:
            raise InputError(
                f"{len(first)} x {len(second)} pairs are more than {MAX_PAIRS:,}: compare fewer at a time"
            )
        return _Comparison(first, second, dimensions)


class _Side:
    """One of the two lists: ids of texts, or vectors."""

    def __init__(self, ids: list[list[int]], given: Vectors) -> None:
        self.ids, self.given = ids, given

    def __len__(self) -> int:
        return len(self.ids) or len(self.given)

    async def vectors(self, loaded: Loaded, dimensions: int, work: Work[Any, Any]) -> Vectors:
        """The vectors, of length 1."""
        return self.given or [*await vectors(loaded, self.ids, dimensions, work)]


class _Comparison(Job[Never, Similarities]):
    status = "embedding"

    def __init__(self, first: _Side, second: _Side, dimensions: int) -> None:
        self._first, self._second, self._dimensions = first, second, dimensions

    async def run(self, loaded: Loaded, work: Work[Never, Similarities]) -> Similarities:
        """Embed what are texts, then compare."""
        first = await self._first.vectors(loaded, self._dimensions, work)
        tokens, second = sum(map(len, self._first.ids)), first
        if self._second is not self._first:
            second = await self._second.vectors(loaded, self._dimensions, work)
            tokens += sum(map(len, self._second.ids))
        rows: list[memoryview[float]] = []
        for a in first:
            cosines = array("f", [math.fsum(map(mul, a, b)) for b in second])
            rows.append(memoryview(cosines))
            work.abort.check()
            await asyncio.sleep(0)
        return Similarities(rows, tokens)


def _side(
    loaded: Loaded, name: str, given: Any, task: Any, dimensions: int, usual: Any = None
) -> _Side:
    """The list that an argument gives. `usual`: the task of texts for which none is given."""
    if isinstance(given, (str, bytes)) or not hasattr(given, "__len__") or not len(given):
        raise InputError(f"{name}={shown(given)}: give a list of texts or of vectors, one or more")
    if isinstance(given[0], str):
        return _Side(encoded(loaded, name, given, usual if task is None else task)[0], [])
    if task is not None:
        raise InputError(
            f"{name} are vectors, which were made for a task already: leave the task out"
        )
    return _Side([], [_unit(f"{name}[{i}]", row, dimensions) for i, row in enumerate(given)])


def _unit(name: str, row: Any, dimensions: int) -> Sequence[float]:
    """The first numbers of a vector, brought to length 1; zeros stay."""
    try:
        numbers = [float(v) for v in row]
    except (TypeError, ValueError):
        raise InputError(f"{name} is no vector of numbers: {shown(row)}") from None
    if len(numbers) < dimensions or not all(map(math.isfinite, numbers)):
        raise InputError(
            f"{name} has {len(numbers)} numbers; vectors of this model have {dimensions} finite ones"
        )
    part = numbers[:dimensions]
    length = math.sqrt(math.fsum(v * v for v in part)) or 1.0
    return [v / length for v in part]
