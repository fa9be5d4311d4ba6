"""The models of one page by name, on one device that is open as long as there are any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from py_engine.errors import InputError
from py_engine.serve.device import Device
from py_engine.serve.engine import Engine
from py_engine.serve.recovery import DeviceEvent

UNNAMED = ""  # what a page with one model loads


class Models:
    """At most one model for each name. The caller sees that loads and unloads take turns."""

    def __init__(self, on_device: Callable[[DeviceEvent], object]) -> None:
        self._on_device = on_device
        self._device: Device | None = None
        self._engines: dict[str, Engine] = {}

    async def load(self, name: str, repo: str, **options: Any) -> Engine:
        """Load `repo` by this name. A model that has the name is closed just before the new weights come. Options and
        errors as for Device.load."""

        async def gone() -> None:
            self._engines.pop(name, None)

        old = self._engines.get(name)
        try:
            if self._device is None:
                self._device = await Device.open(on_device=self._on_device)
            engine = await self._device.load(repo, replacing=old, before_weights=gone, **options)
        except BaseException:
            await self._close_if_empty()
            raise
        self._engines[name] = engine
        return engine

    def find(self, name: str | None) -> Engine:
        """The model of this name; None: the unnamed one, or the only one. Raises InputError when there is none."""
        engine = self.get(name)
        if engine is not None:
            return engine
        if not self._engines:
            raise InputError("no model is loaded: send a load message first")
        names = ", ".join(repr(n) if n else "(the unnamed one)" for n in self._engines)
        if name is None:
            raise InputError(f"several models are loaded, say which by `model`: {names}")
        raise InputError(f"no model is loaded as {name!r}. There are: {names}")

    def get(self, name: str | None) -> Engine | None:
        """The model that `find` gives, or None when there is none."""
        if name is not None:
            return self._engines.get(name)
        only = [*self._engines.values()]
        return self._engines.get(UNNAMED) or (only[0] if len(only) == 1 else None)

    def has(self, engine: Engine) -> bool:
        """Whether this engine is still loaded here."""
        return engine in self._engines.values()

    async def unload(self, name: str | None) -> None:
        """Free the model of this name (None as for `find`), and with the last model the device. An absent one is no
        error."""
        engine = self.get(name)
        for known, other in [*self._engines.items()]:
            if other is engine:
                del self._engines[known]
        if engine is not None:
            await engine.close()
        await self._close_if_empty()

    def info(self) -> list[dict[str, Any]]:
        """For each model its `name`, and `model`, `status` and `most_bytes` (Life.summary)."""
        return [{"name": name, **engine.summary()} for name, engine in self._engines.items()]

    async def _close_if_empty(self) -> None:
        if self._device is not None and not self._device.engines:
            device, self._device = self._device, None
            await device.close()
