"""The engine in its worker: it boots, loads, answers, stops, and goes on after errors. Its tokens equal the native
engine's.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from devtools.page_server import PageServer
from tests import reference
from tests_e2e.conftest import GOLDENS, Probe, Visited, Worker, blank_page
from tests_e2e.native import native
from tests_e2e.visit import ORGANISATION, watched

MODEL = "qwen3-mlx4-g128"
# KEYS: the keys of all snapshots, as [name of the cache, address]. Below it: a script that stores garbage at such keys.
KEYS = """async () => {
  const keys = [];
  for (const name of await caches.keys()) {
    for (const key of await (await caches.open(name)).keys()) keys.push([name, key.url]);
  }
  return keys;
}"""
SPOIL = """async keys => {
  for (const [name, url] of keys) await (await caches.open(name)).put(url, new Response(new Uint8Array(1000)));
}"""


def booted(worker: Worker) -> dict[str, Any]:
    """The worker's first messages."""
    return worker.wait(lambda m: m["status"] == "booted")[-1]


@pytest.fixture(scope="module")
def worker(visited: Visited, site: PageServer) -> Iterator[Worker]:
    """The engine's worker, with the local hub."""
    page = blank_page(visited.context, site)
    worker = Worker(page, "worker.mjs")
    worker.ask({"type": "env", "id": "env", "values": {"HF_ENDPOINT": site.url + "models"}})
    yield worker
    page.close()


@pytest.fixture
def loaded(worker: Worker) -> Worker:
    """The worker with the small model loaded and checked."""
    info = worker.ask({"type": "info", "id": "loaded?"})["value"]
    if not info or not info["model"].endswith(MODEL):
        assert worker.ask(load("load", self_check=True))["status"] == "ready"
    return worker


def load(id: str, name: str = MODEL, **options: Any) -> dict[str, Any]:
    return {
        "type": "load",
        "id": id,
        "repo": f"{ORGANISATION}/{name}",
        "options": {"context": 512, **options},
    }


def generate(id: str, prompt: str = "one two three", **options: Any) -> dict[str, Any]:
    return {
        "type": "generate",
        "id": id,
        "prompt": prompt,
        "options": {"temperature": 0, **options},
    }


# ---- boot


def test_first_boot_leaves_a_snapshot_that_the_next_one_uses(visited: Visited, page: Page) -> None:
    assert visited.cold["snapshot"] is False
    assert visited.cold["runtime"] == "Pyodide 314.0.7"
    assert visited.early["value"] is None, "messages sent while booting wait"
    worker = Worker(page, "worker.mjs")
    warm = booted(worker)
    assert warm["snapshot"] is True
    assert worker.ask({"type": "info", "id": 1})["value"] is None
    print(
        f"boot: {visited.cold['boot_ms']:.0f} ms cold, {warm['boot_ms']:.0f} ms from the snapshot"
    )
    worker.close()
    draws = set()
    for _ in range(2):
        probe = Probe(page, "py314")
        draws.add(probe("random_number"))
        probe.worker.close()
    assert len(draws) == 2, "random() must not be the frozen one of the snapshot"


def test_a_broken_snapshot_is_thrown_away(browser: Browser, site: PageServer, page: Page) -> None:
    keys = page.evaluate(KEYS)
    assert len(keys) == 1
    context, _ = watched(browser, site)
    other = blank_page(context, site)
    other.evaluate(SPOIL, keys)
    assert booted(Worker(other, "worker.mjs"))["snapshot"] is False
    context.close()


@pytest.mark.parametrize(
    "source",
    [
        "",
        *(pytest.param(s, marks=pytest.mark.slow) for s in ("import './nowhere.mjs';", "throw 1;")),
    ],
)
def test_a_snapshot_that_cannot_be_made_is_told(
    browser: Browser,
    site: PageServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
) -> None:
    """Whatever the reason: its script is missing, does not load, or raises."""
    find, script = site.site.find, tmp_path / "snapshot.mjs"
    if source:
        script.write_text(source)
    there = script if source else None
    monkeypatch.setattr(
        site.site, "find", lambda path: there if path == "/snapshot.mjs" else find(path)
    )
    context, _ = watched(browser, site)
    worker = Worker(blank_page(context, site), "worker.mjs")
    log = worker.wait(lambda m: m["status"] == "log" and "snapshot" in m["message"], 120)[-1]
    assert log["message"].startswith("no memory snapshot was made: "), log
    assert worker.ask({"type": "info", "id": "after"})["status"] == "result"
    context.close()


