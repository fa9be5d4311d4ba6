"""Task `rerank`: how well each of some documents answers a query, a number from 0 to 1; the best first.

Two kinds of models do it. A cross-encoder reads query and document as a pair, and its head gives a logit. A decoder
that writes ChatML is asked with Qwen3-Reranker's prompt, and its logit is that of "yes" minus that of "no". The score
is the logit's sigmoid.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Annotated, Any, Never

from py_engine.arguments import shown, token_ids, whole
from py_engine.encode.encoder import Encoder
from py_engine.encode.reranking import INSTRUCTION
from py_engine.errors import ContextError, InputError
from py_engine.generate.decoder import Decoder
from py_engine.generate.prefix import shared
from py_engine.inputs.tokenizer import require_text
from py_engine.tasks.loaded import Loaded
from py_engine.tasks.task import Job, Request, Task
from py_engine.work import Work


@dataclass(frozen=True)
class Ranked:
    """A document by its index, and its score from 0 to 1."""

    index: int
    relevance_score: float


@dataclass(frozen=True)
class Ranking:
    """The documents that were asked for, the best first, equal ones in their order. `prompt_tokens`: tokens of all
    texts as the model saw them, each document with the query. `cut`: indices of documents whose ends were left out.
    `relevance_score`: of the `ids` that were given in the place of texts."""

    results: Sequence[Ranked] = ()
    prompt_tokens: int = 0
    cut: Sequence[int] = ()
    relevance_score: float | None = None


@dataclass(frozen=True)
class RerankRequest(Request[Work[Never, Ranking]]):
    """A query and documents, or the ids of one pair."""

    query: Annotated[str | None, "what the documents should answer"] = None
    documents: Annotated[Sequence[str] | None, "the documents, each gets a score"] = None
    _: KW_ONLY
    top_n: Annotated[int | None, "only the best so many"] = None
    instruction: Annotated[
        str | None, "what a document is to do for the query, told to a model that takes a prompt"
    ] = None
    ids: Annotated[
        Sequence[int] | None,
        "token ids of one pair, or of a whole prompt, in the place of texts, special ones included",
    ] = None
    types: Annotated[
        Sequence[int] | None, "the token type of each of the ids; without them all are 0"
    ] = None


@dataclass(frozen=True)
class _Text:
    """What a model reads of one pair."""

    ids: list[int]
    types: list[int] = field(default_factory=list)
    cut: bool = False


class Rerank(Task[RerankRequest]):
    """Order documents by how well they answer a query, the best first."""

    name, request = "rerank", RerankRequest

    def lacks(self, loaded: Loaded) -> str | None:
        """An embedding model lacks a classifier, a chat model may lack the form of the question."""
        runtime = loaded.runtime
        if isinstance(runtime, Encoder):
            if runtime.model.classifier is None:
                return "the head of a cross-encoder (it makes vectors, whose products rank documents too)"
            return None
        if loaded.judge is None:
            return "ChatML's tokens, and single tokens for 'yes' and 'no', in its tokenizer"
        return None

    def prepare(self, loaded: Loaded, request: RerankRequest) -> Job[Never, Ranking]:
        """Make token ids of all pairs."""
        if request.ids is not None:
            return _Reranking([_given(loaded, request)], None)
        if request.types is not None:
            raise InputError("types are those of ids: give both, or texts")
        query, documents = _texts(request.query, request.documents)
        top = len(documents)
        if request.top_n is not None:
            top = whole("top_n", request.top_n, 1, len(documents))
        if isinstance(loaded.runtime, Encoder):
            if request.instruction is not None:
                raise InputError(
                    f"instruction={shown(request.instruction)}: a cross-encoder takes none; leave it out"
                )
            return _Reranking(_pairs(loaded, loaded.runtime, query, documents), top)
        instruction = INSTRUCTION
        if request.instruction is not None:
            instruction = require_text(request.instruction, "instruction")
        return _Reranking(_prompts(loaded, instruction, query, documents), top)

    def answer(self, answer: Ranking) -> Mapping[str, Any]:
        """`results`, and `cut` where there is one; or the one `relevance_score`."""
        if answer.relevance_score is not None:
            return {"relevance_score": answer.relevance_score}
        return {"results": answer.results, **({"cut": answer.cut} if answer.cut else {})}


class _Reranking(Job[Never, Ranking]):
    status = "reranking"

    def __init__(self, texts: Sequence[_Text], top: int | None) -> None:
        """`top`: how many results; None: the score of the one text."""
        self._texts, self._top = texts, top
        self._logits: list[float] = []  # that a decoder gave so far

    async def run(self, loaded: Loaded, work: Work[Never, Ranking]) -> Ranking:
        """A cross-encoder takes many pairs in a pass. A decoder takes a document after another, and runs what they have
        in common, up to the query's end, once."""
        texts = [text.ids for text in self._texts]
        if isinstance(loaded.runtime, Encoder):
            found = await loaded.runtime.score(
                texts, [text.types for text in self._texts], work.abort
            )
            return self._ranking(array("f", bytes(found)))
        judge = loaded.judge
        assert judge is not None
        common = min((shared(texts[0], ids) for ids in texts[1:]), default=0)
        for ids in texts[len(self._logits) :]:
            read = await loaded.decoder.logits(
                ids, work.abort, reuse=True, border=common or None, of=(judge.yes, judge.no)
            )
            yes, no = array("f", read)
            self._logits.append(yes - no)
        return self._ranking(self._logits)

    def _ranking(self, logits: Sequence[float]) -> Ranking:
        scores = [_sigmoid(logit) for logit in logits]
        tokens = sum(len(text.ids) for text in self._texts)
        if self._top is None:
            return Ranking(prompt_tokens=tokens, relevance_score=scores[0])
        # By logit: two scores near 1 may be the same number.
        best = sorted(range(len(scores)), key=lambda i: -logits[i])[: self._top]
        cut = [i for i, text in enumerate(self._texts) if text.cut]
        return Ranking([Ranked(i, scores[i]) for i in best], tokens, cut)


