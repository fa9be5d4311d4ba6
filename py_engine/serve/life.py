"""The life of a model in use: its place in the queue, the loss of its device, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from py_engine.abort import Abort, or_abort
from py_engine.errors import ClosedError, DeviceLostError, EngineError
from py_engine.generate.decoder import Decoder
from py_engine.graph.kernels import Kernels
from py_engine.host.gpu import Gpu
from py_engine.serve.recovery import During, Losses
from py_engine.serve.sessions import Sessions
from py_engine.tasks.loaded import Loaded
from py_engine.work import Work

if TYPE_CHECKING:
    from py_engine.serve.device import Device

T = TypeVar("T")

# Loads the model onto a GPU with the kernels of that device.
LoadOn = Callable[[Gpu, Kernels, Abort], Awaitable[Loaded]]


class Life:
    """A loaded model on a device. Whoever uses it has its turn meanwhile, first come first served."""

    def __init__(
        self, device: Device, placed: tuple[Gpu, Loaded], load_on: LoadOn, losses: Losses
    ) -> None:
        self._device = device
        self._gpu, self._loaded = placed
        self._load_on = load_on
        self._losses = losses
        self._owns_device = False
        self._ending = Abort()
        self._given_up: Gpu | None = None  # a lost device, once its replacement was tried
        self._gone_ids: list[int] = []  # what the model had seen, where its state has it no more
        self._turn = asyncio.Lock()  # asyncio's lock wakes waiters in the order they came
        self._closed = ""  # why, once it is
        self._under_way: set[Work[Any, Any]] = set()  # queued and running
        self._status = "ready"
        self._sessions: Sessions | None = None

    @property
    def name(self) -> str:
        """The address that it was loaded from."""
        return self._loaded.name

    @property
    def idle(self) -> bool:
        """Nobody uses it, or waits to."""
        return not (self._turn.locked() or self._under_way or self._closed)

    @property
    def takes(self) -> int:
        """GPU bytes at most."""
        return self._loaded.takes

    def summary(self) -> dict[str, Any]:
        """`model` (its address), `status` (as in Engine.info) and `most_bytes` (of GPU memory)."""
        return {"model": self.name, "status": self._status, "most_bytes": self.takes}

    async def close(self) -> None:
        """Stop what runs, free every buffer and, if `Engine.load` opened it, the device. A second call does nothing,
        others raise ClosedError from then on."""
        await self._end("this engine is closed: load the model again")

    unload = close

    async def _end(self, why: str) -> None:
        if self._closed:
            return
        self._closed = why
        self._ending.set()
        for work in [*self._under_way]:
            work.stop()
        async with self._busy("closed"):
            self._loaded.release()
            self._device.left(self)
        if self._owns_device:
            await self._device.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(self._closed)

    def _in_use(self) -> Loaded:
        self._check_open()
        return self._loaded

    @asynccontextmanager
    async def _busy(self, status: str) -> AsyncIterator[None]:
        """Have the turn, and say meanwhile what for."""
        async with self._turn:
            self._device.used(self)
            self._status = status
            try:
                yield
            finally:
                broken = self._gpu is self._given_up
                self._status = "closed" if self._closed else "lost" if broken else "ready"

    # -- a lost device -----------------------------------------------------------------------------------------------

    async def _survive(
        self, work: Callable[[Loaded], Awaitable[T]], phase: Callable[[], During]
    ) -> T:
        """The result of `work`, which begins again with the model on another device when this one is lost. The caller
        holds the turn; `phase` tells what `work` is at. Raises DeviceLostError when that does not help."""
        await self._revive()
        while True:
            try:
                return await work(self._in_use())
            except DeviceLostError as error:
                await self._reload(error, phase())

    async def _revive(self) -> None:
        """See that there is a device, if it was lost while nobody used it. The caller holds the turn."""
        self._check_open()
        if self._device.recovers:
            self._losses.begin()
            await self._replace_lost()

    async def _replace_lost(self) -> None:
        reason = self._gpu.lost
        if reason and not self._closed:
            error = DeviceLostError(f"the GPU device was lost ({reason})", reason)
            await self._reload(error, "idle")

    async def _reload(self, error: DeviceLostError, during: During) -> None:
        """Put the model onto another device. The caller holds the turn."""
        if not self._device.recovers:
            raise error
        self._check_open()
        gpu, old, status = self._gpu, self._loaded, self._status
        self._given_up, self._status, self._sessions = gpu, "recovering", None
        if isinstance(old.runtime, Decoder):
            self._gone_ids = old.runtime.prefix.ids or self._gone_ids
        old.release()
        self._device.lost(gpu, error, during, self._losses)
        try:
            placing = self._device.place(self._load_on, self._losses, during, self._ending)
            self._gpu, new = await or_abort(placing, self._ending)
        finally:
            self._status = status
        new.runtime.strategy = old.runtime.strategy  # what was proven on this device meanwhile
        # Requests that wait were laid out by the old tokenizer and template, which are the same.
        self._loaded = replace(
            new, name=old.name, tokenizer=old.tokenizer, generating=old.generating
        )

    async def replace_when_idle(self, lost: Gpu) -> None:
        """Come back from the loss of this device, if nobody has seen to it when this one has the turn."""
        async with self._busy("recovering"):
            if self._gpu is lost and self._given_up is not lost and not self._closed:
                self._losses.begin_if_calm()
                with suppress(EngineError):  # on_device was told, and the next call tries again
                    await self._replace_lost()
