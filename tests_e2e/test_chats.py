# ruff: noqa: E501  (exports of other programs, a worker in JavaScript)
"""Chats are not lost. They are in IndexedDB, in real tabs that are killed, reloaded, moved from older pages,
imported, and out of room. A worker that answers fixed words replaces the engine; test_page.py uses the real one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from devtools.page_server import PageServer
from tests.waiting import wait_until
from tests_e2e.conftest import WEBGPU_FLAGS, chromium_path, kill, set_quota
from tests_e2e.visit import LEFT_IN_LOCAL_STORAGE, READY, UI_MS, Visit, chat, kept_chats, offer

# The worker loads at once and answers word by word: "answer N to TEXT". An answer to a question with "slow" in it never
# ends by itself.
ENGINE = """
postMessage({status: 'booted', runtime: 'words', boot_ms: 1, snapshot: false});
let asked = 0; const stopped = new Set();
const wait = ms => new Promise(done => setTimeout(done, ms));
onmessage = async ({data}) => {
  const {type, id} = data;
  if (type === 'interrupt') { stopped.add(id); return; }
  if (type === 'load') { postMessage({status: 'ready', id, info: {context: {max: 4096}, chat: true}}); return; }
  if (type === 'cache_list') { postMessage({status: 'result', id, value: {models: [], nbytes: 0, kind: 'opfs'}}); return; }
  if (type !== 'generate') return;
  const said = data.messages.map(m => m.content.split('\\n').at(-1)); // of questions in a row the last one
  const text = `answer ${++asked} to ${said.at(-1)}`;
  const part = {tps: 5, num_tokens: 1, reasoning: '', tool_calls: [], tool_call_errors: [], status: 'token', id};
  for (const word of text.split(/(?= )/)) { postMessage({...part, text: word}); await wait(5); }
  for (let n = 0; said.at(-1).includes('slow') && !stopped.has(id); n++) { postMessage({...part, text: ' word' + n}); await wait(50); }
  if (!stopped.has(id)) postMessage({...part, status: 'complete', text, ttft_s: 0.1, prompt_tokens: said.length, finish_reason: 'stop'});
};"""


@pytest.fixture
def visit(browser: Browser, site: PageServer) -> Iterator[Visit]:
    """A fresh profile with the worker of fixed words."""
    offer(site)
    visit = Visit(browser, site)
    answer_in_words(visit.context)
    yield visit
    visit.close()


def answer_in_words(context: BrowserContext, engine: str = ENGINE) -> None:
    """Use that worker from the next page on."""
    context.unroute("**/worker.mjs")
    context.route(
        "**/worker.mjs", lambda route: route.fulfill(body=engine, content_type="text/javascript")
    )


def tab(visit: Visit, address: str = "", *, deaf: bool = False) -> Page:
    """One more tab of the same profile. A `deaf` tab gets no messages from other tabs and sends none."""
    page = visit.context.new_page()
    if deaf:
        page.add_init_script("window.BroadcastChannel = class { postMessage() {} };")
    page.on("console", visit._heard)
    page.on("pageerror", lambda error: visit.errors.append(str(error)))
    page.goto(visit.site.url + address)
    page.wait_for_selector(READY, timeout=UI_MS)
    return page


def reload(page: Page) -> None:
    """Reload the page, and wait until it can be used."""
    page.reload()
    page.wait_for_selector(READY, timeout=UI_MS)


def load(page: Page) -> None:
    """Choose the first model."""
    page.wait_for_selector("body[data-engine=ready]", timeout=UI_MS)
    page.click("#model")
    page.click("#dialog-picker button[type=submit]")
    page.wait_for_selector("body[data-model=ready]", timeout=UI_MS)


def send(page: Page, text: str) -> None:
    """Send a message without waiting for the answer."""
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")


def ask(page: Page, text: str) -> None:
    """Send a message once no answer is running, and wait for the end of the answer."""
    expect(page.locator("#send")).to_be_visible()
    send(page, text)
    expect(page.locator(".user .bubble").last).to_have_text(text)
    expect(page.locator("#send")).to_be_visible()


def turns(page: Page) -> list[str]:
    """The texts of the conversation once they are drawn, without the numbers in the worker's answers."""
    page.wait_for_function(
        "[...document.querySelectorAll('#messages .answer .text')].every(text => text.textContent)"
    )
    found = page.locator("#messages .bubble, #messages .answer .text").all_inner_texts()
    return [re.sub(r"^answer \d+ ", "answer ", text) for text in found]


def wait_kept(page: Page, count: int) -> None:
    """Wait until the newest chat is stored with this many messages, each with its text. A reload cannot lose those."""

    def kept() -> bool:
        found = words(kept_chats(page)[0])
        return len(found) == count and all(found)

    wait_until("the chat kept", kept, lambda: page.wait_for_timeout(50))


def addressed(page: Page) -> str:
    """The part of the address that names the chat."""
    page.wait_for_function("location.hash.startsWith('#chat=')")
    return page.url[page.url.index("#") :]