def _sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    part = math.exp(-abs(x))
    return (1.0 if x >= 0 else part) / (1.0 + part)


def _texts(query: Any, documents: Any) -> tuple[str, Sequence[str]]:
    """Both, checked."""
    if query is None or not require_text(query, "query"):
        raise InputError(f"query={shown(query)}: give the text that the documents should answer")
    if not isinstance(documents, Sequence) or isinstance(documents, (str, bytes)) or not documents:
        raise InputError(
            f"documents={shown(documents)}: give a list of texts to order, one or more"
        )
    for i, document in enumerate(documents):
        if not require_text(document, f"documents[{i}]"):
            raise InputError(f"documents[{i}] is empty: there is nothing to judge; leave it out")
    return query, documents


def _pairs(loaded: Loaded, encoder: Encoder, query: str, documents: Sequence[str]) -> list[_Text]:
    """Pairs for a cross-encoder. Documents are cut to what it takes, the query never.

    sentence-transformers cuts the longer of the two texts first, which is the same as long as the query takes less than
    half of the room.
    """
    settings, tokenizer = loaded.embedding, loaded.tokenizer
    assert settings is not None
    pair = tokenizer.pair
    if pair is None:
        raise InputError(
            f"{loaded.name}: its tokenizer.json does not say how a query and a document become one text "
            "(post_processor, pair): save it again with transformers"
        )
    most = min(settings.most or encoder.context, encoder.context)
    first = tokenizer.encode(settings.text("", query))
    room = _room(len(first) + pair.around, most)
    texts = []
    for i, document in enumerate(documents):
        second = tokenizer.encode(settings.text("", document))
        if not second:
            raise InputError(f"documents[{i}] has no tokens: there is nothing to judge")
        ids, types = pair.join(first, second[:room])
        if max(types) >= encoder.model.token_types:
            types = [0] * len(ids)  # the model does not tell one text from the other by them
        texts.append(_Text(ids, types, len(second) > room))
    return texts


def _prompts(loaded: Loaded, instruction: str, query: str, documents: Sequence[str]) -> list[_Text]:
    """Prompts for a decoder. Documents are cut to its context, instruction and query never."""
    tokenizer, judge = loaded.tokenizer, loaded.judge
    assert judge is not None
    fixed = len(judge.before) + len(judge.after)
    asked = len(tokenizer.encode(judge.question(instruction, query, "")))
    room = asked + _room(fixed + asked, loaded.decoder.context)
    texts = []
    for document in documents:
        ids = tokenizer.encode(judge.question(instruction, query, document))
        text = [*judge.before, *ids[:room], *judge.after]
        texts.append(_Text(text, cut=len(ids) > room))
    return texts


def _room(taken: int, most: int) -> int:
    """Tokens that are left for a document. Raises ContextError."""
    if taken >= most:
        raise ContextError(
            f"the query takes {taken} tokens with what the model reads around it, and the context of {most} has no "
            "room for a document then: shorten the query, or load the model with a larger context if it has one",
            taken,
            most,
        )
    return most - taken


def _given(loaded: Loaded, request: RerankRequest) -> _Text:
    """The ids of a caller, checked."""
    texts = (request.query, request.documents, request.instruction, request.top_n)
    if any(value is not None for value in texts):
        raise InputError("rerank takes a query and documents, or ids with their types; not both")
    runtime = loaded.runtime
    assert isinstance(runtime, (Encoder, Decoder))
    ids = token_ids(request.ids, runtime.model.vocab_size)
    if not ids or len(ids) > runtime.context:
        raise ContextError(
            f"{len(ids)} ids: this model takes 1 to {runtime.context}", len(ids), runtime.context
        )
    types = [0] * len(ids)
    if request.types is not None:
        known = max(1, runtime.model.token_types) if isinstance(runtime, Encoder) else 0
        types = _given_types(request.types, len(ids), known)
    return _Text(ids, types)


def _given_types(types: Any, count: int, known: int) -> list[int]:
    if not known:
        raise InputError("types: those of a pair, for a cross-encoder; this model reads a prompt")
    if not isinstance(types, Sequence) or isinstance(types, (str, bytes)) or len(types) != count:
        raise InputError(
            f"types={shown(types)}: give as many numbers as there are ids, which are {count}"
        )
    return [whole(f"types[{i}]", kind, 0, known - 1) for i, kind in enumerate(types)]
