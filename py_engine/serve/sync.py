"""The engine for programs without an event loop: scripts, notebooks, the interactive prompt.

    model = load("mlx-community/Qwen3-0.6B-4bit")
    for delta in model.chat([{"role": "user", "content": "Hello"}]):
        print(delta.text, end="", flush=True)

The Engine runs on an event loop in a thread of its own, so these calls also work where a loop is running already.
Ctrl-C ends the call that waits: a load is given up, a generation is stopped.
"""

from __future__ import annotations

import concurrent.futures
import queue
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Never, TypedDict, TypeVar, Unpack

from py_engine.abort import Abort
from py_engine.arguments import named_options
from py_engine.generate.answer import Generation
from py_engine.generate.options import Options
from py_engine.graph.submit import SubmitStrategy
from py_engine.inputs.window import Messages
from py_engine.pictures.picture import Picture
from py_engine.serve.background import CLOSE_S, WAIT_S, Background
from py_engine.serve.engine import Engine
from py_engine.serve.memory import Estimate
from py_engine.serve.methods import add_methods
from py_engine.serve.options import Progress
from py_engine.serve.progress import showing
from py_engine.serve.recovery import DeviceEvent
from py_engine.serve.sessions import SessionInfo
from py_engine.serve.sync_work import SyncGeneration, SyncWork
from py_engine.tasks.embed import Embeddings, EmbedRequest
from py_engine.tasks.fields import made
from py_engine.tasks.rerank import Ranking, RerankRequest
from py_engine.tasks.similarity import Similarities, SimilarityRequest
from py_engine.tasks.task import Request
from py_engine.work import Answer, Event, Work

T = TypeVar("T")


class SharedLoadOptions(TypedDict, total=False):
    """The options of Device.load that make sense here."""

    dtype: str
    kv: str
    vision: str
    context: int | None
    context_classes: Sequence[int] | None
    memory_budget: int | None
    strategy: SubmitStrategy | None
    tune: bool | None
    self_check: bool | None
    on_device: Callable[[DeviceEvent], object] | None


class LoadOptions(SharedLoadOptions, total=False):
    """The options of Engine.load that make sense here."""

    host: str | None


def load(
    model: str,
    *,
    progress: bool | None = None,
    on_progress: Callable[[Progress], object] | None = None,
    **options: Unpack[LoadOptions],
) -> SyncEngine:
    """Load `model`: a folder, a hub id with optional `@revision`, or `random:PRESET`, on a GPU device of its own
    (several on one: serve/sync_device.py). Options and errors as for Engine.load; `on_device` is called in the engine's
    thread."""
    background = Background()
    try:
        engine = loaded(background, Engine.load, model, progress, on_progress, options)
        return SyncEngine(engine, background)
    except BaseException:
        background.close()
        raise


def loaded(
    background: Background,
    load_async: Callable[..., Coroutine[Any, Any, Engine]],
    model: str,
    progress: bool | None,
    on_progress: Callable[[Progress], object] | None,
    options: Mapping[str, Any],
) -> Engine:
    """What `load_async` (of an Engine or a Device) gives, awaited in the background; progress is told in this thread.
    Whoever is interrupted gives the load up."""
    abort = Abort()
    events: queue.SimpleQueue[Progress] = queue.SimpleQueue()

    def told(tell: Callable[[Progress], object]) -> None:
        with suppress(queue.Empty):
            while True:
                tell(events.get_nowait())

    with showing(model, on_progress, progress) as tell:
        loading = background.start(
            load_async(model, abort=abort, progress=False, on_progress=events.put, **options)
        )
        try:
            while not loading.done():
                concurrent.futures.wait([loading], timeout=WAIT_S)
                told(tell)
            told(tell)
            return loading.result()
        except BaseException:
            background.post(abort.set)
            concurrent.futures.wait([loading], timeout=CLOSE_S)  # nothing of it stays
            raise