def test_scripts_come_with_a_policy_that_forbids_eval(page: Page, site: PageServer) -> None:
    for name in ("worker.mjs", "snapshot.mjs", "boot.mjs", "replay.mjs"):
        with urllib.request.urlopen(site.url + name) as answer:
            policy = answer.headers["Content-Security-Policy"]
        assert "script-src 'self' 'wasm-unsafe-eval';" in policy
    probe = Probe(page, "py314")
    assert probe("eval_is_refused") is True


# ---- messages


def test_the_self_check_finds_nothing_wrong(loaded: Worker) -> None:
    checked = loaded.ask({"type": "info", "id": "checked"})["value"]["self_check"]
    print("self-check:", checked)
    assert checked["wrong"] == [] and checked["pipelines"] >= checked["checks"] >= 15


def test_a_wrong_message_is_answered_and_the_worker_goes_on(worker: Worker) -> None:
    answer = worker.ask({"type": "generate", "id": 5})
    assert (answer["status"], answer["error_type"]) == ("error", "InputError")
    answer = worker.ask({"type": "sing", "id": 6})
    assert "sing" in answer["error"]
    assert worker.ask({"type": "info", "id": 7})["status"] == "result"


def test_null_is_what_is_absent(loaded: Worker) -> None:
    """A field that is null counts as absent, in a message and in its options."""
    messages = [{"role": "user", "content": "hello"}]
    answer = loaded.ask(
        {
            "type": "generate", "id": "nulls", "messages": messages, "prompt": None,
            "options": {"max_tokens": 1, "temperature": None},
        }
    )  # fmt: skip
    assert answer["status"] == "complete", answer
    count = loaded.ask({"type": "count_tokens", "id": "null", "messages": messages, "text": None})
    assert count["value"] > 0


def test_nothing_answers_before_a_model_is_loaded(worker: Worker) -> None:
    worker.ask({"type": "unload", "id": "none"})
    answer = worker.ask(generate("too early"))
    assert answer["error_type"] == "InputError"
    assert "load" in answer["error"]


def test_load_reports_bytes_and_then_is_ready(worker: Worker) -> None:
    worker.post(load("a load"))
    messages = worker.answer("a load")
    assert messages[0]["status"] == "loading"
    assert messages[-1]["status"] == "ready", messages[-1]
    progress = [m for m in messages if m["status"] == "progress"]
    assert progress and progress[-1]["loaded"] == progress[-1]["total"] > 100_000
    assert [m["loaded"] for m in progress] == sorted(m["loaded"] for m in progress)
    info = messages[-1]["info"]
    assert info["adapter"]["host"] == "browser"
    assert worker.ask({"type": "info", "id": "info"})["value"]["model"] == info["model"]


def test_tokens_stream_and_add_up(loaded: Worker) -> None:
    loaded.post(generate("stream", max_tokens=40))
    messages = loaded.answer("stream")
    last = messages[-1]
    assert last["status"] == "complete", last
    tokens = [m for m in messages if m["status"] == "token"]
    assert "".join(m["text"] for m in tokens) == last["text"]
    assert (
        last["num_tokens"] <= tokens[-1]["num_tokens"] <= last["num_tokens"] + 1
    )  # the stop token
    assert last["num_tokens"] <= 40
    assert last["finish_reason"] in ("length", "stop")
    # This checkpoint has one token a byte.
    assert last["prompt_tokens"] == len("one two three")
    again = loaded.ask(generate("again", max_tokens=40))
    assert again["text"] == last["text"]


