"""The tasks of a model in use: `ask` with a request, and the methods that are short for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Never, Unpack, cast

from py_engine.arguments import flag, named_options, token_ids
from py_engine.errors import AbortError, ClosedError, InputError
from py_engine.generate.answer import Generation
from py_engine.generate.given import Given, check_ids
from py_engine.generate.options import Options
from py_engine.generate.tools import check_tools
from py_engine.inputs.media import take_media
from py_engine.inputs.window import Messages
from py_engine.pictures.picture import Picture, read_picture
from py_engine.serve.life import Life
from py_engine.tasks import task_of, tasks_of
from py_engine.tasks.chat import ChatRequest
from py_engine.tasks.complete import CompleteRequest
from py_engine.tasks.describe import PROMPT, DescribeRequest
from py_engine.tasks.embed import Embeddings, EmbedRequest
from py_engine.tasks.fields import made
from py_engine.tasks.loaded import Loaded
from py_engine.tasks.rerank import Ranking, RerankRequest
from py_engine.tasks.seen import Seen
from py_engine.tasks.similarity import Similarities, SimilarityRequest
from py_engine.tasks.task import Job, Request, W
from py_engine.tasks.text import text_job
from py_engine.work import Answer, Event, Work


class _Given:
    """Rows that are given as they are."""

    def __init__(self, given: Given) -> None:
        self._given = given

    def given(self, loaded: Loaded, ids: Sequence[int]) -> Given:  # noqa: ARG002
        """The rows."""
        return self._given

    def forget(self, loaded: Loaded) -> None:
        """Nothing was made."""


class TaskEngine(Life):
    """A model in use that does tasks, one after another."""

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that this model can do. Each is a method, too."""
        return tasks_of(self._loaded)

    def ask(self, request: Request[W]) -> W:
        """Do what a request asks for. `chat`, `complete`, `embed` and `rerank` are short for this.

        The request is checked at once; then it waits its turn. Raises InputError, also for a task that this model
        cannot do; the message then names the tasks that it can do.
        """
        return cast(W, self.start(self.prepare(request)))

    def prepare(self, request: Request[Any]) -> Job[Any, Any]:
        """The first half of `ask`: check the request, for callers that look at the job before it queues."""
        loaded, task = self._in_use(), task_of(request)
        if lack := task.lacks(loaded):
            raise loaded.cannot(f"{task.name}: it lacks {lack}")
        return task.prepare(loaded, request)

    def start(self, job: Job[Event, Answer]) -> Work[Event, Answer]:
        """The second half of `ask`: queue the job that `prepare` gave."""
        return job.work(partial(self._do, job))

    def chat(
        self,
        messages: Messages,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        enable_thinking: bool | None = None,
        **options: Unpack[Options],
    ) -> Generation:
        """Answer a conversation by the model's chat template.

        messages: {"role": "system" | "user" | "assistant" | "tool", "content": str}, the last one to be answered;
        content may be a list of parts: {"type": "text", "text": str} and, for a model that sees, {"type": "image",
        "image": bytes of a file, a path, an array [height, width, 3] of uint8, a PIL image or a Picture},
        {"type": "image_url", "image_url": {"url": "data:..."}} and {"type": "video", "frames": [...], "fps": 2}
        (docs/vision.md). A message of the assistant may hold the `reasoning` and
        `tool_calls` of its Answer. The result of a tool is a message with role "tool" and the call's id as
        `tool_call_id`. The prompt holds every text but finished thinking, or the call is refused
        (docs/conversations.md).
        tools: what the model may call, {"type": "function", "function": {"name", "description", "parameters"}} each.
        Its calls come as `tool_calls` of deltas and of the Answer, whose finish_reason is then "tool_calls".
        enable_thinking: whether the model thinks first, where the template has that switch; None: the template decides.
        Thinking comes as `reasoning`, apart from `text`. Stop strings are not searched in it. They may hold control
        tokens.
        options: max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty,
        frequency_penalty, seed, stop (str or list), ignore_eos (generate/options.py).
        When the messages and max_tokens (or some room for an answer) exceed the context, the oldest turns are left
        out (docs/conversations.md); `dropped` of the Generation and of the Answer says which.
        Raises InputError at once; ContextError, with the numbers, when the newest turn alone does not fit.
        """
        return self.ask(
            made(
                ChatRequest,
                messages=messages,
                tools=tools,
                enable_thinking=enable_thinking,
                **options,
            )
        )

    def complete(self, prompt: str, **options: Unpack[Options]) -> Generation:
        """Continue a plain text. Options as for `chat`. Control tokens in the prompt stay plain text.

        Raises InputError at once.
        """
        return self.ask(made(CompleteRequest, prompt=prompt, **options))

    def describe_image(
        self,
        image: Any = None,
        *,
        pixels: Any = None,
        width: int | None = None,
        height: int | None = None,
        patches: Any = None,
        grid: Sequence[int] | None = None,
        prompt: str = PROMPT,
        **options: Unpack[Options],
    ) -> Generation:
        """Say what is in a picture, or answer a question about it (`prompt`), without thinking first.

        image: bytes of a file, a path, a data: address, an array [height, width, 3] of uint8, a PIL image. Or pixels:
        such an array, or raw bytes with `width` and `height`. Or patches, float32 [n, k] as the model's image processor
        gives them, with their grid (1, rows, columns). Options as for `chat`. Raises InputError at once.
        """
        return self.ask(
            made(
                DescribeRequest, image,
                pixels=pixels, width=width, height=height, patches=patches, grid=grid, prompt=prompt,
                **options,
            )
        )  # fmt: skip

    async def read_picture(self, source: Any, *, allow_urls: bool = False) -> Picture:
        """A picture for parts of messages and `describe_image`, decoded now.

        source: as `describe_image` takes it, or an http(s) address, which is fetched if `allow_urls`. Close it when it
        is not asked about any more. Raises InputError, HubError (the address answers with an error), HostError.
        """
        return await read_picture(source, self._in_use().io, allow_urls=allow_urls)

    def embed(
        self,
        texts: Sequence[str] | None = None,
        *,
        ids: Sequence[int] | None = None,
        task: str | None = None,
        dimensions: int | None = None,
    ) -> Work[Never, Embeddings]:
        """A float32 vector of unit length for each text, in their order. numpy.asarray reads them without copying.

        ids: token ids of one text instead of texts, special tokens included. task: "query", "document" or another one
        that the model has a prompt for; the prompt is put before each text. dimensions: take only so many first numbers
        of each vector, brought to unit length again. A text that is too long for the model is cut, but keeps its
        special tokens.
        Raises InputError at once.
        """
        return self.ask(EmbedRequest(texts, ids=ids, task=task, dimensions=dimensions))

    def similarity(
        self,
        texts: Sequence[str] | Sequence[Sequence[float]],
        others: Sequence[str] | Sequence[Sequence[float]] | None = None,
        *,
        task: str | None = None,
        others_task: str | None = None,
        dimensions: int | None = None,
    ) -> Work[Never, Similarities]:
        """The cosine of each text with each of the others, or of all with each other; of vectors likewise.

        task, others_task: what the texts are, as of `embed`. dimensions: compare only so many first numbers of vectors.
        Raises InputError at once.
        """
        return self.ask(
            SimilarityRequest(
                texts, others, task=task, others_task=others_task, dimensions=dimensions
            )
        )

    def rerank(
        self,
        query: str | None = None,
        documents: Sequence[str] | None = None,
        *,
        top_n: int | None = None,
        instruction: str | None = None,
        ids: Sequence[int] | None = None,
        types: Sequence[int] | None = None,
    ) -> Work[Never, Ranking]:
        """How well each document answers the query, a score from 0 to 1; the best first (docs/rerank.md).

        top_n: give only the best so many. instruction: what a document is to do for the query, for models that take a
        prompt (Qwen3-Reranker). A document that is too long for the model is cut, the query never. ids, types: token
        ids of one pair and their token types instead of texts; the answer then holds its `relevance_score` alone.
        Raises InputError at once; ContextError, with the numbers, when the query leaves no room for a document.
        """
        return self.ask(
            RerankRequest(
                query, documents, top_n=top_n, instruction=instruction, ids=ids, types=types
            )
        )

    @named_options
    def count_tokens(
        self,
        content: str | Messages,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        enable_thinking: bool | None = None,
    ) -> int:
        """Number of tokens of a text, or of a conversation as `chat` would lay it out with these `tools` and
        `enable_thinking`, generation prompt and pictures included. Raises InputError, also for `tools` or
        `enable_thinking` beside a text."""
        flag("enable_thinking", enable_thinking)
        offered = check_tools(tools)
        if not isinstance(content, str):
            loaded = self._loaded
            said, media = take_media(content)
            pieces = loaded.text.template.pieces(said, offered, enable_thinking=enable_thinking)
            return len(Seen(loaded, media).encode(pieces, said))
        if offered or enable_thinking is not None:
            raise InputError(
                "tools and enable_thinking belong to a conversation: give messages, not a text"
            )
        return self._loaded.tokenizer.count_tokens(content)

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return self._loaded.decoder.model.vocab_size

    def generate(self, ids: Sequence[int], **options: Unpack[Options]) -> Generation:
        """Continue after token ids. Options as for `chat`; ignore_eos=True goes on to max_tokens.

        Raises InputError at once.
        """
        return self.ask(made(CompleteRequest, ids=token_ids(ids, self.vocab_size), **options))

    def _generate_given(
        self, ids: Sequence[int], given: Given, **options: Unpack[Options]
    ) -> Generation:
        """`generate` after ids of which the negative ones stand for given rows, of images or sounds."""
        check_ids(ids, self.vocab_size, given)
        request = made(CompleteRequest, **options)
        job = text_job(self._in_use(), list(ids), request, rows=_Given(given))
        return cast(Generation, self.start(job))

    async def generate_ids(
        self, ids: Sequence[int], most: int = 32, /, **options: Unpack[Options]
    ) -> list[int]:
        """At most `most` (or max_tokens) ids that follow `ids`, without the stop token. Options as for `chat`; the
        temperature is 0 unless one is given."""
        options = {"max_tokens": most, "temperature": 0.0, **options}
        return (await self.generate(ids, **options)).tokens

    async def _do(self, job: Job[Any, Any], work: Work[Any, Any]) -> None:
        """Run a job when its turn comes."""

        def stop() -> None:
            try:
                work.finish(job.stopped())
            except AbortError as error:
                work.fail(ClosedError(self._closed) if self._closed else error)

        async def run(loaded: Loaded) -> Any:
            self._lost_ids = []
            return await job.run(loaded, work)

        work.on_stop(stop)
        self._under_way.add(work)
        try:
            async with self._busy(job.status):
                if work.abort.is_set:
                    return
                answer = await self._survive(run, lambda: job.phase)
                if answer is not None:
                    work.finish(answer)
        except AbortError:  # closed while the model was being loaded again
            stop()
        finally:
            self._under_way.discard(work)
