"""What the tasks that generate text share: the settings, the job, the messages to a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Annotated, Any, Protocol

from py_engine.arguments import flag, shown, whole
from py_engine.errors import ContextError, InputError
from py_engine.generate import run as generating
from py_engine.generate.answer import Answer, Generation
from py_engine.generate.given import Given
from py_engine.generate.markup import Splitter
from py_engine.generate.sampling import Sampling
from py_engine.generate.stream import Delta
from py_engine.inputs.tokenizer import require_text
from py_engine.inputs.window import Dropped
from py_engine.ops.sample import MAX_STOP_IDS
from py_engine.tasks.loaded import Loaded, TextSettings
from py_engine.tasks.task import During, Job, R, Request, Task, Told
from py_engine.work import Work

MAX_STOPS = 1000


class Rows(Protocol):
    """What the negative ids of a prompt stand for."""

    def given(self, loaded: Loaded, ids: Sequence[int]) -> Given | None:
        """The rows, made by a model that is loaded: after the loss of a device, by another."""

    def forget(self, loaded: Loaded) -> None:
        """Free what was made, after the run."""


@dataclass(frozen=True)
class TextRequest(Request[Generation]):
    """Settings of a generation. None: the default of the model (its generation_config), else of the engine."""

    _: KW_ONLY
    max_tokens: Annotated[
        int | None, "the most tokens of the answer; default: what the context has room for"
    ] = None
    temperature: Annotated[float | None, "0 takes the best token each time"] = None
    top_k: Annotated[int | None, "choose among so many tokens; 0 is off"] = None
    top_p: Annotated[float | None, "choose among the likeliest of this probability; 1 is off"] = (
        None
    )
    min_p: Annotated[float | None, "leave out what is less likely than this part of the best"] = (
        None
    )
    repetition_penalty: Annotated[float | None, "of tokens in prompt or answer; 1 is off"] = None
    presence_penalty: Annotated[float | None, "of tokens in the answer; 0 is off"] = None
    frequency_penalty: Annotated[float | None, "for each time a token is in the answer"] = None
    seed: Annotated[int | None, "of the random choice, 0 to 2**32 - 1"] = None
    stop: Annotated[str | Sequence[str] | None, "texts that end the answer"] = None
    ignore_eos: Annotated[bool | None, "go on to max_tokens, whatever the model says"] = None


# Fields of a TextRequest that are not settings of Sampling.
_OTHERS = ("max_tokens", "stop", "ignore_eos")


@dataclass(frozen=True)
class TokenEvent:
    """Message `token`: new text, never half a character. `num_tokens`: tokens generated so far; `tps`: tokens per
    second since the first. Thinking comes as `reasoning`, before all text. A tool call comes whole, in OpenAI's
    form."""

    text: str
    tps: float
    num_tokens: int
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class DroppedEvent:
    """Message `dropped`, once, before the first token: the chat does not fit the context, so the model does not see
    these messages (indices into those of the request), of so many `tokens`."""

    messages: list[int]
    tokens: int


@dataclass(frozen=True)
class TextAnswer:
    """Message `complete`: the whole answer. `finish_reason`: "stop", "length", "tool_calls" or "abort".

    `text` is the answer itself, `reasoning` the thinking before it. `tool_calls`: {"id", "type": "function",
    "function": {"name", "arguments": JSON text}}; `tool_call_errors`: why other calls stayed text, and how these break
    their schemas. `image_tokens`: how many of the prompt's tokens are rows of pictures.
    """

    text: str
    num_tokens: int
    tps: float
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    ttft_s: float
    reasoning: str = ""
    reasoning_tokens: int = 0
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    tool_call_errors: list[str] = field(default_factory=list)
    image_tokens: int = 0


class TextTask(Task[R]):
    """A task that generates text."""

    command = False  # the subcommand `generate` does it

    def lacks(self, loaded: Loaded) -> str | None:
        """A model that does not generate text lacks a decoder."""
        return None if loaded.generating else "a decoder that generates text"

    def unasked(self) -> Answer:
        """An empty answer."""
        return Answer(finish_reason="abort")

    def first(self, job: Job[Any, Any]) -> Iterable[Told]:
        """The messages that were left out of the conversation."""
        dropped = job.dropped if isinstance(job, TextJob) else None
        if dropped:
            yield "dropped", DroppedEvent([*dropped.messages], dropped.tokens)

    def event(self, event: Delta) -> Told:
        """A `token` message."""
        calls = [{**call} for call in event.tool_calls]
        return "token", TokenEvent(event.text, event.tps, event.num_tokens, event.reasoning, calls)

    def answer(self, answer: Answer) -> TextAnswer:
        """The answer and its numbers as one object."""
        return TextAnswer(
            answer.text,
            answer.completion_tokens,
            round(answer.timings.decode_tps, 2),
            answer.finish_reason,
            answer.prompt_tokens,
            answer.cached_tokens,
            answer.timings.ttft_s,
            answer.reasoning,
            answer.reasoning_tokens,
            [{**call} for call in answer.tool_calls],
            answer.tool_call_errors,
            answer.image_tokens,
        )


class TextJob(Job[Delta, Answer]):
    """One generation. After the loss of a device it continues after the tokens that came."""

    status = "generating"

    def __init__(
        self,
        request: generating.Request,
        dropped: Dropped | None = None,
        rows: Rows | None = None,
    ) -> None:
        """`rows`: as for text_job."""
        self.dropped = dropped
        self._request = request
        self._rows = rows
        self._run: generating.Run | None = None

    @property
    def phase(self) -> During:
        """Prefill or decode."""
        return self._run.phase if self._run else "prefill"

    async def run(self, loaded: Loaded, work: Work[Delta, Answer]) -> None:
        """Run until none of its steps are left in the GPU's queue. The answer is given earlier."""
        if self._run is None:
            self._run = generating.Run(
                self._request, work, loaded.tokenizer, loaded.io.now, loaded.load_s
            )
        rows = self._rows
        try:
            given = rows.given(loaded, self._request.ids) if rows else None
            await self._run.run(loaded.decoder, given)
        finally:
            if rows:
                rows.forget(loaded)

    def stopped(self) -> Answer:
        """The answer so far."""
        if self._run is not None:
            return self._run.finish()
        asked = self._request
        return Answer(
            prompt_tokens=len(asked.ids), image_tokens=asked.image_tokens, finish_reason="abort"
        )

    def work(self, run: Any) -> Generation:
        """A Generation that knows which messages were left out."""
        return Generation(run, self.dropped)


