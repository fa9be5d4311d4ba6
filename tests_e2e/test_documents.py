# ruff: noqa: E501  (a worker in JavaScript)
"""Documents in chats: added with progress, searched for an answer, named under it, removed, refused in words. A worker that
knows fixed passages replaces the engine; it answers with what it was sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from devtools.page_server import PageServer
from tests_e2e.test_chats import addressed, answer_in_words, load, reload
from tests_e2e.test_pictures import bring, file
from tests_e2e.visit import Visit, kept_chats, offer

# A document is 12 pages, of which each takes 20 ms; "slow.pdf" never ends by itself, "scan.pdf" has no text. What is stored outlives
# the worker, in CacheStorage.
ENGINE = """
postMessage({status: 'booted', runtime: 'words', boot_ms: 1, snapshot: false});
const stopped = new Set(), folders = {};
const wait = ms => new Promise(done => setTimeout(done, ms));
const kept = async () => (await (await (await caches.open('stub')).match('/kept'))?.json()) ?? {};
const keep = async all => (await caches.open('stub')).put('/kept', new Response(JSON.stringify(all)));
const act = {
  load: async ({model}) => ({status: 'ready', info: {context: {max: 4096}, chat: true, tasks: model ? ['embed'] : ['chat', 'complete']}}),
  files: async ({name, files}) => { folders[name] = files; },
  cache_list: async () => ({value: {nbytes: 0, kind: 'opfs', models: stored}}),
  async memory_add({id, namespace, files, model}) {
    const [{name}] = folders[files];
    for (let done = 1; done <= 12 || name.startsWith('slow'); done++) {
      postMessage({status: 'row', id, row: {source: name, unit: 'pages', done, total: 12, stored: done}});
      await wait(20);
      if (stopped.has(id)) return {status: 'error', error_type: 'AbortError', error: 'stopped'};
    }
    if (name.startsWith('scan')) return {value: {added: [], failed: [{source: name, type: 'DocumentError', message: name + ': its 12 pages are pictures'}]}};
    const all = await kept();
    (all[namespace] ??= {})[name] = 40;
    await keep(all);
    return {value: {added: [{source: name, pieces: 40, notes: []}], failed: [], model}};
  },
  memory_list: async ({namespace}) => ({value: Object.entries((await kept())[namespace] ?? {}).map(([source, pieces]) => ({source, pieces}))}),
  async memory_forget({namespace, source, all}) {
    const found = await kept();
    if (all) delete found[namespace]; else delete found[namespace][source];
    await keep(found);
    return {value: 1};
  },
  async memory_recall({namespace, query, token_budget, chat, model}) {
    const items = Object.keys((await kept())[namespace]).map((source, i) => (
      {number: i + 1, id: source, text: `<b>of ${source}</b> about ${query}`, score: 0.5, source, heading: ['Part', 'Chapter'], page: i + 3}));
    return {value: {context: `PASSAGES ${token_budget} ${model} [${chat}]`, items, tokens: 9}};
  },
  async generate({messages}) {
    const text = `As [2] says: ${JSON.stringify(messages.at(-1).content)}`;
    return {status: 'complete', tps: 5, num_tokens: 1, reasoning: '', tool_calls: [], tool_call_errors: [], text, ttft_s: 0.1, prompt_tokens: 1, finish_reason: 'stop'};
  },
};
const stored = STORED;
onmessage = async ({data}) => {
  if (data.type === 'interrupt') stopped.add(data.id);
  const answer = await act[data.type]?.(data);
  if (answer) postMessage({status: 'result', id: data.id, ...answer});
};"""
NEW = ENGINE.replace("STORED", "[]")
STORED = ENGINE.replace(
    "STORED", "[{model: 'tiny/embedder', commit: 'c', nbytes: 9e6, complete: true, used: 1}]"
)
EMBEDDER = {"id": "tiny/embedder", "label": "Tiny embedder", "size": 9_000_000, "endpoint": "local"}


@pytest.fixture
def visit(browser: Browser, site: PageServer) -> Iterator[Visit]:
    """A fresh profile with that worker; the server offers an embedder."""
    offer(site)
    site.site.embedders = [EMBEDDER]
    visit = Visit(browser, site)
    answer_in_words(visit.context, NEW)
    yield visit
    visit.close()


def add(page: Page, *names: str, body: bytes = b"a text") -> None:
    """Choose documents by the button of the message box."""
    page.click("#attach summary")
    with page.expect_file_chooser() as chooser:
        page.click("[data-do=pick-documents]")
    chooser.value.set_files([file(name, body, "application/pdf") for name in names])


def documents(page: Page) -> list[str]:
    """What the documents of the chat say, each as one line."""
    return [" ".join(text.split()) for text in page.locator(".document").all_inner_texts()]


def test_documents_are_added_searched_named_and_removed(visit: Visit) -> None:
    page = visit.open()
    load(page)
    page.fill("#prompt", "half a thought")
    add(page, "one.pdf", "two.pdf")
    expect(page.locator("#embedder .fit")).to_contain_text("(with Tiny qwen3-mlx4-g128)")
    expect(page.locator("#embedder .size")).to_have_text("9 MB")
    page.click("#embedder [type=submit]")
    expect(page.locator(".document.adds progress")).to_be_visible()
    expect(page.locator(".document.adds small")).to_contain_text(re.compile(r"\d+ of 12 pages"))
    expect(page.locator(".document.kept")).to_have_count(2)
    assert documents(page) == ["one.pdf 40 passages", "two.pdf 40 passages"]
    expect(page.locator("#embedder-line")).to_contain_text("Searched by Tiny embedder")
    there = addressed(page)  # the chat is kept, though nothing was sent
    page.wait_for_timeout(500)
    answer_in_words(visit.context, STORED)
    reload(page)
    assert page.url.endswith(there) and page.input_value("#prompt") == "half a thought"
    expect(page.locator(".document.kept")).to_have_count(2)

    load(page)
    page.fill("#prompt", "Why?")
    page.press("#prompt", "Enter")  # the embedder is stored here, and loads by itself
    expect(page.locator(".answer .text")).to_have_text(
        'As [2] says: "PASSAGES 1024 embedder []\\n\\nWhy?"'
    )
    expect(page.locator(".sources p")).to_have_text("Sources")
    expect(page.locator(".sources button")).to_have_text(["2two.pdf, page 4"])
    page.click(".sources button")
    expect(page.locator("#passage-title")).to_have_text("two.pdf, page 4")
    expect(page.locator("#passage-heading")).to_have_text("Part \u203a Chapter")
    expect(page.locator("#passage-text")).to_have_text("<b>of two.pdf</b> about Why?")
    page.keyboard.press("Escape")
    expect(page.locator(".sources button")).to_be_focused()

    page.get_by_role("button", name="Remove two.pdf").press("Enter")
    expect(page.get_by_role("button", name="Remove one.pdf")).to_be_focused()
    reload(page)
    expect(page.locator(".document")).to_have_count(1)
    assert documents(page) == ["one.pdf 40 passages"]
    page.click(".sources button")  # an answer keeps its passages
    expect(page.locator("#passage-text")).to_contain_text("of two.pdf")
    page.keyboard.press("Escape")

    page.click(".new")
    expect(page.locator(".document")).to_have_count(0)
    page.click("#chats .open")
    expect(page.locator(".document")).to_have_count(1)
    page.click("#chat-menu summary")
    page.click("#chat-menu [data-do=delete-chat]")
    page.click("#confirm [value=yes]")
    expect(page.locator("#chats li")).to_have_count(0)
    page.wait_for_function(
        "async () => (await (await (await caches.open('stub')).match('/kept')).text()) === '{}'"
    )
    assert kept_chats(page) == []


def test_what_cannot_be_added_says_why_and_adding_can_be_stopped(visit: Visit) -> None:
    page = visit.open()
    add(page, "slow.pdf", "scan.pdf", "good.pdf")
    expect(page.locator("#embedder")).to_be_visible()
    page.keyboard.press("Escape")  # no embedder is chosen
    expect(page.locator(".document.failed")).to_have_count(3)
    assert documents(page)[0] == "slow.pdf no embedder was chosen"
    add(page, "slow.pdf", "scan.pdf", "good.pdf")
    page.click("#embedder [type=submit]")
    expect(page.locator(".document.adds small")).to_contain_text("of 12 pages")
    page.get_by_role("button", name="Remove slow.pdf").click()
    expect(page.locator(".document.kept")).to_have_count(1)
    assert documents(page) == [
        "scan.pdf scan.pdf: its 12 pages are pictures",
        "good.pdf 40 passages",
    ]
    large = "new File([new Uint8Array(70e6)], 'large.txt', {type: 'text/plain'})"
    page.evaluate(
        f"() => {{ const data = new DataTransfer(); data.items.add({large});"
        "window.dispatchEvent(new DragEvent('drop', {dataTransfer: data, cancelable: true})); }"
    )
    expect(page.locator(".document.failed").last).to_contain_text(
        "has 70 MB: a document may have 67 MB"
    )


def test_a_question_is_not_answered_without_the_documents(visit: Visit) -> None:
    page = visit.open()
    load(page)
    add(page, "one.pdf")
    page.click("#embedder [type=submit]")
    expect(page.locator(".document.kept")).to_have_count(1)
    reload(page)  # the embedder is not stored here
    load(page)
    page.fill("#prompt", "Why?")
    page.press("#prompt", "Enter")
    expect(page.locator("#embedder")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".answer .problem")).to_contain_text("no embedder is loaded")
    page.click(".answer [data-do=open-embedder]")
    page.click("#embedder [type=submit]")
    page.click(".answer .problem [data-do=again]")
    expect(page.locator(".answer .text")).to_contain_text("PASSAGES")
    page.click("#chat-menu summary")
    with page.expect_download() as caught:
        page.click("#chat-menu [data-do=export-json]")
    bring(page, Path(caught.value.path()).read_bytes())
    expect(page.locator("#hint")).to_contain_text("Nothing new")
