"""The result of a generation: deltas while it runs, an answer at its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from py_engine.generate.stream import Delta, FinishReason
from py_engine.generate.tools import ToolCall
from py_engine.inputs.window import Dropped
from py_engine.work import Work


@dataclass
class Timings:
    """Seconds and tokens per second; 0 where nothing was measured."""

    load_s: float = 0.0
    ttft_s: float = 0.0
    prefill_tps: float = 0.0
    decode_tps: float = 0.0


@dataclass(repr=False)
class Answer:
    """A whole generation. `tokens`: ids without the stop token. `cached_tokens`: tokens of the prompt that were not run
    again.

    `text` is the answer itself. `reasoning` is what the model thought before it; `reasoning_tokens` counts the marks
    around it, too. `tool_calls` have OpenAI's form: {"id", "type", "function": {"name", "arguments": JSON text}}.
    `tool_call_errors` say why other calls could not be read and stayed in `text`, and how calls that were read break
    the tool's schema. `dropped`: the messages of the chat that the model did not see, because they did not fit the
    context. `device_losses`: how often the GPU device was lost while the answer was generated, and it went on.
    `image_tokens`: how many of the prompt's tokens are rows of pictures.
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
    image_tokens: int = 0

    @property
    def completion_tokens(self) -> int:
        """Number of tokens generated."""
        return len(self.tokens)

    def __repr__(self) -> str:
        """What one wants to see at the prompt: no ids, and only the beginning of long texts."""
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
    """`name='...'`, with only the beginning of a long text."""
    return f"{name}={text!r}" if len(text) <= 200 else f"{name}={text[:200]!r}..."


class Generation(Work[Delta, Answer]):
    """Text that is queued or being generated: iterate it for deltas, or await it for the whole answer.

    `stop()`, or leaving the loop or the await, ends it. The answer is then what came so far, with finish_reason
    "abort". `dropped` (as in Answer) is known from the beginning.
    """

    def __init__(
        self, run: Callable[[Any], Awaitable[None]], dropped: Dropped | None = None
    ) -> None:
        self.dropped = dropped
        self._tokens = 0  # of the deltas so far
        super().__init__(run)

    def emit(self, event: Delta) -> None:
        """For the engine: a delta is ready."""
        self._tokens += event.tokens
        self._begun = self._begun or event.tokens > 0
        self._events.put_nowait(event)

    def finish(self, answer: Answer) -> None:
        """For the engine: this is the answer."""
        if not self._answer.done():
            answer.dropped = self.dropped
        super().finish(answer)

    def _ended(self, answer: Answer) -> str:
        return f": {answer.finish_reason}"

    def _progress(self) -> str:
        return f", {self._tokens} tokens"
