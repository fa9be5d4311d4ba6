"""One loaded model behind a small API: load and estimate, its tasks (task_engine.py), sessions, info, close."""

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
from py_engine.errors import (
    ContextError,
    NoAdapterError,
)
from py_engine.generate.decoder import Decoder
from py_engine.generate.runtime import Runtime
from py_engine.graph.submit import (
    SubmitStrategy,
)
from py_engine.host import open_gpu, open_io
from py_engine.host.gpu import Gpu
from py_engine.host.gpu_counting import CountingGpu
from py_engine.host.io import Io
from py_engine.inputs.media import listed
from py_engine.serve.calibration import Calibrator
from py_engine.serve.info import model_info
from py_engine.serve.life import LoadOn
from py_engine.serve.loading import estimate_model
from py_engine.serve.memory import Estimate
from py_engine.serve.methods import add_methods
from py_engine.serve.options import LoadOptions, Progress, check_place
from py_engine.serve.recovery import DeviceEvent, Losses
from py_engine.serve.sessions import SessionInfo, Sessions, require_runnable
from py_engine.serve.task_engine import TaskEngine
from py_engine.tasks.loaded import Loaded
from py_engine.tasks.seen import Seen

if TYPE_CHECKING:
    from py_engine.serve.device import Device


class Engine(TaskEngine):
    """A model on a GPU. Calls wait their turn, first come first served.

    Made by `Engine.load` or `Device.load`; `close()` frees every buffer.
    """

    def __init__(
        self, device: Device, placed: tuple[Gpu, Loaded], load_on: LoadOn, losses: Losses
    ) -> None:
        super().__init__(device, placed, load_on, losses)
        self.on_device: Callable[[DeviceEvent], object] | None = None
        # Only where groups of dispatches have to be proven on the device first, and the caller gave no strategy.
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
        kv: str = "auto",
        vision: str = "auto",
        context: int | None = None,
        context_classes: Sequence[int] | None = None,
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
        `dtype`: the form of plain weights, and of the KV cache. "f32": as stored, f32. "f16": F32 narrowed to F16, f16.
        "q8", "q4": quantised on the GPU while loading, by MLX's rule, f16. "auto": "q4" on phones and tablets
        (encoders: "f16"), elsewhere as stored, f16. Checkpoints that are quantised already keep their weights.
        `kv`: another form of the KV cache: "f32", "f16", or "q8", bytes that take 0.53 of f16's memory and round more
        (docs/conversations.md). "auto": `dtype`'s, or q8 where only that fits the memory budget and the device's limits
        (not with dtype="f32").
        `vision`: the tower of a model that sees pictures is loaded with it ("auto"; on phones and tablets "lazy"), with
        the first picture ("lazy"), or never ("off"). The memory budget counts it in the first two (docs/vision.md).
        `context`: tokens of prompt and answer together; None: the smaller of the model's and 4096 (512 on iOS). The KV
        cache begins with room for 512 and grows with the text, by an eighth at a time.
        `context_classes`: fixed sizes of the KV cache instead, in tokens; (): room for the whole context at once.
        `memory_budget`: the most GPU bytes that the load may take; None: no limit, on phones and tablets 1.2 GB.
        `strategy`: how dispatches are put into command buffers; None: all in one, on WebKit as many as were proven on
        this device. The `calibrator` finds out how many; `proven` is what it has reported before, {key: {"group",
        "passes"}}.
        `tune`: True: time the forms of kernels that were never timed on this device, and store the results (this takes
        some seconds, once; not on software adapters). None: use stored results. False: do not use them.
        `self_check`: whether the model's kernels are first run on known inputs and compared (docs/self-check.md); None:
        on every GPU but software adapters.
        `progress`: whether stderr shows how far the load is; None: on a terminal and in a notebook, if `on_progress` is
        not given.
        `on_device`: called when the GPU device is lost, in a load, in an answer or between them. Another device is
        opened, the model is loaded onto it, and what was interrupted goes on. With a `gpu` of the caller's this is not
        so: then calls raise DeviceLostError.
        `before_weights`: awaited once, when config, tokenizer and the headers of the weights were found right and no
        weight is allocated yet. That is the moment to close an engine whose place this one takes.
        Raises NoAdapterError, SelfCheckError, HubError, ModelError, OutOfMemoryError (MemoryBudgetError before anything
        was allocated), InputError, AbortError, DeviceLostError (after several losses); then nothing stays allocated.
        """
        check_place(model, gpu, io, host)
        options: dict[str, Any] = {
            "dtype": dtype, "kv": kv, "vision": vision, "context": context, "context_classes": context_classes,
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
        kv: str = "auto",
        vision: str = "auto",
        context: int | None = None,
        memory_budget: int | None = None,
    ) -> Estimate:
        """GPU bytes by kind that `load` with these arguments would take. Reads config.json and the headers of the
        weights; allocates nothing. A `memory_budget` refuses nothing here, but where it is short, long prompts run in
        smaller chunks.

        `gpu`: the GPU whose limits and features count; None: that of `host`, or WebGPU's defaults where there is none.
        Raises HubError, ModelError, InputError, OutOfMemoryError (a buffer above the device's limits).
        """
        check_place(model, gpu, io, host)
        options = LoadOptions.of(
            {
                "dtype": dtype,
                "kv": kv,
                "vision": vision,
                "context": context,
                "memory_budget": memory_budget,
            }  # fmt: skip
        )
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
    async def logits(
        self, ids: Sequence[int], *, reuse: bool = False, images: Sequence[Any] | None = None
    ) -> memoryview[float]:
        """Logits after the last id: float32, shape [vocab_size], as a buffer that numpy.asarray reads.

        All of `ids` are run; with `reuse` only those that the state has not seen, as in a generation. `images`: the
        pictures of a prompt in which the token of a picture stands once for each of its rows; each as describe_image
        takes it, or {"patches": ..., "grid": ...}.
        Raises InputError; ContextError when there are none, or more than the context.
        """
        flag("reuse", reuse)
        ids = token_ids(ids, self.vocab_size)
        seen = Seen(self._in_use(), listed(images))
        ids = seen.fill(ids)

        async def work(loaded: Loaded) -> memoryview[float]:
            decoder = loaded.decoder
            if not ids or len(ids) > decoder.state.context:
                raise ContextError(
                    f"{len(ids)} ids do not fit 1..{decoder.state.context}",
                    len(ids),
                    decoder.state.context,
                )
            self._lost_ids = []
            try:
                given = seen.given(loaded, ids)
                return memoryview(await decoder.logits(ids, reuse=reuse, given=given)).cast("f")
            finally:
                seen.forget(loaded)

        async with self._turn:
            return await self._survive(work, lambda: "prefill")

    # -- sessions ----------------------------------------------------------------------------------------------------

    async def save_session(self, name: str) -> SessionInfo:
        """Save what the model has seen on this device (natively below JERBOA_HOME, in a browser in its own storage). An
        older session of that name is replaced. Waits its turn. Raises InputError, StorageError; SessionError if the
        model had seen images or sounds and the GPU device was lost since."""

        async def work(loaded: Loaded) -> SessionInfo:
            decoder = loaded.decoder
            if not decoder.prefix.ids and self._lost_ids:
                require_runnable(name, self._lost_ids)
                await decoder.logits(self._lost_ids)  # run again what the lost state had seen
            return await self._open_sessions().save(name)

        async with self._busy("saving"):
            return await self._survive(work, lambda: "idle")

    async def restore_session(self, name: str) -> SessionInfo:
        """Bring a saved session back, bit by bit: the next tokens are the same as if it had never ended. A prompt that
        begins with its tokens continues from there.

        Raises SessionError when the session is missing, damaged, or of another model, revision, dtype, device, host or
        version; InputError, StorageError, OutOfMemoryError. Then nothing changes.
        """

        async def work(_: Loaded) -> SessionInfo:
            restored = await self._open_sessions().restore(name)
            self._lost_ids = []
            return restored

        async with self._busy("restoring"):
            return await self._survive(work, lambda: "idle")

    async def list_sessions(self) -> list[SessionInfo]:
        """The sessions that are saved on this device, of any model, the newest first. Raises StorageError."""
        return await self._open_sessions().all()

    async def delete_session(self, name: str) -> None:
        """Delete a saved session; an absent one is no error. Raises InputError, StorageError."""
        await self._open_sessions().delete(name)

    # -- life --------------------------------------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """Model, context used and in all, GPU bytes by kind, plan counts, adapter, status.

        status: "ready"; "generating", "embedding", "reranking" or, in a task that names nothing else, "working";
        "saving" or "restoring" (a session); "recovering" (from the loss of the GPU device); "lost" (no other device
        could take its place; the next call tries again); "closed".
        """
        return model_info(self._loaded, self._gpu, self._status)

    @property
    def runtime(self) -> Runtime:
        """What runs the model. For measurements."""
        return self._in_use().runtime

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[Decoder]:
        """The decoder, for the length of a block in which nothing else runs. For measurements of its plans.

        Afterwards the content of the KV cache is unknown, so nothing of it is reused. A session that is saved then
        holds what the model had seen before the block.
        """
        async with self._turn:
            self._device.used(self)
            await self._revive()
            decoder = self._in_use().decoder
            self._lost_ids = decoder.prefix.ids or self._lost_ids
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