def words(chat: dict[str, Any]) -> list[str]:
    """The texts of a stored chat along the shown path, in the form of `turns`."""
    return [re.sub(r"^answer \d+ ", "answer ", m["content"]) for m in chat["messages"]]


# ---- two tabs


def test_both_turns_of_two_tabs_survive_and_each_shows_the_others(visit: Visit) -> None:
    one = visit.open()
    load(one)
    ask(one, "begin")
    two = tab(visit, addressed(one))
    load(two)
    assert turns(two) == ["begin", "answer to begin"]
    ask(two, "of two")
    expect(one.locator(".user .bubble").last).to_have_text("of two")
    expect(one.locator(".answer .text").last).to_have_text(re.compile("answer 1 to of two"))
    ask(one, "of one")
    both = ["begin", "answer to begin", "of two", "answer to of two", "of one", "answer to of one"]
    expect(two.locator(".answer .text").last).to_have_text(re.compile("answer 2 to of one"))
    assert turns(one) == turns(two) == both
    for page in (one, two):
        reload(page)
        expect(page.locator(".answer")).to_have_count(3)
        assert turns(page) == both
    assert words(kept_chats(one)[0]) == both


def test_turns_sent_at_the_same_time_stand_one_after_the_other(visit: Visit) -> None:
    """The second tab gets no message from the first before it sends, so only the store can put both turns in order."""
    one = visit.open()
    load(one)
    ask(one, "begin")
    two = tab(visit, addressed(one), deaf=True)
    load(two)
    expect(two.locator(".answer")).to_have_count(1)
    send(one, "slow of one")
    expect(one.locator(".answer .text").last).to_contain_text("word")
    ask(two, "of two")
    order = ["begin", "slow of one", "of two"]
    expect(two.locator(".user .bubble")).to_have_text(order)
    one.click("#stop")
    expect(one.locator("#send")).to_be_visible()
    wait_kept(one, 6)
    reload(one)
    expect(one.locator(".user .bubble")).to_have_text(order)
    kept = [text.split(" word")[0] for text in words(kept_chats(one)[0])]
    assert kept == [text for each in order for text in (each, "answer to " + each)]


def test_a_tab_that_answers_shows_what_another_one_adds(visit: Visit) -> None:
    one = visit.open()
    load(one)
    send(one, "slow one")
    expect(one.locator(".answer .text")).to_contain_text("word")
    two = tab(visit, addressed(one))
    load(two)
    expect(two.locator(".answer .text")).to_contain_text("word", timeout=UI_MS)
    ask(two, "of two")
    expect(one.locator(".user .bubble")).to_have_text(["slow one", "of two"])
    expect(one.locator(".streaming")).to_have_count(1)
    one.click("#stop")
    expect(one.locator(".streaming")).to_have_count(0)
    expect(two.locator(".answer .stats").first).to_contain_text("stopped")
    assert turns(one) == turns(two)


def test_another_answer_from_a_tab_that_is_behind_undoes_nothing(visit: Visit) -> None:
    """The tab knows only the first turn and gets no messages about the others. What it shows stays, as a version
    beside them."""
    one = visit.open()
    load(one)
    ask(one, "begin")
    two = tab(visit, addressed(one), deaf=True)
    load(two)
    ask(one, "more")
    ask(one, "and more")
    two.click(".answer [data-do=again]")
    expect(two.locator("#send")).to_be_visible()
    reload(two)
    expect(two.locator(".answer .count")).to_contain_text("2 / 2")
    two.click(".answer [data-do=earlier]")
    expect(two.locator(".user .bubble")).to_have_text(["begin", "more", "and more"])


def test_an_edit_or_another_answer_in_one_tab_is_a_version_in_the_other(visit: Visit) -> None:
    one = visit.open()
    load(one)
    ask(one, "begin")
    two = tab(visit, addressed(one))
    load(two)
    one.click(".answer [data-do=again]")
    expect(two.locator(".answer .count")).to_contain_text("2 / 2")
    expect(two.locator(".answer .text")).to_have_text(re.compile("answer 2 to begin"))
    two.click(".user [data-do=edit]")
    two.fill(".edit textarea", "what is being rewritten here")
    one.click(".answer [data-do=again]")
    expect(two.locator(".answer .count")).to_contain_text("2 / 3")
    assert two.input_value(".edit textarea") == "what is being rewritten here"


def test_a_chat_deleted_in_another_tab_is_told_and_what_is_being_written_stays(
    visit: Visit,
) -> None:
    one = visit.open()
    load(one)
    ask(one, "begin")
    two = tab(visit, addressed(one))
    two.fill("#prompt", "half a thought")
    one.click("#chat-menu summary")
    one.click("#chat-menu [data-do=delete-chat]")
    one.click("#confirm [value=yes]")
    expect(two.locator("#notice")).to_contain_text("Another tab deleted the chat")
    expect(two.locator("#hero")).to_be_visible()
    expect(two.locator("#chats li")).to_have_count(0)
    assert two.input_value("#prompt") == "half a thought"
    assert "#chat" not in two.url


