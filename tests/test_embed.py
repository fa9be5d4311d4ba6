"""Embeddings of texts: tiny encoders against transformers, a repository's settings for pooling and prompts, the options
of callers, and the real all-MiniLM-L6-v2.
"""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from devtools.package_models import ENCODERS, PackageModelError, prepare_folder
from py_engine.__main__ import main
from py_engine.abort import Abort
from py_engine.encode import encoder as encoders
from py_engine.encode.settings import EmbedSettings
from py_engine.errors import AbortError, ClosedError, FormatError, InputError, ModelError
from py_engine.host.gpu import Gpu
from py_engine.host.io_native import NativeIo
from py_engine.inputs.bert_tokenizer import is_bert, tokenizer_json
from py_engine.inputs.tokenizer import Tokenizer
from py_engine.serve.engine import Engine
from py_engine.serve.loading import setting_of
from py_engine.serve.options import LoadOptions
from py_engine.tasks.embed import Embed
from tests import reference
from tests.conftest import Runner, missing_adapter
from tests.hub_server import hub_server
from tests.reference import nmse

PLAIN, OLD = "bert-f32", "bert-old-names"
LENGTHS = (1, 2, 33, 80)


@pytest.fixture(scope="module")
def device(wgpu: Gpu) -> Gpu:
    return wgpu


def golden(name: str) -> Any:
    return np.load(reference.folder(name) / "embedding.npz")


@pytest.mark.parametrize("name", [PLAIN, OLD])
def test_vectors_are_those_of_transformers(
    engines: Callable[[str], Engine], run: Runner, name: str
) -> None:
    """Every pooling, with texts one at a time and packed into one pass, in either order: no text sees another."""
    engine, wanted = engines(name), golden(name)
    assert engine.info()["self_check"]["wrong"] == []
    runtime: Any = engine._loaded.runtime
    texts = [wanted[f"ids_{n}"].tolist() for n in LENGTHS]
    for pooling in ("mean", "first", "last"):
        rows = np.stack([wanted[f"{pooling}_{n}"] for n in LENGTHS])
        alone = [run(runtime.embed([ids], pooling, Abort())) for ids in texts]
        assert nmse(np.frombuffer(b"".join(alone), np.float32), rows.ravel()) <= reference.NMSE_F32
        packed = np.frombuffer(run(runtime.embed(texts[::-1], pooling, Abort())), np.float32)
        assert nmse(packed, rows[::-1].ravel()) <= reference.NMSE_F32


