"""Python really dies in the worker: the page starts another worker, says so, and keeps the chat."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from devtools.page_server import PageServer
from tests_e2e.conftest import HEAR, Worker, blank_page, returning
from tests_e2e.visit import ORGANISATION, PATIENCE_S

MODEL = "qwen3-mlx4-g128"
PATIENCE_MS = PATIENCE_S * 1000
SETTINGS = (
    "localStorage.setItem('jerboa.settings', JSON.stringify({temperature: 0, max_tokens: 200}))"
)
# Replaces Pyodide's own module with Pyodide and a channel. By that channel a test makes Python recurse in C until the
# stack is used up, inside an ordinary callback.
DEADLY = """
import { loadPyodide as real, version } from './pyodide.mjs?real';
export { version };
export async function loadPyodide(options) {
  const py = await real(options);
  new BroadcastChannel('deadly').onmessage = () => py.runPython(`
import json
json.loads("[" * 1000000)
`);
  return py;
}
"""
KILL = "new BroadcastChannel('deadly').postMessage('now')"


def deadly(context: BrowserContext) -> None:
    """Workers of this context can be killed by KILL."""

    def answer(route: Route) -> None:
        headers = {
            k: v for k, v in route.fetch().headers.items() if k not in ("content-length", "etag")
        }
        route.fulfill(status=200, headers=headers, body=DEADLY)

    context.route("**/pyodide.mjs", answer)


@pytest.mark.parametrize("runtime", ["py314", "py27"])
def test_a_worker_says_that_its_python_died(
    browser: Browser, site: PageServer, runtime: str
) -> None:
    context, _ = returning(browser, site)
    deadly(context)
    page = blank_page(context, site)
    worker = Worker(page, "worker.mjs", runtime)
    worker.wait(lambda m: m["status"] == "booted")
    assert worker.ask({"type": "info", "id": 1})["status"] == "result"
    page.evaluate(KILL)
    died = worker.wait(lambda m: m["status"] == "died", timeout=60)[-1]
    assert died["message"]
    answer = worker.ask({"type": "info", "id": 2}, timeout=60)
    assert (answer["status"], answer["error_type"]) == ("error", "EngineError"), (
        "every message is answered, also by a dead one"
    )
    context.close()


def ask(page: Page) -> None:
    page.fill("#prompt", "one two three")
    page.press("#prompt", "Enter")


def test_a_chat_outlives_the_death_of_python(browser: Browser, site: PageServer) -> None:
    site.site.offered = [
        {
            "id": f"{ORGANISATION}/{MODEL}", "label": "Tiny", "kind": "base", "note": "Random weights.",
            "size": 5_000_000, "endpoint": "local", "default": True,
        }
    ]  # fmt: skip
    context, outside = returning(browser, site)
    context.add_init_script(SETTINGS)
    context.add_init_script(HEAR)
    deadly(context)
    page = context.new_page()
    errors: list[Any] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(site.url + "?context=512&dtype=f32")
    page.click("#hero-picker button[type=submit]", timeout=PATIENCE_MS)
    page.wait_for_selector("body[data-model=ready]", timeout=PATIENCE_MS)

    ask(page)
    expect(page.locator(".message.answer .text")).not_to_be_empty(timeout=PATIENCE_MS)
    page.fill("#prompt", "a draft")
    page.evaluate("heard.length = 0")
    page.evaluate(KILL)
    expect(page.locator("#notice-title")).to_have_text("The engine broke down", timeout=PATIENCE_MS)
    assert page.evaluate("heard.filter(m => m.status === 'died').length") == 1
    expect(page.locator(".message.answer:not(.streaming)")).to_have_count(1)
    assert page.locator(".message.answer .text").inner_text().strip(), "what was said stays"
    expect(page.locator("#prompt")).to_have_value("a draft")
    page.wait_for_selector("body[data-model=ready]", timeout=PATIENCE_MS)  # without a click

    ask(page)
    page.wait_for_selector(".message.answer:nth-last-child(1):not(.streaming)", timeout=PATIENCE_MS)
    expect(page.locator(".message.answer")).to_have_count(2)
    assert page.locator(".message.answer .text").last.inner_text().strip()

    # After a second death within a minute the model is not loaded again by itself, because that might never end.
    page.evaluate(KILL)
    expect(page.locator("#notice [data-do=reload-model]")).to_be_visible(timeout=PATIENCE_MS)
    expect(page.locator("body")).to_have_attribute("data-model", "none")
    page.click("#notice [data-do=reload-model]")
    page.wait_for_selector("body[data-model=ready]", timeout=PATIENCE_MS)
    expect(page.locator(".message.answer")).to_have_count(2)
    assert not outside and not errors
    context.close()


def test_a_wrong_hub_id_leaves_the_model_in_use(browser: Browser, site: PageServer) -> None:
    context, _ = returning(browser, site)
    page = blank_page(context, site)
    worker = Worker(page, "worker.mjs")
    worker.ask({"type": "env", "id": "env", "values": {"HF_ENDPOINT": site.url + "models"}})
    repo = f"{ORGANISATION}/{MODEL}"
    options = {"context": 128}
    assert (
        worker.ask({"type": "load", "id": 1, "repo": repo, "options": options})["status"] == "ready"
    )
    failed = worker.ask(
        {"type": "load", "id": 2, "repo": f"{ORGANISATION}/none", "options": options}
    )
    assert failed["error_type"] == "HubError"
    assert worker.ask({"type": "info", "id": 3})["value"]["model"] == repo
    again = {"type": "generate", "id": 4, "prompt": "one", "options": {"max_tokens": 2}}
    assert worker.ask(again)["status"] == "complete"
    context.close()


def test_a_panic_of_the_tokenizers_costs_no_later_model(browser: Browser, site: PageServer) -> None:
    """The tokenizer's wasm module aborts. The next tokenizer comes from a fresh copy of the module."""
    models = site.site.models
    folder = models / ORGANISATION / "panics"
    shutil.copytree(models / ORGANISATION / MODEL, folder, dirs_exist_ok=True)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = [["no such", "pieces"]]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    context, _ = returning(browser, site)
    worker = Worker(blank_page(context, site), "worker.mjs")
    worker.ask({"type": "env", "id": "env", "values": {"HF_ENDPOINT": site.url + "models"}})
    for round in range(2):
        load = {"type": "load", "options": {"context": 128}}
        failed = worker.ask({**load, "id": f"bad {round}", "repo": f"{ORGANISATION}/panics"})
        assert failed["error_type"] == "FormatError", failed
        good = worker.ask({**load, "id": f"good {round}", "repo": f"{ORGANISATION}/{MODEL}"})
        assert good["status"] == "ready", good
        count = {"type": "count_tokens", "id": f"count {round}", "text": "one two"}
        assert worker.ask(count)["value"] == len("one two")
    context.close()