# ---- what ends a tab


def test_a_killed_tab_loses_neither_the_question_nor_what_was_answered(visit: Visit) -> None:
    page = visit.open()
    load(page)
    send(page, "slow question")
    expect(page.locator(".answer .text")).to_contain_text(" word40", timeout=UI_MS)
    there = addressed(page)
    kill(page)
    page = tab(visit, there)
    expect(page.locator(".user .bubble")).to_have_text("slow question")
    expect(page.locator(".answer .text")).to_contain_text(" word10")
    expect(page.locator(".answer .stats")).to_contain_text("not finished")


def test_what_is_left_at_once_is_kept(visit: Visit) -> None:
    """A reload right after the last letter, and one in the middle of an answer."""
    page = visit.open()
    load(page)
    send(page, "slow question")
    expect(page.locator(".answer .text")).to_contain_text("word5")
    page.keyboard.type("and more")
    reload(page)
    expect(page.locator(".answer .text")).to_contain_text("word5")
    assert page.input_value("#prompt") == "and more"


def reload_behind(page: Page, action: str) -> None:
    """Run `action` and reload at once. Requests to the database that were not made by then are lost."""
    gone = "IDBDatabase.prototype.transaction = () => { throw new Error('the page is gone'); }"
    left = "dispatchEvent(new PageTransitionEvent('pagehide'))"
    with page.expect_navigation():
        page.evaluate(f"() => {{ {action}; {left}; {gone}; location.reload(); }}")
    page.wait_for_selector(READY, timeout=UI_MS)


def test_an_answer_that_is_stopped_right_before_a_reload_is_kept_as_it_was_seen(
    visit: Visit,
) -> None:
    page = visit.open()
    load(page)
    send(page, "slow question")
    expect(page.locator(".answer .text")).to_contain_text("word30")
    reload_behind(page, "sessionStorage.seen = document.querySelector('.answer .text').innerText;"
                        "document.querySelector('#stop').click()")  # fmt: skip
    seen = page.evaluate("sessionStorage.seen")
    expect(page.locator(".answer .text")).to_contain_text(seen)
    expect(page.locator(".answer .stats")).to_contain_text("stopped")


def test_a_question_that_is_sent_right_before_a_reload_is_kept(visit: Visit) -> None:
    """Both in a new chat and in an older one. The question is no longer a draft."""
    page = visit.open()
    for number, question in enumerate(("slow one", "slow two")):
        load(page)
        page.fill("#prompt", question)
        page.wait_for_timeout(500)  # it is kept as a draft
        reload_behind(page, "document.querySelector('#composer').requestSubmit()")
        (kept,) = kept_chats(page)
        assert [m["content"] for m in kept["messages"]][2 * number] == question
        page.click("#chats .open")
        expect(page.locator(".user .bubble").last).to_have_text(question)
        assert page.input_value("#prompt") == ""
        page.click("[data-do=new-chat]")
        assert page.input_value("#prompt") == ""
        page.click("#chats .open")


def test_a_draft_stays_with_its_chat(visit: Visit) -> None:
    visit.keep(chat("a", "first", "yes") | chat("b", "second", "yes"))
    page = visit.open()
    page.fill("#prompt", "for a new chat")
    page.click("#chats li[data-id=a] .open")
    expect(page.locator(".user .bubble")).to_have_text("first")
    assert page.input_value("#prompt") == ""
    page.fill("#prompt", "for a \U0001f400")
    page.click("#chats li[data-id=b] .open")
    expect(page.locator(".user .bubble")).to_have_text("second")
    assert page.input_value("#prompt") == ""
    page.click(".new")
    expect(page.locator("#prompt")).to_have_value("for a new chat")
    expect(page.locator("#send")).to_be_enabled()
    page.click("#chats li[data-id=a] .open")
    expect(page.locator("#prompt")).to_have_value("for a \U0001f400")
    page.fill("#prompt", "for a, killed")
    page.wait_for_timeout(1000)
    kill(page)
    # In another tab, an address that names no chat shows the draft for a new chat.
    page = tab(visit)
    expect(page.locator("#prompt")).to_have_value("for a new chat")
    other = tab(visit)  # while that tab lives, it owns its draft
    assert other.input_value("#prompt") == ""
    page.click("#chats li[data-id=a] .open")
    expect(page.locator("#prompt")).to_have_value("for a, killed")
    load(page)
    page.press("#prompt", "Enter")
    expect(page.locator(".answer")).to_have_count(2)
    expect(page.locator("#send")).to_be_visible()
    reload(page)
    assert page.input_value("#prompt") == ""


