"""Memory for programs without an event loop.

with SyncMemory(embedder, namespace="notes") as memory:
    memory.add("The meeting is on Tuesday.", source="mail")
    print(memory.recall("When do we meet?").context)
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from py_engine.abort import Abort
from py_engine.arguments import shown
from py_engine.errors import InputError
from py_engine.memory.adding import Added, AddProgress
from py_engine.memory.context import Recalled
from py_engine.memory.memory import Memory
from py_engine.memory.records import Piece, Record
from py_engine.serve.sync import SyncEngine

T = TypeVar("T")


class SyncMemory:
    """As Memory, over an engine that waits; each call waits, too. Callbacks are called in the engine's thread."""

    def __init__(self, embedder: SyncEngine, **options: Any) -> None:
        """Options and errors as for Memory. `tokenizer` and `reranker` may be engines that wait."""
        if not isinstance(embedder, SyncEngine):
            raise InputError(
                f"embedder={shown(embedder)}: give an engine that waits (jerboa.load); Memory takes Engine"
            )
        self._embedder = embedder
        options = self._inside(options)

        async def made() -> Memory:
            return Memory(embedder._engine, **options)

        self._memory = self._wait(made())

    def _inside(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Engines of the same thread as they are used in it, where nothing may wait for it."""
        return {
            name: value._engine
            if isinstance(value, SyncEngine) and value._background is self._embedder._background
            else value
            for name, value in options.items()
        }

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self._embedder._wait(work)

    def add(self, text: str, *, source: str = "", meta: Mapping[str, Any] | None = None) -> str:
        """Store one text as a piece; returns its id. As Memory.add."""
        return self._wait(self._memory.add(text, source=source, meta=meta))

    def add_many(
        self,
        pieces: Sequence[str | Piece | Mapping[str, Any]],
        *,
        on_progress: Callable[[AddProgress], object] | None = None,
        abort: Abort | None = None,
    ) -> list[str]:
        """Store texts, each as a piece; returns their ids. As Memory.add_many."""
        return self._wait(self._memory.add_many(pieces, on_progress=on_progress, abort=abort))

    def add_document(
        self,
        data: bytes | str,
        name: str,
        *,
        on_progress: Callable[[AddProgress], object] | None = None,
        abort: Abort | None = None,
    ) -> Added:
        """Store a document in pieces. As Memory.add_document."""
        work = self._memory.add_document(data, name, on_progress=on_progress, abort=abort)
        return self._wait(work)

    def import_(self, data: bytes, *, abort: Abort | None = None) -> int:
        """Take in what `export` gave; returns how many pieces are new. As Memory.import_."""
        return self._wait(self._memory.import_(data, abort=abort))

    def recall(self, query: str, **options: Any) -> Recalled:
        """The pieces that say most about the query. Options and errors as for Memory.recall."""
        return self._wait(self._memory.recall(query, **self._inside(options)))

    def records(self) -> list[Record]:
        """All records, the oldest first. As Memory.records."""
        return self._wait(self._memory.records())

    def sources(self) -> list[dict[str, Any]]:
        """What is stored, by source. As Memory.sources."""
        return self._wait(self._memory.sources())

    def export(self) -> bytes:
        """Everything, as lines of JSON. As Memory.export."""
        return self._wait(self._memory.export())

    def forget(self, ids: str | Iterable[str] | None = None, *, source: str | None = None) -> int:
        """Forget pieces by their ids, or all of a source. As Memory.forget."""
        return self._wait(self._memory.forget(ids, source=source))

    def clear(self) -> int:
        """Forget everything. As Memory.clear."""
        return self._wait(self._memory.clear())

    def close(self) -> None:
        """Free its buffers on the GPU, unless the engine is closed, which has freed them."""
        if not self._embedder._background.closed:
            self._wait(self._memory.close())

    def __enter__(self) -> SyncMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._memory).replace("<Memory", "<SyncMemory", 1)
