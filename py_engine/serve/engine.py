"""One loaded model behind a small API: load, chat, complete, count_tokens, info, close."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Never, Unpack, cast

from py_engine.abort import Abort
from py_engine.arguments import (
    callback,
    flag,
    instance,
    named_options,
    token_ids,
)
from py_engine.blocks.kv_cache import CLASSES
from py_engine.errors import (
    AbortError,
    ClosedError,
    ContextError,
    InputError,
    NoAdapterError,
)
from py_engine.generate.answer import Generation
from py_engine.generate.decoder import Decoder
from py_engine.generate.given import Given, check_ids
from py_engine.generate.options import Options
from py_engine.generate.tools import check_tools
from py_engine.graph.submit import (
    SubmitStrategy,
)
from py_engine.host import open_gpu, open_io
from py_engine.host.gpu import Gpu
from py_engine.host.gpu_counting import CountingGpu
from py_engine.host.io import Io
from py_engine.inputs.window import Messages
from py_engine.serve.calibration import Calibrator
from py_engine.serve.info import model_info
from py_engine.serve.life import Life, LoadOn
from py_engine.serve.loading import estimate_model
from py_engine.serve.memory import Estimate
from py_engine.serve.methods import add_methods
from py_engine.serve.options import LoadOptions, Progress, check_choice, check_place
from py_engine.serve.recovery import DeviceEvent, Losses
from py_engine.serve.sessions import SessionInfo, Sessions, require_runnable
from py_engine.tasks import task_of, tasks_of
from py_engine.tasks.chat import ChatRequest
from py_engine.tasks.complete import CompleteRequest
from py_engine.tasks.embed import Embeddings, EmbedRequest
from py_engine.tasks.fields import made
from py_engine.tasks.loaded import Loaded
from py_engine.tasks.task import Job, Request, W
from py_engine.tasks.text import text_job
from py_engine.work import Answer, Event, Work

if TYPE_CHECKING:
    from py_engine.serve.device import Device


class Engine(Life):
    """A model on a GPU. Calls wait their turn, first come first served.

    Made by `Engine.load` or `Device.load`; `close()` gives every buffer back.
    """

    def __init__(
        self, device: Device, placed: tuple[Gpu, Loaded], load_on: LoadOn, losses: Losses
    ) -> None:
        super().__init__(device, placed, load_on, losses)
        self.on_device: Callable[[DeviceEvent], object] | None = None
        # Where groups of dispatches have to be proven on the device first; None elsewhere, or when they were given.
        self.calibrator: Calibrator | None = None

    @classmethod
    @named_options
    async def load(
        cls,
        model: str,
        *,
        gpu: Gpu | None = None,
        io: Io | None = None,
        host: str | None = None,
        dtype: str = "auto",
        context: int | None = None,
        context_classes: Sequence[int] = CLASSES,
        memory_budget: int | None = None,
        strategy: SubmitStrategy | None = None,
        proven: Mapping[str, Any] | None = None,
        tune: bool | None = None,
        self_check: bool | None = None,
        progress: bool | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        on_device: Callable[[DeviceEvent], object] | None = None,
        abort: Abort | None = None,
        before_weights: Callable[[], Awaitable[object]] | None = None,
    ) -> Engine:
        """Load `model`: a folder, a hub id with optional `@revision`, or `random:PRESET`.

        `host` (CPython only): the WebGPU implementation, "dawn" or "wgpu"; None: JERBOA_HOST's, else the first of the
        two that has a GPU in hardware.
        `dtype`: how plain weights and the KV cache are kept. "f32": as stored, and f32; "f16": F32 narrowed, and f16;
        "q8", "q4": quantised on the GPU while loading, by MLX's rule, and f16; "auto": "q4" on phones and tablets
        (encoders "f16"), else as stored and f16. Checkpoints that are quantised already keep their weights.
        `context`: tokens of prompt and answer together; None: the smaller of the model's and 4096 (512 on iOS). The KV
        cache begins with room for the first of `context_classes` (tokens) and grows to the next one when a text needs
        it.
        `memory_budget`: GPU bytes that the load may take at most; None: the device's, on phones and tablets 1.2 GB.
        `strategy`: how dispatches are put into command buffers; None: all in one, on WebKit as many as were proven on
        this device (`calibrator` finds out; `proven` is what it told of earlier, {key: {"group", "passes"}}).
        `tune`: True: time the forms of kernels that were not timed on this device before (some seconds, once; software
        adapters are left out) and keep what was found; None: use what was found before; False: do not.
        `self_check`: whether the model's kernels are run on known inputs and compared first (docs/self-check.md); None:
        on every GPU but software adapters.
        `progress`: whether stderr shows how far the load is; None: on a terminal and in a notebook, where `on_progress`
        is not given.
        When the GPU device is lost, in a load, an answer or between them, another one is opened, the model loaded onto
        it again, and what was interrupted goes on; `on_device` is told. Not with a `gpu` of the caller's: then calls
        raise DeviceLostError.
        `before_weights`: awaited once, when config, tokenizer and the headers of the weights are found right, before
        any weight is allocated: the moment to close an engine whose place this one takes.
        Raises NoAdapterError, SelfCheckError, HubError, ModelError, OutOfMemoryError (MemoryBudgetError before anything
        was allocated), InputError, AbortError, DeviceLostError (lost again and again); then nothing stays allocated.
        """
        check_place(model, gpu, io, host, context)
        options: dict[str, Any] = {
            "dtype": dtype, "context": context, "context_classes": context_classes,
            "memory_budget": memory_budget, "strategy": strategy, "proven": proven, "tune": tune,
            "self_check": self_check, "progress": progress, "on_progress": on_progress,
            "on_device": on_device,
        }  # fmt: skip
        LoadOptions.of(options)
        instance("abort", abort, Abort, "an Abort")
        callback("before_weights", before_weights)
        from py_engine.serve.device import Device  # which makes engines

        device = Device(gpu, recovers=False) if gpu else await Device.open(host)
        try:
            engine = await device.load(
                model, io=io, abort=abort, before_weights=before_weights, **options
            )
        except BaseException:
            await device.close()
            raise
        engine._owns_device = True
        return engine

    @staticmethod
    @named_options
    async def estimate(
        model: str,
        *,
        gpu: Gpu | None = None,
        io: Io | None = None,
        host: str | None = None,
        dtype: str = "auto",
        context: int | None = None,
    ) -> Estimate:
        """GPU bytes by kind that `load` with these arguments would take. Reads config.json and the headers of the
        weights; allocates nothing.

        `gpu`: whose limits and features count; None: those of `host`, or WebGPU's own where no adapter answers.
        Raises HubError, ModelError, InputError, OutOfMemoryError (a buffer above the device's limits).
        """
        check_place(model, gpu, io, host, context)
        check_choice(dtype, None)
        own: Gpu | None = None
        if gpu is None:
            try:
                gpu = own = await open_gpu(host)
            except NoAdapterError:
                gpu = CountingGpu()
        given, io = io, io or open_io()
        try:
            return await estimate_model(model, gpu, io, dtype=dtype, context=context)
        finally:
            if own is not None:
                own.close()
            if given is None:
                io.close()

    # -- tasks -------------------------------------------------------------------------------------------------------

    @property
    def tasks(self) -> list[str]:
        """Names of what this model can do; each is a method, too."""
        return tasks_of(self._loaded)

    def ask(self, request: Request[W]) -> W:
        """Do what a request of a task asks for: `chat` and its siblings are short for this.

        The request is checked at once, then waits its turn. Raises InputError, also for a task that this model cannot
        do; then the message names those that it can.
        """
        return cast(W, self.start(self.prepare(request)))

    def prepare(self, request: Request[Any]) -> Job[Any, Any]:
        """The first half of `ask`: the request checked, for whoever wants to know what it comes to before it queues."""
        loaded, task = self._in_use(), task_of(request)
        if lack := task.lacks(loaded):
            raise loaded.cannot(f"{task.name}: it lacks {lack}")
        return task.prepare(loaded, request)

    def start(self, job: Job[Event, Answer]) -> Work[Event, Answer]:
        """The second half of `ask`: queue what `prepare` gave."""
        return job.work(partial(self._do, job))

    def chat(
        self,
        messages: Messages,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        enable_thinking: bool | None = None,
        **options: Unpack[Options],
    ) -> Generation:
        """Answer a conversation by the model's chat template.

        messages: {"role": "system" | "user" | "assistant" | "tool", "content": str}, the last one to be answered;
        content may be a list of {"type": "text", "text": str}. An assistant's may hold the `reasoning` and
        `tool_calls` of the Answer that it was; a tool's result goes into a message with role "tool" and the call's id
        as `tool_call_id`. Every text is in the prompt, finished thinking apart, or the call is refused
        (docs/conversations.md).
        tools: what the model may call, {"type": "function", "function": {"name", "description", "parameters"}} each.
        Its calls come as `tool_calls` of deltas and of the Answer, whose finish_reason then is "tool_calls".
        enable_thinking: whether it thinks first, where the template has that switch; None leaves it to the template.
        Thinking comes as `reasoning`, apart from `text`; stop strings do not look at it. They may hold control tokens.
        options: max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty,
        frequency_penalty, seed, stop (str or list), ignore_eos (generate/options.py).
        When the messages and max_tokens (or some room for an answer) exceed the context, the oldest turns are left
        out (docs/conversations.md), and `dropped` of the Generation and of the Answer says which.
        Raises InputError (also ContextError, with the numbers: the newest turn alone does not fit) at once.
        """
        return self.ask(
            made(
                ChatRequest,
                messages=messages,
                tools=tools,
                enable_thinking=enable_thinking,
                **options,
            )
        )

    def complete(self, prompt: str, **options: Unpack[Options]) -> Generation:
        """Go on with a plain text. Options as for `chat`. Control tokens in the prompt stay plain text."""
        return self.ask(made(CompleteRequest, prompt=prompt, **options))

    def embed(
        self,
        texts: Sequence[str] | None = None,
        *,
        ids: Sequence[int] | None = None,
        task: str | None = None,
        dimensions: int | None = None,
    ) -> Work[Never, Embeddings]:
        """A vector of unit length for each text, in their order: rows that numpy.asarray reads without copying.

        ids: those of one text in the place of texts, special ones included. task: "query", "document" or another that
        the model has a prompt for, which is then put before each text. dimensions: only the first so many numbers of
        each vector, brought to unit length again. A text longer than the model takes is cut, which `cut` of the answer
        tells; its special tokens stay.
        Raises InputError at once.
        """
        return self.ask(EmbedRequest(texts, ids=ids, task=task, dimensions=dimensions))

    @named_options
    def count_tokens(
        self,
        content: str | Messages,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        enable_thinking: bool | None = None,
    ) -> int:
        """Tokens of a text, or of a conversation with its template and generation prompt, as `chat` would lay it out
        with the same `tools` and `enable_thinking`. Raises InputError, also for either of those beside a text."""
        flag("enable_thinking", enable_thinking)
        offered = check_tools(tools)
        if not isinstance(content, str):
            template = self._loaded.text.template
            return template.count_tokens(content, offered, enable_thinking=enable_thinking)
        if offered or enable_thinking is not None:
            raise InputError(
                "tools and enable_thinking belong to a conversation: give messages, not a text"
            )
        return self._loaded.tokenizer.count_tokens(content)

    # -- token ids ---------------------------------------------------------------------------------------------------

    @named_options
    async def logits(self, ids: Sequence[int], *, reuse: bool = False) -> memoryview[float]:
        """Logits after the last id: float32, shape [vocab], as a buffer that numpy.asarray reads.

        All of `ids` are run; `reuse`: only those that the state has not seen, as a generation does it.
        """

        flag("reuse", reuse)
        ids = token_ids(ids, self.vocab_size)

        async def work(loaded: Loaded) -> memoryview[float]:
            decoder = loaded.decoder
            if not ids or len(ids) > decoder.state.context:
                raise ContextError(
                    f"{len(ids)} ids do not fit 1..{decoder.state.context}",
                    len(ids),
                    decoder.state.context,
                )
            self._gone_ids = []
            return memoryview(await decoder.logits(ids, reuse=reuse)).cast("f")

        async with self._turn:
            return await self._survive(work, lambda: "prefill")

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return self._loaded.decoder.model.vocab_size

    def generate(self, ids: Sequence[int], **options: Unpack[Options]) -> Generation:
        """Go on after token ids. Options as for `chat`; ignore_eos=True runs on to max_tokens."""
        return self.ask(made(CompleteRequest, ids=token_ids(ids, self.vocab_size), **options))

    def _generate_given(
        self, ids: Sequence[int], given: Given, **options: Unpack[Options]
    ) -> Generation:
        """`generate` after ids of which the negative ones stand for rows that are given: of images, of sounds."""
        check_ids(ids, self.vocab_size, given)
        request = made(CompleteRequest, **options)
        job = text_job(self._in_use(), list(ids), request, given=given)
        return cast(Generation, self.start(job))

    async def generate_ids(
        self, ids: Sequence[int], most: int = 32, /, **options: Unpack[Options]
    ) -> list[int]:
        """At most `most` (or max_tokens) ids that follow `ids`, without the stop token. Options as for `chat`;
        temperature 0 unless given."""
        options = {"max_tokens": most, "temperature": 0.0, **options}
        return (await self.generate(ids, **options)).tokens

    # -- sessions ----------------------------------------------------------------------------------------------------

    async def save_session(self, name: str) -> SessionInfo:
        """Keep what the model has seen on this device (natively below JERBOA_HOME, in a browser in its own storage), in
        the place of an older session of that name. Waits for its turn. Raises InputError, StorageError; SessionError
        where that held images or sounds and the GPU device was lost since."""

        async def work(loaded: Loaded) -> SessionInfo:
            decoder = loaded.decoder
            if not decoder.prefix.ids and self._gone_ids:
                require_runnable(name, self._gone_ids)
                await decoder.logits(self._gone_ids)  # seen again
            return await self._open_sessions().save(name)

        async with self._busy("saving"):
            return await self._survive(work, lambda: "idle")

    async def restore_session(self, name: str) -> SessionInfo:
        """Bring a session back: the same next tokens, bit by bit, as if it had never ended; a prompt that begins with
        its tokens goes on from there.

        Raises SessionError for one that is not there, damaged, or of another model, revision, dtype, device, host or
        version; then nothing changes. Also InputError, StorageError, OutOfMemoryError.
        """

        async def work(_: Loaded) -> SessionInfo:
            restored = await self._open_sessions().restore(name)
            self._gone_ids = []
            return restored

        async with self._busy("restoring"):
            return await self._survive(work, lambda: "idle")

    async def list_sessions(self) -> list[SessionInfo]:
        """What is saved on this device, by whichever model, the newest first. Raises StorageError."""
        return await self._open_sessions().all()

    async def delete_session(self, name: str) -> None:
        """Remove a saved session; an absent one is no error. Raises InputError, StorageError."""
        await self._open_sessions().delete(name)

    # -- life --------------------------------------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """Model, context used and in all, GPU bytes by kind, plan counts, adapter, status.

        status: "ready", "generating", "saving", "restoring", "recovering" (from the loss of the GPU device), "lost" (no
        other could take its place; the next call tries again) or "closed"; before it is "ready" there is no engine.
        """
        return model_info(self._loaded, self._gpu, self._status)

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[Decoder]:
        """The decoder, with nobody else's generation in between: for measurements of its plans.

        Whoever has run anything on it leaves a cache of unknown content: nothing of it is reused afterwards, and a
        session that is saved then holds what the model had seen before.
        """
        async with self._turn:
            self._device.used(self)
            await self._revive()
            decoder = self._in_use().decoder
            self._gone_ids = decoder.prefix.ids or self._gone_ids
            try:
                yield decoder
            finally:
                decoder.prefix.forget()

    def __repr__(self) -> str:
        loaded, adapter = self._loaded, self._gpu.info
        used = ""
        if isinstance(loaded.runtime, Decoder):
            state = loaded.runtime.state
            used = f"{len(loaded.runtime.prefix.ids)} of {state.context} tokens, "
        return (
            f"<Engine {loaded.name} ({loaded.family}), {self._status}: {used}"
            f"{loaded.weights_bytes / 1e6:.1f} MB of weights on {adapter.device or adapter.description or 'a GPU'}>"
        )

    async def __aenter__(self) -> Engine:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _open_sessions(self) -> Sessions:
        loaded = self._in_use()
        if self._sessions is None:
            self._sessions = Sessions(self._gpu, loaded)
        return self._sessions

    async def _do(self, job: Job[Any, Any], work: Work[Any, Any]) -> None:
        """Run a job when its turn comes."""

        def stop() -> None:
            try:
                work.finish(job.stopped())
            except AbortError as error:
                work.fail(ClosedError(self._closed) if self._closed else error)

        async def run(loaded: Loaded) -> Any:
            self._gone_ids = []
            return await job.run(loaded, work)

        work.on_stop(stop)
        self._under_way.add(work)
        try:
            async with self._busy("generating"):
                if work.abort.is_set:
                    return
                answer = await self._survive(run, lambda: job.phase)
                if answer is not None:
                    work.finish(answer)
        except AbortError:  # closed while the model was being loaded again
            stop()
        finally:
            self._under_way.discard(work)


add_methods(Engine)