def test_an_example_leaves_what_is_being_written(visit: Visit) -> None:
    page = visit.open()
    load(page)
    page.fill("#prompt", "half a thought")
    page.click("#starters button >> nth=0")
    expect(page.locator(".answer .text")).to_contain_text("answer 1 to Explain how")
    assert page.input_value("#prompt") == "half a thought"
    expect(page.locator("#send")).to_be_enabled()
    page.wait_for_timeout(500)  # a draft is stored a moment after it was written
    reload(page)
    expect(page.locator(".user .bubble")).to_contain_text("Explain how")
    assert page.input_value("#prompt") == "half a thought"


def test_escape_in_an_input_method_ends_no_edit(visit: Visit) -> None:
    visit.keep(chat("a", "first", "yes"))
    page = visit.open("#chat=a")
    page.click(".user [data-do=edit]")
    page.fill(".edit textarea", "rewritten")
    key = "{key: 'Escape', bubbles: true, isComposing: %s}"
    press = f"box => box.dispatchEvent(new KeyboardEvent('keydown', {key}))"
    page.locator(".edit textarea").evaluate(press % "true")
    assert page.input_value(".edit textarea") == "rewritten"
    page.locator(".edit textarea").evaluate(press % "false")
    expect(page.locator(".edit")).to_have_count(0)


# ---- the address


def test_the_open_chat_is_in_the_address_and_back_goes_between_chats(visit: Visit) -> None:
    visit.keep(chat("a", "first", "yes") | chat("b ü/?&#", "second", "yes"))
    page = visit.open("?context=512")
    shown = page.locator(".user .bubble")
    page.click("#chats li[data-id=a] .open")
    expect(shown).to_have_text("first")
    assert page.url.endswith("?context=512#chat=a")
    page.click("#chats li:not([data-id=a]) .open")
    expect(shown).to_have_text("second")
    reload(page)
    expect(shown).to_have_text("second")
    page.go_back()
    expect(shown).to_have_text("first")
    page.go_back()
    expect(page.locator("#hero")).to_be_visible()
    page.go_forward()
    expect(shown).to_have_text("first")
    page.focus(".skip")
    page.keyboard.press("Enter")
    expect(page.locator("#prompt")).to_be_focused()
    assert page.url.endswith("#chat=a")
    page.evaluate("location.hash = '#chat=nobody'")
    expect(page.locator("#notice")).to_contain_text("That chat is not here")
    expect(page.locator("#hero")).to_be_visible()
    assert "#chat" not in page.url
    load(page)
    ask(page, "third")
    there = addressed(page)
    page.click(".new")
    expect(page.locator("#hero")).to_be_visible()
    page = tab(visit, there)
    assert turns(page) == ["third", "answer to third"]


@pytest.mark.parametrize("name", ["%E0%A4%A", "a&chat=b", "x" * 5000, "%00", "__proto__"])
def test_an_address_of_no_chat_is_told(visit: Visit, name: str) -> None:
    page = visit.open("#chat=" + name)
    expect(page.locator("#notice")).to_contain_text("That chat is not here")
    page.fill("#prompt", "goes on")
    expect(page.locator("#send")).to_be_enabled()


# ---- versions


def test_answers_and_edits_keep_the_earlier_versions(visit: Visit) -> None:
    page = visit.open()
    load(page)
    ask(page, "one")
    ask(page, "two")
    page.click(".answer [data-do=again] >> nth=0")
    expect(page.locator(".answer")).to_have_count(1)
    expect(page.locator(".answer .text")).to_have_text("answer 3 to one")
    first = page.locator(".answer").first
    expect(first.locator(".count")).to_contain_text("Version 2 of 2")
    expect(first.get_by_role("button", name="Later version")).to_be_disabled()
    first.get_by_role("button", name="Earlier version").press("Enter")
    expect(page.locator(".answer")).to_have_count(2)
    expect(page.locator(".answer .text").first).to_have_text("answer 1 to one")
    assert turns(page) == ["one", "answer to one", "two", "answer to two"]
    expect(page.locator("#announce")).to_have_text("Version 1 of 2")
    expect(
        page.locator(".answer").first.get_by_role("button", name="Later version")
    ).to_be_focused()

    page.click(".user [data-do=edit] >> nth=0")
    page.fill(".edit textarea", "one, edited")
    page.press(".edit textarea", "Enter")
    expect(page.locator(".user .bubble")).to_have_text(["one, edited"])
    expect(page.locator("#send")).to_be_visible()
    expect(page.locator(".user .count")).to_contain_text("2 / 2")
    reload(page)
    assert turns(page) == ["one, edited", "answer to one, edited"]
    page.click(".user [data-do=earlier]")
    assert turns(page) == ["one", "answer to one", "two", "answer to two"], "the branch below, too"
    page.wait_for_timeout(300)
    reload(page)
    expect(page.locator(".user")).to_have_count(2)
    (kept,) = kept_chats(page)
    assert words(kept) == ["one", "answer to one", "two", "answer to two"]
    assert sorted(m["content"] for m in kept["others"]) == [
        "answer 3 to one",
        "answer 4 to one, edited",
        "one, edited",
    ]

    page.click("#chat-menu summary")
    page.click("#chat-menu [data-do=delete-chat]")
    page.click("#confirm [value=yes]")
    expect(page.locator("#chats li")).to_have_count(0)
    count = """() => new Promise(done => { const open = indexedDB.open('jerboa-chats'); open.onsuccess = () => {
      const t = open.result.transaction(['messages', 'drafts', 'chats', 'pictures']); const all = ['messages', 'drafts', 'chats', 'pictures'].map(
        name => new Promise(good => { t.objectStore(name).count().onsuccess = ({target}) => good(target.result); }));
      Promise.all(all).then(done); }; })"""
    assert page.evaluate(count) == [0, 0, 0, 0], "deleting leaves nothing"