def text_job(
    loaded: Loaded,
    ids: list[int],
    request: TextRequest,
    splitter: Splitter | None = None,
    border: int | None = None,
    dropped: Dropped | None = None,
    rows: Rows | None = None,
) -> TextJob:
    """The job for a prompt's ids. `rows`: gives the rows of negative ids, of a picture. `splitter`: finds the marks in
    the answer; None: marks are text. `border`: as for Decoder.generate. `dropped`: messages that were left out. Raises
    InputError, ContextError."""
    context, text = loaded.decoder.state.context, loaded.text
    room = context - len(ids)
    images = sum(i < 0 for i in ids)
    seen = f" ({images} of them are of pictures)" if images else ""
    if room < 1:
        raise ContextError(
            f"the prompt of {len(ids)} tokens{seen} leaves no room in the context of {context}: shorten the "
            "conversation or load the model with a larger context",
            len(ids),
            context,
        )
    most = request.max_tokens
    max_tokens = room if most is None else whole("max_tokens", most, 1, 1 << 31)
    if max_tokens > room:
        raise ContextError(
            f"{len(ids)} prompt tokens{seen} + max_tokens={max_tokens} exceed the context of {context}: ask for at "
            f"most {room} tokens, shorten the conversation, or load the model with a larger context",
            len(ids),
            context,
        )
    stop = _stop_strings(request.stop)
    ignore_eos = flag("ignore_eos", request.ignore_eos) or text.ignore_eos
    names = [f.name for f in fields(TextRequest) if f.name not in _OTHERS]
    sampling = Sampling.make(
        text.sampling_defaults,
        {name: getattr(request, name) for name in names},
        () if ignore_eos else _stop_ids(text),
    )
    return TextJob(
        generating.Request(ids, sampling, max_tokens, stop, border, splitter or Splitter(), images),
        dropped,
        rows,
    )


def length(max_tokens: object) -> int | None:
    """max_tokens if it is valid, else None. An invalid value is reported later, with the other options."""
    with suppress(InputError):
        return whole("max_tokens", max_tokens, 1, 1 << 31)
    return None


def _stop_ids(text: TextSettings) -> tuple[int, ...]:
    """Ids that end an answer: the eos tokens in the model's files, and the end of a turn in its template."""
    return tuple(dict.fromkeys((*text.stop_ids, *text.template.turn_ends)))[:MAX_STOP_IDS]


def _stop_strings(stop: object) -> tuple[str, ...]:
    """The strings that end an answer. Raises InputError."""
    if stop is None:
        return ()
    strings = [stop] if isinstance(stop, str) else stop
    if not isinstance(strings, (list, tuple)) or len(strings) > MAX_STOPS:
        raise InputError(f"stop={shown(stop)}: give a str, or a list of at most {MAX_STOPS}")
    for place, text in enumerate(strings):
        if not require_text(text, f"stop[{place}]"):
            raise InputError(f"stop[{place}] is empty: it would end every answer at once")
    return tuple(strings)
