"""One loaded model behind a small API: load, chat, complete, count_tokens, info, close."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

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
    ContextError,
    NoAdapterError,
)
from py_engine.generate.decoder import Decoder
from py_engine.graph.submit import (
    SubmitStrategy,
)
from py_engine.host import open_gpu, open_io
from py_engine.host.gpu import Gpu
from py_engine.host.gpu_counting import CountingGpu
from py_engine.host.io import Io
from py_engine.serve.calibration import Calibrator
from py_engine.serve.info import model_info
from py_engine.serve.life import LoadOn
from py_engine.serve.loading import estimate_model
from py_engine.serve.memory import Estimate
from py_engine.serve.methods import add_methods
from py_engine.serve.options import LoadOptions, Progress, check_place
from py_engine.serve.recovery import DeviceEvent, Losses
from py_engine.serve.sessions import SessionInfo, Sessions
from py_engine.serve.task_engine import TaskEngine
from py_engine.tasks.loaded import Loaded

if TYPE_CHECKING:
    from py_engine.serve.device import Device


class Engine(TaskEngine):
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
        "q8", "q4": quantised on the GPU while loading, by MLX's rule, and f16; "auto": "q4" on phones and tablets, else
        as stored and f16. Checkpoints that are quantised already keep their weights.
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
        check_place(model, gpu, io, host)
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
        check_place(model, gpu, io, host)
        options = LoadOptions.of({"dtype": dtype, "context": context})
        own: Gpu | None = None
        if gpu is None:
            try:
                gpu = own = await open_gpu(host)
            except NoAdapterError:
                gpu = CountingGpu()
        given, io = io, io or open_io()
        try:
            return await estimate_model(model, gpu, io, options)
        finally:
            if own is not None:
                own.close()
            if given is None:
                io.close()

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

    # -- sessions ----------------------------------------------------------------------------------------------------

    async def save_session(self, name: str) -> SessionInfo:
        """Keep what the model has seen on this device (natively below JERBOA_HOME, in a browser in its own storage), in
        the place of an older session of that name. Waits for its turn. Raises InputError, StorageError."""

        async def work(loaded: Loaded) -> SessionInfo:
            decoder = loaded.decoder
            if not decoder.prefix.ids and self._gone_ids:
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

        status: "ready"; "generating", "embedding" or, in a task that names nothing else, "working"; "saving" or
        "restoring" (a session); "recovering" (from the loss of the GPU device); "lost" (no other device could take its
        place; the next call tries again); "closed".
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


add_methods(Engine)