def test_versions_of_several_parents_are_sent_as_they_are_shown(visit: Visit) -> None:
    """The model gets the path that is shown, and nothing of the other versions."""
    answer_in_words(visit.context, ENGINE.replace("to ${said.at(-1)}`", "to ${said.join(' | ')}`"))
    page = visit.open()
    load(page)
    ask(page, "one")
    page.click(".answer [data-do=again]")
    expect(page.locator(".answer .text")).to_have_text("answer 2 to one")
    page.click(".answer [data-do=earlier]")
    ask(page, "two")
    expect(page.locator(".answer .text").last).to_have_text(
        "answer 3 to one | answer 1 to one | two"
    )


# ---- carried over from older pages


def test_old_chats_are_carried_over_once_and_an_old_tab_may_go_on(visit: Visit) -> None:
    visit.keep(chat("a", "first", "An *answer*") | chat("b", "second", "<think>hm</think>\n\nYes."))
    page = visit.open("#chat=a")
    expect(page.locator(".answer em")).to_have_text("answer")
    assert page.evaluate(LEFT_IN_LOCAL_STORAGE) == []
    before = kept_chats(page)
    assert {c["id"]: c["updated"] for c in before} == dict.fromkeys(
        "ab", "2026-11-22T00:00:00.000Z"
    )
    second = next(c for c in before if c["id"] == "b")
    assert [second["messages"][1][k] for k in ("reasoning", "content")] == ["hm", "Yes."]
    # A tab with the older page continues, and writes the whole chat again while its answer grows.
    later = "2026-11-23T00:00:00.000Z"
    for text in ("so", "so it is", "so it is."):
        visit.keep(chat("a", "first", "An *answer*", "why?", text, updated=later))
    expect(page.locator(".answer .text").last).to_have_text("so it is.")
    assert turns(page) == ["first", "An answer", "why?", "so it is."]
    kept = {c["id"]: c for c in kept_chats(page)}
    assert not kept["a"]["others"] and kept["a"]["updated"] == later
    reload(page)
    assert page.evaluate(LEFT_IN_LOCAL_STORAGE) == []
    assert kept_chats(page) == list(kept.values())


REFUSED_DB = "Object.defineProperty(window, 'indexedDB', {get() { throw new DOMException('denied', 'SecurityError'); }});"
REFUSED_OPEN = (
    "IDBFactory.prototype.open = () => { throw new DOMException('denied', 'InvalidStateError'); };"
)
REFUSED_ALL = (
    REFUSED_DB
    + "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError'); }});"
)


@pytest.mark.parametrize("refusal", [REFUSED_DB, REFUSED_OPEN], ids=["property", "open"])
def test_without_indexeddb_chats_are_kept_in_localstorage_and_it_is_said(
    visit: Visit, refusal: str
) -> None:
    visit.keep(chat("a", "first", "An *answer*"))
    visit.context.add_init_script(refusal)
    page = visit.open("#chat=a")
    expect(page.locator("#notice")).to_contain_text("Chats are kept in a smaller place")
    page.click("#notice [data-do=dismiss]")
    load(page)
    ask(page, "more")
    page.click(".answer >> nth=1 >> [data-do=again]")
    expect(page.locator(".answer .count")).to_contain_text("2 / 2")
    page.fill("#prompt", "unsent")
    page.wait_for_timeout(500)
    two = tab(visit, "#chat=a")
    load(two)
    ask(two, "of two")
    expect(page.locator(".user .bubble").last).to_have_text("of two")
    reload(page)
    assert turns(page) == [
        "first",
        "An answer",
        "more",
        "answer to more",
        "of two",
        "answer to of two",
    ]
    assert page.input_value("#prompt") == "unsent"
    forgive_pyscript(visit)


def forgive_pyscript(visit: Visit) -> None:
    """PyScript asks for a database of its own; ignore the refusal."""
    visit.errors = [error for error in visit.errors if error not in ("denied", "no")]