def test_chat_uses_the_template(loaded: Worker) -> None:
    messages = [{"role": "user", "content": "hello"}]
    count = loaded.ask({"type": "count_tokens", "id": "count", "messages": messages})
    assert count["status"] == "result", count
    assert (
        count["value"]
        > loaded.ask({"type": "count_tokens", "id": "text", "text": "hello"})["value"]
    )
    options = {"max_tokens": 4, "temperature": 0}
    answer = loaded.ask(
        {"type": "generate", "id": "chat", "messages": messages, "options": options}
    )
    assert answer["status"] == "complete", answer
    assert answer["prompt_tokens"] == count["value"]


def test_two_models_in_one_worker_answer_at_once(loaded: Worker) -> None:
    """Their tokens alternate and their texts are the same as alone. The second model is freed separately."""
    second = {**load("second", "qwen2-mlx4-g64"), "model": "second"}
    assert loaded.ask(second)["status"] == "ready"
    first = generate("alone", max_tokens=40)
    other = {**generate("other alone", max_tokens=40), "model": "second"}
    alone = loaded.ask(first)["text"], loaded.ask(other)["text"]
    both = {"first at once": first, "second at once": other}
    for id, message in both.items():
        loaded.post({**message, "id": id})
    ended: set[str] = set()

    def over(message: dict[str, Any]) -> bool:
        if message["status"] in ("complete", "error"):
            ended.add(message["id"])
        return ended == {*both}

    heard = loaded.wait(over)
    texts = {m["id"]: m["text"] for m in heard if m["status"] == "complete"}
    assert tuple(texts[id] for id in both) == alone
    tokens = [m["id"] for m in heard if m["status"] == "token"]
    assert tokens.index("second at once") < len(tokens) - 1 - tokens[::-1].index("first at once")
    models = loaded.ask({"type": "info", "id": "both"})["value"]["models"]
    assert [m["name"] for m in models] == ["", "second"]
    assert loaded.ask({"type": "unload", "id": "gone", "model": "second"})["status"] == "result"
    assert loaded.ask({**first, "id": "afterwards"})["text"] == alone[0]


def test_interrupt_ends_that_generation_and_no_other(loaded: Worker) -> None:
    loaded.post(generate("long", max_tokens=400))
    loaded.post(generate("queued", max_tokens=400))
    loaded.post(generate("next", max_tokens=3))
    loaded.wait(lambda m: m.get("id") == "long" and m["status"] == "token")
    began = time.monotonic()
    loaded.post({"type": "interrupt", "id": "queued"})
    loaded.post({"type": "interrupt", "id": "long"})
    # A stop is answered at once, also for a request that still waits its turn.
    assert loaded.answer("queued")[-1]["finish_reason"] == "abort"
    assert loaded.answer("long")[-1]["finish_reason"] == "abort"
    took = time.monotonic() - began
    after = loaded.answer("next")[-1]
    assert after["status"] == "complete" and after["num_tokens"] <= 3
    assert took < 5, "SwiftShader needs some 100 ms a token; a whole answer takes much longer"
    alone = loaded.ask(generate("alone", max_tokens=3))
    assert alone["text"] == after["text"], "an abort must not change what comes after it"


def test_interrupt_ends_a_load(worker: Worker, site: PageServer) -> None:
    site.site.stall_s = 1.0  # type: ignore[attr-defined]
    try:
        worker.post(load("stalled"))
        worker.wait(lambda m: m.get("id") == "stalled" and m["status"] == "loading")
        time.sleep(0.3)
        worker.post({"type": "interrupt", "id": "stalled"})
        answer = worker.answer("stalled")[-1]
    finally:
        site.site.stall_s = 0.0  # type: ignore[attr-defined]
    assert (answer["status"], answer.get("error_type")) == ("error", "AbortError"), answer
    assert worker.ask(load("second try"))["status"] == "ready"


def test_context_overflow_has_the_numbers(loaded: Worker) -> None:
    answer = loaded.ask(generate("too long", prompt="x" * 600))
    assert answer["error_type"] == "ContextError"
    assert "600" in answer["error"] and "512" in answer["error"]


