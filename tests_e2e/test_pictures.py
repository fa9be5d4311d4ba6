# ruff: noqa: E501  (a worker in JavaScript)
"""Pictures in the message box and in chats: picked, dropped, pasted, refused, kept, exported, imported, deleted. A worker
with fixed answers replaces the engine; it says what it was sent.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, FilePayload, Page, expect

from devtools.page_server import PageServer
from tests_e2e.pictures import png, png_of
from tests_e2e.test_chats import addressed, answer_in_words, load, reload, tab
from tests_e2e.visit import Visit, kept_chats, offer

# Loads a model with the tasks of this list, and answers with the JSON of the messages, data URLs cut to 30 letters.
ENGINE = """
postMessage({status: 'booted', runtime: 'words', boot_ms: 1, snapshot: false});
onmessage = async ({data}) => {
  const {type, id} = data;
  if (type === 'load') postMessage({status: 'ready', id, info: {context: {max: 4096}, chat: true, tasks: TASKS}});
  if (type === 'cache_list') postMessage({status: 'result', id, value: {models: [], nbytes: 0, kind: 'opfs'}});
  if (type !== 'generate') return;
  const text = JSON.stringify(data.messages, (key, value) => key === 'url' ? value.slice(0, 30) : value);
  postMessage({tps: 5, num_tokens: 1, reasoning: '', tool_calls: [], tool_call_errors: [], status: 'complete', id,
    text: '```json\\n' + text + '\\n```', ttft_s: 0.1, prompt_tokens: 1, finish_reason: 'stop'});
};"""
SEES = ENGINE.replace("TASKS", "['chat', 'complete', 'describe']")
BLIND = ENGINE.replace("TASKS", "['chat', 'complete']")
RED, BLUE = png(40, 30), png(8, 8, (0, 0, 255))
PARTS = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0K"}}
COUNT = """() => new Promise(done => { const open = indexedDB.open('jerboa-chats'); open.onsuccess = () => {
  open.result.transaction('pictures').objectStore('pictures').getAll().onsuccess = ({target}) => {
    open.result.close(); done(target.result.map(({draft, blob}) => [draft, blob.size])); }; }; })"""


@pytest.fixture
def visit(browser: Browser, site: PageServer) -> Iterator[Visit]:
    """A fresh profile with that worker."""
    offer(site)
    visit = Visit(browser, site)
    answer_in_words(visit.context, SEES)
    yield visit
    visit.close()


def file(name: str, body: bytes, kind: str = "image/png") -> FilePayload:
    return FilePayload(name=name, mimeType=kind, buffer=body)


def pick(page: Page, *files: FilePayload) -> None:
    """Choose files by the button of the message box."""
    page.click("#attach summary")
    with page.expect_file_chooser() as chooser:
        page.click("[data-do=pick-pictures]")
    assert chooser.value.is_multiple()
    chooser.value.set_files([*files])


def attached(page: Page) -> list[str]:
    """The names that the pictures of the message box have for a screen reader."""
    names: list[str] = page.locator("#attached img").evaluate_all("all => all.map(i => i.alt)")
    return names


def sent(page: Page) -> Any:
    """What the worker was sent for the last answer."""
    expect(page.locator("#send")).to_be_visible()
    return json.loads(page.locator(".answer code").last.text_content() or "")


def shown(page: Page, selector: str, count: int) -> None:
    """Wait until that many pictures are drawn."""
    expect(page.locator(selector)).to_have_count(count)
    page.wait_for_function(
        "s => [...document.querySelectorAll(s)].every(i => i.complete && i.naturalWidth)",
        arg=selector,
    )


def test_pictures_are_picked_described_sent_kept_and_deleted(visit: Visit) -> None:
    page = visit.open()
    load(page)
    pick(page, file("red.png", RED), file("blue.png", BLUE))
    shown(page, "#attached img", 2)
    expect(page.locator("#send")).to_be_enabled()
    page.get_by_role("textbox", name="Describe red.png").fill("a red field")
    page.fill("#prompt", "What is this?")
    page.wait_for_timeout(600)  # it is kept as a draft
    assert sorted(page.evaluate(COUNT)) == sorted([1, len(each)] for each in (RED, BLUE))
    reload(page)  # the draft has text, pictures and their descriptions
    shown(page, "#attached img", 2)
    assert page.input_value("#prompt") == "What is this?"
    assert page.get_by_role("textbox", name="Describe red.png").input_value() == "a red field"

    page.get_by_role("button", name="Remove blue.png").press("Enter")
    expect(page.get_by_role("button", name="Remove red.png")).to_be_focused()
    expect(page.locator("#announce")).to_have_text("Picture removed")
    load(page)
    page.press("#prompt", "Enter")
    assert sent(page) == [
        {"role": "user", "content": [PARTS, {"type": "text", "text": "What is this?"}]}
    ]
    assert attached(page) == []
    shown(page, ".user .pictures img", 1)
    there = addressed(page)

    page.fill("#prompt", "And now?")  # an earlier turn keeps its picture
    page.press("#prompt", "Enter")
    expect(page.locator(".answer")).to_have_count(2)
    assert [turn["content"] for turn in sent(page)][::2] == [
        [PARTS, {"type": "text", "text": "What is this?"}],
        "And now?",
    ]

    other = tab(visit, there)
    shown(other, ".user .pictures img", 1)
    other.get_by_role("button", name="Show the picture: a red field").click()
    shown(other, "#picture-large", 1)
    expect(other.locator("#picture-facts")).to_contain_text("a red field \u00b7 40 \u00d7 30")
    other.keyboard.press("Escape")
    expect(other.get_by_role("button", name="Show the picture: a red field")).to_be_focused()

    other.locator("[data-do=edit]").first.click()  # an edited question keeps it, too
    other.fill(".edit textarea", "What colour?")
    load(other)
    other.press(".edit textarea", "Enter")
    expect(other.locator(".answer")).to_have_count(1)
    assert sent(other)[0]["content"] == [PARTS, {"type": "text", "text": "What colour?"}]
    expect(page.locator(".user .bubble").first).to_have_text("What colour?")
    assert page.evaluate(COUNT) == [[0, len(RED)]], "once, and no draft's"

    other.click("[data-do=open-settings]")
    expect(other.locator("#data-note")).to_contain_text("1 picture takes")
    other.keyboard.press("Escape")
    other.click("#chat-menu summary")
    other.click("#chat-menu [data-do=delete-chat]")
    other.click("#confirm [value=yes]")
    expect(other.locator("#chats li")).to_have_count(0)
    assert other.evaluate(COUNT) == []


REFUSED = {
    "notes.png": (b"just some words", "is not a picture that can be read here"),
    "bomb.png": (png_of(60_000, 60_000, b""), "60,000 \u00d7 60,000 pixels"),
    "none.png": (png_of(0, 9, b""), "has no pixels: it is 0 \u00d7 9"),
    "broken.png": (png_of(9, 9, b"no pixels"), "is damaged: it cannot be decoded"),
    "short.jpg": (b"\xff\xd8\xff\xe0\x00\x10JF", "is damaged: its size cannot be read"),
    "large.png": (png(9, 9) + bytes(20_000_001), "has 20.0 MB"),
}


def test_what_is_no_picture_is_refused_at_once_and_what_was_written_stays(visit: Visit) -> None:
    page = visit.open()
    page.fill("#prompt", "look at these")
    pick(
        page,
        file("good.png", png(9, 9)),
        *(file(name, body) for name, (body, _) in REFUSED.items()),
    )
    for name, (_, words) in REFUSED.items():
        expect(page.locator("#attach-problem")).to_contain_text(
            f'"{name}" {words}'.replace(f'"{name}" 60', f'"{name}" is 60')
        )
    assert attached(page) == ["good.png"]
    assert page.input_value("#prompt") == "look at these"
    pick(page, file("copy.png", png(9, 9)))
    expect(page.locator("#attach-problem")).to_have_text('"copy.png" is in this message already.')
    page.get_by_role("button", name="Remove good.png").click()
    expect(page.locator("#attach-problem")).to_be_hidden()
    expect(page.locator("#prompt")).to_be_focused()


def test_a_model_that_sees_none_is_told_at_once_and_earlier_pictures_are_named(
    visit: Visit,
) -> None:
    page = visit.open()
    load(page)
    pick(page, file("red.png", png(4, 4)))
    shown(page, "#attached img", 1)
    page.press("#prompt", "Enter")
    assert sent(page)[0]["content"] == [PARTS]
    there = addressed(page)
    answer_in_words(visit.context, BLIND)
    page = tab(visit, there)
    load(page)
    page.fill("#prompt", "and this?")
    pick(page, file("blue.png", png(5, 5)))
    expect(page.locator("#attach-problem")).to_have_text(
        "Tiny qwen3-mlx4-g128 sees no pictures. Choose a model that does, or remove the picture."
    )
    page.press("#prompt", "Enter")
    expect(page.locator(".user")).to_have_count(1)
    assert page.input_value("#prompt") == "and this?"
    page.get_by_role("button", name="Remove blue.png").click()
    page.press("#prompt", "Enter")
    expect(page.locator(".answer")).to_have_count(2)
    assert [turn["content"] for turn in sent(page)][::2] == ["[Picture: red.png]", "and this?"]


PASTE = """([name, data, text]) => {
  const transfer = new DataTransfer();
  const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
  transfer.items.add(new File([bytes], name, {type: 'image/png'}));
  if (text) transfer.setData('text/plain', text);
  const event = new ClipboardEvent('paste', {clipboardData: transfer, bubbles: true, cancelable: true});
  document.querySelector('#prompt').dispatchEvent(event);
}"""


def test_pictures_are_pasted_and_dropped(visit: Visit, tmp_path: Path) -> None:
    page = visit.open()
    data = base64.b64encode(png(6, 6)).decode()
    page.evaluate(PASTE, ["of a letter.png", data, "the letter's text"])
    page.evaluate(PASTE, ["image.png", data, ""])
    shown(page, "#attached img", 1)
    assert attached(page) == ["image.png"]
    if visit.context.browser and visit.context.browser.browser_type.name == "chromium":
        dropped = tmp_path / "dropped.png"
        dropped.write_bytes(png(7, 7))
        debugger = visit.context.new_cdp_session(page)
        what = {"items": [], "files": [str(dropped)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            event = {"type": kind, "x": 400, "y": 300, "data": what}
            debugger.send("Input.dispatchDragEvent", event)
        shown(page, "#attached img", 2)
        assert attached(page) == ["image.png", "dropped.png"]


def test_pictures_go_into_a_file_and_come_back(visit: Visit) -> None:
    page = visit.open()
    load(page)
    pick(page, file("red.png", RED))
    shown(page, "#attached img", 1)
    page.locator("#attached .alt").fill("a red field")
    page.fill("#prompt", "What is this?")
    page.press("#prompt", "Enter")
    expect(page.locator(".answer .stats")).to_contain_text("tok/s")
    page.click("#chat-menu summary")
    with page.expect_download() as caught:
        page.click("#chat-menu [data-do=export-json]")
    text = Path(caught.value.path()).read_bytes()
    (picture,) = json.loads(text)["messages"][0]["pictures"]
    assert picture["url"] == "data:image/png;base64," + base64.b64encode(RED).decode()
    assert picture["alt"] == "a red field"
    before = kept_chats(page)
    page.click("#chat-menu summary")
    page.click("#chat-menu [data-do=delete-chat]")
    page.click("#confirm [value=yes]")
    expect(page.locator("#chats li")).to_have_count(0)
    for words in ("1 chat imported", "Nothing new"):
        bring(page, text)
        expect(page.locator("#hint")).to_contain_text(words)
        page.click("#hint [data-do=import-seen]")
        shown(page, ".user .pictures img", 1)
        assert kept_chats(page)[0]["messages"] == before[0]["messages"]
        assert page.evaluate(COUNT) == [[0, len(RED)]]
    # Parts of other programs; one is no picture.
    parts = [
        {"type": "text", "text": "Q"},
        {"type": "image_url", "image_url": {"url": picture["url"]}},
        {"type": "image_url", "image_url": {"url": "https://good.example/a.png"}},
        {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
    ]
    bring(page, json.dumps([{"role": "user", "content": parts}]).encode())
    expect(page.locator(".user .bubble")).to_have_text("Q\n[image_url]")
    shown(page, ".user .picture:not(.missing) img", 1)
    expect(page.locator(".user .picture.missing")).to_have_count(1)


def bring(page: Page, text: bytes) -> None:
    """Import a file."""
    page.click("[data-do=open-settings]")
    with page.expect_file_chooser() as chooser:
        page.click("[data-do=import]")
    chooser.value.set_files([file("chats.json", text, "application/json")])
