"""Texts and documents that a model can recall.

async with Memory(embedder, namespace="notes") as memory:
    await memory.add("The meeting is on Tuesday.", source="mail")
    found = await memory.recall("When do we meet?")
    print(found.context, found.items)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from py_engine.abort import Abort
from py_engine.arguments import callback, flag, instance, named_options, real, shown, whole
from py_engine.encode.encoder import Encoder
from py_engine.errors import ClosedError, EngineError, InputError
from py_engine.host.store import BlobStore
from py_engine.memory import transfer
from py_engine.memory.adding import PIECES_AT_ONCE, Added, Adding, AddProgress
from py_engine.memory.context import Item, Recalled, context_of
from py_engine.memory.namespace import Namespace
from py_engine.memory.ranking import fused, reranked
from py_engine.memory.records import Identity, Piece, Record, sources_of
from py_engine.memory.search import VectorSearch
from py_engine.memory.texts import TextSearch
from py_engine.memory.vectors import Scored, pack_rows
from py_engine.serve.engine import Engine
from py_engine.serve.sync import SyncEngine

MAX_RECALLED = 64  # items of one recall
MAX_BUDGET = 1 << 20  # tokens
CANDIDATES = 64  # found by vectors, and as many by words, before their orders are fused


class Memory:
    """The texts of a namespace, with the embedder that makes their vectors.

    It keeps buffers on the embedder's GPU; `close`, or the end of an `async with` block, frees them. The embedder
    stays.
    """

    @named_options
    def __init__(
        self,
        embedder: Engine,
        *,
        namespace: str = "default",
        store: BlobStore | None = None,
        dimensions: int | None = None,
        reranker: Any = None,
        tokenizer: Any = None,
        count: Callable[[str], int] | None = None,
        repair: bool = False,
        on_note: Callable[[str], object] | None = None,
    ) -> None:
        """`embedder`: an engine that does `embed`. `store`: where texts are kept; None: this device's store "memory"
        (natively JERBOA_HOME/memory, in a browser its own storage). `dimensions`: only so many first numbers of each
        vector, for embedders that are trained for it. `reranker`: anything with `rerank(query, documents)`.
        `tokenizer` (anything with `count_tokens(text)`, such as the engine that chats) or `count` (a function): counts
        the budget of `recall`; without either the embedder counts. `repair`: of a damaged namespace keep what is whole.
        `on_note`: told what a person should know.
        Raises InputError. The store is opened by the first call, which raises InputError for a namespace that another
        embedder wrote, and StorageError for a damaged one.
        """
        if isinstance(embedder, SyncEngine):
            raise InputError("this engine waits: use SyncMemory(engine), whose calls wait too")
        if not isinstance(embedder, Engine):
            raise InputError(f"embedder={shown(embedder)}: give an engine that does `embed`")
        instance("store", store, BlobStore, "a BlobStore")
        callback("count", count)
        callback("on_note", on_note)
        flag("repair", repair)
        self._embedder = embedder
        self._namespace, self._given, self._repair = namespace, store, repair
        self._reranker, self._counter = reranker, _counter(tokenizer, count, embedder)
        self.note: Callable[[str], object] = on_note or (lambda _: None)
        self._identity = identity(embedder, dimensions)
        self._dimensions = dimensions
        self._space: Namespace | None = None
        self._vectors: VectorSearch | None = None
        self._texts = TextSearch()
        self._turn = asyncio.Lock()  # of what changes or reads the records here
        self._closed = False
        embedder.ends_with(self._free)

    @property
    def namespace(self) -> str:
        """Its name."""
        return self._namespace

    @property
    def max_tokens(self) -> int:
        """The most tokens of a piece: what the embedder takes, without its special tokens and its prompt."""
        loaded = self._embedder.loaded
        encoder, settings = loaded.require(Encoder, "embed"), loaded.embedding
        assert settings is not None
        most = min(settings.most or encoder.context, encoder.context)
        around = loaded.tokenizer.with_special(
            loaded.tokenizer.encode(settings.text(settings.prompt("document") or "", ""))
        )
        return max(1, most - len(around))

    def count(self, text: str) -> int:
        """Tokens of a text as the embedder sees it, without special ones."""
        return self._embedder.count_tokens(text)

    # -- in ----------------------------------------------------------------------------------------------------------

    async def add(
        self, text: str, *, source: str = "", meta: Mapping[str, Any] | None = None
    ) -> str:
        """Store one text as a piece; returns its id. Errors as for `add_many`."""
        [id] = await self.add_many([{"text": text, "source": source, "meta": meta}])
        return id

    async def add_many(
        self,
        pieces: Sequence[str | Piece | Mapping[str, Any]],
        *,
        on_progress: Callable[[AddProgress], object] | None = None,
        abort: Abort | None = None,
    ) -> list[str]:
        """Store texts, each as a piece: a str, a Piece, or an object with its fields. Returns their ids, in order.

        They are stored batch by batch: if the process ends, only the batch under way is lost. Raises InputError at once
        for a text that is longer than the embedder takes (`add_document` splits it); StorageFullError, with all
        batches before it stored; AbortError.
        """
        if isinstance(pieces, (str, bytes)) or not isinstance(pieces, Sequence):
            raise InputError(f"pieces={shown(pieces)}: give a list of texts")
        checked = [Piece.checked(piece, f"pieces[{i}]") for i, piece in enumerate(pieces)]
        most, count = self.max_tokens, self.count
        for i, piece in enumerate(checked):
            if len(piece.text) > most and (n := count(piece.text)) > most:
                raise InputError(
                    f"pieces[{i}] has {n} tokens, the embedder takes {most}: add it with add_document, which splits it"
                )
        ids: list[str] = []
        for at in range(0, len(checked), PIECES_AT_ONCE):
            ids += await self._store(checked[at : at + PIECES_AT_ONCE], (), abort)
            if on_progress is not None:
                on_progress(AddProgress("", "pieces", len(ids), len(checked), len(ids)))
        return ids

    async def add_document(
        self,
        data: bytes | str,
        name: str,
        *,
        on_progress: Callable[[AddProgress], object] | None = None,
        abort: Abort | None = None,
    ) -> Added:
        """Store a document in pieces of at most 256 tokens: text, Markdown, HTML, PDF or program text, as `name` and
        content show. What was stored under this name before is forgotten when the new one is whole.

        `on_progress`: told of pages (PDF) or bytes. Raises DocumentError for what cannot be read; StorageFullError,
        AbortError; then nothing of the document stays.
        """
        adding = Adding(self, data, name, on_progress)
        before = [r.id for r in await self.records() if r.piece.source == adding.name]
        ids: list[str] = []
        try:
            async for batch in adding.batches():
                ids += await self._store(batch, (), abort)
                adding.stored(len(ids))
        except BaseException:
            with suppress(EngineError):  # else the next document of this name takes its place
                await asyncio.shield(self._forget(ids))
            raise
        if before:
            await self._forget(before)
        return Added(adding.name, ids, adding.notes)

    async def _store(
        self, pieces: Sequence[Piece], ids: Sequence[str], abort: Abort | None
    ) -> list[str]:
        """Make vectors of pieces and store both, as one batch."""
        if abort is not None:
            abort.check()
        space = await self._open()  # before the GPU works: the namespace may be another embedder's
        work = self._embedder.embed(
            [piece.text for piece in pieces], task="document", dimensions=self._dimensions
        )
        vectors = pack_rows((await work).embeddings)
        async with self._turn:
            return await space.add(pieces, vectors, ids)

    async def import_(self, data: bytes, *, abort: Abort | None = None) -> int:
        """Take in what `export` gave; returns how many pieces are new. Vectors of another embedder are made anew.
        Raises InputError for what is no export."""
        space = await self._open()
        pieces, ids, vectors = transfer.read(data, self._identity)
        before = len(await self.records())
        for at in range(0, len(pieces), PIECES_AT_ONCE):
            part = slice(at, at + PIECES_AT_ONCE)
            if vectors is None:
                await self._store(pieces[part], ids[part], abort)
            else:
                async with self._turn:
                    await space.add(pieces[part], b"".join(vectors[part]), ids[part])
        return len(await self.records()) - before

    # -- out ---------------------------------------------------------------------------------------------------------

    @named_options
    async def recall(
        self,
        query: str,
        *,
        token_budget: int = 1024,
        top_k: int = 8,
        min_score: float | None = None,
        hybrid: bool = True,
        reranker: Any = None,
        tokenizer: Any = None,
        count: Callable[[str], int] | None = None,
    ) -> Recalled:
        """The pieces that say most about the query, the best first, and a text with them for a model.

        `token_budget`: the most tokens of that text. `top_k`: the most pieces, up to 64. `min_score`: the least cosine
        of query and piece, -1 to 1. `hybrid`: look for the query's words, too, and fuse both orders. `reranker`,
        `tokenizer`, `count`: in the place of those given to Memory.
        Of pieces with equal scores the older stands first. Raises InputError, StorageError, DeviceLostError.
        """
        if not isinstance(query, str) or not query.strip():
            raise InputError(f"query={shown(query)}: give a text that is not blank")
        budget = whole("token_budget", token_budget, 1, MAX_BUDGET)
        most = whole("top_k", top_k, 1, MAX_RECALLED)
        least = -2.0 if min_score is None else real("min_score", min_score, -1, 1)
        flag("hybrid", hybrid)
        callback("count", count)
        own = tokenizer is not None or count is not None
        counter = _counter(tokenizer, count, self._embedder) if own else self._counter
        space = await self._open()
        work = self._embedder.embed([query], task="query", dimensions=self._dimensions)
        vector = [*(await work).embeddings[0]]
        async with self._turn:
            await space.sync()
            if not space.records:
                return Recalled("", [], 0)
            named = await self._texts.best(space, query, CANDIDATES) if hybrid else []
            found, extra = await self._nearest(space, vector, max(CANDIDATES, most), named)
            scores = dict([*found, *extra])
            order = fused([row for row, _ in found], named) if named else [row for row, _ in found]
            good = [row for row in order if scores[row] >= least]
            records = [(space.records[row], scores[row]) for row in good]
        items = await self._ranked(query, records, most, reranker or self._reranker)
        return context_of(items, budget, counter)

    async def _nearest(
        self, space: Namespace, vector: Sequence[float], count: int, also: Sequence[int]
    ) -> tuple[list[Scored], list[Scored]]:
        search = self._vectors = self._vectors or VectorSearch(space, self.note)
        return await self._embedder.with_gpu(
            lambda gpu, loaded: search.find(gpu, loaded, vector, count, also), "searching"
        )

    @staticmethod
    async def _ranked(
        query: str, found: Sequence[tuple[Record, float]], most: int, reranker: Any
    ) -> list[Item]:
        if reranker is None:
            return [Item.of(record, score, None) for record, score in found[:most]]
        best = found[: max(most, CANDIDATES // 2)]
        ranked = await reranked(reranker, query, [record.piece.text for record, _ in best])
        return [Item.of(*best[i], relevance) for i, relevance in ranked[:most]]

    async def records(self) -> list[Record]:
        """All records, the oldest first. Raises StorageError."""
        space = await self._open()
        async with self._turn:
            await space.sync()
            return [*space.records.values()]

    async def sources(self) -> list[dict[str, Any]]:
        """What is stored, by source: {"source", "pieces", "characters", "added"} each, in the order of their first
        pieces. `added`: seconds since 1970, of the last piece."""
        return sources_of(await self.records())

    async def export(self) -> bytes:
        """Everything, as lines of JSON that `import_` reads: the embedder, then a piece a line with its vector."""
        space = await self._open()
        async with self._turn:
            await space.sync()
            return await transfer.written(space)

    # -- away --------------------------------------------------------------------------------------------------------

    async def forget(
        self, ids: str | Iterable[str] | None = None, *, source: str | None = None
    ) -> int:
        """Forget pieces by their ids, or all of a source; returns how many there were. Their texts are overwritten at
        once; their vectors when so much was forgotten that the namespace is written anew, or by `clear`."""
        if (ids is None) == (source is None):
            raise InputError("forget takes ids, or a source")
        if source is not None:
            chosen = [r.id for r in await self.records() if r.piece.source == source]
        else:
            chosen = [ids] if isinstance(ids, str) else [*(ids or ())]
            if not all(isinstance(id, str) for id in chosen):
                raise InputError(f"ids={shown(ids)}: give ids of pieces")
        return await self._forget(chosen)

    async def _forget(self, ids: Sequence[str]) -> int:
        space = await self._open()
        async with self._turn:
            return await space.forget(ids)

    async def clear(self) -> int:
        """Forget everything, and give its room back; returns how many pieces there were."""
        space = await self._open()
        async with self._turn:
            return await space.clear()

    async def close(self) -> None:
        """Free its buffers on the GPU. A second call does nothing; all other calls raise ClosedError."""
        self._closed = True
        async with self._turn:
            self._texts.close()
            self._free()
            self._embedder.never_mind(self._free)

    def _free(self) -> None:
        """Free the buffers. The next search makes them anew."""
        if self._vectors is not None:
            self._vectors.release()
            self._vectors = None

    async def __aenter__(self) -> Memory:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        known = "not open yet" if self._space is None else f"{len(self._space.records)} pieces"
        return f"<Memory {self._namespace!r} of {self._identity.model}: {known}>"

    async def _open(self) -> Namespace:
        if self._closed:
            raise ClosedError(f"this memory of {self._namespace!r} is closed: make another one")
        async with self._turn:
            if self._space is None:
                io = self._embedder.loaded.io
                store = self._given or await io.open_store("memory")
                self._space = await Namespace.open(
                    store, io, self._namespace, self._identity, repair=self._repair
                )
            return self._space


def identity(embedder: Engine, dimensions: int | None) -> Identity:
    """What decides the vectors of an embedder. Raises InputError for an engine that makes none."""
    loaded = embedder.loaded
    encoder, settings = loaded.require(Encoder, "embed"), loaded.embedding
    if settings is None:
        raise loaded.cannot("embed")
    size = encoder.model.vector_size
    width = size if dimensions is None else whole("dimensions", dimensions, 1, size)
    decides = {
        "pooling": settings.pooling,
        "lower": settings.lower,
        "document": settings.prompt("document") or "",
        "query": settings.prompt("query") or "",
    }
    return Identity(loaded.pinned, width, decides)


def _counter(
    tokenizer: Any, count: Callable[[str], int] | None, embedder: Engine
) -> Callable[[str], int]:
    """How tokens of a context are counted."""
    if count is not None:
        return count
    counts = getattr(tokenizer or embedder, "count_tokens", None)
    if not callable(counts):
        raise InputError(f"tokenizer={shown(tokenizer)}: give an engine, or a function as `count`")
    return counts  # type: ignore[no-any-return]
