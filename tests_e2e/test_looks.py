"""How texts of users and models look: direction, colours of code, error messages unchanged; and the Load button."""

from __future__ import annotations

import itertools
import json

import pytest
from playwright.sync_api import Browser, Page, expect

from devtools.page_server import PageServer
from tests_e2e.visit import ORGANISATION, UI_MS, Visit, chat, offer

HEBREW = "\u05e9\u05dc\u05d5\u05dd"  # shalom
ANSWER = f"""# {HEBREW}

{HEBREW} `code`, {HEBREW}

- {HEBREW}
- English

> {HEBREW}

`./run.sh` {HEBREW}

https://good.example/a {HEBREW}

English

```python
def f(x):  # <b>not bold</b>
    return "text", {HEBREW!r}
```

```nosuchlanguage
def f
```

```js
const open = 1;"""
COLOURS = "code => [...code.children].map(n => [n.className, n.textContent, n.localName])"


def direction(page: Page, selector: str) -> list[str]:
    """The text direction of each element."""
    script = "all => all.map(n => getComputedStyle(n).direction)"
    found: list[str] = page.locator(selector).evaluate_all(script)
    return found


def test_each_text_runs_in_its_own_direction(visit: Visit) -> None:
    visit.keep(chat("one", HEBREW, ANSWER, "English", "English"))
    page = visit.open()
    page.click("#chats .open")
    page.wait_for_selector(".answer .code")
    assert direction(page, "#chats .open") == ["rtl"]
    assert direction(page, ".user .bubble") == ["rtl", "ltr"]
    for kind in ("h1", "ul", "blockquote"):
        assert direction(page, f".answer .text > {kind}") == ["rtl"], kind
    assert set(direction(page, ".answer .text code")) == {"ltr"}
    assert direction(page, ".answer .text > p") == ["rtl", "rtl", "rtl", "ltr", "ltr"]
    page.fill("#prompt", HEBREW)
    assert direction(page, "#prompt") == ["rtl"]
    page.fill("#prompt", "English")
    assert direction(page, "#prompt") == ["ltr"]
    page.locator("[data-do=edit]").first.click()
    assert direction(page, ".edit textarea") == ["rtl"]


def test_code_is_coloured_by_spans_of_text_and_copied_as_it_is(visit: Visit) -> None:
    visit.keep(chat("plain", "a question", "no code here"))
    visit.keep(chat("code", "another", ANSWER, updated="2026-11-23T00:00:00.000Z"))
    page = visit.open()
    page.locator("#chats .open").last.click()
    expect(page.locator(".answer .text")).to_contain_text("no code here")
    assert not [path for path in visit.asked if "highlight.min.js" in path]
    page.locator("#chats .open").first.click()
    expect(page.locator(".answer .code code")).to_have_count(3)
    python, other, open_ended = page.locator(".answer .code code").all()
    expect(python.locator(".hl-keyword").first).to_have_text("def", timeout=UI_MS)
    text = f'def f(x):  # <b>not bold</b>\n    return "text", {HEBREW!r}'
    assert python.text_content() == text
    found = python.evaluate(COLOURS)
    assert ["hl-comment", "# <b>not bold</b>", "span"] in found
    assert ["hl-string", '"text"', "span"] in found
    assert other.evaluate(COLOURS) == []
    assert open_ended.evaluate(COLOURS)[0] == ["hl-keyword", "const", "span"]


SIZES = [(1280, 800), (390, 844), (768, 1024), (844, 390)]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_load_button_is_in_view_whichever_card_is_chosen(
    browser: Browser, site: PageServer, size: tuple[int, int]
) -> None:
    entry = {"kind": "chat", "note": "Some words on its licence and on what it is best at."}
    names = ("one", "two", "three", "four")
    site.site.offered = [
        {**entry, "id": f"{ORGANISATION}/{name}", "label": name, "size": 351_000_000,
         "memory": 9_000_000_000, "default": name == "one"} for name in names
    ]  # fmt: skip
    visit = Visit(browser, site, viewport={"width": size[0], "height": size[1]})
    page = visit.open()
    under_it = """button => {
      const {left, right, top, bottom} = button.getBoundingClientRect();
      return document.elementFromPoint((left + right) / 2, (top + bottom) / 2) === button;
    }"""
    button = page.locator("#hero-picker button[type=submit]")
    for name in names:
        if name != "one":
            page.keyboard.press("ArrowDown")
        else:
            page.locator(".choice input").first.focus()
        assert page.locator(".choice:has(:checked) .name").text_content() == name
        expect(button).to_be_in_viewport(ratio=1)
        assert button.evaluate(under_it), "something lies over it"
    # A GPU with a long name must not make anything wider than the screen.
    page.evaluate("document.querySelector('.gpu').textContent = 'a long name of a GPU '.repeat(20)")
    inside = (
        "n => { const r = n.getBoundingClientRect(); return r.left >= 0 && r.right <= innerWidth; }"
    )
    assert all(page.locator(".choice").nth(n).evaluate(inside) for n in range(4))
    page.click("#model")
    assert page.locator("#dialog-picker button[type=submit]").evaluate(under_it)
    visit.close()


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ("tiny/model: config.json is missing", "tiny/model: config.json is missing"),
        ("files:mine holds no weights", "files:mine holds no weights"),
        ("http://h/x answered 404", "http://h/x answered 404"),
        ("the GPU could not do it", "The GPU could not do it"),
    ],
)
def test_ids_and_addresses_in_errors_stay_as_they_are(visit: Visit, error: str, shown: str) -> None:
    visit.context.unroute("**/worker.mjs")
    answer = {"status": "error", "error_type": "ModelError", "error": error}
    failing = f"""postMessage({{status: 'booted', runtime: 'none', boot_ms: 1, snapshot: false}});
      onmessage = ({{data}}) => {{
        if (data.type === 'load') postMessage({{...{json.dumps(answer)}, id: data.id}});
      }};"""
    visit.context.route(
        "**/worker.mjs", lambda route: route.fulfill(body=failing, content_type="text/javascript")
    )
    page = visit.open()
    page.click("#hero-picker button[type=submit]")
    expect(page.locator("#notice-text")).to_have_text(shown)


def test_what_the_engine_does_is_said_in_words(browser: Browser, site: PageServer) -> None:
    """From the first visit's boot to a ready model, with the real worker."""
    offer(site)
    visit = Visit(browser, site, hold=False)
    visit.page.add_init_script("""
      window.said = [];
      addEventListener('DOMContentLoaded', () => new MutationObserver(() => {
        for (const id of ['state', 'load-phase']) said.push(document.getElementById(id).textContent);
      }).observe(document.body, {subtree: true, childList: true, characterData: true}));
    """)
    page = visit.open()
    page.wait_for_selector("body[data-engine=ready]", timeout=400_000)
    page.click("#hero-picker button[type=submit]")
    page.wait_for_selector("body[data-model=ready]", timeout=400_000)
    said = [words for words, _ in itertools.groupby(page.evaluate("said"))]
    for words in ("Fetching Python", "Starting Python", "Starting the engine", "Loading weights"):
        assert words in said
    counted = [words for words in said if words.startswith("Compiling the GPU's programs: ")]
    assert counted
    visit.close()
