"""Runs one generation: batches of sampled tokens come in, deltas and an answer go out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from py_engine.errors import AbortError
from py_engine.generate.answer import Answer, Timings
from py_engine.generate.decoder import Decoder, Sampled
from py_engine.generate.given import Given
from py_engine.generate.markup import Splitter
from py_engine.generate.sampling import Sampling
from py_engine.generate.stream import Delta, TextStream
from py_engine.inputs.tokenizer import Tokenizer
from py_engine.work import Work


@dataclass(frozen=True)
class Request:
    """A generation that was checked. `splitter`, for this one run, tells thinking and tool calls from text."""

    ids: list[int]
    sampling: Sampling
    max_tokens: int
    stop: tuple[str, ...]
    border: int | None = None  # see Decoder.generate
    splitter: Splitter = field(default_factory=Splitter)
    image_tokens: int = 0  # how many of `ids` stand for rows of pictures


class Run:
    """Feeds a Work. A stop by the caller finishes it at once; GPU steps in flight end afterwards."""

    def __init__(
        self,
        request: Request,
        generation: Work[Delta, Answer],
        tokenizer: Tokenizer,
        now: Callable[[], float],
        load_s: float,
    ) -> None:
        self._request = request
        self._generation = generation
        self._now = now
        self._load_s = load_s
        self._stream = TextStream(
            tokenizer.decoder(keep=request.splitter.ids),
            request.stop,
            request.sampling.stop_ids,
            request.max_tokens,
            request.splitter,
            tokenizer.control,
        )
        self._tokens: list[int] = []
        self._early = 0  # tokens of the first batch, whose time counts as the prompt's
        self._prefilled = 0  # tokens of the prompt that ran
        self._started = self._first = self._last = now()
        self.phase: Literal["prefill", "decode"] = "prefill"  # what is running, or failed
        self._begun = 0  # how often it began: once, and again after each loss of a device

    async def run(self, decoder: Decoder, given: Given | None = None) -> None:
        """Run until the answer is finished and none of its steps are left in the GPU's queue. `given`: rows of the
        negative ids.

        Raises DeviceLostError. When it is called again, with a decoder on another device, it continues after the tokens
        that came.
        """
        request, generation = self._request, self._generation
        if self._stream.finish_reason is not None:
            return  # the device was lost after the last token
        self._begun += 1
        self.phase = "prefill"
        steps = decoder.generate(
            request.ids, request.sampling, request.max_tokens, generation.abort, request.border, tuple(self._tokens),
            given,
        )  # fmt: skip
        try:
            async for batch in steps:
                self.phase = "decode"
                if not self._tokens:
                    self._prefilled = decoder.prefilled
                if generation.abort.is_set or self._take(batch):
                    break
        except AbortError:
            pass  # stopped while the prompt was running: an answer without text
        finally:
            await steps.aclose()  # steps in flight end before the next call uses the state
            decoder.keep([*request.ids, *self._shown()])
        self.finish()

    def _take(self, batch: Sequence[Sampled]) -> bool:
        """Put a batch through the text stream. Returns whether it ended the answer."""
        self._last = self._now()
        if not self._tokens:
            self._first = self._last
        ids = [sampled.token for sampled in batch]
        delta = self._stream.push(ids)
        self._tokens += ids[: delta.tokens]
        self._early = self._early or delta.tokens
        self._emit(delta)
        if delta.finish_reason is not None:
            self.finish()
        return delta.finish_reason is not None

    def _emit(self, delta: Delta) -> None:
        self._generation.emit(
            replace(delta, num_tokens=len(self._tokens), tps=round(self._decode_tps(), 2))
        )

    def _decode_tps(self) -> float:
        """Tokens per second since the first batch; 0 before the second one."""
        decoding = self._last - self._first
        return (len(self._tokens) - self._early) / decoding if decoding > 0 else 0.0

    def finish(self) -> Answer:
        """Finish the answer, with reason "abort" when nothing else has ended it."""
        stream, tokens = self._stream, self._tokens
        if stream.finish_reason is None:
            self._emit(stream.finish("abort"))
        waiting = self._first - self._started
        prefilled = self._prefilled
        answer = Answer(
            stream.text,
            self._answered(),
            len(self._request.ids),
            len(self._request.ids) - prefilled if tokens else 0,
            stream.finish_reason or "abort",
            Timings(
                self._load_s,
                waiting,
                prefilled / waiting if waiting > 0 else 0.0,
                self._decode_tps(),
            ),
            stream.reasoning,
            stream.reasoning_tokens,
            stream.tool_calls,
            stream.errors,
            device_losses=max(0, self._begun - 1),
            image_tokens=self._request.image_tokens,
        )
        self._generation.finish(answer)
        return answer

    def _answered(self) -> list[int]:
        """The tokens, without the stop token that ended them."""
        ended = self._tokens and self._tokens[-1] in self._request.sampling.stop_ids
        return self._tokens[:-1] if ended else list(self._tokens)

    def _shown(self) -> list[int]:
        """The tokens whose whole text is in the answer, so none that a stop string cut off."""
        return self._answered()[: self._stream.kept_tokens]
