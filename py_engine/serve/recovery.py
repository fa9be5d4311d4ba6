"""A model outlives its GPU device: when the device is lost, another one is opened and the model loaded onto it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Literal

from py_engine.abort import Abort
from py_engine.errors import AbortError, DeviceLostError, EngineError, HostError, NoAdapterError
from py_engine.host.gpu import Gpu
from py_engine.tasks.loaded import Loaded

During = Literal["load", "prefill", "decode", "idle"]

# Of one load or answer, or in a row while idle: a device that cannot bear the model is lost again and again. A phone or
# tablet loses it for want of memory, and then a smaller setting helps, not patience.
MOST_LOSSES = 5
MOST_LOSSES_HANDHELD = 1
CALM_S = 60.0  # a device that was idle for so long has borne the model: its loss begins a new row
_OPENINGS = 4  # of an adapter that does not answer; each asks for two seconds by itself
_PAUSE_S = 0.5


@dataclass(frozen=True)
class DeviceEvent:
    """A GPU device was lost, and what became of that.

    state: "lost" (`message` is the host's reason): the model is being loaded onto another device; "recovered": it is
    there, and what was interrupted goes on; "failed": it could not be (`message`: why), and the next call tries again.
    during: what was interrupted. losses: how many devices this load or answer, or an idle engine in a row, has lost.
    """

    state: Literal["lost", "recovered", "failed"]
    during: During
    losses: int
    message: str


class Recovery:
    """Opens devices and loads one model onto them. `losses`: since `begin`; `most_losses` are borne."""

    def __init__(
        self,
        open_device: Callable[[], Awaitable[Gpu]],
        load_on: Callable[[Gpu, Abort], Awaitable[Loaded]],
        tell: Callable[[DeviceEvent], object],
        most_losses: int = MOST_LOSSES,
    ) -> None:
        self._open_device = open_device
        self._load_on = load_on
        self._tell = tell
        self._most_losses = most_losses
        self.losses = 0
        self._placed_at = monotonic()  # when the model came onto its device

    def begin(self) -> None:
        """Something new is asked for: losses are counted anew."""
        self.losses = 0

    def begin_if_calm(self) -> None:
        """Nothing is asked for: losses are counted anew if the model was borne for a while."""
        if monotonic() - self._placed_at > CALM_S:
            self.begin()

    async def load(self, abort: Abort) -> tuple[Gpu, Loaded]:
        """The model on a device, for the first time. Raises as Engine.load; then no device stays open."""
        return await self._told("load", self._load(abort))

    async def reload(
        self, error: DeviceLostError, during: During, abort: Abort
    ) -> tuple[Gpu, Loaded]:
        """The model on another device. Raises DeviceLostError (too often lost), NoAdapterError and as Engine.load."""
        self._count(error, during)
        return await self._told(during, self._load(abort))

    async def _told(
        self, during: During, load: Awaitable[tuple[Gpu, Loaded]]
    ) -> tuple[Gpu, Loaded]:
        try:
            placed = await load
        except AbortError:
            raise
        except EngineError as error:
            if self.losses:
                self._tell(DeviceEvent("failed", during, self.losses, str(error)))
            raise
        self._placed_at = monotonic()
        if self.losses:
            name = placed[0].info.description or placed[0].info.device or "the GPU"
            self._tell(DeviceEvent("recovered", during, self.losses, f"the model is on {name}"))
        return placed

    async def _load(self, abort: Abort) -> tuple[Gpu, Loaded]:
        while True:
            if self.losses > self._most_losses:
                raise DeviceLostError(
                    f"the GPU was lost {self.losses} times in a row. Choose a smaller model, context or dtype, and "
                    "close other programs that use the GPU."
                )
            gpu = await self._open(abort)
            try:
                return gpu, await self._load_on(gpu, abort)
            except DeviceLostError as error:
                gpu.close()
                self._count(error, "load")
            except BaseException:
                gpu.close()
                raise

    def _count(self, error: DeviceLostError, during: During) -> None:
        self.losses += 1
        self._tell(DeviceEvent("lost", during, self.losses, error.reason))

    async def _open(self, abort: Abort) -> Gpu:
        """A device. After a loss the driver may need a while until it gives one."""
        if not self.losses:
            return await self._open_device()
        for _ in range(_OPENINGS):
            abort.check()
            try:
                return await self._open_device()
            except HostError as error:
                failure = error
            await asyncio.sleep(_PAUSE_S)
        raise NoAdapterError(
            "the GPU was lost, and there is none any more. Restart the browser or the program (a browser that lost its "
            f"GPU twice may refuse it until then); nothing else is lost. ({str(failure).split('. ')[0]}.)"
        ) from failure
