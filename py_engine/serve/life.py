"""The life of a model in use: its queue, the loss of its device, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from py_engine.abort import Abort, or_abort
from py_engine.errors import ClosedError, DeviceLostError, EngineError
from py_engine.generate.decoder import Decoder
from py_engine.host.gpu import Gpu
from py_engine.serve.recovery import During, Losses
from py_engine.serve.sessions import Sessions
from py_engine.tasks.loaded import Loaded
from py_engine.work import Work

if TYPE_CHECKING:
    from py_engine.serve.device import Device

T = TypeVar("T")

# Loads the model onto a GPU, with the kernels of that device.
LoadOn = Callable[[Gpu, Abort], Awaitable[Loaded]]


class Life:
    """A loaded model on a device. One caller at a time has its turn, first come first served."""

    def __init__(
        self, device: Device, placed: tuple[Gpu, Loaded], load_on: LoadOn, losses: Losses
    ) -> None:
        self._device = device
        self._gpu, self._loaded = placed
        self._load_on = load_on
        self._losses = losses
        self._owns_device = False
        self._ending = Abort()
        self._given_up: Gpu | None = None  # the lost device, after an attempt to replace it
        self._lost_ids: list[int] = []  # what the model had seen before its state was lost
        self._turn = asyncio.Lock()  # asyncio's lock wakes waiters in the order they came
        self._closed = ""  # why it is closed; "" while it is open
        self._under_way: set[Work[Any, Any]] = set()  # queued and running
        self._status = "ready"
        self._sessions: Sessions | None = None
        self._companions: list[Callable[[], object]] = []

    @property
    def name(self) -> str:
        """The address that it was loaded from."""
        return self._loaded.name

    @property
    def loaded(self) -> Loaded:
        """The model in use, for what is built on engines. Raises ClosedError."""
        return self._in_use()

    @property
    def idle(self) -> bool:
        """Whether no caller uses it or waits for it."""
        return not (self._turn.locked() or self._under_way or self._closed)

    @property
    def takes(self) -> int:
        """The most GPU bytes that it takes."""
        return self._loaded.takes

    def summary(self) -> dict[str, Any]:
        """`model` (its address), `status` (as in Engine.info) and `most_bytes` (of GPU memory)."""
        return {"model": self.name, "status": self._status, "most_bytes": self.takes}

    async def close(self) -> None:
        """Stop what runs, free every buffer, and close the device if `Engine.load` opened it. A second call does
        nothing. All other calls raise ClosedError from then on."""
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
            for release in self._companions:
                release()
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
        """Wait for the turn and hold it for the length of a block, with this status."""
        async with self._turn:
            self._device.used(self)
            self._status = status
            try:
                yield
            finally:
                broken = self._gpu is self._given_up
                self._status = "closed" if self._closed else "lost" if broken else "ready"

    def ends_with(self, release: Callable[[], object]) -> None:
        """Call `release` when this engine is closed: it frees what somebody keeps on the same GPU."""
        self._companions.append(release)

    def never_mind(self, release: Callable[[], object]) -> None:
        """Undo `ends_with`."""
        self._companions = [known for known in self._companions if known != release]

    async def with_gpu(self, work: Callable[[Gpu, Loaded], Awaitable[T]], status: str) -> T:
        """The result of `work`, which has the engine's GPU and model in its turn. When the device is lost, `work` is
        called again with another one: what it had made on the old one is gone. Raises ClosedError, DeviceLostError."""
        async with self._busy(status):
            return await self._survive(lambda loaded: work(self._gpu, loaded), lambda: "idle")

    # -- a lost device -----------------------------------------------------------------------------------------------

    async def _survive(
        self, work: Callable[[Loaded], Awaitable[T]], phase: Callable[[], During]
    ) -> T:
        """The result of `work`. When the device is lost, `work` is called again with the model on another device.

        `phase` says what `work` is doing. The caller holds the turn. Raises DeviceLostError after too many losses.
        """
        await self._revive()
        while True:
            try:
                return await work(self._in_use())
            except DeviceLostError as error:
                await self._reload(error, phase())

    async def _revive(self) -> None:
        """Replace the device if it was lost while the model was idle. The caller holds the turn."""
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
            self._lost_ids = old.runtime.prefix.ids or self._lost_ids
        old.release()
        self._device.lost(gpu, error, during, self._losses)
        try:
            placing = self._device.place(self._load_on, self._losses, during, self._ending)
            self._gpu, new = await or_abort(placing, self._ending)
        finally:
            self._status = status
        new.runtime.strategy = old.runtime.strategy  # what was proven on this device meanwhile
        # Requests that wait were made with the old tokenizer and template, which the new ones equal.
        self._loaded = replace(
            new, name=old.name, tokenizer=old.tokenizer, generating=old.generating
        )

    async def replace_when_idle(self, lost: Gpu) -> None:
        """Recover from the loss of this device, unless that has happened before the model has its turn."""
        async with self._busy("recovering"):
            if self._gpu is lost and self._given_up is not lost and not self._closed:
                self._losses.begin_if_calm()
                with suppress(EngineError):  # on_device was called, and the next call tries again
                    await self._replace_lost()
