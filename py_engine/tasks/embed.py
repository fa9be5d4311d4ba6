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

# Families whose published models were trained so that the first numbers of a vector are a vector (matryoshka).
_MATRYOSHKA = frozenset(
    {"gemma3", "gemma3_text", "embedding_gemma2", "embedding_gemma2_text", "qwen3"}
)
_UNTRAINED = "This model is not known to be trained for fewer dimensions: compare results with those of all dimensions."


@dataclass(frozen=True)
class Embeddings:
    """Vectors of texts. `embeddings`: a row of `dimensions` float32 for each text, in their order; numpy.asarray reads
    it without copying. `prompt_tokens`: tokens of all texts as the model saw them, special tokens and prompts included.
    `cut`: indices of texts that were longer than the model takes, whose ends were left out. `note`: what to know of
    these vectors, else ""."""

    embeddings: Sequence[memoryview[float]]
    dimensions: int
    prompt_tokens: int
    cut: Sequence[int] = ()
    note: str = ""

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

    name, request, command = "embed", EmbedRequest, False

    def lacks(self, loaded: Loaded) -> str | None:
        """A model of another kind lacks an encoder."""
        return lacks_encoder(loaded)

    def prepare(self, loaded: Loaded, request: EmbedRequest) -> Job[Never, Embeddings]:
        """Make token ids of all texts."""
        encoder = loaded.require(Encoder, "embed")
        dimensions = wanted_dimensions(encoder, request.dimensions)
        if request.ids is None:
            texts, cut = encoded(loaded, "texts", request.texts, request.task)
        elif request.texts is not None or request.task is not None:
            raise InputError("embed takes texts, for a task or not, or ids; not both")
        else:
            texts, cut = [_given(request.ids, encoder.model.vocab_size, encoder.context)], []
        return EmbedJob(texts, dimensions, cut)

    def answer(self, answer: Embeddings) -> Mapping[str, Any]:
        """`cut` and `note` where there are any."""
        return {key: v for key, v in vars(answer).items() if v or key not in ("cut", "note")}


class EmbedJob(Job[Never, Embeddings]):
    """Texts as ids, to be made vectors of. `cut`: the indices of those that were cut."""

    status = "embedding"

    def __init__(
        self, texts: Sequence[Sequence[int]], dimensions: int, cut: Sequence[int] = ()
    ) -> None:
        self._texts, self._dimensions, self._cut = texts, dimensions, cut

    async def run(self, loaded: Loaded, work: Work[Never, Embeddings]) -> Embeddings:
        """Run all texts, in passes of as many as fit."""
        rows = await vectors(loaded, self._texts, self._dimensions, work)
        shorter = self._dimensions < loaded.require(Encoder, "embed").model.vector_size
        note = _UNTRAINED if shorter and loaded.family not in _MATRYOSHKA else ""
        return Embeddings(rows, self._dimensions, sum(map(len, self._texts)), self._cut, note)


def lacks_encoder(loaded: Loaded) -> str | None:
    """What a model lacks that makes no vectors of texts; None: it makes them. A cross-encoder gives scores instead."""
    runtime = loaded.runtime
    encodes = isinstance(runtime, Encoder) and runtime.model.classifier is None
    return (
        None
        if encodes and loaded.embedding is not None
        else "an encoder that makes vectors of texts"
    )


def wanted_dimensions(encoder: Encoder, asked: Any) -> int:
    """How many numbers each vector is to have. Raises InputError for more than the model gives."""
    size = encoder.model.vector_size
    return size if asked is None else whole("dimensions", asked, 1, size)


def encoded(loaded: Loaded, name: str, given: Any, task: Any) -> tuple[list[list[int]], list[int]]:
    """The ids of texts with the prompt for a task, cut to what the model takes; and the indices of those that were cut.
    Raises InputError, which names the argument by `name`."""
    encoder, settings = loaded.require(Encoder, "embed"), loaded.embedding
    assert settings is not None
    prompt = _prompt(settings, task)
    most = min(settings.most or encoder.context, encoder.context)
    texts, cut = [], []
    for i, text in enumerate(_texts(name, given)):
        ids, was_cut = _encoded(loaded.tokenizer, settings.text(prompt, text), most)
        if not ids:
            raise InputError(f"{name}[{i}] has no tokens: there is nothing to make a vector of")
        texts.append(ids)
        cut += [i] if was_cut else []
    return texts, cut


async def vectors(
    loaded: Loaded, texts: Sequence[Sequence[int]], dimensions: int, work: Work[Any, Any]
) -> list[memoryview[float]]:
    """A vector of unit length and so many numbers for each text."""
    encoder, settings = loaded.require(Encoder, "embed"), loaded.embedding
    assert settings is not None
    n = encoder.model.vector_size
    found = memoryview(await encoder.embed(texts, settings.pooling, work.abort)).cast("f")
    rows = [found[i * n : (i + 1) * n] for i in range(len(texts))]
    return [_shortened(row, dimensions) for row in rows] if dimensions < n else rows


def _texts(name: str, texts: Any) -> Sequence[str]:
    if not isinstance(texts, Sequence) or isinstance(texts, (str, bytes)) or not texts:
        raise InputError(f"{name}={shown(texts)}: give a list of texts, one or more")
    for i, text in enumerate(texts):
        if not require_text(text, f"{name}[{i}]"):
            raise InputError(
                f"{name}[{i}] is empty: there is nothing to make a vector of; leave it out"
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
