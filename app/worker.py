"""The Python of the browser's worker: the engine behind serve/protocol.py's messages.

Nothing of the browser is imported: public/worker.mjs passes in how to answer, so the same class runs in CPython.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict
from typing import Any

from py_engine.abort import Abort, or_abort
from py_engine.errors import AbortError, EngineError, InputError
from py_engine.generate.decoder import Decoder
from py_engine.graph.submit import GroupedSubmit, asked_group
from py_engine.host import open_io
from py_engine.kept import inventory
from py_engine.serve.answers import (
    Calibrated,
    Complete,
    Device,
    Error,
    Event,
    FromWorker,
    Loading,
    Log,
    Note,
    Progress,
    Ready,
    Result,
    Row,
)
from py_engine.serve.calibration import Calibrator
from py_engine.serve.engine import Engine
from py_engine.serve.models import UNNAMED, Models
from py_engine.serve.protocol import (
    NO_ID,
    Ask,
    Bench,
    CacheDelete,
    CacheList,
    CountTokens,
    Diagnose,
    Filed,
    Generate,
    Info,
    Interrupt,
    Load,
    LoadOptions,
    MemoryAdd,
    MemoryForget,
    MemoryList,
    MemoryRecall,
    MessageId,
    SessionDelete,
    SessionList,
    SessionRestore,
    SessionSave,
    ToWorker,
    Unload,
)
from py_engine.serve.recovery import DeviceEvent
from py_engine.serve.run_log import RunLog
from py_engine.serve.wire import as_task, parse, sent_id, to_wire
from py_engine.tasks import tasks
from py_engine.tasks.task import Task
from py_engine.work import Work

# Seconds that the page has to store a row before the test that the row announces starts.
FILED_S = 1.0
# Options of a load message that are passed to the engine unchanged.
LOADING = (
    "dtype", "kv", "vision", "context", "memory_budget", "tune", "self_check", "proven", "make_room",
)  # fmt: skip
QUIET_S = 2.0  # seconds without a request after which the device may be calibrated


class Host:
    """One worker with one model, or several by name (py_engine/serve/models.py). Loads, unloads and benches run one
    at a time; generations queue in their engine.

    `post` sends a plain object to the page. `prepare_chat` fetches what chat templates need, and is awaited before the
    first use of one; `prepare_documents` what PDFs need.
    """

    def __init__(
        self,
        post: Callable[[dict[str, Any]], object],
        prepare_chat: Callable[[], Awaitable[object]],
        prepare_documents: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._post = post
        self._prepare_documents = prepare_documents
        self._prepare_chat = prepare_chat
        self._chat_ready = False
        self._models = Models(self._device_event)
        self._turn = asyncio.Lock()  # held while self._models is changed
        self._loading: Callable[[], AbstractAsyncContextManager[None]] = contextlib.nullcontext
        self._filed = asyncio.Event()  # set when the page has stored the last row of a diagnose
        self._aborts: dict[MessageId, Abort] = {}  # of all messages that are being answered
        self._unnamed: list[Abort] = []  # of messages without an id
        # Messages without an id are answered in the order they came.
        self._one_by_one = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._io = open_io()
        self._memories: Any = None  # a Memories, once a page asks for one
        self._log = RunLog(self._io, self._send)
        self._asked = time.monotonic()  # when the last request came or ended
        # Set when the recovery from an idle loss has ended, with or without a device.
        self._back = asyncio.Event()

    def begin(self) -> None:
        """Report what an earlier run was doing when it crashed (RunLog). Called once, after the boot."""
        self._log.begin()

    def receive(self, data: Any) -> None:
        """Take one message; answers are sent by `post`. Returns at once."""
        try:
            message = parse(data)
            if isinstance(message, Interrupt):
                self._interrupt(message.id)
                return
            if isinstance(message, Filed):
                self._filed.set()
                return
            if message.id in self._aborts:
                raise InputError(
                    f"the id {message.id!r} belongs to another message that is still being "
                    "answered: give each its own"
                )
        except InputError as error:
            self._send(Error(sent_id(data), error.type, str(error)))
            return
        self._asked = time.monotonic()
        # Created now, not when the task first runs: an interrupt may follow at once.
        abort = Abort()
        if message.id is NO_ID:
            self._unnamed.append(abort)
            self._start(self._answer_in_turn(message, abort))
        else:
            self._aborts[message.id] = abort
            self._start(self._answer(message, abort))

    def _interrupt(self, id: MessageId) -> None:
        for abort in [*self._unnamed] if id is NO_ID else [self._aborts.get(id)]:
            if abort is not None:
                abort.set()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer_in_turn(self, message: ToWorker, abort: Abort) -> None:
        """Answer a message without an id, after those that came before it."""
        try:
            async with self._one_by_one:
                await self._answer(message, abort)
        finally:
            self._unnamed.remove(abort)

    async def _answer(self, message: ToWorker, abort: Abort) -> None:
        try:
            await self._work(message, abort)
        except EngineError as error:
            self._send(Error(message.id, error.type, str(error)))
        except Exception as error:  # a bug of ours: report all that helps to find it
            self._send(
                Error(message.id, type(error).__name__, f"{error}\n{traceback.format_exc()}")
            )
        finally:
            self._aborts.pop(message.id, None)
            self._asked = time.monotonic()

    def _work(self, message: ToWorker, abort: Abort) -> Coroutine[Any, Any, None]:
        match message:
            case Load():
                return self._load(message, abort)
            case Generate():
                return self._ask(as_task(message), abort)
            case Ask():
                return self._ask(message, abort)
            case CountTokens():
                return self._count(message)
            case Info():
                return self._info(message)
            case Unload():
                return self._unload(message)
            case Bench():
                return self._bench(message, abort)
            case Diagnose():
                return self._diagnose(message, abort)
            case CacheList():
                return self._cache_list(message.id)
            case CacheDelete():
                return self._cache_delete(message)
            case SessionList() | SessionSave() | SessionRestore() | SessionDelete():
                return self._session(message)
            case MemoryAdd() | MemoryRecall() | MemoryList() | MemoryForget():
                return self._memory(message, abort)
        raise InputError(f"{message.type} is not for Python: public/worker.mjs answers it")

    @asynccontextmanager
    async def _my_turn(self, abort: Abort) -> AsyncIterator[None]:
        """Hold the turn; an abort ends the wait for it. Raises AbortError."""
        await or_abort(self._turn.acquire(), abort)
        try:
            abort.check()
            yield
        finally:
            self._turn.release()

    async def _load(self, message: Load, abort: Abort) -> None:
        id, name = message.id, message.model
        async with self._my_turn(abort):
            engine = await self._open(id, message.repo, message.options, abort, name)
            self._send(Ready(id, engine.info()))
        self._start(self._warm_up(engine))

    async def _warm_up(self, engine: Engine) -> None:
        """Prepare what a text model's first chat needs, before a user waits for it: Jinja2, the compiled template."""
        if "complete" not in engine.tasks:
            return
        try:
            await self._ready_to_chat()
            engine.count_tokens([{"role": "user", "content": "Hello"}])
        # A base model has no template; the first chat reports all other errors.
        except Exception as error:
            self._send(Log(f"the chat template was not prepared: {error}"))

    @property
    def _engine(self) -> Engine | None:
        """Return the only model, for a page that names none."""
        return self._models.get(None)

    def _device_event(self, event: DeviceEvent) -> None:
        self._send(Device(event.state, event.during, event.losses, event.message))
        if event.state != "lost":
            self._back.set()
        elif event.during == "idle":
            self._back.clear()
            self._start(self._wait_until_back(self._loading))

    async def _open(
        self,
        id: MessageId,
        repo: str,
        options: LoadOptions,
        abort: Abort,
        name: str | None = None,
    ) -> Engine:
        """Replace the engine of this name; the old one is closed when the new one's weights come. The caller holds
        the turn."""
        said = ""

        def on_progress(progress: Any) -> None:
            nonlocal said
            if progress.phase == "note":
                self._send(Note(id, progress.message))
                return
            words = progress.message or progress.phase
            if words != said:
                said = words
                self._send(Loading(id, words))
            if progress.total:
                self._send(Progress(id, progress.loaded, progress.total, progress.message))

        settings: dict[str, Any] = {}
        for key in LOADING:
            if getattr(options, key) is not None:
                settings[key] = getattr(options, key)
        settings["strategy"] = asked = asked_group(options.group, options.passes)
        self._send(Loading(id, f"Opening {repo}"))

        def loading() -> AbstractAsyncContextManager[None]:
            return self._log.at("load", repo, options.context, asked.dispatches if asked else None)

        async with loading():
            engine = await self._models.load(
                name or UNNAMED, repo, on_progress=on_progress, abort=abort, **settings
            )
        self._loading = loading
        if engine.calibrator:
            self._start(self._calibrate(engine, engine.calibrator))
        return engine

    async def _wait_until_back(
        self, loading: Callable[[], AbstractAsyncContextManager[None]]
    ) -> None:
        """Log the recovery from an idle loss as a load: it loads the model again, which may crash the page."""
        async with loading():
            await self._back.wait()

    async def _calibrate(self, engine: Engine, calibrator: Calibrator) -> None:
        """Calibrate the device in the background, while there are no requests and the page is visible."""
        log = self._log

        async def quiet() -> bool:
            while self._models.has(engine):
                busy = self._aborts or self._unnamed
                idle = not busy and time.monotonic() - self._asked >= QUIET_S
                if idle and not self._io.env("JERBOA_HIDDEN"):
                    return True
                await asyncio.sleep(0.1)
            return False

        def confirmed(key: str, strategy: GroupedSubmit) -> None:
            self._send(Calibrated(key, strategy.dispatches, strategy.passes))

        @asynccontextmanager
        async def exclusive() -> AsyncIterator[Decoder]:
            async with engine.exclusive() as decoder, log.at_work("calibrate", engine):
                yield decoder

        try:
            await calibrator.climb(exclusive, quiet, confirmed, log.run, log.excused())
            self._send(Log(f"calibrated: {engine.info()['submit']}"))
        except EngineError as error:  # also for a model that was unloaded meanwhile
            self._send(Log(f"calibration ended: {error}"))

    async def _ask(self, message: Ask, abort: Abort) -> None:
        task = tasks()[message.task]
        try:
            engine = await or_abort(self._ready_for(task, message.model), abort)
        except AbortError:  # stopped before it had a place in the engine's queue
            self._send(Complete(message.id, task.answer(task.unasked())))
            return
        async with self._log.at_work("generate", engine):
            job = engine.prepare(message.request)
            for status, body in task.first(job):
                self._send(Event(message.id, status, body))
            work = engine.start(job)
            abort.then(work.stop)
            await self._hear(message.id, task, work)

    async def _ready_for(self, task: Task[Any], name: str | None) -> Engine:
        engine = await self._loaded(name)
        if task.uses_template:
            await self._ready_to_chat()
        await self._log.told()
        return engine

    async def _hear(self, id: MessageId, task: Task[Any], work: Work[Any, Any]) -> None:
        """Send a task's events as they come, then its answer."""
        async for event in work:
            self._send(Event(id, *task.event(event)))
        self._send(Complete(id, task.answer(await work)))

    async def _count(self, message: CountTokens) -> None:
        engine = await self._loaded(message.model)
        if message.messages is not None:
            await self._ready_to_chat()
        content = message.text or "" if message.messages is None else message.messages
        value = engine.count_tokens(
            content, tools=message.tools, enable_thinking=message.enable_thinking
        )
        self._send(Result(message.id, value))

    async def _info(self, message: Info) -> None:
        engine, models = self._models.get(message.model), self._models.info()
        value: dict[str, Any] | None = engine.info() if engine else None
        if any(model["name"] for model in models):
            value = {**(value or {}), "models": models}
        self._send(Result(message.id, value))

    async def _unload(self, message: Unload) -> None:
        async with self._turn:
            await self._models.unload(message.model)
            self._back.set()
        self._send(Result(message.id, None))

    async def _cache_list(self, id: MessageId) -> None:
        # The crash report goes first: after a crash the page must not load a listed model by itself.
        await self._log.told()
        self._send(Result(id, (await inventory.inventory(open_io())).to_dict()))

    async def _cache_delete(self, message: CacheDelete) -> None:
        gone = await inventory.delete(open_io(), message.model)
        self._send(Result(message.id, gone.to_dict()))

    async def _session(
        self, message: SessionList | SessionSave | SessionRestore | SessionDelete
    ) -> None:
        engine = await self._loaded(getattr(message, "model", None))
        value: Any = None
        match message:
            case SessionList():
                value = [asdict(info) for info in await engine.list_sessions()]
            case SessionSave():
                value = asdict(await engine.save_session(message.name))
            case SessionRestore():
                value = asdict(await engine.restore_session(message.name))
            case SessionDelete():
                await engine.delete_session(message.name)
        self._send(Result(message.id, value))

    async def _memory(
        self, message: MemoryAdd | MemoryRecall | MemoryList | MemoryForget, abort: Abort
    ) -> None:
        from py_engine.memory.messages import Memories  # imported here, since few pages ask for it

        if self._memories is None:
            self._memories = Memories(self._io, self._loaded, self._prepare_documents)
        value = await self._memories.answer(
            message, abort, lambda row: self._send(Row(message.id, row))
        )
        self._send(Result(message.id, value))

    async def _bench(self, message: Bench, abort: Abort) -> None:
        from py_engine.diagnostics import requests  # imported here, since few pages ask for it

        def note(text: str) -> None:
            self._send(Note(message.id, text))

        async with self._my_turn(abort):
            if message.load:
                value = await requests.bench_load(message, abort, note)
            else:
                engine = await self._open(message.id, message.model, message.options, abort)
                value = await requests.bench(engine, message, abort)
        self._send(Result(message.id, value))

    async def _diagnose(self, message: Diagnose, abort: Abort) -> None:
        from py_engine.diagnostics import requests

        async def tell(row: dict[str, Any]) -> None:
            self._filed.clear()
            self._send(Row(message.id, row))
            if row["phase"] == "begin":
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._filed.wait(), FILED_S)

        async with self._my_turn(abort):
            value = await requests.diagnose(message, abort, tell)
        self._send(Result(message.id, value))

    async def _loaded(self, name: str | None) -> Engine:
        """Return the engine of this name, after a load that is running. Raises InputError when there is none."""
        async with self._turn:
            return self._models.find(name)

    async def _ready_to_chat(self) -> None:
        if not self._chat_ready:
            await self._prepare_chat()
            self._chat_ready = True

    def _send(self, message: FromWorker) -> None:
        self._post(to_wire(message))