def test_without_any_store_the_page_says_so_and_works(visit: Visit) -> None:
    visit.context.add_init_script(REFUSED_ALL)
    page = visit.open()
    expect(page.locator("#notice")).to_contain_text("chats end with it")
    page.click("#notice [data-do=dismiss]")
    load(page)
    ask(page, "one")
    page.click(".new")
    page.click("#chats .open")
    expect(page.locator(".answer")).to_have_count(1)
    assert turns(page) == ["one", "answer to one"]
    forgive_pyscript(visit)


# ---- files


def download(page: Page, selector: str) -> Path:
    """Press a button and return the downloaded file."""
    with page.expect_download() as made:
        page.click(selector)
    return Path(made.value.path())


def bring(page: Page, *files: Any) -> None:
    """Import files by the button in the settings."""
    page.click("[data-do=open-settings]")
    with page.expect_file_chooser() as chooser:
        page.click("[data-do=import]")
    chooser.value.set_files(list(files))


def as_file(value: Any, name: str = "chats.json") -> dict[str, Any]:
    """The contents as a file for a file chooser. Text stays as it is; anything else becomes JSON."""
    text = value if isinstance(value, str) else json.dumps(value)
    return {"name": name, "mimeType": "application/json", "buffer": text.encode()}


def test_all_chats_go_out_and_come_in_elsewhere_once(
    visit: Visit, browser: Browser, site: PageServer
) -> None:
    page = visit.open()
    load(page)
    ask(page, "one")
    page.click(".answer [data-do=again]")
    expect(page.locator(".answer .count")).to_contain_text("2 / 2")
    ask(page, "two")
    page.click(".new")
    ask(page, "other \U0001f400 \u05e9\u05dc\u05d5\u05dd")
    page.click("[data-do=open-settings]")
    file = download(page, "[data-do=export-all]")
    ours = kept_chats(page)
    written = json.loads(file.read_text(encoding="utf-8"))["chats"]
    assert sorted(written, key=lambda c: c["updated"], reverse=True) == ours

    elsewhere = Visit(browser, site)
    there = elsewhere.open()
    bring(there, file)
    expect(there.locator("#hint")).to_contain_text("2 chats imported")
    expect(there.locator("#hint")).to_contain_text("7 messages were added.")
    assert kept_chats(there) == ours
    there.click("#hint [data-do=import-seen]")
    bring(there, file)
    expect(there.locator("#hint")).to_contain_text("Nothing new in that file")
    assert kept_chats(there) == ours
    # An export is imported into the chat that it came from, which has grown since: nothing is there twice, nothing is
    # undone.
    page.keyboard.press("Escape")
    page.click("#chats .open >> nth=1")
    expect(page.locator(".user .bubble").last).to_have_text("two")
    ask(page, "three")
    grown = kept_chats(page)
    bring(page, file)
    expect(page.locator("#hint")).to_contain_text("Nothing new in that file")
    assert kept_chats(page) == grown
    elsewhere.close()


def test_a_changed_copy_comes_in_as_versions(visit: Visit) -> None:
    page = visit.open()
    load(page)
    ask(page, "one")
    ask(page, "two")
    page.click("#chat-menu summary")
    whole = json.loads(download(page, "[data-do=export-json]").read_text(encoding="utf-8"))
    whole["messages"][1]["content"] = "changed elsewhere"
    for _ in range(2):
        bring(page, as_file(whole))
        expect(page.locator("#hint")).to_contain_text(
            re.compile("3 messages were added|Nothing new")
        )
        page.click("#hint [data-do=import-seen]")
        expect(page.locator(".answer .count").first).to_contain_text("/ 2")
    assert turns(page) == ["one", "answer to one", "two", "answer to two"], (
        "what was shown still is"
    )
    page.click(".answer .versions button:enabled")
    assert turns(page) == ["one", "changed elsewhere", "two", "answer to two"]


# Open WebUI and ChatGPT store a question with two answers like this; the first answer is shown
TREE = {
    "plain": {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A1"}]},
    "list": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, {"role": "assistant", "content": "A1"}],
    "open-webui": [{"id": "w", "title": "Named", "updated_at": 1750000000, "chat": {"title": "x", "history": {"currentId": "a1", "messages": {
        "q": {"id": "q", "parentId": None, "childrenIds": ["a1", "a2"], "role": "user", "content": "Q", "timestamp": 1750000000},
        "a1": {"id": "a1", "parentId": "q", "childrenIds": [], "role": "assistant", "content": "A1", "timestamp": 1750000001},
        "a2": {"id": "a2", "parentId": "q", "childrenIds": [], "role": "assistant", "content": "A2", "timestamp": 1750000002}}}}}],
    "chatgpt": [{"title": "Named", "create_time": 1750000000.5, "update_time": 1750000009.5, "conversation_id": "c", "current_node": "a1", "mapping": {
        "root": {"id": "root", "message": None, "parent": None, "children": ["s"]},
        "s": {"id": "s", "parent": "root", "children": ["q"], "message": {"author": {"role": "system"}, "content": {"content_type": "text", "parts": [""]}}},
        "q": {"id": "q", "parent": "s", "children": ["a1", "a2"], "message": {"author": {"role": "user"}, "create_time": 1750000001, "content": {"content_type": "text", "parts": ["Q"]}}},
        "a1": {"id": "a1", "parent": "q", "children": [], "message": {"author": {"role": "assistant"}, "create_time": 1750000002, "content": {"content_type": "text", "parts": ["A1"]}}},
        "a2": {"id": "a2", "parent": "q", "children": [], "message": {"author": {"role": "assistant"}, "create_time": 1750000003, "content": {"content_type": "text", "parts": ["A2"]}}}}}],
    "claude": [{"uuid": "u", "name": "Named", "updated_at": "2026-01-01T00:00:00Z", "chat_messages": [
        {"uuid": "1", "sender": "human", "text": "Q"}, {"uuid": "2", "sender": "assistant", "text": "A1", "content": [{"type": "text", "text": "A1"}]}]}],
}  # fmt: skip


