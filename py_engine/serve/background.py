"""An event loop in a thread of its own, for callers that have none and wait."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from py_engine.errors import InputError
from py_engine.host import IN_BROWSER

T = TypeVar("T")

WAIT_S = 0.1  # Windows tells of Ctrl-C only between two waits
CLOSE_S = 10.0  # the longest wait for the thread at the end of a program


class Background:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        if IN_BROWSER:
            raise InputError(
                "a browser's Python cannot wait for a GPU: use `await jerboa.Engine.load(...)`"
            )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="jerboa", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether the thread has ended."""
        return not self._thread.is_alive()

    def start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run `work` in the thread. Raises InputError after `close`, and in the thread itself, which cannot wait."""
        inside = threading.current_thread() is self._thread
        if self.closed or inside:
            work.close()
            raise InputError(
                "this engine cannot wait inside a callback of its own: use another thread"
                if inside
                else "this engine is closed: load the model again"
            )
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the thread and wait for it. An interrupt of the caller cancels it."""
        future = self.start(work)
        try:
            while not future.done():
                concurrent.futures.wait([future], timeout=WAIT_S)
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def post(self, work: Callable[[], object]) -> None:
        """Call `work` in the thread soon, without waiting. Does nothing after `close`."""
        if not self.closed:
            self._loop.call_soon_threadsafe(work)

    def finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` in the thread and wait for it, except in the thread itself. Does nothing after `close`."""
        if self.closed:
            work.close()
        elif threading.current_thread() is self._thread:  # which may collect garbage, too
            asyncio.run_coroutine_threadsafe(work, self._loop)
        else:
            self.wait(work)

    def close(self, last: Coroutine[Any, Any, None] | None = None) -> None:
        """Run `last`, cancel what else runs, then end the thread. A second call does nothing."""
        if self.closed:
            if last:
                last.close()
            return

        async def end() -> None:
            try:
                if last:
                    await last
            finally:
                others = asyncio.all_tasks() - {asyncio.current_task()}
                for task in others:
                    task.cancel()
                await asyncio.gather(*others, return_exceptions=True)
                self._loop.call_soon(self._loop.stop)

        asyncio.run_coroutine_threadsafe(end(), self._loop)
        if threading.current_thread() is not self._thread:  # which may collect garbage, too
            self._thread.join(CLOSE_S)
            if self.closed:
                self._loop.close()
