"""Work of an engine on another thread, for callers that wait: SyncEngine's calls return it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Generic

from py_engine.generate.answer import Answer as TextAnswer
from py_engine.generate.answer import Generation
from py_engine.generate.stream import Delta, FinishReason
from py_engine.generate.tools import ToolCall
from py_engine.serve.background import WAIT_S, Background
from py_engine.work import Answer, Event, Work


class SyncWork(Generic[Event, Answer]):
    """Work that is queued or running: iterate it for events, or call `result()`, which waits for the answer.

    Leaving the loop before its end, by `break` or an error, stops the work. It can be iterated again.
    """

    def __init__(self, engine: object, background: Background, work: Work[Event, Answer]) -> None:
        """`engine`: kept, so that it lives as long as this."""
        self._engine = engine
        self._background = background
        self._work = work
        self._events: list[Event] = []
        self._ended = False
        self._news = threading.Condition()
        background.start(self._collect())

    async def _collect(self) -> None:
        """Collect the events. Runs in the engine's thread."""
        try:
            async for event in self._work:
                with self._news:
                    self._events.append(event)
                    self._news.notify_all()
        except Exception:  # `result` raises it
            pass
        finally:
            with self._news:
                self._ended = True
                self._news.notify_all()

    def __iter__(self) -> Iterator[Event]:
        at = 0
        try:
            while self._has(at):
                yield self._events[at]
                at += 1
        except BaseException:
            self.stop()
            raise
        self.result()

    def _has(self, at: int) -> bool:
        """Whether there is an event number `at`. Waits until that is known."""
        with self._news:
            while len(self._events) <= at and not self._ended:
                self._news.wait(WAIT_S)
            return at < len(self._events)

    def result(self) -> Answer:
        """Wait for the answer. Raises the error that ended the work."""
        try:
            return self._background.wait(_awaited(self._work))
        except KeyboardInterrupt:
            self.stop()
            raise

    def stop(self) -> None:
        """End it now, queued or running."""
        self._background.post(self._work.stop)

    def __repr__(self) -> str:
        return repr(self._work).replace("<", "<Sync", 1)


class SyncGeneration(SyncWork[Delta, TextAnswer]):
    """A generation that is queued or running: iterate it for deltas, or ask for the answer or a part of it.

    A generation that is stopped answers with what it generated before.
    """

    def __init__(self, engine: object, background: Background, work: Generation) -> None:
        super().__init__(engine, background, work)
        self.dropped = work.dropped  # the messages that did not fit the context

    @property
    def text(self) -> str:
        """The text of the answer. Waits for its end, as all of these do."""
        return self.result().text

    @property
    def reasoning(self) -> str:
        """What the model thought before it answered."""
        return self.result().reasoning

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The calls that the model makes of the tools it was offered."""
        return self.result().tool_calls

    @property
    def finish_reason(self) -> FinishReason:
        """Why the generation ended."""
        return self.result().finish_reason


async def _awaited(work: Work[Any, Answer]) -> Answer:
    return await work