def test_after_a_missing_model_a_picked_folder_loads(worker: Worker) -> None:
    answer = worker.ask(load("gone", "no-such-model"))
    assert (answer["status"], answer["error_type"]) == ("error", "HubError")
    assert "no-such-model" in answer["error"]
    files = {p.name: list(p.read_bytes()) for p in (GOLDENS / "qwen2-f32").iterdir()}
    worker.page.evaluate(
        """([box, files]) => boxes[box].worker.postMessage({type: 'files', id: 'files', name: 'picked',
             files: Object.entries(files).map(([name, bytes]) => new File([new Uint8Array(bytes)], name))})""",
        [worker._box, files],
    )
    assert worker.answer("files")[-1]["value"] == len(files)
    ready = worker.ask({"type": "load", "id": "from files", "repo": "files:picked"})
    assert ready["status"] == "ready", ready
    assert worker.ask(generate("g", max_tokens=2))["status"] == "complete"


def test_a_picked_folder_has_the_folders_inside_it(worker: Worker) -> None:
    """The pooling of the encoder is set in a folder. Without that folder the load fails. With it, pooling by the first
    row and by the mean give different vectors."""
    vectors = {}
    for pooling in (None, "cls", "mean"):
        files = {p.name: list(p.read_bytes()) for p in (GOLDENS / "bert-f32").glob("*.*")}
        modules = [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]
        files["modules.json"] = list(json.dumps(modules).encode())
        if pooling:
            mode = json.dumps({f"pooling_mode_{pooling}_token{'s' * (pooling == 'mean')}": True})
            files["1_Pooling/config.json"] = list(mode.encode())
        worker.page.evaluate(
            """([box, files, id]) => {
                 const file = ([path, bytes]) => new File([new Uint8Array(bytes)], path.split('/').pop());
                 const message = {type: 'files', id, name: 'encoder', files: Object.entries(files).map(file)};
                 boxes[box].worker.postMessage({...message, paths: Object.keys(files)});
               }""",
            [worker._box, files, f"files {pooling}"],
        )
        assert worker.answer(f"files {pooling}")[-1]["value"] == len(files)
        answer = worker.ask({"type": "load", "id": f"load {pooling}", "repo": "files:encoder"})
        if pooling is None:
            assert answer["status"] == "error" and "1_Pooling/config.json" in answer["error"]
            continue
        assert answer["status"] == "ready", answer
        embed = {"type": "embed", "id": f"embed {pooling}", "texts": ["one text"]}
        vectors[pooling] = worker.ask(embed)["embeddings"]
    assert vectors["cls"] != vectors["mean"]


# ---- the same tokens


@pytest.mark.parametrize("name", [MODEL, "gemma3-text-bf16"])
def test_greedy_tokens_are_native_ones(
    probe: Probe, site: PageServer, name: str, skip_unless_slow: Callable[[], None]
) -> None:
    """A model in each Pyodide (both with --slow): 16 tokens after prompts of 7 and 65, against transformers and
    against CPython on Dawn."""
    if (probe.runtime == "py314") == (name == MODEL):
        skip_unless_slow()
    goldens = [reference.prompt(name, n) for n in (7, 65)]
    arguments = (site.url + "models", f"{ORGANISATION}/{name}", [g.ids for g in goldens], 16)
    mine = probe("greedy", *arguments)
    assert "error" not in mine, mine
    for tokens, golden in zip(mine["tokens"], goldens, strict=True):
        reference.assert_same_tokens(
            tokens,
            reference.Prompt(golden.ids, golden.logits, golden.greedy[:16], golden.margins[:16]),
        )
    assert mine["buffers_left"] <= 16, "only the ring of readback buffers outlives a model"
    assert mine["ahead"] >= 3
    assert mine["tokens"] == native("greedy", *arguments)["tokens"]


