"""Visits to the page: a fresh profile, the models that the page offers, and what a user does there."""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, expect

from devtools.page_server import PageServer

ORGANISATION = "tiny"  # of the local hub's repositories, which are the golden checkpoints
# On an idle machine no test waits this long (a cold boot takes 2 to 5 s). On two busy cores SwiftShader alone was seen
# to compile a model's kernels for two minutes.
PATIENCE_S = 400.0
MODEL = "qwen3-mlx4-g128"
OTHER = "gemma3-text-bf16"
ROOMY = "qwen2-mlx4-g64"  # its vocabulary is large enough for the marks of a chat format
UI_MS = 30_000  # on an idle machine the page takes half a second, but the machine may be busy
ENGINE_MS = PATIENCE_S * 1000
READY = "body[data-ui=ready][data-config=ready][data-chats=ready]"
expect.set_options(timeout=UI_MS)


def watched(browser: Browser, site: PageServer, **options: Any) -> tuple[BrowserContext, list[str]]:
    """A fresh profile (`options` of new_context), and the list of requests that left the origin. It has no service
    workers, which would fetch the whole shell for each test; test_offline.py tests those."""
    context = browser.new_context(
        **{"service_workers": "block", "reduced_motion": "reduce"} | options
    )
    outside: list[str] = []
    allowed = (site.url, "data:", "blob:")
    context.on(
        "request", lambda r: outside.append(r.url) if not r.url.startswith(allowed) else None
    )
    return context, outside


def chat(name: str, *turns: str, updated: str = "2026-11-22T00:00:00.000Z") -> dict[str, str]:
    """A stored chat, as localStorage items."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    body = {"id": name, "title": turns[0], "updated": updated, "messages": messages}
    return {
        f"jerboa.chat.{name}": json.dumps(body, ensure_ascii=False),
        f"jerboa.title.{name}": json.dumps({"title": turns[0], "updated": updated}),
    }


LEFT_IN_LOCAL_STORAGE = "Object.keys(localStorage).filter(k => /^jerboa.(chat|title)/.test(k))"
KEPT_CHATS = """async () => {
  const store = await import('./chat_store.mjs');
  const { asFile } = await import('./chat_files.mjs');
  const listed = JSON.parse(await store.list()).filter(chat => !chat.draft);
  const chats = await Promise.all(listed.map(async ({ id }) => JSON.parse(await store.load(id))));
  return chats.map(({ chat, messages }) => asFile(chat, messages)).sort((a, b) => a.updated < b.updated ? 1 : -1);
}"""


def kept_chats(page: Page) -> list[dict[str, Any]]:
    """The stored chats, the newest first, each as in an exported file."""
    chats: list[dict[str, Any]] = page.evaluate(KEPT_CHATS)
    return chats


class Visit:
    """A page with a fresh profile. `hold` keeps the engine's worker from starting, so that only the page runs."""

    def __init__(
        self, browser: Browser, site: PageServer, *, hold: bool = True, **options: Any
    ) -> None:
        self.site = site
        self.context, self.outside = watched(browser, site, **options)
        self.asked: list[str] = []
        self.refused: list[str] = []
        self.context.on("request", lambda r: self.asked.append(r.url.removeprefix(site.url)))
        if hold:
            self.context.route("**/worker.mjs", lambda route: None)
        self.page = self.context.new_page()
        self.page.on("console", self._heard)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.add_init_script("window.hits = 0; window.hit = () => { window.hits += 1; };")

    def _heard(self, message: Any) -> None:
        if "Content Security Policy" in message.text or "Content-Security-Policy" in message.text:
            self.refused.append(message.text)
        if "Traceback" in message.text:
            self.errors.append(message.text)

    def keep(self, items: dict[str, str]) -> None:
        """Put items into localStorage once, before the page's first script."""
        script = (
            "items => { for (const [k, v] of Object.entries(items)) localStorage.setItem(k, v); }"
        )
        blank = self.context.new_page()
        blank.goto(self.site.url + "probe.html")
        blank.evaluate(script, items)
        blank.close()

    def open(self, query: str = "") -> Page:
        """Open the address, and wait until the page can be used."""
        self.page.goto(self.site.url + query)
        self.page.wait_for_selector(READY, timeout=UI_MS)
        return self.page

    def close(self) -> None:
        """Close the page. It must not have sent a request to another host, broken the policy or raised."""
        self.context.close()
        assert not self.outside
        assert not self.refused
        assert not self.errors, self.errors


def offer(site: PageServer, *more: str) -> None:
    """Offer two tiny models, of which the first is the default, `more` chat models, and a tiny embedder."""
    site.site.embedders = [
        {"id": f"{ORGANISATION}/bert-f32", "label": "Tiny", "size": 1_000_000, "endpoint": "local"}
    ]
    site.site.offered = [
        {
            "id": f"{ORGANISATION}/{name}",
            "label": f"Tiny {name}",
            "kind": kind,
            "note": "Random weights.",
            "size": 5_000_000,
            "endpoint": "local",
            "default": not number,
        }
        for number, (name, kind) in enumerate(
            ((MODEL, "chat"), (OTHER, "base"), *((name, "chat") for name in more))
        )
    ]


def choose(page: Page, name: str) -> None:
    """Choose a model, and start its load."""
    page.click("#model")
    page.check(f"#dialog-picker input[value='{ORGANISATION}/{name}']")
    page.click("#dialog-picker button[type=submit]")


def load(page: Page, name: str = MODEL) -> None:
    """Choose a model and wait until its name is shown. Until then "ready" is said of the model before."""
    choose(page, name)
    expect(page.locator("#model-name")).to_have_text(f"Tiny {name}")
    page.wait_for_selector("body[data-model=ready]", timeout=ENGINE_MS)


def ask(page: Page, text: str) -> str:
    """Send a message; returns the finished answer."""
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")
    return finished(page)


def finished(page: Page) -> str:
    """The last answer, once it is finished."""
    page.wait_for_selector(".message.answer:last-child:not(.streaming)", timeout=ENGINE_MS)
    return page.locator(".message.answer").last.inner_text()


def kept_messages(page: Page) -> list[dict[str, Any]]:
    """The newest stored chat along the shown path, without the fields that place its messages in the tree."""
    messages: list[dict[str, Any]] = kept_chats(page)[0]["messages"]
    return [{k: v for k, v in m.items() if k not in ("id", "parent", "made")} for m in messages]