def test_more_texts_than_a_pass_holds(
    engines: Callable[[str], Engine], run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vectors keep the order of the texts over several passes, whether rows or the number of texts fills a pass."""
    engine, wanted = engines(PLAIN), golden(PLAIN)
    runtime: Any = engine._loaded.runtime
    monkeypatch.setattr(runtime, "_sizes", (32, 100))
    lengths = [80, 33, 1, 2, 80, 80, 1, 33, 33, 33, *([1, 2] * 40)]
    found = run(runtime.embed([wanted[f"ids_{n}"].tolist() for n in lengths], "mean", Abort()))
    rows = np.stack([wanted[f"mean_{n}"] for n in lengths])
    assert nmse(np.frombuffer(found, np.float32), rows.ravel()) <= reference.NMSE_F32


@pytest.mark.parametrize("name", [PLAIN, OLD])
def test_ids_are_those_of_tokenizers(engines: Callable[[str], Engine], name: str) -> None:
    """WordPiece on hostile texts, whatever truncation and padding the file asks for."""
    tokenizer = engines(name)._loaded.tokenizer
    for text, ids in json.loads(str(golden(name)["texts"])):
        assert tokenizer.encode(text, add_special_tokens=True) == ids, text
    # A control token that is typed in a text is text.
    assert not {2, 3} & set(tokenizer.encode("[CLS] a [SEP]"))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_lower_case": False},
        {"strip_accents": False, "tokenizer_class": "BertTokenizerFast"},
        {"tokenize_chinese_chars": False, "tokenizer_class": None},
        {"do_lower_case": False, "tokenizer_class": "PreTrainedTokenizerFast"},
    ],
)
@pytest.mark.parametrize("vocabulary_alone", [False, True])
def test_what_tokenizer_config_says_of_berts_tokenizer(
    run: Runner, settings: dict[str, Any], vocabulary_alone: bool
) -> None:
    """tokenizer_config.json overrides tokenizer.json where transformers takes its BertTokenizer (5.24's
    tokenization_bert.py). The class also works with a vocab.txt."""
    file = reference.folder(PLAIN) / "tokenizer.json"
    wanted = tokenizers.Tokenizer.from_file(str(file))
    wanted.no_padding()
    wanted.no_truncation()
    bert = settings.get("tokenizer_class") != "PreTrainedTokenizerFast"
    if bert:
        wanted.normalizer = tokenizers.normalizers.BertNormalizer(
            lowercase=settings.get("do_lower_case", True),
            strip_accents=settings.get("strip_accents"),
            handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        )
    model_config = {"model_type": "bert"}
    assert is_bert(settings, model_config) == bert
    data = file.read_bytes()
    if vocabulary_alone:
        if not bert:
            return
        vocab = json.loads(data)["model"]["vocab"]
        data = tokenizer_json("\r\n".join(sorted(vocab, key=vocab.get)) + "\r\n", settings, {})
    tokenizer = run(Tokenizer.load(data, settings, model_config=model_config))
    texts = [text for text, _ in json.loads(str(golden(PLAIN)["texts"]))]
    for text in [*texts, "Hello World \u00c9cole \u6f22hello\u6f22"]:
        assert tokenizer.encode(text, add_special_tokens=True) == wanted.encode(text).ids, text
    tokenizer.close()


def test_what_a_repository_says(engines: Callable[[str], Engine], run: Runner) -> None:
    """CLS pooling, prompts by task, and texts cut to 20 tokens that end with [SEP]."""
    engine = engines(OLD)
    tokenizer = engine._loaded.tokenizer

    def first(text: str) -> Any:
        ids = tokenizer.encode(text, add_special_tokens=True)
        ids = [*ids[:19], 3] if len(ids) > 20 else ids
        runtime: Any = engine._loaded.runtime
        return np.frombuffer(run(runtime.embed([ids], "first", Abort())), np.float32)

    long = "hello again " * 30
    for task, prompt in (
        (None, ""),
        ("query", "query: "),
        ("passage", "passage: "),
        ("document", "passage: "),
    ):
        answer = run(_embed(engine, [long, "hello"], task=task))
        assert nmse(np.asarray(answer[0]), first(prompt + long)) < 1e-10
        assert nmse(np.asarray(answer[1]), first(prompt + "hello")) < 1e-10
        short = len(tokenizer.encode(prompt + "hello", add_special_tokens=True))
        assert answer.prompt_tokens == 20 + short


@pytest.mark.parametrize("lower", [False, True])
def test_prompts_are_lowered_with_their_texts(lower: bool) -> None:
    """As in sentence-transformers 6: a Lowercase normalizer of the tokenizers library runs before all others."""
    texts = EmbedSettings(lower=lower, prompts={"query": "Query: "})
    found = texts.text("Query: ", "\u039f\u0394\u039f\u03a3 \u0130A")
    lowercase = tokenizers.normalizers.Lowercase()
    whole = "Query: \u039f\u0394\u039f\u03a3 \u0130A"
    assert found == (lowercase.normalize_str(whole) if lower else whole)


def test_texts_that_were_cut_are_told(engines: Callable[[str], Engine], run: Runner) -> None:
    """The engine reports texts that it cut. sentence-transformers does not."""
    engine = engines(OLD)
    # With [CLS] and [SEP] these are the 20 tokens that its sentence_bert_config.json allows.
    fits = "a " * 18
    answer = run(_embed(engine, ["hello", fits + "a", fits, fits + "b"]))
    assert answer.cut == [1, 3] and answer.prompt_tokens == 3 + 3 * 20
    assert nmse(np.asarray(answer[1]), np.asarray(answer[2])) < 1e-10
    assert Embed().answer(answer)["cut"] == [1, 3]
    assert "cut" not in Embed().answer(run(_embed(engine, ["hello"])))


@pytest.mark.parametrize("quick", [True, False])
def test_passes_fly_together_where_they_are_quick(
    engines: Callable[[str], Engine], run: Runner, monkeypatch: pytest.MonkeyPatch, quick: bool
) -> None:
    """Passes of a flight are submitted without a wait between them and read at once, four at most. Slow ones fly alone,
    and are waited for before a read that would block the event loop. The vectors are the same."""
    runtime: Any = engines(PLAIN)._loaded.runtime
    gpu, ids = runtime.gpu, golden(PLAIN)["ids_80"].tolist()
    texts = [ids[i:] + ids[:i] for i in range(9)]  # each fills a pass
    alone = b"".join(bytes(run(runtime.embed([text], "mean", Abort()))) for text in texts)
    monkeypatch.setattr(runtime, "_sizes", (32, 80))
    monkeypatch.setattr(encoders, "FLIGHT_S", 1000.0 if quick else 1e-9)
    calls = dict.fromkeys(("replay", "copy", "read", "idle"), 0)

    def counted(name: str) -> None:
        call = getattr(gpu, name)

        async def count(*args: Any) -> Any:
            calls[name] += 1
            return await call(*args)

        monkeypatch.setattr(gpu, name, count)

    for name in calls:
        counted(name)
    submits = gpu.counters.submits
    assert run(runtime.embed(texts, "mean", Abort())) == alone
    if quick:  # 4 + 4 + 1
        assert calls == {"replay": 9, "copy": 8, "read": 3, "idle": 0}
    else:
        assert calls == {"replay": 9, "copy": 0, "read": 9, "idle": 9}
    buffers = len(runtime.programs.chain("encode", "mean", rows=80).recording.command_buffers)
    assert gpu.counters.submits - submits == 9 * buffers + calls["copy"]


def test_others_have_their_turns_between_passes(
    engines: Callable[[str], Engine], run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop runs between passes, and a stop ends the work at the next pass."""
    engine = engines(PLAIN)
    runtime: Any = engine._loaded.runtime
    monkeypatch.setattr(runtime, "_sizes", (32, 80))
    passes = 0
    write = runtime._write

    def counted(batch: Any) -> int:
        nonlocal passes
        passes += 1
        return write(batch)

    monkeypatch.setattr(runtime, "_write", counted)
    texts = ["hello again " * 20] * 12  # one of them fills a pass

    async def work() -> None:
        seen: set[int] = set()

        async def look() -> None:
            while True:
                seen.add(passes)
                await asyncio.sleep(0)

        looking = asyncio.create_task(look())
        await engine.embed(texts)
        assert passes == 12 and len(seen) >= 4, (
            "a task that is ready runs between passes, not only at the ends"
        )
        asked = engine.embed(texts)
        while passes < 14:
            await asyncio.sleep(0)
        asked.stop()
        with pytest.raises(AbortError):
            await asked
        assert len(await engine.embed(["hello"])) == 1
        assert passes < 24
        looking.cancel()

    run(work())


async def _embed(engine: Engine, *texts: Any, **options: Any) -> Any:
    return await engine.embed(*texts, **options)


def test_rows(engines: Callable[[str], Engine], run: Runner) -> None:
    """Rows have unit length and share the result's memory. With fewer dimensions they are the first ones, scaled to
    unit length again. Ids are taken as they are."""
    engine = engines(PLAIN)
    answer = run(_embed(engine, ["hello world", "jerboas"]))
    assert len(answer) == 2 and answer.dimensions == 60
    row = np.asarray(answer[0])
    assert row.dtype == np.float32 and row.shape == (60,) and row.base is not None
    assert np.shares_memory(row, np.asarray(answer.embeddings[0]))
    assert all(abs(np.linalg.norm(np.asarray(row)) - 1) < 1e-6 for row in answer)
    cut = run(_embed(engine, ["hello world"], dimensions=8))
    assert cut.dimensions == 8
    assert np.allclose(cut[0], row[:8] / np.linalg.norm(row[:8]), atol=1e-6)
    ids = engine._loaded.tokenizer.encode("hello world", add_special_tokens=True)
    same = run(_embed(engine, ids=ids))
    assert nmse(np.asarray(same[0]), row) < 1e-10 and same.prompt_tokens == len(ids)


def test_info_says_what_the_model_does(
    engines: Callable[[str], Engine], run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines(PLAIN)
    encoder = engine._loaded.require(encoders.Encoder, "embed")
    embed, said = encoder.embed, list[str]()

    async def told(*args: Any) -> bytearray:
        said.append(engine.info()["status"])
        return await embed(*args)

    monkeypatch.setattr(encoder, "embed", told)
    run(_embed(engine, ["hello world"]))
    assert said == ["embedding"] and engine.info()["status"] == "ready"


@pytest.mark.parametrize(
    "texts, options, message",
    [
        (None, {}, "give a list of texts"),
        ([], {}, "give a list of texts"),
        ("hello", {}, "give a list of texts"),
        (["a", ""], {}, r"texts\[1\] is empty"),
        (["a", 3], {}, r"texts\[1\] must be a str"),
        (["\ud800"], {}, "surrogate"),
        (["a"], {"task": "sing"}, "document, query"),
        (["a"], {"task": 3}, "give one of"),
        (["a"], {"dimensions": 61}, "from 1 to 60"),
        (["a"], {"dimensions": 0}, "from 1 to 60"),
        (["a"], {"ids": [1]}, "not both"),
        (None, {"ids": [1], "task": "query"}, "not both"),
        (None, {"ids": []}, "0 ids"),
        (None, {"ids": [1] * 81}, "81 ids"),
        (None, {"ids": [100000]}, "outside the vocabulary"),
    ],
)
def test_bad_requests_fail_at_once(
    engines: Callable[[str], Engine], run: Runner, texts: Any, options: Any, message: str
) -> None:
    engine = engines(PLAIN)

    async def ask() -> None:
        with pytest.raises(InputError, match=message):
            engine.embed(texts, **options)

    run(ask())


def test_similarity_is_the_cosine(engines: Callable[[str], Engine], run: Runner) -> None:
    """As sentence-transformers' similarity: a matrix, of texts or of vectors of any length."""
    engine = engines(OLD)

    async def ask() -> None:
        queries, documents = ["hello", "again"], ["hello", "wor", "ing"]
        q = await engine.embed(queries, task="query")
        d = await engine.embed(documents, task="document")
        wanted = np.asarray(q.embeddings) @ np.asarray(d.embeddings).T
        found = await engine.similarity(queries, documents, task="query", others_task="document")
        assert np.allclose(np.asarray(found.similarities), wanted, atol=1e-6)
        assert found.prompt_tokens == q.prompt_tokens + d.prompt_tokens
        mixed = await engine.similarity(
            queries, (3 * np.asarray(d.embeddings)).tolist(), task="query"
        )
        assert np.allclose(np.asarray(mixed.similarities), wanted, atol=1e-6)
        itself = await engine.similarity(documents, task="document", dimensions=7)
        short = np.asarray(
            (await engine.embed(documents, task="document", dimensions=7)).embeddings
        )
        assert np.allclose(np.asarray(itself.similarities), short @ short.T, atol=1e-6)
        zeros = await engine.similarity([[0.0] * 60], d.embeddings)
        assert zeros.similarities[0].tolist() == [0, 0, 0] and zeros.prompt_tokens == 0

        for message, options in (
            ("list of texts or of vectors", {"texts": "hello"}),
            ("list of texts or of vectors", {"texts": []}),
            (r"texts\[1\] is empty", {"texts": ["a", ""]}),
            (r"others\[0\] has 3 numbers; vectors of this model have 60", {"texts": ["a"], "others": [[1, 2, 3]]}),
            (r"texts\[0\] is no vector", {"texts": [["a"]]}),
            ("finite", {"texts": [[float("nan")] * 60]}),
            ("were made for a task already", {"texts": [[1.0] * 60], "task": "query"}),
            ("others_task is for others", {"texts": ["a"], "others_task": "query"}),
            ("dimensions", {"texts": ["a"], "dimensions": 61}),
            ("this model knows", {"texts": ["a"], "task": "cooking"}),
            ("more than 1,000,000", {"texts": [[1.0] * 60] * 1001}),
        ):  # fmt: skip
            with pytest.raises(InputError, match=message):
                engine.similarity(**options)

    run(ask())


@pytest.mark.parametrize("options", [{"kv": "q8"}, {"context_classes": [64]}], ids=str)
def test_an_encoder_has_no_kv_cache(gpu: Gpu, run: Runner, options: dict[str, Any]) -> None:
    """An option that an encoder cannot follow is refused, not dropped."""
    with pytest.raises(InputError, match=f"{next(iter(options))}: this model is an encoder"):
        run(Engine.load(str(reference.folder(PLAIN)), gpu=gpu, **options))


def test_what_an_encoder_cannot_do_names_what_it_can(
    engines: Callable[[str], Engine], run: Runner
) -> None:
    engine = engines(PLAIN)
    assert engine.tasks == ["embed", "similarity"]

    async def ask() -> None:
        with pytest.raises(InputError, match="embed"):
            engine.chat([{"role": "user", "content": "hello"}])
        with pytest.raises(InputError, match="embed"):
            engine.complete("hello")
        with pytest.raises(InputError, match="embed"):
            engine.generate([1, 2])

    run(ask())


@pytest.mark.parametrize(
    "files, kind, message",
    [
        ({"modules.json": [{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]}, ModelError, "Dense"),
        ({"1_Pooling/config.json": {}}, FormatError, "1_Pooling/config.json is missing or empty"),
        ({"1_Pooling/config.json": {"pooling_mode_max_tokens": True}}, ModelError, "max_tokens"),
        ({"1_Pooling/config.json": {"pooling_mode": ["cls", "mean"]}}, ModelError, "cls and mean"),
        ({"sentence_bert_config.json": {"max_seq_length": "many"}}, FormatError, "max_seq_length"),
        ({"config_sentence_transformers.json": {"prompts": {"query": 3}}}, FormatError, "prompts"),
        ({"config_sentence_transformers.json": {"default_prompt_name": "q"}}, FormatError, "none of the prompts"),
        ({"tokenizer_config.json": {"do_lower_case": "yes"}}, FormatError, "do_lower_case must be true or false"),
        ({"config.json": {"position_embedding_type": "relative_key"}}, ModelError, "position_embedding_type"),
        ({"config.json": {"hidden_act": "tanh"}}, ModelError, "hidden_act"),
        ({"config.json": {"is_decoder": True}}, ModelError, "is_decoder"),
        ({"config.json": {"num_attention_heads": 7}}, ModelError, "7 heads"),
    ],
)  # fmt: skip
def test_repositories_that_cannot_be_read(
    device: Gpu, run: Runner, tmp_path: Path, files: Any, kind: Any, message: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(reference.folder(OLD), folder)
    for name, value in files.items():
        path = folder / name
        old = json.loads(path.read_text()) if name == "config.json" else {}
        path.write_text(json.dumps({**old, **value} if isinstance(value, dict) else value))
    before = device.counters.live_buffers

    async def given_up() -> None:
        raise AssertionError("what a repository says is known before another model makes room")

    with pytest.raises(kind, match=message):
        run(Engine.load(str(folder), gpu=device, dtype="f32", before_weights=given_up))
    assert device.counters.live_buffers == before


def test_what_a_repository_says_is_kept_with_its_weights(
    device: Gpu, run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second load asks the hub for nothing, and does not need one."""
    shutil.copytree(reference.folder(OLD), tmp_path / "root" / "org" / "tiny")
    monkeypatch.delenv("HF_TOKEN", raising=False)

    async def load() -> bytes:
        engine = await Engine.load("org/tiny", gpu=device, dtype="f32", self_check=False)
        async with engine:
            return bytes((await engine.embed(["hello"], task="query"))[0])

    with hub_server(tmp_path / "root") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        first = run(load())
        asked = len(hub.requests)
        assert run(load()) == first and len(hub.requests) - asked <= 1, "the branch's commit alone"
    assert run(load()) == first


def test_a_closed_engine_says_so_to_who_waits(device: Gpu, run: Runner) -> None:
    """The error says that the engine was closed, not that the caller stopped it."""

    async def work() -> None:
        engine = await Engine.load(
            str(reference.folder(PLAIN)), gpu=device, dtype="f32", self_check=False
        )
        asked = [engine.embed(["hello again"] * 200), engine.embed(["hello"])]
        await asyncio.sleep(0.01)
        await engine.close()
        for one in asked:
            with pytest.raises(ClosedError, match="engine is closed"):
                await one

    run(work())


def test_an_old_repository_with_a_vocabulary_alone(
    device: Gpu, engines: Callable[[str], Engine], run: Runner, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(reference.folder(PLAIN), folder)
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FormatError, match="has no tokenizer.json"):
        run(Engine.load(str(folder), gpu=device, dtype="f32"))
    (folder / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.get)))
    engine = run(Engine.load(str(folder), gpu=device, dtype="f32", self_check=False))
    same = run(_embed(engines(PLAIN), ["Hello again, \u00c9cole"]))
    assert nmse(np.asarray(run(_embed(engine, ["Hello again, \u00c9cole"]))[0]), same[0]) < 1e-10
    run(engine.close())
    (folder / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(FormatError, match="vocab.txt has no '.UNK.'"):
        run(Engine.load(str(folder), gpu=device, dtype="f32"))


def test_estimate_is_what_a_load_takes(
    engines: Callable[[str], Engine], device: Gpu, run: Runner
) -> None:
    memory = engines(PLAIN).info()["memory"]
    found = run(Engine.estimate(str(reference.folder(PLAIN)), gpu=device, dtype="f32"))
    assert all(memory[name] == nbytes for name, nbytes in found.by_kind.items())
    assert found.context == 80


def test_a_handheld_narrows_encoders_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders take 4 bits there. For embeddings that error is too large."""
    monkeypatch.setattr(NativeIo, "handheld", True)
    io = NativeIo()
    for model_type, form in (("bert", "f16"), ("qwen2", "q4")):
        config: Any = {"model_type": model_type}
        assert setting_of(LoadOptions(), config, io).form == form
        assert setting_of(LoadOptions(dtype="q4"), config, io).form == "q4", (
            "who asks for it gets it"
        )
    io.close()


def test_large_models_take_fewer_rows() -> None:
    """But a whole text always fits."""

    class Wide:
        widest = 4096

    for context, widest, sizes in (
        (512, 1536, (32, 512, 2048)), (512, 8192, (32, 512, 1024)), (512, 32768, (32, 512)),
        (8192, 8192, (32, 512, 2048, 8192)), (20, 64, (32, 512, 2048)),
    ):  # fmt: skip
        wide: Any = Wide()
        wide.widest = widest
        assert encoders._sizes(wide, context) == sizes


@pytest.mark.real_model
def test_real_minilm(device: Gpu, run: Runner) -> None:
    """The ids are equal. The cosine with transformers' vectors, mean-pooled as in sentence-transformers, is at least
    0.99999."""
    try:
        folder = prepare_folder(ENCODERS[0])
    except PackageModelError as error:
        missing_adapter(f"the packaged model is not to be had: {error}")
    wanted = json.loads((reference.GOLDENS / "real_embeddings.json").read_text())["texts"]

    async def work() -> None:
        async with await Engine.load(str(folder), gpu=device, dtype="f32") as engine:
            tokenizer = engine._loaded.tokenizer
            for case in wanted:
                ids = tokenizer.encode(case["text"], add_special_tokens=True)
                assert (ids if len(ids) <= 256 else [*ids[:255], ids[-1]]) == case["ids"], case[
                    "text"
                ]
            answer = await engine.embed([case["text"] for case in wanted])
            for row, case in zip(answer, wanted, strict=True):
                assert np.dot(row, case["vector"]) >= 0.99999, case["text"]
            assert answer.prompt_tokens == sum(len(case["ids"]) for case in wanted)

    run(work())


def test_command_line() -> None:
    command = [
        sys.executable,
        "-m",
        "py_engine",
        "embed",
        str(reference.folder(PLAIN)),
        "hello",
        "again",
    ]
    found = subprocess.run(
        [*command, "--json", "--dimensions", "5", "--dtype", "f32", "--host", "wgpu"],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    answer = json.loads(found.stdout)
    assert answer.keys() == {"embeddings", "dimensions", "prompt_tokens", "note"}
    assert "not known to be trained" in answer["note"]
    assert [len(row) for row in answer["embeddings"]] == [5, 5] and answer["dimensions"] == 5


def test_texts_of_stdin_and_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A text a line of stdin, then each file whole; the vectors go to a file of NumPy's."""
    file, out = tmp_path / "text.txt", tmp_path / "out.npy"
    file.write_text("\ufefftwo\nlines", encoding="utf-8")
    command = ["embed", str(reference.folder(PLAIN)), "--host", "wgpu", "--dtype", "f32", "--json"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\nagain\n"))
    assert main([*command, "-", "--file", str(file), "--out", str(out)]) == 0
    told = json.loads(capsys.readouterr().out)
    vectors = np.load(out)
    assert (told["out"], vectors.shape) == (str(out), (3, told["dimensions"]))
    assert np.allclose((vectors**2).sum(1), 1, atol=1e-5)
    file.write_bytes(b"\xff\xfe\x00")
    for more, said in (
        (["--file", str(tmp_path / "none")], "cannot be read"),
        (["--file", str(file)], "is no text in UTF-8"),
        (["--ids", "1,x"], "give numbers like 1,2,3"),
        (["text", "--out", str(tmp_path / "none" / "out.npy")], "there is no folder"),
    ):
        assert main([*command, *more]) == 1
        error = json.loads(capsys.readouterr().out)["error"]
        assert error["type"] == "InputError" and said in error["message"]