@pytest.mark.parametrize("kind", TREE)
def test_chats_of_other_programs_come_in(visit: Visit, kind: str) -> None:
    page = visit.open()
    for told in ("1 chat imported", "Nothing new"):
        bring(page, as_file(TREE[kind]))
        expect(page.locator("#hint")).to_contain_text(told)
        page.click("#hint [data-do=import-seen]")
        expect(page.locator(".user .bubble")).to_have_text("Q")
        expect(page.locator(".answer .text").last).to_have_text("A1")
    speakers = page.locator("article").evaluate_all("all => all.map(a => a.ariaLabel)")
    assert speakers == ["System prompt"] * (kind == "plain") + ["You", "Answer"]
    title = page.locator("#chats .open").inner_text()
    assert title == {"plain": "Q", "list": "Q"}.get(kind, "Named")
    versions = page.locator(".answer .count")
    assert versions.count() == (1 if kind in ("open-webui", "chatgpt") else 0)
    load(page)
    ask(page, "goes on")
    assert page.locator("#chats .open").inner_text() == title


HOSTILE = {
    "no json": ("{" * 10, "is no JSON that can be read"),
    "deep": ("[" * 100_000 + "]" * 100_000, "was not taken in|is no JSON"),
    "deep object": ('{"messages":' * 50_000 + "1" + "}" * 50_000, "no list of messages|is no JSON|no JSON object"),
    "deep message": ('{"messages": [{"role": "user", "content": "x", "extra": ' + "[" * 500 + "]" * 500 + "}]}", "nests deeper"),
    "null": ("null", "is no JSON object"),
    "number": ("1e999", "is no JSON object"),
    "config": ('{"model_type": "qwen3", "hidden_size": 64}', "no list of messages"),
    "empty": ('{"messages": []}', "no messages in it"),
    "role": ('{"messages": [{"role": "<script>hit()</script>", "content": "x"}]}', "message 1 has the role"),
    "proto role": ('{"messages": [{"role": "constructor", "content": "x"}]}', "message 1 has the role"),
    "content": ('{"messages": [{"role": "user", "content": {"a": 1}}]}', "no text as its content"),
    "circle": ('{"messages": [{"id": "a", "parent": "b", "role": "user", "content": "x"}, {"id": "b", "parent": "a", "role": "user", "content": "y"}]}', "in a circle"),
    "second chat": ('{"chats": [{"messages": [{"role": "user", "content": "fine"}]}, 7]}', "Chat 2 is no JSON object"),
    "newer": ('{"format": "jerboa-chats", "version": 2, "chats": []}', "newer version"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_of_no_chats_is_refused_in_words_and_nothing_is_kept(
    visit: Visit, kind: str
) -> None:
    text, words = HOSTILE[kind]
    page = visit.open()
    bring(page, as_file(text, "evil<b>.json"))
    expect(page.locator("#notice-text")).to_contain_text(re.compile(words))
    assert page.evaluate("hits") == 0
    assert kept_chats(page) == []
    page.fill("#prompt", "goes on")
    expect(page.locator("#send")).to_be_enabled()


def test_one_bad_file_keeps_no_other_one_out(visit: Visit) -> None:
    page = visit.open()
    good = as_file(TREE["plain"], "good.json"), as_file(TREE["claude"], "claude.json")
    bring(page, good[0], as_file("{", "bad.json"), good[1])
    expect(page.locator("#hint")).to_contain_text("2 chats imported")
    expect(page.locator("#notice")).to_contain_text("Not every file was imported")
    expect(page.locator("#notice")).to_contain_text('"bad.json" is no JSON')
    expect(page.locator("#chats li")).to_have_count(2)


def test_a_hostile_file_changes_no_other_chat_and_runs_nothing(visit: Visit) -> None:
    page = visit.open()
    load(page)
    ask(page, "mine")
    (mine,) = kept_chats(page)
    taken = mine["messages"][0]["id"]
    evil = "<img src=x onerror=hit()>"
    wide = [{"id": f"w{i}", "parent": "", "role": "user", "content": f"{i}"} for i in range(20_000)]
    chats = [
        {"id": "other", "title": evil, "messages": [{"id": taken, "role": "user", "content": evil}]},
        {"id": "__proto__", "chosen": {"": "x"}, "messages": [{"id": "__proto__", "role": "user", "content": evil}]},
        {"id": "wide", "messages": wide},
        {"id": mine["id"], "title": evil, "messages": []},
    ]  # fmt: skip
    bring(page, as_file({"chats": chats}))
    expect(page.locator("#hint")).to_contain_text("3 chats imported")
    assert next(c for c in kept_chats(page) if c["id"] == mine["id"]) == mine
    page.click("#chats li[data-id=other] .open")
    expect(page.locator(".user .bubble")).to_have_text(evil)
    page.click("#chats li[data-id=wide] .open")
    expect(page.locator(".user .count")).to_contain_text("of 20000")
    page.click("#chats li[data-id=__proto__] .open")
    expect(page.locator(".user .bubble")).to_have_text(evil)
    assert page.evaluate("hits") == 0


def test_a_chat_of_thousands_of_turns_opens(visit: Visit) -> None:
    page = visit.open()
    said = [{"role": ("user", "assistant")[i % 2], "content": f"turn {i}"} for i in range(3000)]
    bring(page, as_file({"messages": said}))
    expect(page.locator(".answer").last.locator(".text")).to_have_text("turn 2999")
    expect(page.locator(".message")).to_have_count(3000)


def test_chats_are_dropped_on_the_page(visit: Visit, tmp_path: Path) -> None:
    if visit.context.browser and visit.context.browser.browser_type.name != "chromium":
        pytest.skip("only Chromium's debugger can drop files")
    page = visit.open()
    file = tmp_path / "some.json"
    file.write_text(json.dumps(TREE["plain"]))
    debugger = visit.context.new_cdp_session(page)
    data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        event = {"type": kind, "x": 400, "y": 300, "data": data}
        debugger.send("Input.dispatchDragEvent", event)
    expect(page.locator("#hint")).to_contain_text("1 chat imported")
    expect(page.locator(".answer .text").last).to_have_text("A1")


# ---- no room


class Kept(Visit):
    """A visit with a profile on disk. In a private window the database has no quota of its own."""

    def __init__(self, context: BrowserContext, site: PageServer) -> None:
        self.context, self.site = context, site
        self.outside, self.refused, self.errors = [], [], []
        self.page = context.new_page()
        self.page.on("console", self._heard)


@pytest.fixture
def kept_visit(playwright: Any, site: PageServer, tmp_path: Path) -> Iterator[Kept]:
    """A kept profile with the worker of fixed words."""
    offer(site)
    context = playwright.chromium.launch_persistent_context(
        tmp_path / "profile",
        executable_path=chromium_path(),
        args=WEBGPU_FLAGS,
        service_workers="block",
    )
    answer_in_words(context)
    visit = Kept(context, site)
    yield visit
    visit.close()


def test_a_full_store_is_told_once_and_the_chat_goes_on(kept_visit: Kept) -> None:
    page = kept_visit.open()
    set_quota(
        page, kept_visit.site, 1
    )  # set before the first write, because Chromium caches for a while how much room there was
    load(page)
    page.fill("#prompt", "x" * 100_000)
    page.press("#prompt", "Enter")
    expect(page.locator("#notice")).to_contain_text("This chat is not kept")
    expect(page.locator("#notice")).to_contain_text("full")
    expect(page.locator(".answer")).to_have_count(1)
    page.click("#notice [data-do=dismiss]")
    ask(page, "told once")
    expect(page.locator("#notice")).to_be_hidden()
    page.click("#chat-menu summary")
    whole = json.loads(download(page, "[data-do=export-json]").read_text(encoding="utf-8"))
    assert [len(m["content"]) > 90_000 for m in whole["messages"]] == [True, True, False, False]
    set_quota(
        page, kept_visit.site, 1 << 30
    )  # with room again, the next turn stores the earlier ones too
    ask(page, "last")
    wait_kept(page, 6)
    reload(page)
    expect(page.locator(".user")).to_have_count(3)
    assert len(turns(page)) == 6


def test_old_chats_that_find_no_room_stay_and_can_be_read(kept_visit: Kept) -> None:
    page = kept_visit.open()
    set_quota(page, kept_visit.site, 1)
    kept_visit.keep(chat("old", "first " + "y" * 50_000, "An *answer*"))
    expect(page.locator("#notice")).to_contain_text("Some chats could not be moved")
    page.click("#chats .open")
    expect(page.locator(".answer em")).to_have_text("answer")
    assert "jerboa.chat.old" in page.evaluate("Object.keys(localStorage)")
    set_quota(page, kept_visit.site, 1 << 30)
    reload(page)
    assert page.evaluate(LEFT_IN_LOCAL_STORAGE) == []
    assert len(kept_chats(page)) == 1
