"""A load: the model and its options, for the first time and for each time after a loss of the GPU."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from py_engine.abort import Abort
from py_engine.host import open_io
from py_engine.host.gpu import Gpu
from py_engine.host.io import Io
from py_engine.host.profile import profile_of
from py_engine.serve.loading import load_model
from py_engine.serve.memory import Taken
from py_engine.serve.options import LoadOptions, Progress
from py_engine.serve.progress import showing
from py_engine.tasks.loaded import Loaded

if TYPE_CHECKING:
    from py_engine.serve.device import Device
    from py_engine.serve.engine import Engine


class PlannedLoad:
    """A model and how it is loaded. `make_room`, `replacing`: as Device.load has them."""

    def __init__(
        self,
        device: Device,
        address: str,
        options: LoadOptions,
        io: Io | None,
        make_room: bool,
        replacing: Engine | None,
        before_weights: Callable[[], Awaitable[object]] | None,
    ) -> None:
        self._device = device
        self.address = address
        self.options = options
        self.io = io
        self.make_room = make_room
        self.replacing = replacing
        self._before_weights = before_weights
        self._first = True
        self._tell: Callable[[Progress], object] = lambda _: None
        self.budget = options.memory_budget

    async def on(self, gpu: Gpu, abort: Abort) -> Loaded:
        """Load the model onto a GPU. Errors as for Engine.load."""
        options = self.options
        with (
            opened_io(self.io) as io,
            showing(self.address, options.on_progress, options.progress) as self._tell,
        ):
            self.budget = options.memory_budget or profile_of(io.handheld).memory_budget
            loaded = await load_model(
                self.address, gpu, io, options, make_room=self._room,
                tell=self._tell, abort=abort, before_weights=self._place_is_free,
            )  # fmt: skip
        # A later load takes the same commit, wherever the branch points then, and the same form of the KV cache.
        self.address = loaded.pinned
        kv = loaded.kv_dtype if loaded.generating else options.kv
        self.options = replace(options, kv=kv)
        return loaded

    async def _room(self, needed: int) -> Taken:
        if self._first:
            return await self._device.make_room(self, needed)
        return Taken(self.budget)  # it has fitted beside the others before

    async def _place_is_free(self) -> None:
        before, self._before_weights = self._before_weights, None
        if before is not None:
            await before()
        if self.replacing is not None:
            replaced, self.replacing = self.replacing, None
            await replaced.close()

    def note(self, message: str) -> None:
        """Report a note to on_progress."""
        self._tell(Progress("note", message=message))

    def done(self) -> None:
        """Note that the model is in use: later loads only bring it back."""
        self._first = self.make_room = False


def opened_io(io: Io | None) -> AbstractContextManager[Io]:
    """The caller's Io, or a new one that is closed at the end of the block."""
    return closing(open_io()) if io is None else nullcontext(io)
