"""One GPU device for several models, for programs without an event loop.

with SyncDevice.open() as device:
    writer = device.load("mlx-community/Qwen3-0.6B-4bit")
    encoder = device.load("sentence-transformers/all-MiniLM-L6-v2")
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Unpack

from py_engine.arguments import named_options
from py_engine.serve.background import Background
from py_engine.serve.device import Device
from py_engine.serve.options import Progress
from py_engine.serve.recovery import DeviceEvent
from py_engine.serve.sync import SharedLoadOptions, SyncEngine, loaded


class SyncDevice:
    """A GPU that models share, as Device, for callers that wait. Made by `SyncDevice.open`; `close()`, the end of a
    `with` block or that of the program closes its models and gives it back. Any thread may call it."""

    def __init__(self, device: Device, background: Background) -> None:
        self._device = device
        self._background = background
        self._end = weakref.finalize(self, _close, device, background)

    @classmethod
    @named_options
    def open(
        cls,
        host: str | None = None,
        *,
        memory_budget: int | None = None,
        on_device: Callable[[DeviceEvent], object] | None = None,
    ) -> SyncDevice:
        """Open the best GPU. Arguments and errors as for Device.open; `on_device` is called in the device's thread."""
        background = Background()
        try:
            opening = Device.open(host, memory_budget=memory_budget, on_device=on_device)
            return cls(background.wait(opening), background)
        except BaseException:
            background.close()
            raise

    def load(
        self,
        model: str,
        *,
        make_room: bool = False,
        progress: bool | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        **options: Unpack[SharedLoadOptions],
    ) -> SyncEngine:
        """Load one more model. `make_room`, options and errors as for Device.load, `progress` as for `load`."""
        given = {**options, "make_room": make_room}
        engine = loaded(self._background, self._device.load, model, progress, on_progress, given)
        return SyncEngine(engine, self._background, self)

    def info(self) -> dict[str, Any]:
        """Adapter, memory and models. As Device.info."""
        return self._device.info()

    def close(self) -> None:
        """Stop what runs, free every model and the GPU. A second call does nothing."""
        self._end()

    def __enter__(self) -> SyncDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._device).replace("<Device", "<SyncDevice", 1)


def _close(device: Device, background: Background) -> None:
    background.close(device.close())
