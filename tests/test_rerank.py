"""`rerank`: tiny cross-encoders against transformers and sentence-transformers, a tiny Qwen3 asked as Qwen3-Reranker is
against transformers, what of a prompt is run again, and bad input. tests/goldens/make_rerankers.py made the numbers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from py_engine.abort import Abort
from py_engine.errors import AbortError, ContextError, InputError, ModelError
from py_engine.generate.decoder import Decoder
from py_engine.host.gpu import Gpu
from py_engine.inputs.pairs import pair_template
from py_engine.serve.engine import Engine
from py_engine.tasks.rerank import Ranking
from tests import reference
from tests.checkpoints import Checkpoint
from tests.conftest import Runner
from tests.reference import nmse

BERT, QWEN = "rerank-bert", "rerank-qwen3"
CROSS_ENCODERS = (BERT, "rerank-xlm-roberta", "rerank-modernbert")
QUERY, DOCUMENTS = "Where do jerboas sleep?", ["jerboas", "In burrows under the sand", "hello"]


@pytest.fixture(scope="module")
def device(wgpu: Gpu) -> Gpu:
    return wgpu


def golden(name: str) -> Any:
    return json.loads((reference.folder(name) / "reranking.json").read_text())


async def _rerank(engine: Engine, *texts: Any, **options: Any) -> Ranking:
    return await engine.rerank(*texts, **options)


def logit(score: float) -> float:
    return float(np.log(score / (1 - score)))


@pytest.mark.parametrize("name", CROSS_ENCODERS)
def test_logits_are_those_of_transformers(
    engines: Callable[[str], Engine], run: Runner, name: str
) -> None:
    """Pairs of 3 to 300 tokens, one at a time and packed into one pass, in either order."""
    engine, wanted = engines(name), golden(name)
    assert engine.info()["self_check"]["wrong"] == []
    runtime: Any = engine._loaded.runtime
    ids, types = ([pair[key] for pair in wanted["pairs"]] for key in ("ids", "types"))
    logits = wanted["logits"]["mean" if "modernbert" in name else "cls"]

    def score(ids: Any, types: Any) -> Any:
        return np.frombuffer(run(runtime.score(ids, types, Abort())), np.float32)

    alone = [score([i], [t])[0] for i, t in zip(ids, types, strict=True)]
    assert nmse(alone, logits) <= reference.NMSE_F32
    assert nmse(score(ids[::-1], types[::-1]), logits[::-1]) <= reference.NMSE_F32
    many = score(ids[:2] * 70, types[:2] * 70)  # more than a pass holds
    assert nmse(many, logits[:2] * 70) <= reference.NMSE_F32
    one = run(_rerank(engine, ids=ids[1], types=types[1]))
    assert abs(logit(one.relevance_score) - logits[1]) < 1e-4
    if any(types[1]):
        untyped = run(_rerank(engine, ids=ids[1]))
        assert abs(untyped.relevance_score - one.relevance_score) > 1e-3


@pytest.mark.parametrize("name", CROSS_ENCODERS)
def test_rankings_are_those_of_sentence_transformers(
    engines: Callable[[str], Engine], run: Runner, name: str
) -> None:
    """Pairs as the tokenizer lays them out, a long document cut, scores by the sigmoid; the best first."""
    wanted = golden(name)["ranking"]
    scores = wanted["scores"]
    answer = run(_rerank(engines(name), wanted["query"], wanted["documents"]))
    order = [ranked.index for ranked in answer.results]
    # What is typed in a text is text here, so the last document is judged, but not as in the reference.
    typed = len(scores) - 1
    assert [i for i in order if i != typed] == sorted(range(typed), key=lambda i: -scores[i])
    found = {ranked.index: ranked.relevance_score for ranked in answer.results}
    assert [found[i] for i in range(typed)] == pytest.approx(scores[:typed], abs=2e-5)
    assert answer.cut == [3] and 300 < answer.prompt_tokens < 600
    best = run(_rerank(engines(name), wanted["query"], wanted["documents"], top_n=2))
    assert [ranked.index for ranked in best.results] == order[:2]


def test_the_query_is_never_cut(engines: Callable[[str], Engine], run: Runner) -> None:
    """However little room it leaves: 297 tokens and three special ones are too many, one less is not."""
    engine = engines(BERT)
    answer = run(_rerank(engine, "a " * 296, ["b b b", "b", "c"]))
    assert answer.cut == [0] and answer.prompt_tokens == 900
    found = {ranked.index: ranked.relevance_score for ranked in answer.results}
    assert found[0] == pytest.approx(found[1], abs=1e-7) and found[0] != found[2]
    with pytest.raises(ContextError, match="the query takes 300 tokens .* context of 300") as told:
        run(_rerank(engine, "a " * 297, ["b"]))
    assert (told.value.prompt_tokens, told.value.context) == (300, 300)


def test_a_decoder_answers_by_its_logits_of_yes_and_no(
    engines: Callable[[str], Engine], run: Runner
) -> None:
    engine, wanted = engines(QWEN), golden(QWEN)
    query, pairs = wanted["query"], wanted["pairs"]
    runtime: Any = engine._loaded.runtime
    logits = [
        np.subtract(*np.frombuffer(run(runtime.logits(pair["ids"], of=ANSWERS)), np.float32))
        for pair in pairs
    ]
    assert nmse(logits, [pair["logit"] for pair in pairs]) <= reference.NMSE_F32
    for instruction, half in ((None, pairs[:3]), (pairs[3]["instruction"], pairs[3:])):
        documents = [pair["document"] for pair in half]
        answer = run(_rerank(engine, query, documents, instruction=instruction))
        assert answer.prompt_tokens == sum(len(pair["ids"]) for pair in half)
        order = sorted(range(3), key=lambda i: -half[i]["logit"])
        assert [ranked.index for ranked in answer.results] == order
        for ranked in answer.results:
            assert abs(logit(ranked.relevance_score) - half[ranked.index]["logit"]) < 2e-3
    given = run(_rerank(engine, ids=pairs[0]["ids"]))
    assert abs(logit(given.relevance_score) - pairs[0]["logit"]) < 2e-3


ANSWERS = (257, 258)  # ids of "yes" and "no" in the golden's tokenizer


def hybrid(folder: Path) -> str:
    """A Qwen3.5, whose recurrent state cannot go back, with the tokenizer of the other golden."""
    checkpoint = Checkpoint.golden("qwen3.5-bf16")
    checkpoint.origin = reference.folder(QWEN)
    return checkpoint.write(folder)


@pytest.mark.parametrize("recurrent", [False, True])
def test_what_documents_share_runs_once(
    engines: Callable[[str], Engine],
    device: Gpu,
    run: Runner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recurrent: bool,
) -> None:
    """The prompt up to the document, query included, is prefilled for the first document alone; nothing changes by it,
    and 8 bytes of logits are read back for each."""
    if recurrent:
        engine = run(Engine.load(hybrid(tmp_path / "m"), gpu=device, dtype="f32", self_check=False))
    else:
        engine = engines(QWEN)
    decoder = engine._loaded.require(Decoder, "rerank")
    prefilled, texts, logits = list[int](), list[list[int]](), decoder.logits

    async def counted(ids: list[int], *args: Any, **options: Any) -> bytes:
        before = device.counters.readback_bytes
        read = await logits(ids, *args, **options)
        assert device.counters.readback_bytes - before == len(read) == 8
        prefilled.append(decoder.prefilled)
        texts.append(ids)
        return read

    monkeypatch.setattr(decoder, "logits", counted)
    decoder.prefix.forget()
    found = run(_rerank(engine, QUERY, DOCUMENTS)).results
    before = len(engine._loaded.tokenizer.encode(f"<Query>: {QUERY}\n<Document>:"))
    common = min(
        next(i for i, (a, b) in enumerate(zip(texts[0], text, strict=False)) if a != b)
        for text in texts[1:]
    )
    assert common > 200 + before
    assert prefilled == [len(texts[0]), *(len(text) - common for text in texts[1:])]
    for ranked in found:
        decoder.prefix.forget()
        alone = run(_rerank(engine, QUERY, [DOCUMENTS[ranked.index]])).results[0]
        assert abs(logit(alone.relevance_score) - logit(ranked.relevance_score)) < 2e-3
    if recurrent:
        run(engine.close())


def test_a_document_longer_than_the_context(device: Gpu, run: Runner) -> None:
    """It is cut before the end of the prompt; a query that leaves no room is an error with the numbers."""
    path = str(reference.folder(QWEN))
    engine = run(Engine.load(path, gpu=device, dtype="f32", context=400, self_check=False))
    answer = run(_rerank(engine, QUERY, ["jerboas", "a b c " * 200]))
    assert answer.cut == [1] and answer.prompt_tokens == 314 + 400
    with pytest.raises(ContextError, match="the query takes .* context of 400") as told:
        run(_rerank(engine, "a b c " * 100, ["jerboas"]))
    assert told.value.prompt_tokens > told.value.context == 400
    run(engine.close())


@pytest.mark.parametrize(
    "texts, options, message",
    [
        ((), {}, "query=None: give the text"),
        (("", ["a"]), {}, "query='': give the text"),
        ((3, ["a"]), {}, "query must be a str"),
        (("a",), {}, "documents=None: give a list"),
        (("a", []), {}, "give a list"),
        (("a", "b"), {}, "give a list"),
        (("a", ["b", ""]), {}, r"documents\[1\] is empty"),
        (("a", [None]), {}, r"documents\[0\] must be a str"),
        (("a", ["\ud800"]), {}, "surrogate"),
        (("a", ["b"]), {"top_n": 0}, "top_n=0: give a whole number from 1 to 1"),
        (("a", ["b", "c"]), {"top_n": 3}, "from 1 to 2"),
        (("a", ["b"]), {"top_n": "all"}, "top_n='all'"),
        (("a", ["b"]), {"ids": [1]}, "not both"),
        (("a", ["b"]), {"types": [1]}, "types are those of ids"),
        ((), {"ids": []}, "0 ids: this model takes 1 to"),
        ((), {"ids": [1] * 5000}, "5000 ids: this model takes 1 to"),
        ((), {"ids": [100000]}, "outside the vocabulary"),
    ],
)
def test_bad_requests_fail_at_once(
    engines: Callable[[str], Engine], run: Runner, texts: Any, options: Any, message: str
) -> None:
    for name in (BERT, QWEN):
        engine = engines(name)

        async def ask(engine: Engine = engine) -> None:
            with pytest.raises(InputError, match=message):
                engine.rerank(*texts, **options)

        run(ask())


@pytest.mark.parametrize(
    "name, texts, options, message",
    [
        (BERT, (), {"ids": [2, 5, 3], "types": [0, 1]}, "as many numbers as there are ids, which are 3"),
        (BERT, (), {"ids": [2, 5, 3], "types": [0, 1, 2]}, r"types\[2\]=2: give a whole number from 0 to 1"),
        (BERT, (), {"ids": [2, 5, 3], "types": "001"}, "as many numbers"),
        (BERT, ("a", ["b"]), {"instruction": "c"}, "a cross-encoder takes none"),
        (BERT, ("a", [" "]), {}, r"documents\[0\] has no tokens"),
        (QWEN, (), {"ids": [2, 5, 3], "types": [0, 0, 0]}, "for a cross-encoder"),
        (QWEN, ("a", ["b"]), {"instruction": 3}, "instruction must be a str"),
        ("bert-f32", ("a", ["b"]), {}, "lacks the head of a cross-encoder.*what it can do: embed"),
        ("qwen3-bf16", ("a", ["b"]), {}, "single tokens for 'yes' and 'no'.*what it can do: chat, complete"),
    ],
)  # fmt: skip
def test_what_a_kind_of_model_does_not_take(
    engines: Callable[[str], Engine], run: Runner, name: str, texts: Any, options: Any, message: str
) -> None:
    engine = engines(name)

    async def ask() -> None:
        with pytest.raises(InputError, match=message):
            engine.rerank(*texts, **options)

    run(ask())


def test_what_a_reranker_can_do(engines: Callable[[str], Engine], run: Runner) -> None:
    assert engines(BERT).tasks == ["rerank"] and "rerank" in engines(QWEN).tasks

    async def ask() -> None:
        with pytest.raises(InputError, match=r"makes vectors of texts; what it can do: rerank"):
            engines(BERT).embed(["a"])

    run(ask())


@pytest.mark.parametrize(
    "change", [{"id2label": {"0": "no", "1": "maybe", "2": "yes"}}, {"id2label": None}]
)
def test_a_classifier_of_several_labels_is_refused(
    device: Gpu, run: Runner, tmp_path: Path, change: dict[str, Any]
) -> None:
    """Without id2label and num_labels transformers assumes two."""
    checkpoint = Checkpoint.golden(BERT)
    checkpoint.config |= change
    labels = len(change["id2label"] or "12")
    with pytest.raises(ModelError, match=f"ForSequenceClassification with {labels} labels"):
        run(Engine.load(checkpoint.write(tmp_path / "m"), gpu=device, dtype="f32"))


def test_a_stopped_ranking_ends_between_documents(
    engines: Callable[[str], Engine], run: Runner
) -> None:
    engine = engines(QWEN)

    async def work() -> None:
        asked = engine.rerank(QUERY, DOCUMENTS)
        waiting = engine.rerank(QUERY, DOCUMENTS)
        asked.stop()
        with pytest.raises(AbortError):
            await asked
        assert len((await waiting).results) == 3

    run(work())


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_row_that_a_modernbert_classifies(
    device: Gpu, run: Runner, tmp_path: Path, pooling: str
) -> None:
    checkpoint, wanted = Checkpoint.golden("rerank-modernbert"), golden("rerank-modernbert")
    checkpoint.config["classifier_pooling"] = pooling
    path = checkpoint.write(tmp_path / "m")
    engine = run(Engine.load(path, gpu=device, dtype="f32", self_check=False))
    answer = run(_rerank(engine, ids=wanted["pairs"][3]["ids"]))
    assert abs(logit(answer.relevance_score) - wanted["logits"][pooling][3]) < 1e-3
    run(engine.close())


def test_estimate_is_what_a_load_takes(
    engines: Callable[[str], Engine], device: Gpu, run: Runner
) -> None:
    memory = engines(BERT).info()["memory"]
    found = run(Engine.estimate(str(reference.folder(BERT)), gpu=device, dtype="f32"))
    assert all(memory[name] == nbytes for name, nbytes in found.by_kind.items())


def test_a_cross_encoder_in_f16(device: Gpu, run: Runner) -> None:
    wanted, path = golden(BERT), str(reference.folder(BERT))
    engine = run(Engine.load(path, gpu=device, dtype="f16", self_check=False))
    runtime: Any = engine._loaded.runtime
    ids, types = ([pair[key] for pair in wanted["pairs"]] for key in ("ids", "types"))
    found = np.frombuffer(run(runtime.score(ids, types, Abort())), np.float32)
    assert nmse(found, wanted["logits"]["cls"]) <= reference.NMSE_F16
    run(engine.close())


def _template(*items: tuple[str, int]) -> dict[str, Any]:
    pair = [
        {"Sequence" if text in "AB" else "SpecialToken": {"id": text, "type_id": kind}}
        for text, kind in items
    ]
    special = {"[S]": {"id": "[S]", "ids": [7, 8]}}
    return {"type": "TemplateProcessing", "single": [], "pair": pair, "special_tokens": special}


@pytest.mark.parametrize(
    "processor, ids, types",
    [
        ({"type": "BertProcessing", "sep": ["s", 3], "cls": ["c", 2]}, [2, 10, 3, 20, 21, 3], [0, 0, 0, 1, 1, 1]),
        ({"type": "RobertaProcessing", "sep": ["s", 3], "cls": ["c", 2]}, [2, 10, 3, 3, 20, 21, 3], [0] * 7),
        (_template(("B", 0), ("[S]", 1), ("A", 1)), [20, 21, 7, 8, 10], [0, 0, 1, 1, 1]),
        ({"type": "Sequence", "processors": [{"type": "ByteLevel"}, _template(("A", 0), ("B", 1))]},
         [10, 20, 21], [0, 1, 1]),
    ],
)  # fmt: skip
def test_pairs_as_a_tokenizer_lays_them_out(
    processor: Any, ids: list[int], types: list[int]
) -> None:
    template = pair_template(processor)
    assert template is not None and template.join([10], [20, 21]) == (ids, types)
    assert template.around == len(ids) - 3


@pytest.mark.parametrize(
    "processor",
    [
        None,
        {"type": "ByteLevel"},
        {"type": "BertProcessing"},
        _template(("A", 0)),
        _template(("A", 0), ("A", 0), ("B", 0)),
        _template(("A", -1), ("B", 0)),
        _template(("A", 0), ("[T]", 0), ("B", 0)),
        {**_template(("A", 0), ("B", 0)), "pair": [{}]},
        {"type": "Sequence", "processors": 3},
    ],
)
def test_a_tokenizer_that_says_nothing_of_pairs(processor: Any) -> None:
    assert pair_template(processor) is None


def test_the_command_line() -> None:
    """Options may stand before the texts."""
    pair = golden(BERT)["pairs"][1]
    ids, types = (",".join(map(str, pair[key])) for key in ("ids", "types"))
    for words, wanted in (
        (["--top-n", "1", QUERY, *DOCUMENTS], {"results": 1}),
        (["--ids", ids, "--types", types], {"relevance_score": golden(BERT)["logits"]["cls"][1]}),
    ):
        command = [sys.executable, "-m", "py_engine", "rerank", str(reference.folder(BERT))]
        options = ["--dtype", "f32", "--host", "wgpu", "--no-self-check", "--json"]
        done = subprocess.run([*command, *options, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout.splitlines()[-1])
        assert {*answer} == {*wanted}
        if "results" in answer:
            assert [{*ranked} for ranked in answer["results"]] == [{"index", "relevance_score"}]
        else:
            assert abs(logit(answer["relevance_score"]) - wanted["relevance_score"]) < 1e-3
