"""One GPU device for several models. It owns the compiled kernels, the memory budget and the recovery from a loss."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from py_engine.abort import Abort, or_abort
from py_engine.arguments import callback, flag, instance, named_options, whole
from py_engine.errors import (
    AbortError,
    ClosedError,
    DeviceLostError,
    EngineError,
    MemoryBudgetError,
    OutOfMemoryError,
)
from py_engine.graph.kernels import kernels_of
from py_engine.graph.submit import default_strategy
from py_engine.host import open_gpu
from py_engine.host.gpu import Gpu
from py_engine.host.io import Io
from py_engine.host.profile import profile_of
from py_engine.serve.calibration import Calibrator
from py_engine.serve.engine import Engine
from py_engine.serve.life import Life, LoadOn
from py_engine.serve.memory import Taken, mb
from py_engine.serve.options import LoadOptions, check_place
from py_engine.serve.planned_load import PlannedLoad, opened_io
from py_engine.serve.recovery import DeviceEvent, During, Losses, reopen
from py_engine.tasks.loaded import Loaded

OnDevice = Callable[[DeviceEvent], object]


class Device:
    """A GPU that models share. Made by `Device.open`; `close()` closes its models and the GPU.

    Each model has a queue of its own. Models that are asked at the same time take turns step by step, so none waits for
    another's whole answer. Loads run one after another, in the order of their calls, while other models answer.
    """

    def __init__(self, gpu: Gpu, *, recovers: bool = True, budget: int | None = None) -> None:
        """`recovers`: replace a lost GPU, and close the GPU at the end. False: the GPU belongs to the caller."""
        self._gpu = gpu
        self.recovers = recovers
        self._budget = budget
        self._engines: list[Engine] = []  # the least recently used first
        self._listeners: list[OnDevice] = []
        self._line = asyncio.Lock()  # of loads; asyncio's lock wakes waiters in the order they came
        self._opening = asyncio.Lock()
        self._ending = Abort()
        self._broken = False  # the GPU is lost, and no other was opened yet
        self._tried = False  # an attempt to open another one failed
        self._closed = False
        self._revivals: set[asyncio.Task[None]] = set()
        if recovers:
            gpu.on_lost = self.told_lost

    @classmethod
    @named_options
    async def open(
        cls,
        host: str | None = None,
        *,
        memory_budget: int | None = None,
        on_device: OnDevice | None = None,
    ) -> Device:
        """Open the best GPU.

        `host` (CPython only): "dawn" or "wgpu"; None: JERBOA_HOST's, else the first of the two that has a GPU in
        hardware. `memory_budget`: the most GPU bytes of all models together; None: no limit, on phones and tablets
        1.2 GB. `on_device`: called when the GPU is lost, once for all models.
        Raises NoAdapterError, HostError, InputError.
        """
        instance("host", host, str, "the name of a host")
        if memory_budget is not None:
            memory_budget = whole("memory_budget", memory_budget, 1, 1 << 53)
        callback("on_device", on_device)
        device = cls(await open_gpu(host), budget=memory_budget)
        if on_device is not None:
            device._listeners.append(on_device)
        return device

    @property
    def engines(self) -> tuple[Engine, ...]:
        """The models that are loaded, the least recently used first."""
        return tuple(self._engines)

    def info(self) -> dict[str, Any]:
        """The adapter, features, compiled pipelines, buffers and their bytes, the budget, and for each model its
        address, status and the most bytes that it takes."""
        counters = self._gpu.counters
        return {
            "adapter": vars(self._gpu.info),
            "features": sorted(self._gpu.features),
            "pipelines": counters.pipelines_created,
            "buffers": counters.live_buffers,
            "bytes": counters.live_bytes,
            "memory_budget": self._budget,
            "models": [engine.summary() for engine in self._engines],
        }

    async def load(
        self,
        model: str,
        *,
        make_room: bool = False,
        replacing: Engine | None = None,
        io: Io | None = None,
        abort: Abort | None = None,
        before_weights: Callable[[], Awaitable[object]] | None = None,
        **options: Any,
    ) -> Engine:
        """Load one more model. Options and errors as for Engine.load, without `gpu` and `host`.

        `memory_budget`: the most GPU bytes of all models of the device together, this one included. The device's own
        budget holds too. `make_room`: where a budget or the GPU's memory is not enough, unload idle models until it is,
        the least recently used first; notes of on_progress say which. `replacing`: an engine of this device whose place
        the new one takes. It is closed once everything but the weights was found right, and its bytes are not counted.
        Also raises ClosedError when the device is closed meanwhile.
        """
        check_place(model, None, io, None)
        chosen = LoadOptions.of(options)
        flag("make_room", make_room)
        instance("replacing", replacing, Engine, "an engine of this device")
        instance("abort", abort, Abort, "an Abort")
        callback("before_weights", before_weights)
        self._check_open()
        stop = Abort()
        asked = abort or Abort()
        for one in (asked, self._ending):
            one.then(stop.set)
        load = PlannedLoad(self, model, chosen, io, make_room, replacing, before_weights)
        try:
            return await or_abort(self._load(load, stop), stop)
        except AbortError as error:
            if self._closed and not asked.is_set:
                raise ClosedError(
                    f"the device was closed while {model} was being loaded"
                ) from error
            raise
        finally:
            for one in (asked, self._ending):
                one.never_mind(stop.set)

    async def _load(self, load: PlannedLoad, stop: Abort) -> Engine:
        async with self._line:
            self._check_open()
            with opened_io(load.io) as io:
                losses = Losses(profile_of(io.handheld).losses)
            tell = load.options.on_device
            if tell is not None and tell not in self._listeners:
                self._listeners.append(tell)
            try:
                placed = await self._first_place(load, losses, stop)
                engine = Engine(self, placed, load.on, losses)
                self._engines.append(engine)
            except BaseException:
                if tell is not None and all(e.on_device != tell for e in self._engines):
                    self._listeners.remove(tell)
                raise
            load.done()
            engine.on_device = tell
        try:
            engine.calibrator = await _calibrator(engine, load.options)
        except BaseException:
            await engine.close()
            raise
        return engine

    async def _first_place(
        self, load: PlannedLoad, losses: Losses, stop: Abort
    ) -> tuple[Gpu, Loaded]:
        """Put a model onto the device. Tries again after each model that is unloaded to free GPU memory."""
        while True:
            try:
                return await self.place(load.on, losses, "load", stop)
            except MemoryBudgetError:
                raise
            except OutOfMemoryError as error:
                taken = self._taken(load)
                if not taken.models:
                    raise
                if load.make_room and (victim := self._idle(load)):
                    await self._unload(victim, load)
                    continue
                raise OutOfMemoryError(
                    f"{error} Other models on this device take {taken}: close one, or load with make_room=True, which "
                    "unloads those that are idle."
                ) from error

    # -- memory ------------------------------------------------------------------------------------------------------

    def _taken(self, load: PlannedLoad) -> Taken:
        budgets = [n for n in (self._budget, load.budget) if n is not None]
        others = [e for e in self._engines if e is not load.replacing]
        return Taken(min(budgets, default=None), [(e.name, e.takes) for e in others])

    def _idle(self, load: PlannedLoad) -> Engine | None:
        """The least recently used idle engine."""
        return next((e for e in self._engines if e.idle and e is not load.replacing), None)

    async def make_room(self, load: PlannedLoad, needed: int) -> Taken:
        """What other models take. Unloads idle ones first, where the load asks for it and that is enough."""
        while load.make_room and needed:
            taken = self._taken(load)
            idle = sum(e.takes for e in self._engines if e.idle and e is not load.replacing)
            if taken.left is None or needed <= taken.left or needed > taken.left + idle:
                break
            victim = self._idle(load)
            assert victim is not None
            await self._unload(victim, load)
        return self._taken(load)

    async def _unload(self, engine: Engine, load: PlannedLoad) -> None:
        load.note(f"{engine.name} was unloaded to make room ({mb(engine.takes)}).")
        await engine._end(
            f"{engine.name} was unloaded to make room for {load.address}: load it again, or give the device a larger "
            "memory_budget"
        )

    # -- calls from its engines ---------------------------------------------------------------------------------------

    def used(self, engine: Life) -> None:
        """This engine is used now."""
        if engine in self._engines:
            self._engines.remove(engine)
            self._engines.append(engine)

    def left(self, engine: Life) -> None:
        """This engine was closed, and its buffers are freed."""
        self._engines = [e for e in self._engines if e is not engine]

    def lost(self, gpu: Gpu, error: DeviceLostError, during: During, losses: Losses) -> None:
        """An engine noticed that this GPU is lost. The first one reports it, and later what came of it."""
        losses.count += 1
        if not (self._tried if self._broken else gpu is self._gpu):
            return  # another engine has reported it
        self._broken, self._tried = True, False
        gpu.on_lost = None
        gpu.close()
        losses.during = during
        self._tell(DeviceEvent("lost", during, losses.count, error.reason))

    async def place(
        self, load_on: LoadOn, losses: Losses, during: During, abort: Abort
    ) -> tuple[Gpu, Loaded]:
        """Put a model onto the GPU, after each loss onto another one. Raises DeviceLostError after too many losses,
        NoAdapterError, and errors of Engine.load."""
        during = losses.during or during
        try:
            while True:
                gpu = await self._open(losses, abort)
                try:
                    loaded = await load_on(gpu, abort)
                    break
                except DeviceLostError as error:
                    if not self.recovers:
                        raise
                    owed = losses.during
                    self.lost(gpu, error, "load", losses)
                    losses.during = owed or losses.during
        except AbortError:
            raise
        except EngineError as error:
            if losses.during:
                self._tried = self._broken
                self._tell(DeviceEvent("failed", during, losses.count, str(error)))
                losses.during = None
            raise
        losses.placed()
        if losses.during:
            name = gpu.info.description or gpu.info.device or "the GPU"
            losses.during = None
            self._tell(DeviceEvent("recovered", during, losses.count, f"the model is on {name}"))
        return gpu, loaded

    async def _open(self, losses: Losses, abort: Abort) -> Gpu:
        """The GPU; another one of the same host when it is lost."""
        async with self._opening:
            losses.check()
            self._check_open()
            if self._broken:
                host = self._gpu.info.host
                gone, self._gpu = self._gpu, await reopen(lambda: open_gpu(host), abort)
                self._broken = False
                self._gpu.on_lost = self.told_lost
                if len(self._engines) > 1:
                    self._bring_back(gone)
            return self._gpu

    def told_lost(self, reason: str) -> None:  # noqa: ARG002
        """Called by the host after a loss. A running engine also notices by itself, an idle one does not."""
        self._bring_back(self._gpu)

    def _bring_back(self, gone: Gpu) -> None:
        task = asyncio.ensure_future(self._revive(gone))
        self._revivals.add(task)
        task.add_done_callback(self._revivals.discard)

    async def _revive(self, gone: Gpu) -> None:
        """Bring back every model of this GPU, the most recently used first. Calls do not wait for this."""
        for engine in reversed([*self._engines]):
            await engine.replace_when_idle(gone)

    def _tell(self, event: DeviceEvent) -> None:
        for tell in [*self._listeners]:
            tell(event)

    # -- close -------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Stop loads and answers, free every model and close the GPU. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._ending.set()
        await self._close_models()
        async with self._line:  # a load that was under way has cleaned up after itself
            await self._close_models()
            await asyncio.gather(*self._revivals, return_exceptions=True)
            await kernels_of(self._gpu).settle()
            if self.recovers:
                self._gpu.on_lost = None
                self._gpu.close()

    async def _close_models(self) -> None:
        for engine in [*self._engines]:
            await engine._end(
                "its device is closed: open one (Device.open) and load the model again"
            )

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("this device is closed: open another one (Device.open)")

    async def __aenter__(self) -> Device:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        name = self._gpu.info.device or self._gpu.info.description or "a GPU"
        state = "closed" if self._closed else f"{len(self._engines)} models"
        return f"<Device {name}, {state}>"


async def _calibrator(engine: Engine, options: LoadOptions) -> Calibrator | None:
    """A calibrator, where groups of dispatches must be proven on the device first and the caller gave no strategy."""
    given = options.strategy is not None
    if given or not default_strategy().await_each or not engine._loaded.generating:
        return None
    loaded = engine._loaded
    calibrator = Calibrator(engine._gpu, loaded.io, loaded.decoder, f"{loaded.name} {loaded.form}")
    await calibrator.start(loaded.decoder, options.proven)
    return calibrator
