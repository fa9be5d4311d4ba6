"""What this run of the worker is at, written down, and what earlier runs died at, told to the page.

A run is the life of one worker. Its page names it (JERBOA_RUN) and says of earlier ones which ended in peace
(JERBOA_LEFT) and which ended unseen, in a hidden tab (JERBOA_UNSEEN).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from py_engine.host.io import Io
from py_engine.serve.answers import Crashed
from py_engine.serve.breadcrumbs import Breadcrumbs
from py_engine.serve.engine import Engine


class RunLog:
    """Of one run. `run`: its name."""

    def __init__(self, io: Io, tell: Callable[[Crashed], object]) -> None:
        self._io = io
        self._tell = tell
        self._looked_back: asyncio.Task[None] | None = None
        self.crumbs = Breadcrumbs(io)
        self.run = ""

    def begin(self) -> None:
        """Tell what earlier runs died at, and from now on write down what this one is at. Once, after the boot.

        Only for a page that has named this run: what is told is forgotten, so another page, which does not listen, must
        not hear it.
        """
        named = self._io.env("JERBOA_RUN")
        self.run = named or os.urandom(8).hex()
        if named:
            self._looked_back = asyncio.ensure_future(self._look_back())

    async def _look_back(self) -> None:
        for found in await self.crumbs.open(self.run, self._runs("JERBOA_LEFT")):
            context, group = (found.get(key) for key in ("context", "group"))
            self._tell(
                Crashed(
                    str(found["phase"]),
                    str(found.get("model", "")),
                    context if isinstance(context, int) else None,
                    group if isinstance(group, int) else None,
                )
            )

    def _runs(self, setting: str) -> list[str]:
        """Names of earlier runs, as the page gave them."""
        return (self._io.env(setting) or "").split(",")

    def excused(self) -> list[str]:
        """The earlier runs whose end says nothing against what was being tried."""
        return [*self._runs("JERBOA_LEFT"), *self._runs("JERBOA_UNSEEN")]

    async def told(self) -> None:
        """Wait until the page knows of earlier runs: whatever may end this one waits for it."""
        if self._looked_back is not None:
            await self._looked_back

    @asynccontextmanager
    async def at(
        self, phase: str, model: str, context: int | None, group: int | None
    ) -> AsyncIterator[None]:
        """Written down for the length of a block: `context` in tokens, `group` in dispatches a submit."""
        await self.told()
        async with self.crumbs.at(phase, model, context, group):
            yield

    def at_work(self, phase: str, engine: Engine) -> AbstractAsyncContextManager[None]:
        """The same, of an engine that is loaded."""
        info = engine.info()
        group = info.get("submit", {}).get("dispatches")
        return self.at(phase, info["model"], info.get("context", {}).get("max"), group)
