"""What is counted and told when a GPU device is lost, and how another one is opened (serve/device.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Literal

from py_engine.abort import Abort
from py_engine.errors import DeviceLostError, HostError, NoAdapterError
from py_engine.host.gpu import Gpu
from py_engine.host.profile import DESKTOP, HANDHELD

During = Literal["load", "prefill", "decode", "idle"]

MOST_LOSSES = DESKTOP.losses
MOST_LOSSES_HANDHELD = HANDHELD.losses
CALM_S = 60.0  # a device that was idle for so long has borne its models: its loss begins a new row
_OPENINGS = 4  # of an adapter that does not answer; each asks for two seconds by itself
_PAUSE_S = 0.5


@dataclass(frozen=True)
class DeviceEvent:
    """A GPU device was lost, and what became of that. Told once a loss, however many models were on the device.

    state: "lost" (`message` is the host's reason): the model is being loaded onto another device; "recovered": it is
    there, and what was interrupted goes on; "failed": it could not be (`message`: why), and the next call tries again.
    during: what was interrupted. losses: how many devices this load or answer, or an idle engine in a row, has lost.
    The model is the one that noticed; others of the device follow it by themselves.
    """

    state: Literal["lost", "recovered", "failed"]
    during: During
    losses: int
    message: str


class Losses:
    """Of one model: how many devices the present load or answer has lost. `most` are borne."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.count = 0
        self.during: During | None = None  # it told of a loss, and owes the word of what came of it
        self._placed_at = monotonic()  # when the model came onto its device

    def begin(self) -> None:
        """Something new is asked for: losses are counted anew."""
        self.count = 0
        self.during = None

    def begin_if_calm(self) -> None:
        """Nothing is asked for: losses are counted anew if the model was borne for a while."""
        if monotonic() - self._placed_at > CALM_S:
            self.begin()

    def placed(self) -> None:
        """The model is on a device."""
        self._placed_at = monotonic()

    def check(self) -> None:
        """Raise DeviceLostError after too many."""
        if self.count > self.most:
            raise DeviceLostError(
                f"the GPU was lost {self.count} times in a row. Choose a smaller model, context or dtype, and "
                "close other programs that use the GPU."
            )


async def reopen(open_device: Callable[[], Awaitable[Gpu]], abort: Abort) -> Gpu:
    """A device after a loss: the driver may need a while until it gives one. Raises NoAdapterError, AbortError."""
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
