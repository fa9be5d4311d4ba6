"""An iPhone and an iPad, simulated in Chromium with a GPU that fails as WebKit's was seen to (webkit_shim.mjs):
calibration, memory, and pages that crash. A test kills a page by crashing its renderer, so no script gets notice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from devtools.page_server import PageServer
from tests.waiting import wait_until
from tests_e2e.conftest import (
    HEAR,
    WEBGPU_FLAGS,
    Worker,
    blank_page,
    kill,
    launch_chromium,
    returning,
    shim,
)
from tests_e2e.test_install import DESKTOP_IPAD, device
from tests_e2e.visit import ENGINE_MS, MODEL, ORGANISATION, UI_MS, offer

PROMPT = "one two three"
# The page's own worker ends with its page. The test itself must end the page.
KILLED = "heard.some(m => m.status === 'killed')"
SIGHT = """state => {
  Object.defineProperty(document, 'visibilityState', { value: state, configurable: true });
  document.dispatchEvent(new Event('visibilitychange'));
  return JSON.parse(localStorage.getItem('jerboa.hidden-runs'));
}"""


class Phone:
    """A profile whose workers run over the shim. `limits`: what the device can take, for workers that start from now
    on."""

    def __init__(self, browser: Browser, site: PageServer, **options: Any) -> None:
        self.site = site
        self.limits = ""
        self.context, self.outside = returning(browser, site, **options)
        self.context.add_init_script(HEAR)
        shim(self.context, "worker.mjs", lambda: f"webkit_shim.mjs?{self.limits}")

    def visit(self, *, load: bool = False) -> Page:
        """Open the page and wait for the engine. With `load`, the model is chosen before the engine is ready."""
        page = self.context.new_page()
        held: list[Route] = []
        if load:
            page.route("**/worker.mjs", lambda route: held.append(route))
        page.goto(self.site.url)
        if load:
            page.click("#hero-picker button[type=submit]")
            page.wait_for_selector("body[data-model=loading]", timeout=UI_MS)
            wait_until("worker.mjs asked for", lambda: held, lambda: page.wait_for_timeout(50))
            held[0].fallback()
        page.wait_for_selector("body[data-engine=ready]", timeout=ENGINE_MS)
        return page

    def worker(self, run: str, ios: bool = True) -> Worker:
        """The engine's worker in a page that does nothing else. The page chooses the run's name."""
        worker = Worker(blank_page(self.context, self.site), "worker.mjs")
        values = {"HF_ENDPOINT": self.site.url + "models", "JERBOA_RUN": run}
        values["JERBOA_IOS"] = "1" if ios else ""
        worker.ask({"type": "env", "id": "env", "values": values})
        return worker


@pytest.fixture(scope="module")
def chromium(playwright: Any) -> Iterator[Browser]:
    browser = launch_chromium(playwright, WEBGPU_FLAGS)
    yield browser
    browser.close()


@pytest.fixture(params=["iPhone 15", "iPad Pro 11"])
def phone(
    request: pytest.FixtureRequest, chromium: Browser, site: PageServer, playwright: Any
) -> Iterator[Phone]:
    """An iPhone, and an iPad that asks for desktop pages."""
    options = device(playwright, request.param)
    if "iPad" in request.param:
        options["user_agent"] = DESKTOP_IPAD
    phone = Phone(chromium, site, **options)
    yield phone
    phone.context.close()
    assert not phone.outside


def load(id: str, **options: Any) -> dict[str, Any]:
    return {"type": "load", "id": id, "repo": f"{ORGANISATION}/{MODEL}", "options": options}


def answer(worker: Worker, id: str, max_tokens: int = 12) -> dict[str, Any]:
    """A greedy answer to PROMPT. `status` is "complete", or "killed" if the page was killed."""
    options = {"temperature": 0, "max_tokens": max_tokens}
    worker.post({"type": "generate", "id": id, "prompt": PROMPT, "options": options})
    return worker.wait(lambda m: m["status"] in ("complete", "error", "killed"))[-1]


def text(complete: dict[str, Any]) -> str:
    assert complete["status"] == "complete", complete
    return str(complete["text"])


@pytest.mark.parametrize("phone", ["iPhone 15"], indirect=True)
def test_groups_are_calibrated_and_a_death_is_not_repeated(
    phone: Phone, chromium: Browser, site: PageServer
) -> None:
    """The device reads stale words after 12 changes of pipelines. It is killed by 16 passes, or by a second command
    buffer before the first is done. Calibration finds 8 dispatches in one pass, with one death. There is no private
    file system, so the record is in IndexedDB."""
    phone.limits = "opfs=0&stale=12&passes=8&queue=1"
    worker = phone.worker("first")
    info = worker.ask(load("load"))["info"]
    assert info["submit"] == {"dispatches": 1, "passes": 1}
    assert info["context"]["max"] == 512, "the default of iOS"
    right, begins = text(answer(worker, "floor")), text(answer(worker, "begins", 4))
    heard = worker.wait(lambda m: m["status"] == "killed")
    assert [m["group"] for m in heard if m["status"] == "calibrated"] == [8]
    assert "16 passes" in heard[-1]["message"]
    kill(worker.page)

    worker = phone.worker("second")
    crashed = worker.wait(lambda m: m["status"] == "crashed")[-1]
    assert crashed["phase"] == "calibrate" and crashed["model"].endswith(MODEL)
    assert worker.ask({"type": "info", "id": "info"})["value"] is None, "nothing loads by itself"
    assert worker.ask(load("again"))["info"]["submit"] == {"dispatches": 8, "passes": 1}
    heard = worker.wait(lambda m: m["status"] == "log" and "calibrated" in m["message"])
    assert not any(m["status"] in ("calibrated", "killed") for m in heard)
    assert text(answer(worker, "grouped")) == right
    worker.page.close()

    # The same device with calibration switched off: a browser that is not known to be WebKit.
    other = Phone(chromium, site)
    other.limits = "opfs=0&stale=12"
    worker = other.worker("", ios=False)
    assert worker.ask(load("hasty"))["info"]["submit"] == {}
    assert text(answer(worker, "wrong", 4)) != begins
    worker.page.close()
    other.limits = "opfs=0&stale=12&queue=3"
    worker = other.worker("second", ios=False)
    assert worker.ask(load("hasty again"))["info"]["submit"] == {}
    killed = answer(worker, "too many")
    assert (killed["status"], killed["message"]) == ("killed", "4 unfinished command buffers")
    other.context.close()


@pytest.mark.parametrize("phone", ["iPad Pro 11"], indirect=True)
def test_memory_pressure_is_an_error_that_offers_less(phone: Phone, site: PageServer) -> None:
    """The device goes away during the load, twice. The error is typed and offers a smaller context, which then has
    room."""
    offer(site)
    phone.limits = "lose=1000000"
    page = phone.visit()
    page.click("#hero-picker button[type=submit]")
    notice = page.locator("#notice")
    expect(notice).to_contain_text(f"{MODEL} did not load", timeout=ENGINE_MS)
    expect(notice).to_contain_text("The GPU was lost 2 times in a row")
    expect(page.locator("body")).to_have_attribute("data-model", "none")
    page.click("text=Load with a context of 256 tokens")
    page.wait_for_selector("body[data-model=ready]", timeout=ENGINE_MS)
    expect(notice).to_be_hidden()
    page.close()


@pytest.mark.parametrize("phone", ["iPhone 15"], indirect=True)
def test_a_page_that_broke_down_says_so_and_offers_less(
    phone: Phone, site: PageServer, tmp_path: Path
) -> None:
    """It crashes again and again, until there is nothing smaller to offer."""
    offer(site)
    phone.limits = "bytes=300000"
    page = phone.visit()
    notice, less = page.locator("#notice"), page.locator("[data-do=load-smaller]")
    page.click("#hero-picker button[type=submit]")
    for context in (256, 128, None):
        page.wait_for_function(KILLED, timeout=ENGINE_MS)
        kill(page)
        page = phone.visit(load=context == 128)  # chosen too early, the model is not loaded
        notice, less = page.locator("#notice"), page.locator("[data-do=load-smaller]")
        expect(notice).to_contain_text(f"The page ended while {MODEL} was loading", timeout=UI_MS)
        expect(page.locator("body")).to_have_attribute("data-model", "none")
        assert not page.evaluate(KILLED)
        if context:
            expect(less).to_have_text(f"Load with a context of {context} tokens")
            page.screenshot(path=str(tmp_path / f"crash-{context}.png"))
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            page.set_viewport_size({"width": 667, "height": 320})
            page.click("[data-do=open-settings]")
            page.click("[data-do=install-advice]")
            expect(page.locator("#composer")).to_be_in_viewport(ratio=1)
            less.click()
    expect(notice).to_contain_text("This was the smallest setting already")
    expect(less).to_have_count(0)
    page.screenshot(path=str(tmp_path / "crash-last.png"))
    # A page that the user closes during a load did not crash.
    page.click("#hero-picker button[type=submit]")
    page.wait_for_selector("body[data-model=loading]", timeout=UI_MS)
    page.wait_for_function(KILLED, timeout=ENGINE_MS)
    phone.limits = "stale=12"
    page.goto(site.url)
    page.wait_for_selector("body[data-engine=ready]", timeout=ENGINE_MS)
    page.click("#hero-picker button[type=submit]")
    page.wait_for_selector("body[data-model=ready]", timeout=ENGINE_MS)
    expect(notice).to_be_hidden()
    # The smaller setting is stored, and the page stores what the device can take.
    found = "Object.keys(localStorage).includes('jerboa.proven-groups')"
    page.wait_for_function(found, timeout=ENGINE_MS)
    kept = json.loads(page.evaluate("localStorage.getItem('jerboa.proven-groups')"))
    assert list(kept.values()) == [{"group": 8, "passes": 1}]
    assert json.loads(page.evaluate("localStorage.getItem('jerboa.settings')"))["context"] == 128
    # The page knows which runs were hidden when they ended.
    hidden, seen = (page.evaluate(SIGHT, state) for state in ("hidden", "visible"))
    assert hidden[:-1] == seen and hidden
    page.close()
