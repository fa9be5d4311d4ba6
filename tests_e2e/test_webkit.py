"""An iPhone and an iPad by name, in Chromium, with a GPU that fails as WebKit's was seen to (webkit_shim.mjs):
calibration, memory, and pages that break down. A page is killed by crashing its renderer: no script hears of that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from devtools.page_server import PageServer
from tests_e2e.conftest import (
    ORGANISATION,
    WEBGPU_FLAGS,
    Worker,
    blank_page,
    kill,
    launch_chromium,
    shim,
    watched,
)
from tests_e2e.test_install import DESKTOP_IPAD, device
from tests_e2e.test_page import ENGINE_MS, MODEL, UI_MS, offer

PROMPT = "one two three"
# The page's own worker ends with its page; the page's end is for the test to bring about.
HEAR_KILLS = """() => {
  const Real = Worker;
  window.Worker = class extends Real {
    constructor(...given) {
      super(...given);
      this.addEventListener('message', ({data}) => { if (data.status === 'killed') window.killed = data.message; });
    }
  };
}"""


class Phone:
    """A profile whose workers run over the shim; `limits`: what it takes, of workers that start from now on."""

    def __init__(self, browser: Browser, site: PageServer, **options: Any) -> None:
        self.site = site
        self.limits = ""
        self.context, self.outside = watched(browser, site, **options)
        self.context.add_init_script(f"({HEAR_KILLS})()")
        shim(self.context, "worker.mjs", lambda: f"webkit_shim.mjs?{self.limits}")

    def worker(self, run: str) -> Worker:
        """The engine's worker in a page that does nothing else; the run's name is the page's to give."""
        worker = Worker(blank_page(self.context, self.site), "worker.mjs")
        values = {"HF_ENDPOINT": self.site.url + "models", "JERBOA_RUN": run, "JERBOA_IOS": "1"}
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


def answer(worker: Worker, id: str) -> str:
    options = {"temperature": 0, "max_tokens": 12}
    asked = {"type": "generate", "id": id, "prompt": PROMPT, "options": options}
    complete = worker.ask(asked)
    assert complete["status"] == "complete", complete
    return str(complete["text"])


@pytest.mark.parametrize("phone", ["iPhone 15"], indirect=True)
def test_groups_are_calibrated_and_a_death_is_not_repeated(phone: Phone) -> None:
    """Reads go stale after 12 changes of pipelines, and 16 passes kill: 8 in one pass are found, through one death."""
    phone.limits = "stale=12&passes=8&queue=1"
    worker = phone.worker("first")
    info = worker.ask(load("load"))["info"]
    assert info["submit"] == {"dispatches": 1, "passes": 1}
    assert info["context"]["max"] == 512, "the default of iOS"
    right = answer(worker, "floor")
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
    assert answer(worker, "grouped") == right

    # And with calibration switched off, as if this were any other browser:
    assert worker.ask(load("hasty", group=512, passes=1))["status"] == "ready"
    assert answer(worker, "stale") != right
    worker.page.close()


@pytest.mark.parametrize("phone", ["iPad Pro 11"], indirect=True)
def test_memory_pressure_is_an_error_that_says_so(phone: Phone) -> None:
    """The device goes away while the weights come: typed, and the worker goes on."""
    phone.limits = "lose=600000"
    worker = phone.worker("first")
    lost = worker.ask(load("load"))
    assert (lost["status"], lost["error_type"]) == ("error", "DeviceLostError"), lost
    refused = worker.ask(load("refused", memory_budget=100_000))
    assert refused["error_type"] == "MemoryBudgetError", refused
    assert worker.ask({"type": "info", "id": "info"})["value"] is None
    worker.page.close()


@pytest.mark.parametrize("phone", ["iPhone 15"], indirect=True)
def test_a_page_that_broke_down_says_so_and_offers_less(
    phone: Phone, site: PageServer, tmp_path: Path
) -> None:
    offer(site)
    phone.limits = "bytes=600000"

    def visit() -> Page:
        page = phone.context.new_page()
        page.goto(site.url)
        page.wait_for_selector("body[data-engine=ready]", timeout=ENGINE_MS)
        return page

    page = visit()
    page.click("#hero-picker button[type=submit]")
    page.wait_for_function("window.killed", timeout=ENGINE_MS)
    kill(page)

    page = visit()
    notice = page.locator("#notice")
    expect(notice).to_contain_text(f"The page ended while {MODEL} was loading", timeout=UI_MS)
    expect(notice).to_contain_text("Load with a context of 256 tokens")
    expect(page.locator("body")).to_have_attribute("data-model", "none")
    page.screenshot(path=str(tmp_path / "crash.png"))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # Closed in the middle of a load by the person, it is no crash.
    page.click("[data-do=load-smaller]")
    page.wait_for_selector("body[data-model=loading]", timeout=UI_MS)
    page.wait_for_function("window.killed", timeout=ENGINE_MS)
    phone.limits = "stale=12"
    page.goto(site.url)
    page.wait_for_selector("body[data-engine=ready]", timeout=ENGINE_MS)
    page.click("#hero-picker button[type=submit]")
    page.wait_for_selector("body[data-model=ready]", timeout=ENGINE_MS)
    expect(notice).to_be_hidden()
    # The smaller setting was kept, and what the device takes is kept by the page.
    found = "Object.keys(localStorage).includes('jerboa.proven-groups')"
    page.wait_for_function(found, timeout=ENGINE_MS)
    kept = json.loads(page.evaluate("localStorage.getItem('jerboa.proven-groups')"))
    assert list(kept.values()) == [{"group": 8, "passes": 1}]
    assert json.loads(page.evaluate("localStorage.getItem('jerboa.settings')"))["context"] == 256
    page.close()
