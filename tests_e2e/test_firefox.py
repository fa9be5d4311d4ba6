"""A second browser engine: WebGPU by wgpu and naga over lavapipe (shader-f16, no subgroups), with Gecko's storage,
workers and service worker. devtools/firefox.py finds Firefox or fetches it; `./dev test --firefox` runs these tests.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devtools import firefox
from devtools.page_server import PageServer
from devtools.site import Site
from tests import reference
from tests_e2e.conftest import Probe, Worker
from tests_e2e.marionette import Browser, Tab, running
from tests_e2e.native import native
from tests_e2e.visit import MODEL, ORGANISATION, offer

# One model of each family. Together they make naga compile every kernel of the engine.
FAMILIES = (MODEL, "gemma3-text-bf16", "qwen3.5-mlx-mixed-vision", "lfm2-mlx4-g64")
PROMPT = "one two three"


@pytest.fixture(scope="module")
def binary() -> firefox.Firefox:
    """A current Firefox. If it is being fetched, wait for it."""
    try:
        return firefox.find()
    except firefox.NoFirefox as reason:
        if os.environ.get("CI") == "true":
            pytest.fail(str(reason))
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def browser(binary: firefox.Firefox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One process for the tests that need no profile of their own."""
    with running(binary, tmp_path_factory.mktemp("firefox") / "profile") as browser:
        yield browser


@pytest.fixture
def tab(browser: Browser, site: PageServer) -> Iterator[Tab]:
    """A blank page of the origin."""
    tab = browser.new_tab()
    tab.goto(site.url + "probe.html")
    yield tab
    tab.close()


def boot(tab: Tab, site: PageServer) -> Worker:
    """The engine's worker, with the local hub."""
    worker = Worker(tab, "worker.mjs")  # type: ignore[arg-type]
    worker.wait(lambda m: m["status"] == "booted")
    worker.ask({"type": "env", "id": "env", "values": {"HF_ENDPOINT": site.url + "models"}})
    return worker


def ask(id: str, **options: Any) -> dict[str, Any]:
    return {
        "type": "generate",
        "id": id,
        "prompt": PROMPT,
        "options": {"temperature": 0, **options},
    }


def test_every_family_loads_and_answers_as_native_does(tab: Tab, site: PageServer) -> None:
    """Each kernel is checked against its own reference, in f32 and in f16. A stop ends an answer."""
    worker = boot(tab, site)
    for name in FAMILIES:
        state: dict[str, int] = {}
        for dtype in ("f32", "auto"):
            options = {"context": 512, "dtype": dtype, "self_check": True}
            repo = f"{ORGANISATION}/{name}"
            ready = worker.ask({"type": "load", "id": "load", "repo": repo, "options": options})
            assert ready["status"] == "ready", (name, dtype, ready)
            info = ready["info"]
            checked = info["self_check"]
            assert checked["wrong"] == [] and checked["dropped"] == [], (name, dtype)
            assert checked["pipelines"] >= checked["checks"] >= 15
            assert info["adapter"]["host"] == "browser"
            assert "shader-f16" in info["features"] and "subgroups" not in info["features"]
            state[dtype] = info["memory"]["state_bytes"]
            answer = worker.ask(ask("short", max_tokens=8))
            assert answer["status"] == "complete" and answer["text"], answer
        assert state["auto"] < state["f32"], "auto is f16 where shaders have it"
    worker.post(ask("long", max_tokens=400))
    begun = worker.wait(lambda m: m.get("id") == "long" and m["status"] != "loading")[-1]
    assert begun["status"] == "token", begun
    began = time.monotonic()
    worker.post({"type": "interrupt", "id": "long"})
    stopped = worker.answer("long")[-1]
    assert stopped["finish_reason"] == "abort" and 0 < stopped["num_tokens"] < 400
    assert time.monotonic() - began < 10, "a whole answer takes longer on lavapipe"
    worker.close()


