"""What comes out of a generation: deltas while it runs, an answer at its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from dataclasses import dataclass, field

from py_engine.abort import Abort
from py_engine.generate.stream import Delta, FinishReason
from py_engine.generate.tools import ToolCall
from py_engine.inputs.window import Dropped


@dataclass
class Timings:
    """Seconds and tokens per second; 0 where nothing was measured."""

    load_s: float = 0.0
    ttft_s: float = 0.0
    prefill_tps: float = 0.0
    decode_tps: float = 0.0


@dataclass(repr=False)
class Answer:
    """A whole generation. `tokens` without the stop token; `cached_tokens` of the prompt were not run again.

    `text` is the answer itself. `reasoning` is what the model thought before it, of `reasoning_tokens` (the marks
    around it counted). `tool_calls` are OpenAI's: {"id", "type", "function": {"name", "arguments": JSON text}};
    `tool_call_errors` say why others could not be read and stayed in `text`, and what of those that were read the
    tool's schema does not allow. `dropped`: the messages of the chat that
    the model did not see, since not all of them fit the context. `device_losses`: how often it was cut off by the
    loss of the GPU device, and went on.
    """

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    finish_reason: FinishReason = "stop"
    timings: Timings = field(default_factory=Timings)
    reasoning: str = ""
    reasoning_tokens: int = 0
    tool_calls: list[ToolCall] = field(default_factory=list)
    tool_call_errors: list[str] = field(default_factory=list)
    dropped: Dropped | None = None
    device_losses: int = 0

    @property
    def completion_tokens(self) -> int:
        """Number of tokens generated."""
        return len(self.tokens)

    def __repr__(self) -> str:
        """What is of interest in a prompt: no ids, and of long texts the beginning."""
        shown = [_shortened("text", self.text)]
        if self.reasoning:
            shown.append(_shortened("reasoning", self.reasoning))
        shown += [f"tool_calls={self.tool_calls!r}"] if self.tool_calls else []
        shown += [f"tool_call_errors={self.tool_call_errors!r}"] if self.tool_call_errors else []
        shown.append(f"finish_reason={self.finish_reason!r}")
        shown.append(f"prompt_tokens={self.prompt_tokens}")
        shown.append(f"completion_tokens={self.completion_tokens}")
        shown += [f"dropped={self.dropped!r}"] if self.dropped else []
        return f"Answer({', '.join(shown)})"


def _shortened(name: str, text: str) -> str:
    """`name='...'`, of long texts the beginning."""
    return f"{name}={text!r}" if len(text) <= 200 else f"{name}={text[:200]!r}..."


class Generation:
    """A generation that is queued or running: iterate it for deltas, or await it for the whole answer.

    It runs whether anybody looks yet or not. `stop()` ends it (finish_reason "abort"), and so does whoever looked and
    goes away before its end: a cancelled await, a loop over it that is left. `dropped`, from the beginning: see Answer.
    """

    def __init__(
        self, run: Callable[[Generation], Awaitable[None]], dropped: Dropped | None = None
    ) -> None:
        self.dropped = dropped
        self.abort = Abort()
        self._when_stopped: Callable[[], None] = lambda: None
        self._deltas: asyncio.Queue[Delta | None] = asyncio.Queue()
        self._tokens = 0  # of the deltas so far
        self._answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._task = asyncio.ensure_future(self._run(run))

    def __repr__(self) -> str:
        if not self._answer.done():
            state = "stopping" if self.abort.is_set else "running" if self._tokens else "waiting"
        elif error := self._answer.exception():
            state = f"failed: {error!r}"
        else:
            state = f"done: {self._answer.result().finish_reason}"
        return f"<Generation {state}, {self._tokens} tokens>"

    def stop(self) -> None:
        """End it now, queued or running. What came so far is the answer."""
        self.abort.set()
        if not self._answer.done():
            self._when_stopped()

    def on_stop(self, call: Callable[[], None]) -> None:
        """For the engine: how `stop` finishes the generation from here on."""
        self._when_stopped = call
        if self.abort.is_set:
            call()

    def emit(self, delta: Delta) -> None:
        """For the engine: a delta is ready."""
        self._tokens += delta.tokens
        self._deltas.put_nowait(delta)

    def finish(self, answer: Answer) -> None:
        """For the engine: this is the answer; whoever waits goes on, whatever clean-up the engine still does."""
        if not self._answer.done():
            answer.dropped = self.dropped
            self._answer.set_result(answer)
            self._deltas.put_nowait(None)

    async def _run(self, run: Callable[[Generation], Awaitable[None]]) -> None:
        try:
            await run(self)
        except BaseException as error:
            if not self._answer.done():
                self._answer.set_exception(error)
                self._answer.exception()  # whoever iterates sees it too; do not warn when nobody awaits
                self._deltas.put_nowait(None)
            if not isinstance(error, Exception):
                raise

    def __await__(self) -> Generator[None, None, Answer]:
        try:
            return (yield from asyncio.shield(self._answer).__await__())
        finally:
            self._left()

    async def __aiter__(self) -> AsyncIterator[Delta]:
        try:
            while (delta := await self._deltas.get()) is not None:
                yield delta
            # For whoever iterates again, or as well.
            self._deltas.put_nowait(None)
            await self
        finally:
            self._left()

    def _left(self) -> None:
        """Nobody looks any more."""
        if not self._answer.done():
            self.stop()
