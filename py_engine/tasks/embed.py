"""Task `embed`: a vector of unit length for each text. Texts of similar meaning have vectors of similar direction."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, Never

from py_engine.arguments import shown, token_ids, whole
from py_engine.encode.encoder import Encoder
from py_engine.encode.settings import EmbedSettings
from py_engine.errors import InputError
from py_engine.inputs.tokenizer import Tokenizer, require_text
from py_engine.tasks.loaded import Loaded
from py_engine.tasks.task import Job, Request, Task
from py_engine.work import Work


@dataclass(frozen=True)
class Embeddings:
    """Vectors of texts. `embeddings`: a row of `dimensions` float32 for each text, in their order; numpy.asarray reads
    it without copying. `prompt_tokens`: tokens of all texts as the model saw them, special tokens and prompts included.
    `cut`: indices of texts that were longer than the model takes, whose ends were left out."""

    embeddings: Sequence[memoryview[float]]
    dimensions: int
    prompt_tokens: int
    cut: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.embeddings)

    def __getitem__(self, index: int) -> memoryview[float]:
        return self.embeddings[index]

    def __iter__(self) -> Iterator[memoryview[float]]:
        return iter(self.embeddings)


@dataclass(frozen=True)
class EmbedRequest(Request[Work[Never, Embeddings]]):
    """Texts, or the ids of one."""

    texts: Annotated[Sequence[str] | None, "the texts, each gets a vector"] = None
    _: KW_ONLY
    ids: Annotated[
        Sequence[int] | None, "token ids of one text in the place of texts, special ones included"
    ] = None
    task: Annotated[
        str | None,
        "what the vectors are for (query, document, ...): puts the model's prompt before each text",
    ] = None
    dimensions: Annotated[
        int | None, "only the first so many numbers of each vector, brought to unit length again"
    ] = None


class Embed(Task[EmbedRequest]):
    """Make a vector of unit length of each text."""

    name, request = "embed", EmbedRequest

    def lacks(self, loaded: Loaded) -> str | None:
        """A model of another kind lacks an encoder."""
        encodes = isinstance(loaded.runtime, Encoder) and loaded.embedding is not None
        return None if encodes else "an encoder that makes vectors of texts"

    def prepare(self, loaded: Loaded, request: EmbedRequest) -> Job[Never, Embeddings]:
        """Make token ids of all texts."""
        encoder, settings = loaded.require(Encoder, "embed"), loaded.embedding
        assert settings is not None
        size = encoder.model.vector_size
        dimensions = size
        if request.dimensions is not None:
            dimensions = whole("dimensions", request.dimensions, 1, size)
        prompt = _prompt(settings, request.task)
        most = min(settings.most or encoder.context, encoder.context)
        cut: list[int] = []
        if request.ids is None:
            texts = []
            for i, text in enumerate(_texts(request.texts)):
                ids, was_cut = _encoded(loaded.tokenizer, settings.text(prompt, text), most)
                texts.append(ids)
                cut += [i] if was_cut else []
            if [] in texts:
                raise InputError(
                    f"texts[{texts.index([])}] has no tokens: there is nothing to make a vector of"
                )
        elif request.texts is not None or request.task is not None:
            raise InputError("embed takes texts, for a task or not, or ids; not both")
        else:
            texts = [_given(request.ids, encoder.model.vocab_size, encoder.context)]
        return _Embedding(texts, settings, dimensions, cut)

    def answer(self, answer: Embeddings) -> Mapping[str, Any]:
        """`cut` where there is one."""
        told = dict(vars(answer))
        if not answer.cut:
            del told["cut"]
        return told


class _Embedding(Job[Never, Embeddings]):
    status = "embedding"

    def __init__(
        self,
        texts: Sequence[Sequence[int]],
        settings: EmbedSettings,
        dimensions: int,
        cut: Sequence[int],
    ) -> None:
        self._texts, self._settings = texts, settings
        self._dimensions, self._cut = dimensions, cut

    async def run(self, loaded: Loaded, work: Work[Never, Embeddings]) -> Embeddings:
        """Run all texts, in passes of as many as fit."""
        encoder = loaded.require(Encoder, "embed")
        found = await encoder.embed(self._texts, self._settings.pooling, work.abort)
        n = encoder.model.vector_size
        numbers = memoryview(found).cast("f")
        rows = [numbers[i * n : (i + 1) * n] for i in range(len(self._texts))]
        if self._dimensions < n:
            rows = [_shortened(row, self._dimensions) for row in rows]
        return Embeddings(rows, self._dimensions, sum(map(len, self._texts)), self._cut)


def _texts(texts: Any) -> Sequence[str]:
    if not isinstance(texts, Sequence) or isinstance(texts, (str, bytes)) or not texts:
        raise InputError(f"texts={shown(texts)}: give a list of texts, one or more")
    for i, text in enumerate(texts):
        if not require_text(text, f"texts[{i}]"):
            raise InputError(
                f"texts[{i}] is empty: there is nothing to make a vector of; leave it out"
            )
    return texts


def _prompt(settings: EmbedSettings, task: Any) -> str:
    if task is not None and not isinstance(task, str):
        raise InputError(f"task={shown(task)}: give one of {', '.join(settings.tasks)}")
    prompt = settings.prompt(task)
    if prompt is None:
        raise InputError(f"task={shown(task)}: this model knows {', '.join(settings.tasks)}")
    return prompt


def _encoded(tokenizer: Tokenizer, text: str, most: int) -> tuple[list[int], bool]:
    """At most `most` ids of a text, and whether it was cut. A cut leaves the special tokens at its ends."""
    ids = tokenizer.encode(text)
    room = max(0, most - len(tokenizer.with_special([])))
    return tokenizer.with_special(ids[:room]), len(ids) > room


def _given(ids: Any, vocab: int, most: int) -> list[int]:
    taken = token_ids(ids, vocab)
    if not 1 <= len(taken) <= most:
        raise InputError(f"{len(taken)} ids: this model takes 1 to {most} of a text")
    return taken


def _shortened(row: memoryview[float], dimensions: int) -> memoryview[float]:
    """The first numbers of a row, brought to unit length (Kusupati et al. 2022, arXiv:2205.13147)."""
    part = row[:dimensions].tolist()
    length = math.sqrt(math.fsum(v * v for v in part)) or 1.0
    return memoryview(array("f", [v / length for v in part]))