class SyncEngine:
    """A model on a GPU, like Engine, for callers that wait. Made by `load` or SyncDevice.load.

    `close()`, the end of a `with` block, or the end of the program frees every buffer. Any thread may call it; calls
    take turns.
    """

    def __init__(self, engine: Engine, background: Background, device: object = None) -> None:
        """`device`: whose background this is; without one it ends with the engine."""
        self._engine = engine
        self._background = background
        self._device = device  # which is in use as long as this is
        self._end = weakref.finalize(
            self, _close if device is None else _close_alone, engine, background
        )

    def chat(
        self,
        messages: Messages,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        enable_thinking: bool | None = None,
        **options: Unpack[Options],
    ) -> SyncGeneration:
        """Answer a conversation by the model's chat template. Arguments and errors as for Engine.chat."""
        return self._generate(
            lambda: self._engine.chat(
                messages, tools=tools, enable_thinking=enable_thinking, **options
            )
        )

    def complete(self, prompt: str, **options: Unpack[Options]) -> SyncGeneration:
        """Continue a plain text. Arguments and errors as for Engine.complete."""
        return self._generate(lambda: self._engine.complete(prompt, **options))

    def generate(self, ids: Sequence[int], **options: Unpack[Options]) -> SyncGeneration:
        """Continue after token ids. Arguments and errors as for Engine.generate."""
        return self._generate(lambda: self._engine.generate(ids, **options))

    def describe_image(self, image: Any = None, **options: Any) -> SyncGeneration:
        """Say what is in a picture. Arguments and errors as for Engine.describe_image."""
        return self._generate(lambda: self._engine.describe_image(image, **options))

    def read_picture(self, source: Any, *, allow_urls: bool = False) -> Picture:
        """A picture, decoded now. Arguments and errors as for Engine.read_picture."""
        return self._wait(self._engine.read_picture(source, allow_urls=allow_urls))

    def embed(
        self,
        texts: Sequence[str] | None = None,
        *,
        ids: Sequence[int] | None = None,
        task: str | None = None,
        dimensions: int | None = None,
    ) -> SyncWork[Never, Embeddings]:
        """A vector of unit length for each text. Arguments and errors as for Engine.embed."""
        return self.ask(EmbedRequest(texts, ids=ids, task=task, dimensions=dimensions))

    def similarity(
        self,
        texts: Sequence[str] | Sequence[Sequence[float]],
        others: Sequence[str] | Sequence[Sequence[float]] | None = None,
        **options: Any,
    ) -> SyncWork[Never, Similarities]:
        """The cosine of each text with each of the others. Arguments and errors as for Engine.similarity."""
        return self.ask(made(SimilarityRequest, texts, others, **options))

    def rerank(
        self,
        query: str | None = None,
        documents: Sequence[str] | None = None,
        **options: Any,
    ) -> SyncWork[Never, Ranking]:
        """Documents by how well they answer a query. Arguments and errors as for Engine.rerank."""
        return self.ask(made(RerankRequest, query, documents, **options))

    def ask(self, request: Request[Work[Event, Answer]]) -> SyncWork[Event, Answer]:
        """Do what a request asks for. Arguments and errors as for Engine.ask."""
        work = self._call(lambda: self._engine.ask(request))
        return SyncWork(self, self._background, work)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that this model can do. Each is a method, too."""
        return self._engine.tasks

    def _generate(self, start: Callable[[], Generation]) -> SyncGeneration:
        return SyncGeneration(self, self._background, self._call(start))

    @named_options
    def count_tokens(
        self,
        content: str | Messages,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        enable_thinking: bool | None = None,
    ) -> int:
        """Number of tokens of a text or a conversation. Arguments and errors as for Engine.count_tokens."""
        return self._call(
            lambda: self._engine.count_tokens(content, tools=tools, enable_thinking=enable_thinking)
        )

    def logits(
        self, ids: Sequence[int], *, images: Sequence[Any] | None = None
    ) -> memoryview[float]:
        """Logits after the last id: float32, shape [vocab_size]. Arguments and errors as for Engine.logits."""
        return self._wait(self._engine.logits(ids, images=images))

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return self._engine.vocab_size

    @staticmethod
    @named_options
    def estimate(
        model: str,
        *,
        host: str | None = None,
        dtype: str = "auto",
        kv: str = "auto",
        vision: str = "auto",
        context: int | None = None,
        memory_budget: int | None = None,
    ) -> Estimate:
        """GPU bytes by kind that `load` with these arguments would take. Errors as for Engine.estimate."""
        background = Background()
        estimate = Engine.estimate(
            model, host=host, dtype=dtype, kv=kv, vision=vision, context=context,
            memory_budget=memory_budget,
        )  # fmt: skip
        try:
            return background.wait(estimate)
        finally:
            background.close()

    def save_session(self, name: str) -> SessionInfo:
        """Save what the model has seen on this device. Errors as for Engine.save_session."""
        return self._wait(self._engine.save_session(name))

    def restore_session(self, name: str) -> SessionInfo:
        """Bring a saved session back. Errors as for Engine.restore_session."""
        return self._wait(self._engine.restore_session(name))

    def list_sessions(self) -> list[SessionInfo]:
        """The sessions that are saved on this device, the newest first. Raises StorageError."""
        return self._wait(self._engine.list_sessions())

    def delete_session(self, name: str) -> None:
        """Delete a saved session; an absent one is no error. Raises InputError, StorageError."""
        self._wait(self._engine.delete_session(name))

    def info(self) -> dict[str, Any]:
        """Model, context, memory, adapter, status: the same as Engine.info."""
        return self._engine.info() if self._background.closed else self._call(self._engine.info)

    def close(self) -> None:
        """Stop what runs and free every buffer and the device. A second call does nothing."""
        self._end()

    unload = close

    def __enter__(self) -> SyncEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._engine).replace("<Engine", "<SyncEngine", 1)

    def _call(self, work: Callable[[], T]) -> T:
        async def called() -> T:
            return work()

        return self._wait(called())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self._background.wait(work)


def _close(engine: Engine, background: Background) -> None:
    background.close(engine.close())


def _close_alone(engine: Engine, background: Background) -> None:
    """Others go on in the background."""
    background.finish(engine.close())


add_methods(SyncEngine)