STRANGE = """box => {
  const {worker} = boxes[box];
  const cyclic = {type: 'info', id: 'cyclic'}; cyclic.self = cyclic;
  const nested = depth => { let value = {}; for (let i = 0; i < depth; i++) value = {a: value}; return value; };
  const strange = [
    null, undefined, 5, 'load', NaN, 10n ** 400n, true, [], [1], new Map([['type', 'info'], ['id', 1]]), new Date(),
    new ArrayBuffer(8), new Uint8Array(8), /x/, new Error('x'), new Set([1]), {}, {type: 'info'}, {id: 'a'},
    {type: 5n, id: 'b'}, {type: 'info', id: {}}, {type: 'info', id: new Date()}, {type: 'x'.repeat(1e6), id: 'c'},
    {type: 'info', id: 'd', ['x'.repeat(1e6)]: 1}, {type: 'info', id: 'e', more: new Map()}, cyclic,
    {type: 'generate', id: 'f', messages: [nested(300)]},
    {type: 'generate', id: 'deep', messages: [nested(3000)]} /* Chromium brings it as null */,
    {type: 'generate', id: 'g', prompt: new Date()},
    {type: 'generate', id: 'h', prompt: 'x', options: {temperature: 10n ** 400n}},
    {type: 'generate', id: 'i', prompt: 'x', options: cyclic}, {type: 'load', id: 'j', repo: new ArrayBuffer(8)},
    {type: 'files'}, {type: 'files', id: 'k'}, {type: 'files', id: 'l', name: 'n', files: [5]}, {type: 'env', id: 'm'},
    {type: 'files', id: 'n', name: null, files: null}, {type: 'env', id: 'o', values: null},
    {type: 'env', id: 'p', values: {a: 5}}, {type: 'env', id: 'q', values: new Map()}, {type: 'env', values: {}},
    {type: 'env', id: 'r', values: {}, more: 1}, {type: 'bench', id: 's', model: 'm', runs: 1e300},
    {type: 'bench', id: 't', model: 'm', new_tokens: 0n}, {type: 'diagnose', id: 'u', most: -1},
    {type: 'interrupt', more: 1}, {type: 'interrupt', id: []}, {type: 'filed', more: 1},
    {type: 'info', id: 'x'.repeat(1e6)}, {type: 'files', id: 'v', name: 'n', files: [], paths: ['a']},
  ];
  for (const message of strange) worker.postMessage(message);
  return strange.length;
}"""


@pytest.mark.parametrize("runtime", ["py314", "py27"])
def test_every_strange_message_is_answered(
    browser: Browser, site: PageServer, runtime: str
) -> None:
    context, _ = returning(browser, site)
    page = blank_page(context, site)
    worker = Worker(page, "worker.mjs", runtime)
    worker.wait(lambda m: m["status"] == "booted")
    count = page.evaluate(STRANGE, worker._box)
    page.evaluate(
        """async ([box, count]) => {
          const end = performance.now() + 60000;
          const answers = () => boxes[box].inbox.filter(m => ['error', 'result'].includes(m.status)).length;
          while (answers() < count && performance.now() < end) await new Promise(done => setTimeout(done, 20));
        }""",
        [worker._box, count],
    )
    answers = page.evaluate(
        """box => boxes[box].inbox.splice(0).filter(m => ['error', 'result'].includes(m.status))
             .map(m => ({...m, id: typeof m.id === 'bigint' ? String(m.id) : m.id ?? null}))""",
        worker._box,
    )
    assert len(answers) == count, [
        (a["status"], a["id"], (a.get("error") or "")[:60]) for a in answers
    ]
    for answer in answers:
        # A Map with the right keys is a message too.
        assert answer["status"] == "result" or answer["error_type"] in (
            "InputError",
            "ModelError",
        ), answer
        assert len(answer.get("error") or "") < 1000
        assert not isinstance(answer["id"], str) or len(answer["id"]) <= 256
    print("answered:", [(a["id"], (a.get("error") or "")[:40]) for a in answers if a["id"]])
    for name in "abcdefghijklmnopqrstu":
        assert name == "a" or any(answer["id"] == name for answer in answers), name
    assert worker.ask({"type": "info", "id": "last"})["status"] == "result"
    context.close()
