"""A flag that says stop, handed to loads and generations."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from py_engine.errors import AbortError

T = TypeVar("T")


class Abort:
    """Set once by whoever wants the work to end; the work looks at it between small steps."""

    def __init__(self) -> None:
        self._set = False
        self._calls: list[Callable[[], object]] = []

    def __repr__(self) -> str:
        return f"<Abort {'set' if self._set else 'not set'}>"

    def set(self) -> None:
        """Ask the work to stop."""
        self._set = True
        calls, self._calls = self._calls, []
        for call in calls:
            call()

    @property
    def is_set(self) -> bool:
        """Whether stop was asked for."""
        return self._set

    def check(self) -> None:
        """Raise AbortError when stop was asked for."""
        if self._set:
            raise AbortError("stopped by the caller")

    def then(self, call: Callable[[], object]) -> None:
        """Have this called once stop is asked for: now, if it was already."""
        if self._set:
            call()
        else:
            self._calls.append(call)

    def never_mind(self, call: Callable[[], object]) -> None:
        """What was given to `then` need not be called any more."""
        if call in self._calls:
            self._calls.remove(call)


async def or_abort(work: Awaitable[T], abort: Abort) -> T:
    """The result of `work`, which a stop, or a cancelled caller, ends wherever it waits. Raises AbortError; then the
    work has cleaned up after itself."""
    task = asyncio.ensure_future(work)
    stopped = asyncio.Event()
    abort.then(stopped.set)
    waiting = asyncio.ensure_future(stopped.wait())
    try:
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            abort.check()
        return task.result()
    finally:
        abort.never_mind(stopped.set)
        waiting.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