def test_greedy_tokens_are_native_ones(tab: Tab, site: PageServer) -> None:
    """Against transformers, and against CPython over wgpu on the same driver. At the end, the errors of a lost
    device."""
    probe = Probe(tab, "py314")  # type: ignore[arg-type]
    goldens = [reference.prompt(MODEL, n) for n in (7, 65)]
    arguments = (site.url + "models", f"{ORGANISATION}/{MODEL}", [g.ids for g in goldens], 16)
    mine = probe("greedy", *arguments)
    assert "error" not in mine, mine
    for tokens, golden in zip(mine["tokens"], goldens, strict=True):
        reference.assert_same_tokens(
            tokens,
            reference.Prompt(golden.ids, golden.logits, golden.greedy[:16], golden.margins[:16]),
        )
    assert mine["tokens"] == native("greedy", *arguments, host="wgpu")["tokens"]
    assert mine["ahead"] >= 3

    kind, message = probe("lose_while_decoding")["error"]
    assert kind == "DeviceLostError" and "Load the model again" in message
    assert probe("round_trip", 6)["out"] == [1, 1.5, 2, 2.5, 3, 3.5], "the worker went on working"


def test_every_store_equals_files(tab: Tab, tmp_path: Path) -> None:
    probe = Probe(tab, "py314")  # type: ignore[arg-type]
    assert probe("store_kinds") == ["opfs", "opfs"]
    for kind in ("Opfs", "Pieces", "Records", "Memory"):
        expected = native("store", kind, str(tmp_path / kind))
        assert probe("store", kind, f"test-{kind}") == expected, kind
    read, written, refused = probe("store_twice", "Opfs", "twice")
    assert (read, written) == ("read here", "written here")
    assert refused.startswith("StorageError") and "in use by another tab" in refused


SETTINGS = """localStorage.setItem('jerboa.settings',
  JSON.stringify({temperature: 0, max_tokens: 12, context: 512}))"""
READY = "document.body.dataset.ui === 'ready' && document.body.dataset.config === 'ready'"
TYPE = """text => {
  const box = document.querySelector('#prompt');
  box.focus();
  box.value = text;
  box.dispatchEvent(new InputEvent('input', { bubbles: true }));
}"""
ENTER = """() => {
  const box = document.querySelector('#prompt');
  box.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', bubbles: true, cancelable: true }));
}"""
ANSWERED = "document.querySelector('.message.answer:last-child:not(.streaming) .text')?.innerText"
KEPT = """async () => Object.fromEntries(await Promise.all((await caches.keys()).map(
  async name => [name, (await (await caches.open(name)).keys()).length])))"""


def test_the_page_answers_again_without_its_server(
    binary: firefox.Firefox, site: PageServer, tmp_path: Path
) -> None:
    """A first visit asks a question. Then the server stops, and a new process on the same profile gives the same
    answer from the stored shell, snapshot and weights."""
    offer(site)
    served = PageServer(Site(models=site.site.models, offered=site.site.offered))
    with served as server, running(binary, tmp_path / "profile") as browser:
        tab = browser.new_tab()
        tab.goto(server.url + "diagnostics.html")  # any document of the origin
        tab.evaluate(SETTINGS)
        tab.goto(server.url)
        tab.until(READY)
        tab.until("navigator.serviceWorker.controller !== null")
        tab.evaluate("document.querySelector('#hero-picker button[type=submit]').click()")
        tab.until("document.body.dataset.model === 'ready'")
        tab.evaluate(TYPE, "hello")
        tab.evaluate(ENTER)
        first = tab.until(ANSWERED)
        tab.until(f"async () => Boolean((await ({KEPT})())['snapshot-314.0.7'])")
        browser.quit()
    with running(binary, tmp_path / "profile") as browser:
        tab = browser.new_tab()
        tab.goto(server.url)
        tab.until(READY)
        tab.until("document.body.dataset.engine === 'ready'")
        tab.evaluate(TYPE, "hello")  # this loads the model that is stored here
        tab.until("document.body.dataset.model === 'ready'")
        tab.evaluate(ENTER)
        assert tab.until(ANSWERED) == first
        browser.quit()
