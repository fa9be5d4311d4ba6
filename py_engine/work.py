"""What a model was asked and has not finished yet: events while it runs, an answer at its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar

from py_engine.abort import Abort

Event = TypeVar("Event")
Answer = TypeVar("Answer")


class Work(Generic[Event, Answer]):
    """A request that is queued or running: iterate it for events, or await it for the answer.

    It runs whether anybody looks yet or not. `stop()` ends it, and so does whoever looked and goes away before its
    end: a cancelled await, a loop over it that is left. What a stopped one answers is its task's affair: what came so
    far, or AbortError where a part is of no use.
    """

    def __init__(self, run: Callable[[Any], Awaitable[None]]) -> None:
        """`run` is called with this object, and calls its `emit` and `finish`."""
        self.abort = Abort()
        self._when_stopped: Callable[[], object] = lambda: None
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._begun = False
        self._answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._task = asyncio.ensure_future(self._run(run))

    def __repr__(self) -> str:
        if not self._answer.done():
            state = "stopping" if self.abort.is_set else "running" if self._begun else "waiting"
        elif error := self._answer.exception():
            state = f"failed: {error!r}"
        else:
            state = f"done{self._ended(self._answer.result())}"
        return f"<{type(self).__name__} {state}{self._progress()}>"

    def _ended(self, answer: Answer) -> str:  # noqa: ARG002
        """What `repr` says of the end."""
        return ""

    def _progress(self) -> str:
        """What `repr` says of how far it is."""
        return ""

    def stop(self) -> None:
        """End it now, queued or running."""
        self.abort.set()
        if not self._answer.done():
            self._when_stopped()

    def on_stop(self, call: Callable[[], object]) -> None:
        """For the engine: how `stop` finishes it from here on."""
        self._when_stopped = call
        if self.abort.is_set:
            call()

    def emit(self, event: Event) -> None:
        """For the engine: an event is ready."""
        self._begun = True
        self._events.put_nowait(event)

    def finish(self, answer: Answer) -> None:
        """For the engine: this is the answer; whoever waits goes on, whatever clean-up the engine still does."""
        if not self._answer.done():
            self._answer.set_result(answer)
            self._events.put_nowait(None)

    def fail(self, error: BaseException) -> None:
        """For the engine: there is no answer, since this happened."""
        if not self._answer.done():
            self._answer.set_exception(error)
            self._answer.exception()  # whoever iterates sees it too; do not warn when nobody awaits
            self._events.put_nowait(None)

    async def _run(self, run: Callable[[Any], Awaitable[None]]) -> None:
        try:
            await run(self)
        except BaseException as error:
            self.fail(error)
            if not isinstance(error, Exception):
                raise

    def __await__(self) -> Generator[None, None, Answer]:
        try:
            return (yield from asyncio.shield(self._answer).__await__())
        finally:
            self._left()

    async def __aiter__(self) -> AsyncIterator[Event]:
        try:
            while (event := await self._events.get()) is not None:
                yield event
            # For whoever iterates again, or as well.
            self._events.put_nowait(None)
            await self
        finally:
            self._left()

    def _left(self) -> None:
        """Nobody looks any more."""
        if not self._answer.done():
            self.stop()