def test_page_folder_has_no_eval() -> None:
    """No JavaScript is made from strings: the page's policy would refuse it in the user's browser."""
    root = Path(__file__).parent.parent
    for file in [
        *root.glob("public/*.mjs"),
        *root.glob("py_engine/**/*.py"),
        root / "app/worker.py",
    ]:
        text = file.read_text()
        assert "run_js" not in text and "eval(" not in text and "new Function" not in text, file


def test_the_minimal_protocol_works_without_ids(worker: Worker, loaded: Worker) -> None:
    """The messages of docs/worker-messages.md, word for word: one request at a time, without an `id`."""

    def heard(last: str) -> list[dict[str, Any]]:
        found = worker.wait(lambda m: "id" not in m and m["status"] in (last, "error"))
        return [m for m in found if "id" not in m]

    worker.post({"type": "load", "repo": f"{ORGANISATION}/{MODEL}"})
    load = heard("ready")
    assert load[-1]["status"] == "ready"
    assert [m["message"] for m in load if m["status"] == "loading"]
    assert {"loaded", "total"} <= {*next(m for m in load if m["status"] == "progress")}
    options = {"maxTokens": 3, "temperature": 0}
    worker.post({"type": "generate", "prompt": "Hello", "options": options})
    *tokens, complete = heard("complete")
    assert complete["status"] == "complete" and complete["numTokens"] == complete["num_tokens"] == 3
    assert "".join(m["text"] for m in tokens if m["status"] == "token") == complete["text"]
    assert all(m["tps"] >= 0 for m in [*tokens, complete])
    worker.post({"type": "generate", "prompt": "Hello", "options": {"maxTokens": 200, "seed": 1}})
    worker.wait(lambda m: m["status"] == "token")
    worker.post({"type": "interrupt"})
    assert heard("complete")[-1]["finishReason"] == "abort"
    worker.post({"type": "generate", "prompt": "", "options": {}})
    refused = worker.wait(lambda m: m["status"] == "error")[-1]
    assert "id" not in refused and "prompt" in refused["error"]


def test_an_encoder_embeds_in_the_page(worker: Worker) -> None:
    """WordPiece in wasm and the kernels in a browser give the vectors that the native test compares with
    transformers."""
    name = "bert-f32"
    assert worker.ask(load("encoder", name, dtype="f32", context=80))["status"] == "ready"
    with np.load(reference.folder(name) / "embedding.npz") as golden:
        ids, wanted = golden["ids_33"].tolist(), golden["mean_33"]
        [text, *_], *_ = [case for case in json.loads(str(golden["texts"])) if len(case[1]) <= 80]
    answer = worker.ask({"type": "embed", "id": "ids", "ids": ids})
    assert answer["status"] == "complete" and answer["prompt_tokens"] == 33
    assert reference.nmse(np.array(answer["embeddings"][0]), wanted) <= reference.NMSE_F32
    answer = worker.ask({"type": "embed", "id": "texts", "texts": [text, "Hello, World!"]})
    assert [len(row) for row in answer["embeddings"]] == [60, 60]


@pytest.mark.parametrize("name", ["rerank-bert", "rerank-qwen3"])
def test_documents_are_ranked_in_the_page(worker: Worker, name: str) -> None:
    """A cross-encoder and a decoder give the scores that transformers gives."""
    assert worker.ask(load("reranker", name, dtype="f32", context=None))["status"] == "ready"
    golden = json.loads((reference.folder(name) / "reranking.json").read_text())
    if name == "rerank-bert":
        query, documents = golden["ranking"]["query"], golden["ranking"]["documents"][:3]
        wanted = golden["ranking"]["scores"]
    else:
        query, documents = golden["query"], [pair["document"] for pair in golden["pairs"][:3]]
        wanted = [1 / (1 + np.exp(-pair["logit"])) for pair in golden["pairs"]]
    answer = worker.ask({"type": "rerank", "id": name, "query": query, "documents": documents})
    assert answer["status"] == "complete", answer
    found = {ranked["index"]: ranked["relevance_score"] for ranked in answer["results"]}
    assert [found[i] for i in range(3)] == pytest.approx(wanted[:3], abs=2e-5)
    assert [*found] == sorted(range(3), key=lambda i: -wanted[i])
