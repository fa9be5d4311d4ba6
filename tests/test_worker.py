"""app/worker.py's Host with a real model on a software adapter: requests end when they should, and a loaded model
stays until another one replaces it.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.worker import Host
from py_engine.abort import Abort, or_abort
from py_engine.diagnostics import requests
from py_engine.errors import AbortError, InputError
from py_engine.host.adapter_native import open_gpu
from py_engine.host.gpu import Gpu
from py_engine.serve import device as device_module
from py_engine.serve.engine import Engine
from py_engine.weights.loader import Loader
from tests import reference
from tests.conftest import Runner, software_adapter

FOLDER = reference.folder("qwen2-mlx4-g64")
OTHER = reference.folder("qwen3-mlx4-g128")
PATIENCE_S = 240
# 50 ms are promised, but the machine may be busy. The work that is interrupted takes many seconds.
AT_ONCE_S = 0.5


class Page:
    """A page and its worker, in one event loop."""

    def __init__(self, run: Runner) -> None:
        self.heard: list[dict[str, Any]] = []
        self._run = run
        self.host = run(self._make())

    async def _make(self) -> Host:
        async def nothing() -> None: ...

        return Host(self.heard.append, nothing)

    def post(self, type: str, id: int | str, **fields: Any) -> None:
        async def send() -> None:
            self.host.receive({"type": type, "id": id, **fields})

        self._run(send())

    def answer(self, id: int | str, *statuses: str, within: float = PATIENCE_S) -> dict[str, Any]:
        """The first message of this id with one of these statuses; without statuses, the last message that answers
        it."""
        wanted = statuses or ("ready", "complete", "result", "error")

        async def wait() -> dict[str, Any]:
            began = time.monotonic()
            while True:
                for message in self.heard:
                    if message.get("id") == id and message["status"] in wanted:
                        return message
                assert time.monotonic() - began < within, f"no {wanted} for {id} within {within} s"
                await asyncio.sleep(0.001)

        return self._run(wait())

    def ask(self, type: str, id: int | str, **fields: Any) -> dict[str, Any]:
        self.post(type, id, **fields)
        return self.answer(id)

    def load(self, id: int | str, folder: Path, **options: Any) -> dict[str, Any]:
        return self.ask(
            "load", id, repo=str(folder), options={"context": 512, "self_check": False, **options}
        )

    def model(self, id: int | str) -> str | None:
        value = self.ask("info", id)["value"]
        return value and value["model"]


@pytest.fixture
def page(run: Runner, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    async def open_one(host: str | None = None) -> Gpu:
        with software_adapter("wgpu"):
            return await open_gpu("wgpu")

    monkeypatch.setattr(device_module, "open_gpu", open_one)
    monkeypatch.setattr(requests, "open_gpu", open_one)
    page = Page(run)
    yield page
    assert page.ask("unload", "the end")["status"] == "result"


def test_a_memory_over_messages(page: Page, tmp_path: Path) -> None:
    """Documents are added with progress and errors of their own; recall, list, forget; the model may go meanwhile."""
    folder = tmp_path / "picked"
    folder.mkdir()
    (folder / "a.md").write_text("# Ferries\n\nThe ferry leaves at nine.\n")
    (folder / "b.bin").write_bytes(bytes(range(256)) * 4)
    assert page.ask("memory_add", 0, text="a", name="a")["error_type"] == "InputError", (
        "no model yet"
    )
    assert page.ask("memory_list", 1)["value"] == []
    assert page.load(2, reference.folder("bert-f32"), context=80)["status"] == "ready"
    told = page.ask("memory_add", 3, namespace="n", files=str(folder))["value"]
    assert told["added"] == [{"source": "a.md", "pieces": 1, "notes": []}]
    [failed] = told["failed"]
    assert (failed["source"], failed["type"]) == ("b.bin", "DocumentError")
    rows = [m["row"] for m in page.heard if m["status"] == "row" and m["id"] == 3]
    assert rows[-1] == {"source": "a.md", "unit": "bytes", "done": 37, "total": 37, "stored": 1}
    page.ask("memory_add", 4, namespace="n", text="Apples grow on trees.", name="note")
    found = page.ask("memory_recall", 5, namespace="n", query="the ferry leaves at nine")["value"]
    assert found["items"][0]["source"] == "a.md" and found["items"][0]["heading"] == ["Ferries"]
    assert "The ferry leaves at nine." in found["context"] and found["tokens"] > 10
    [space] = page.ask("memory_list", 6)["value"]
    assert (space["namespace"], space["model"]) == ("n", str(reference.folder("bert-f32")))
    sources = page.ask("memory_list", 7, namespace="n")["value"]
    assert [s["source"] for s in sources] == ["a.md", "note"]
    assert page.ask("memory_forget", 8, namespace="n", source="note")["value"] == 1
    assert page.ask("memory_recall", 9, namespace="n", query="apples")["value"]["items"] == [
        {**found["items"][0], "score": pytest.approx(0, abs=1)}
    ]
    wrong: tuple[dict[str, Any], ...] = (
        {},
        {"ids": ["a"], "all": True},
        {"ids": ["a"], "namespace": ""},
    )
    for id, fields in enumerate(wrong, 10):
        assert page.ask("memory_forget", id, **fields)["error_type"] == "InputError"
    assert page.ask("memory_add", 20, files="never sent")["error_type"] == "InputError"
    assert page.ask("unload", 21)["status"] == "result"
    assert page.load(22, FOLDER)["status"] == "ready"
    assert "cannot embed" in page.ask("memory_recall", 23, namespace="n", query="a")["error"]
    assert page.ask("memory_forget", 24, namespace="n", all=True)["value"] == 1
    assert page.ask("memory_list", 25)["value"] == []


def broken(tmp_path: Path, name: str, change: Callable[[Path], object]) -> Path:
    """A copy of the other checkpoint with something wrong in it."""
    folder = tmp_path / name
    shutil.copytree(OTHER, folder)
    change(folder)
    return folder


def test_a_load_that_fails_before_its_weights_leaves_the_model_in_use(
    page: Page, tmp_path: Path
) -> None:
    assert page.load(1, FOLDER)["status"] == "ready"
    wrong = {
        "no such folder": tmp_path / "none",
        "config": broken(tmp_path, "config", lambda f: (f / "config.json").write_text("{")),
        "tokenizer": broken(
            tmp_path, "tokenizer", lambda f: (f / "tokenizer.json").write_text("{}")
        ),
        "headers": broken(
            tmp_path, "headers", lambda f: (f / "model.safetensors").write_bytes(b"\0" * 64)
        ),
    }
    for name, folder in wrong.items():
        answer = page.load(name, folder)
        assert answer["status"] == "error", name
        assert page.model("info " + name) == str(FOLDER), name
        generated = page.ask("generate", "after " + name, prompt="one", options={"max_tokens": 2})
        assert generated["status"] == "complete", name
    assert page.load("budget", OTHER, memory_budget=1000)["error_type"] == "MemoryBudgetError"
    assert page.model("info budget") == str(FOLDER)
    assert page.load("right", OTHER)["status"] == "ready"
    assert page.model("info right") == str(OTHER)


def test_the_old_model_is_freed_before_the_new_ones_weights(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.load(1, FOLDER)
    old = page.host._engine
    assert old is not None
    seen: list[tuple[str, int]] = []
    run = Loader.run

    async def watched(self: Loader, *args: Any) -> Any:
        seen.append((old.info()["status"], old._gpu.counters.live_bytes))
        return await run(self, *args)

    monkeypatch.setattr(Loader, "run", watched)
    assert page.load(2, OTHER)["status"] == "ready"
    ((status, nbytes),) = seen
    new = page.host._engine
    assert new is not None
    assert status == "closed"
    assert nbytes <= new.takes, "on a phone both do not fit"


def test_several_models_by_name(page: Page) -> None:
    """Both answer at once, and each is unloaded alone. A page that names no model gets the one of before."""
    assert page.load(1, FOLDER)["status"] == "ready"
    options = {"context": 512, "self_check": False}
    assert page.ask("load", 2, repo=str(OTHER), model="other", options=options)["status"] == "ready"
    assert page.model(3) == str(FOLDER)
    told = page.ask("info", 4, model="other")["value"]
    assert told["model"] == str(OTHER)
    assert [(m["name"], m["model"]) for m in told["models"]] == [
        ("", str(FOLDER)),
        ("other", str(OTHER)),
    ]
    asked = {"prompt": "one two", "options": {"max_tokens": 24, "temperature": 0.0}}
    alone = (
        page.ask("generate", 5, **asked)["text"],
        page.ask("generate", 6, model="other", **asked)["text"],
    )
    page.post("generate", 7, **asked)
    page.post("generate", 8, model="other", **asked)
    assert (page.answer(7)["text"], page.answer(8)["text"]) == alone
    tokens = [m["id"] for m in page.heard if m["status"] == "token" and m["id"] in (7, 8)]
    assert tokens != sorted(tokens), "neither waits for the other's whole answer"
    assert "'other'" in page.ask("generate", 9, model="nobody", **asked)["error"]
    budget = {**options, "memory_budget": told["models"][0]["most_bytes"] * 2}
    assert (
        page.ask("load", 10, repo=str(OTHER), model="third", options=budget)["error_type"]
        == "MemoryBudgetError"
    )
    assert page.ask("unload", 11, model="other")["status"] == "result"
    assert page.ask("generate", 12, **asked)["text"] == alone[0]
    device = page.host._models._device
    assert device and len(device.engines) == 1


def test_a_load_that_fails_in_its_weights_says_that_nothing_is_loaded(page: Page) -> None:
    page.load(1, FOLDER)
    failing = device_module.Device.load

    async def fails(*args: Any, **options: Any) -> Any:
        before, old = options.pop("before_weights"), options.pop("replacing")

        async def then_fail() -> None:
            await before()
            await old.close()
            raise InputError("in the weights")

        return await failing(*args, before_weights=then_fail, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_module.Device, "load", fails)
        assert page.load(2, OTHER)["error"] == "in the weights"
    assert page.model(3) is None


def test_a_replayed_id_is_refused_while_the_first_lives(page: Page) -> None:
    page.load(1, FOLDER)
    page.post("generate", 5, prompt="one two", options={"max_tokens": 20, "temperature": 0})
    page.post("generate", 5, prompt="three", options={"max_tokens": 20})
    refused = page.answer(5, "error")
    assert refused["error_type"] == "InputError" and "5" in refused["error"]
    assert page.answer(5, "complete")["num_tokens"] > 0
    page.heard.clear()
    assert page.ask("generate", 5, prompt="one", options={"max_tokens": 1})["status"] == "complete"


def test_an_interrupt_ends_what_waits_for_its_turn_at_once(page: Page) -> None:
    """A request that waits behind a running answer, and one that waits behind a load."""
    page.load(1, FOLDER)
    page.post("generate", "running", prompt="one", options={"max_tokens": 400, "temperature": 0})
    page.post("generate", "queued", prompt="two", options={"max_tokens": 400})
    page.answer("running", "token")
    began = time.monotonic()
    page.post("interrupt", "queued")
    assert page.answer("queued")["finish_reason"] == "abort"
    assert time.monotonic() - began < AT_ONCE_S
    assert not any(m.get("id") == "running" and m["status"] == "complete" for m in page.heard)
    page.post("interrupt", "running")
    assert page.answer("running")["finish_reason"] == "abort"

    held = page.host._turn
    page._run(held.acquire())
    for kind, fields in (
        ("generate", {"prompt": "x"}),
        ("generate", {"messages": [{"role": "user", "content": "x"}]}),
        ("load", {"repo": str(OTHER)}),
        ("bench", {"model": str(OTHER)}),
        ("bench", {"model": str(OTHER), "load": True}),
        ("diagnose", {"tests": ["sweep"]}),
    ):
        name = f"{kind} {sorted(fields)}"
        page.post(kind, name, **fields)
        page._run(asyncio.sleep(0.01))
        began = time.monotonic()
        page.post("interrupt", name)
        answer = page.answer(name, within=5)
        assert time.monotonic() - began < AT_ONCE_S, name
        assert answer.get("finish_reason") == "abort" or answer["error_type"] == "AbortError", (
            answer
        )
    held.release()
    assert page.model("still") == str(FOLDER)


def test_an_interrupt_ends_bench_and_diagnose_at_work(page: Page) -> None:
    page.load("load", FOLDER)
    page.post("diagnose", 1)
    page.answer(1, "row")
    began = time.monotonic()
    page.post("interrupt", 1)
    assert page.answer(1, within=60)["error_type"] == "AbortError"
    page.post(
        "bench",
        2,
        model=str(FOLDER),
        prompt_tokens=64,
        new_tokens=400,
        runs=100,
        options={"context": 512},
    )
    deadline = time.monotonic() + PATIENCE_S
    while page.host._engine is None or page.host._engine.info()["status"] != "generating":
        page._run(asyncio.sleep(0.01))
        assert time.monotonic() < deadline, "the bench never began"
    began = time.monotonic()
    page.post("interrupt", 2)
    assert page.answer(2, within=60)["error_type"] == "AbortError"
    assert time.monotonic() - began < 20
    assert page.ask("generate", 3, prompt="one", options={"max_tokens": 2})["status"] == "complete"


# ---- a caller that goes away


@pytest.fixture(scope="module")
def engine(open_software_gpu: Callable[..., Gpu], run: Runner) -> Iterator[Engine]:
    gpu = open_software_gpu("wgpu")
    loaded: Engine = run(Engine.load(str(FOLDER), gpu=gpu, dtype="f32", context=512))
    yield loaded
    run(loaded.close())


OPTIONS: dict[str, Any] = {"max_tokens": 400, "temperature": 0.0, "ignore_eos": True}


def test_a_cancelled_await_ends_its_generation(engine: Engine, run: Runner) -> None:
    async def work() -> None:
        generation = engine.generate([1, 2, 3], **OPTIONS)
        caller = asyncio.ensure_future(_answer(generation))
        await asyncio.sleep(0.2)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert generation.abort.is_set
        assert (await generation).finish_reason == "abort"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_answer(engine.generate([1, 2, 3], **OPTIONS)), 0.1)
        began = time.monotonic()
        assert len((await engine.generate([4], **{**OPTIONS, "max_tokens": 2})).tokens) == 2
        assert time.monotonic() - began < 20, "nobody's answer is in the way"

    run(work())


async def _answer(generation: Any) -> Any:
    return await generation


def test_a_loop_that_is_left_ends_its_generation(engine: Engine, run: Runner) -> None:
    async def work() -> None:
        left = engine.generate([1, 2, 3], **OPTIONS)
        async for _ in left:
            break
        await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        assert left.abort.is_set and (await left).finish_reason == "abort"
        closed = engine.generate([1, 2, 3], **OPTIONS)
        deltas = closed.__aiter__()
        await deltas.__anext__()
        await deltas.aclose()  # type: ignore[attr-defined]
        assert closed.abort.is_set and (await closed).finish_reason == "abort"
        whole = engine.generate([1, 2, 3], **{**OPTIONS, "max_tokens": 3})
        async for _ in whole:
            pass
        assert not whole.abort.is_set and (await whole).finish_reason == "length"

    run(work())


def test_close_does_not_wait_for_answers(
    open_software_gpu: Callable[..., Gpu], run: Runner
) -> None:
    gpu = open_software_gpu("wgpu")

    async def work() -> None:
        engine = await Engine.load(str(FOLDER), gpu=gpu, context=512)
        generations = [engine.generate([1, n], **OPTIONS) for n in range(3)]
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await engine.close()
        assert time.monotonic() - began < 20
        assert [(await g).finish_reason for g in generations] == ["abort"] * 3

    run(work())


def test_or_abort(run: Runner) -> None:
    async def work() -> None:
        abort = Abort()
        assert await or_abort(asyncio.sleep(0, "done"), abort) == "done"
        assert not abort._calls, "nothing stays"
        ended: list[str] = []

        async def long() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                ended.append("cleaned up")

        asyncio.get_running_loop().call_later(0.01, abort.set)
        with pytest.raises(AbortError):
            await or_abort(long(), abort)
        assert ended == ["cleaned up"]
        with pytest.raises(AbortError):
            await or_abort(long(), abort)

    run(work())


def alone(page: Page, last: str) -> list[dict[str, Any]]:
    """The messages without an id up to a status or an error. They are dropped from the list."""

    async def wait() -> list[dict[str, Any]]:
        began = time.monotonic()
        while True:
            found = [m for m in page.heard if "id" not in m]
            if any(m["status"] in (last, "error") for m in found):
                page.heard.clear()
                return found
            assert time.monotonic() - began < PATIENCE_S
            await asyncio.sleep(0.001)

    return page._run(wait())


def test_a_page_that_asks_one_thing_at_a_time_needs_no_ids(page: Page) -> None:
    """The messages of docs/worker-messages.md, word for word."""

    def post(**message: Any) -> None:
        async def send() -> None:
            page.host.receive(message)

        page._run(send())

    options = {"context": 512, "selfCheck": False}
    post(type="load", repo=str(FOLDER), options=options)
    load = alone(page, "ready")
    assert [m["status"] for m in load][:: len(load) - 1] == ["loading", "ready"]
    assert any({"loaded", "total"} <= {*m} for m in load if m["status"] == "progress")
    post(type="generate", prompt="one", options={"maxTokens": 3, "temperature": 0})
    *tokens, complete = alone(page, "complete")
    assert complete["numTokens"] == complete["num_tokens"] == 3 and complete["tps"] > 0
    assert "".join(m["text"] for m in tokens) == complete["text"]
    assert tokens[-1]["tps"] == complete["tps"]
    # Messages that are sent at once are answered in order. An interrupt ends all that are not answered yet.
    for text in ("one", "two"):
        post(type="generate", prompt=text, options={"max_tokens": 400, "temperature": 0})
    post(type="interrupt")
    ended: list[dict[str, Any]] = []
    while len(ended) < 2:
        ended += [m for m in alone(page, "complete") if m["status"] == "complete"]
    assert [m["finishReason"] for m in ended] == ["abort", "abort"]
    post(type="complete", prompt="one", ids=[1], id=7)
    assert "not both" in page.answer(7)["error"], "a message with an id is answered as ever"
    post(type="generate", prompt="", options={})
    refused = alone(page, "complete")[-1]
    assert refused["status"] == "error" and "prompt" in refused["error"]


def test_tasks_are_messages_of_their_own(page: Page) -> None:
    page.load(1, FOLDER)
    asked = {"prompt": "one", "max_tokens": 3, "temperature": 0}
    first = page.ask("complete", 2, **asked)
    options = {"max_tokens": 3, "temperature": 0}
    again = page.ask("generate", 3, prompt="one", options=options)
    assert first["text"] == again["text"] and {*first} == {*again}
    assert {"chat", "complete"} <= {*page.ask("info", 4)["value"]["tasks"]}
    assert page.ask("load", 5, repo="random:tiny")["status"] == "ready"
    assert page.ask("info", 6)["value"]["tasks"] == ["complete"], "it has no chat template"
    refused = page.ask("chat", 7, messages=[{"role": "user", "content": "a"}])
    assert refused["error_type"] == "InputError"
    assert "chat template" in refused["error"] and "can do: complete" in refused["error"]


def test_an_encoder_embeds_and_says_what_it_cannot(run: Runner) -> None:
    with software_adapter("wgpu"):
        page = Page(run)
        options = {"dtype": "f32"}
        folder = str(reference.folder("bert-f32"))
        assert page.ask("load", 1, repo=folder, options=options)["status"] == "ready"
        answer = page.ask("embed", 2, texts=["hello", "again"], dimensions=4)
        assert answer["status"] == "complete" and answer["dimensions"] == 4
        assert [len(row) for row in answer["embeddings"]] == [4, 4]
        refused = page.ask("generate", 3, prompt="hello")
        assert refused["status"] == "error" and "embed" in str(refused)
        assert page.ask("unload", 4)["status"] == "result"


def test_a_cross_encoder_ranks_documents(run: Runner) -> None:
    with software_adapter("wgpu"):
        page = Page(run)
        folder = str(reference.folder("rerank-bert"))
        assert page.ask("load", 1, repo=folder, options={"dtype": "f32"})["status"] == "ready"
        answer = page.ask("rerank", 2, query="hello", documents=["a", "hello", "b"], topN=2)
        assert answer["status"] == "complete" and {*answer} == {"status", "id", "results"}
        assert [{*ranked} for ranked in answer["results"]] == [{"index", "relevance_score"}] * 2
        scores = [ranked["relevance_score"] for ranked in answer["results"]]
        assert 1 > scores[0] >= scores[1] > 0
        refused = page.ask("rerank", 3, query="hello", documents=[])
        assert refused["error_type"] == "InputError" and "documents" in refused["error"]
        assert page.ask("unload", 4)["status"] == "result"
