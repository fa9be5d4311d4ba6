"""Losses of a GPU device: how they are counted and reported, and how another device is opened (serve/device.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Literal

from py_engine.abort import Abort
from py_engine.errors import DeviceLostError, HostError, NoAdapterError
from py_engine.host.gpu import Gpu

During = Literal["load", "prefill", "decode", "idle"]

# A device that was idle for so long works with its models: a later loss is counted from one again.
CALM_S = 60.0
_OPENINGS = 4  # attempts to open a device; each waits for two seconds by itself
_PAUSE_S = 0.5


@dataclass(frozen=True)
class DeviceEvent:
    """A GPU device was lost, or what came of it. Reported once for each loss, however many models were on the device.

    state: "lost" (`message`: the host's reason): the model is being loaded onto another device. "recovered": it is
    there, and the interrupted work goes on. "failed": it could not be loaded (`message`: why); the next call tries
    again.
    during: what was interrupted. losses: how many devices were lost in this load or answer, or in a row while idle.
    These are of the model that noticed the loss; the other models of the device follow by themselves.
    """

    state: Literal["lost", "recovered", "failed"]
    during: During
    losses: int
    message: str


class Losses:
    """Counts the devices that one model has lost in the present load or answer. More than `most` are an error."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.count = 0
        # What was interrupted, between the report of a loss and the report of what came of it.
        self.during: During | None = None
        self._placed_at = monotonic()  # when the model came onto its device

    def begin(self) -> None:
        """Count anew, for a new load or answer."""
        self.count = 0
        self.during = None

    def begin_if_calm(self) -> None:
        """Count anew if the model was on its device for a while. For losses while idle."""
        if monotonic() - self._placed_at > CALM_S:
            self.begin()

    def placed(self) -> None:
        """Note that the model is on a device now."""
        self._placed_at = monotonic()

    def check(self) -> None:
        """Raise DeviceLostError after too many losses."""
        if self.count > self.most:
            raise DeviceLostError(
                f"the GPU was lost {self.count} times in a row. Choose a smaller model, context or dtype, and "
                "close other programs that use the GPU."
            )


async def reopen(open_device: Callable[[], Awaitable[Gpu]], abort: Abort) -> Gpu:
    """Open a device after a loss. The driver may need a while until there is one. Raises NoAdapterError, AbortError."""
    for _ in range(_OPENINGS):
        abort.check()
        try:
            return await open_device()
        except HostError as error:
            failure = error
        await asyncio.sleep(_PAUSE_S)
    raise NoAdapterError(
        "the GPU was lost, and there is none any more. Restart the browser or the program (a browser that lost its "
        f"GPU twice may refuse it until then); nothing else is lost. ({str(failure).split('. ')[0]}.)"
    ) from failure
