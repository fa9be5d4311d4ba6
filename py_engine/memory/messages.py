"""A page's memories: answers the `memory_*` messages of serve/protocol.py."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from py_engine.abort import Abort
from py_engine.errors import AbortError, EngineError, InputError, StorageError
from py_engine.host.io import Io
from py_engine.host.store import BlobStore
from py_engine.memory.adding import AddProgress
from py_engine.memory.documents import check_size, kind_of
from py_engine.memory.head import delete, folder_of, namespaces
from py_engine.memory.memory import Memory
from py_engine.memory.namespace import Namespace
from py_engine.memory.records import sources_of
from py_engine.serve.engine import Engine
from py_engine.serve.protocol import MemoryAdd, MemoryForget, MemoryList, MemoryRecall

Row = dict[str, Any]


class Memories:
    """One Memory for each namespace and embedder, made when it is first asked for."""

    def __init__(
        self,
        io: Io,
        engine: Callable[[str | None], Awaitable[Engine]],
        prepare_pdf: Callable[[], Awaitable[object]] | None,
    ) -> None:
        """`engine`: gives the engine of a name. `prepare_pdf`: fetches what PDFs need, awaited before one is read."""
        self._io, self._engine, self._prepare_pdf = io, engine, prepare_pdf
        self._kept: BlobStore | None = None
        self._open: dict[str, tuple[Engine, Memory]] = {}

    async def answer(
        self,
        message: MemoryAdd | MemoryRecall | MemoryList | MemoryForget,
        abort: Abort,
        tell: Callable[[Row], object],
    ) -> Any:
        """The value of the answer. `tell`: gets rows on the way. Raises EngineError."""
        match message:
            case MemoryAdd():
                return await self._add(message, abort, tell)
            case MemoryRecall():
                return await self._recall(message)
            case MemoryList():
                if message.namespace is None:
                    return await namespaces(await self._store(), self._io)
                return sources_of((await self._stored(message.namespace)).records.values())
            case MemoryForget():
                return await self._forget(message)

    async def _add(
        self, message: MemoryAdd, abort: Abort, tell: Callable[[Row], object]
    ) -> dict[str, Any]:
        if (message.text is None) == (message.files is None):
            raise InputError("memory_add wants either text, under a name, or files")
        memory = await self._memory(message.namespace, message.model)

        def told(progress: AddProgress) -> None:
            tell(asdict(progress))

        if message.text is not None:
            found = await memory.add_document(
                message.text, message.name or "", on_progress=told, abort=abort
            )
            return {"added": [_added(found)], "failed": []}
        added: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        for name in await self._names(message.files or ""):
            try:
                data = await self._document(f"{message.files}/{name}", name)
                found = await memory.add_document(data, name, on_progress=told, abort=abort)
                added.append(_added(found))
            except (AbortError, StorageError):  # the next file would meet the same
                raise
            except EngineError as error:
                failed.append({"source": name, "type": error.type, "message": str(error)})
        return {"added": added, "failed": failed}

    async def _names(self, folder: str) -> list[str]:
        try:
            return await self._io.list_files(folder)
        except FileNotFoundError:
            raise InputError(
                f"there are no files of the name {folder!r}: send a files message first"
            ) from None

    async def _document(self, path: str, name: str) -> bytes:
        check_size(name, await self._io.file_size(path) or 0)
        data = self._io.to_bytes(await self._io.read_file(path))
        if self._prepare_pdf is not None and kind_of(name, data) == "pdf":
            await self._prepare_pdf()
        return data

    async def _recall(self, message: MemoryRecall) -> dict[str, Any]:
        memory = await self._memory(message.namespace, message.model)
        chat = None if message.chat is None else await self._engine(message.chat)
        reranker = None if message.reranker is None else await self._engine(message.reranker)
        found = await memory.recall(
            message.query,
            token_budget=message.token_budget,
            top_k=message.top_k,
            min_score=message.min_score,
            hybrid=message.hybrid,
            tokenizer=chat,
            reranker=reranker,
        )
        return found.to_dict()

    async def _forget(self, message: MemoryForget) -> int:
        if (message.ids is not None) + (message.source is not None) + message.all != 1:
            raise InputError("memory_forget wants ids, or a source, or all")
        return await forget(
            await self._store(),
            self._io,
            message.namespace,
            ids=message.ids,
            source=message.source,
        )

    async def _memory(self, namespace: str, model: str | None) -> Memory:
        engine = await self._engine(model)
        known = self._open.get(namespace)
        if known is not None and known[0] is engine:
            return known[1]
        if known is not None:
            await known[1].close()
        memory = Memory(engine, namespace=namespace, store=await self._store())
        self._open[namespace] = engine, memory
        return memory

    async def _stored(self, namespace: str) -> Namespace:
        return await Namespace.stored(await self._store(), self._io, namespace)

    async def _store(self) -> BlobStore:
        if self._kept is None:
            self._kept = await self._io.open_store("memory")
        return self._kept


async def forget(
    store: BlobStore,
    io: Io,
    namespace: str,
    *,
    ids: list[str] | None = None,
    source: str | None = None,
) -> int:
    """Forget pieces by their ids, all of a source, or with neither the namespace itself, damaged or not. Returns how
    many pieces there were; 0 where there is no such namespace. Raises InputError, StorageError."""
    if not await store.names(folder_of(namespace)):
        return 0
    if ids is None and source is None:
        try:
            pieces = len((await Namespace.stored(store, io, namespace)).records)
        except StorageError:
            pieces = 0
        await delete(store, namespace)
        return pieces
    space = await Namespace.stored(store, io, namespace)
    if ids is None:
        ids = [r.id for r in space.records.values() if r.piece.source == source]
    return await space.forget(ids)


def _added(found: Any) -> dict[str, Any]:
    return {"source": found.source, "pieces": len(found.ids), "notes": [*found.notes]}
