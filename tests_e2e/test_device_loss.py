"""The GPU process dies during a visit: the answer goes on, the chat stays, and a page without a GPU says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from devtools.page_server import PageServer
from tests_e2e.conftest import CRASH_FLAGS, HEAR, WEBGPU_FLAGS, launch_chromium, returning
from tests_e2e.visit import ORGANISATION, PATIENCE_S

MODEL = "qwen3-mlx4-g128"
# It has DeltaNet layers and attention: the state is more than a KV cache.
HYBRID = "qwen3.5-mlx4-g64"
PATIENCE_MS = PATIENCE_S * 1000
SETTINGS = (
    "localStorage.setItem('jerboa.settings', JSON.stringify({temperature: 0, max_tokens: 60}))"
)

AT_WORK = "heard.some(m => m.status === 'loading' && m.message.startsWith('Compiling '))"


def crash_gpu(browser: Browser) -> None:
    """Kill Chromium's GPU process."""
    session = browser.new_browser_cdp_session()
    session.send("Browser.crashGpuProcess")
    session.detach()


def open_page(browser: Browser, site: PageServer, model: str) -> Page:
    """Open the page, and start to load the model."""
    site.site.offered = [
        {
            "id": f"{ORGANISATION}/{model}",
            "label": "Tiny",
            "kind": "base",
            "note": "Random weights.",
            "size": 5_000_000,
            "endpoint": "local",
            "default": True,
        }
    ]
    context, _ = returning(browser, site)
    context.add_init_script(SETTINGS)
    context.add_init_script(HEAR)
    page = context.new_page()
    page.goto(site.url + "?context=512&dtype=f32")
    page.click("#hero-picker button[type=submit]", timeout=PATIENCE_MS)
    return page


def loaded(page: Page) -> None:
    """Wait until the model is loaded."""
    page.wait_for_selector("body[data-model=ready]", timeout=PATIENCE_MS)


@pytest.fixture
def fresh_chromium(playwright: Any, request: pytest.FixtureRequest) -> Iterator[Browser]:
    """A Chromium with flags of the test's choice. Tests cannot share it, because a dead GPU process affects every
    page."""
    browser = launch_chromium(playwright, request.param)
    yield browser
    browser.close()


def begin(page: Page) -> None:
    """Ask a question in a new chat."""
    page.click(".new")
    page.fill("#prompt", "one two three")
    page.press("#prompt", "Enter")


def finished(page: Page) -> str:
    """The answer's text, once the answer is finished."""
    page.wait_for_selector(".message.answer:last-child:not(.streaming)", timeout=PATIENCE_MS)
    return page.locator(".message.answer .text").last.inner_text()


@pytest.mark.parametrize("fresh_chromium", [WEBGPU_FLAGS], indirect=True, ids=["chromium"])
@pytest.mark.parametrize("model", [MODEL, pytest.param(HYBRID, marks=pytest.mark.slow)])
def test_an_answer_outlives_the_gpu_process(
    fresh_chromium: Browser, site: PageServer, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """The GPU is lost while the model loads, while it answers, again while it recovers, and while it is idle. The
    text is that of an undisturbed run, in the same chat."""
    monkeypatch.setattr(site.site, "stall_s", 3.0)  # long enough for the crash to come first
    page = open_page(fresh_chromium, site, model)
    notice = page.locator("#notice-title")
    page.wait_for_function("heard.some(m => m.status === 'progress')", timeout=PATIENCE_MS)
    crash_gpu(fresh_chromium)
    expect(notice).to_have_text("The GPU was lost", timeout=PATIENCE_MS)
    loaded(page)
    expect(notice).to_have_text("The GPU was lost and is back")
    begin(page)
    undisturbed = finished(page)
    assert undisturbed

    begin(page)
    expect(page.locator(".message.answer .text")).not_to_be_empty(timeout=PATIENCE_MS)
    page.evaluate("heard.length = 0")
    crash_gpu(fresh_chromium)
    page.wait_for_function(AT_WORK, timeout=PATIENCE_MS)  # on the next device
    crash_gpu(fresh_chromium)
    assert finished(page) == undisturbed
    told = page.evaluate("heard.filter(m => m.status === 'device').map(m => [m.state, m.losses])")
    # The second crash came during the load, or in the prefill right after it.
    assert [event for event in told if event != ["recovered", 1]] == [
        ["lost", 1],
        ["lost", 2],
        ["recovered", 2],
    ]
    expect(notice).to_have_text("The GPU was lost and is back")
    expect(page.locator("#notice-text")).to_have_text("The chat is as it was. The answer goes on.")

    page.click("#notice [data-do=dismiss]")
    crash_gpu(fresh_chromium)
    told = page.locator("#notice-text")
    expect(told).to_have_text("The chat is as it was.", timeout=PATIENCE_MS)
    expect(page.locator("#notice")).to_be_visible()
    assert page.locator(".message.answer .text").last.inner_text() == undisturbed
    begin(page)
    assert finished(page) == undisturbed


LIMITED = [flag for flag in WEBGPU_FLAGS if flag not in CRASH_FLAGS]


@pytest.mark.parametrize("fresh_chromium", [LIMITED], indirect=True, ids=["chromium"])
def test_no_gpu_after_a_loss(fresh_chromium: Browser, site: PageServer) -> None:
    """Chromium gives no GPU after the second crash. The page says so and what to do, and the chat is still there."""
    page = open_page(fresh_chromium, site, MODEL)
    loaded(page)
    begin(page)
    text = finished(page)
    for told in ("The GPU was lost and is back", "The GPU is gone"):
        crash_gpu(fresh_chromium)
        expect(page.locator("#notice-title")).to_have_text(told, timeout=PATIENCE_MS)
    expect(page.locator("#notice-text")).to_contain_text("Restart the browser")
    assert page.locator(".message.answer .text").last.inner_text() == text
    page.reload()
    page.wait_for_selector("body[data-ui=ready]")
    page.click("#chats .open")
    assert page.locator(".message.answer .text").last.inner_text() == text
