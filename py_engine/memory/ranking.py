"""One order from several: reciprocal rank fusion, and a reranker's scores."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from py_engine.arguments import shown
from py_engine.errors import InputError

K = 60  # Cormack, Clarke & Büttcher 2009, "Reciprocal rank fusion outperforms Condorcet"


def fused(*orders: Sequence[int]) -> list[int]:
    """Rows of several orders in one: by the sum of 1 / (K + rank) over the orders that hold them. Of equal ones, first
    those that stand higher in the first order, then the oldest."""
    sums: dict[int, float] = {}
    for order in orders:
        for rank, row in enumerate(order, 1):
            sums[row] = sums.get(row, 0.0) + 1 / (K + rank)
    places = {row: place for place, row in enumerate(orders[0])} if orders else {}
    return sorted(sums, key=lambda row: (-sums[row], places.get(row, len(places)), row))


async def reranked(reranker: Any, query: str, texts: Sequence[str]) -> list[tuple[int, float]]:
    """(index of a text, its relevance), the most relevant first, as `reranker.rerank(query, documents)` says.

    Its answer, awaited if need be, holds `index` and `relevance_score` of each text, alone or as `results`. Raises
    InputError for an answer of another form."""
    if not texts:
        return []
    answer = reranker.rerank(query, [*texts])
    if inspect.isawaitable(answer):
        answer = await answer
    results = _field(answer, "results", answer)
    try:
        pairs = [(_field(r, "index"), float(_field(r, "relevance_score"))) for r in results]
    except (TypeError, ValueError) as error:
        raise InputError(f"reranker: it answered {shown(answer)} ({error})") from None
    if any(not isinstance(i, int) or not 0 <= i < len(texts) for i, _ in pairs):
        raise InputError(f"reranker: it named texts that were not given: {shown(answer)}")
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))


def _field(value: Any, name: str, default: Any = None) -> Any:
    return value.get(name, default) if isinstance(value, Mapping) else getattr(value, name, default)
