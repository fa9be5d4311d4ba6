"""The storage helpers, and the advice to install the page before a large download, on phones, tablets and desktops."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from devtools.page_server import PageServer
from tests_e2e.conftest import Probe
from tests_e2e.native import native
from tests_e2e.visit import UI_MS, Visit, offer

DESKTOP_IPAD = (
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/26.0 Safari/605.1.15"
)
HELPERS = """async again => { // what the browser is, the module reads once: `again`, a word, makes another one of it
  const h = await import('./device_storage.mjs' + (again ? '?' + again : ''));
  return {status: await h.getStorageStatus(), small: await h.canCacheModel(1), huge: await h.canCacheModel(1e9),
    persistent: await h.requestPersistentStorage(), guidance: h.getInstallGuidance(), standalone: h.isStandalone(),
    ios: h.isIOS()};
}"""
# A browser that would install the page with its own prompt.
PROMPT = """() => {
  const event = new Event('beforeinstallprompt', {cancelable: true});
  event.prompt = async () => { window.prompted = (window.prompted ?? 0) + 1; };
  event.userChoice = Promise.resolve({outcome: 'accepted'});
  window.dispatchEvent(event);
  return event.defaultPrevented;
}"""
STATUS = {"quotaMB", "usageMB", "availableMB", "persisted", "installed", "ios"}


def device(playwright: Any, name: str) -> dict[str, Any]:
    """The options of a device in Playwright's list, for whichever browser runs."""
    options: dict[str, Any] = {**playwright.devices[name]}
    options.pop("default_browser_type", None)
    return options


def large(site: PageServer) -> None:
    """Offer the models as if they were large."""
    offer(site)
    for model in site.site.offered:
        model["size"] = 400_000_000


def load_first(page: Page) -> None:
    """Choose the model that the empty page offers."""
    page.click("#hero-picker button[type=submit]")


def test_an_iphone_is_advised_once_and_before_the_download(
    browser: Browser, site: PageServer, playwright: Any
) -> None:
    large(site)
    visit = Visit(browser, site, **device(playwright, "iPhone 15"))
    page = visit.open()
    assert page.evaluate(PROMPT) is False, "whatever the browser underneath could do"
    found = page.evaluate(HELPERS)
    assert set(found["status"]) == STATUS
    assert found["status"]["ios"] is found["ios"] is True
    assert found["status"]["installed"] is found["standalone"] is False
    assert set(found["small"]) == {"fits", "availableMB", "recommendInstall"}
    assert (found["small"]["fits"], found["small"]["recommendInstall"]) == (True, True)
    assert found["huge"]["fits"] is False
    assert found["guidance"]["manual"] is True
    assert "Add to Home Screen" in " ".join(found["guidance"]["steps"])
    assert isinstance(found["persistent"], bool)

    hint = page.locator("#hint")
    page.click("[data-do=open-settings]")
    page.click("[data-do=install-advice]")
    expect(hint.locator("button")).to_have_text(["Close"])
    load_first(page)  # with the advice still open
    expect(hint.locator("button").first).to_have_text("Load anyway")
    expect(hint).to_contain_text("Install Jerboa")
    expect(hint.locator("li")).to_have_count(3)
    expect(hint.locator("button").first).to_be_focused()
    expect(page.locator("body")).to_have_attribute("data-model", "none")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.keyboard.press("Escape")
    expect(hint).to_be_hidden()
    expect(page.locator("body")).to_have_attribute("data-model", "none")
    load_first(page)
    expect(hint.locator("button").first).to_be_focused()
    page.keyboard.press("Enter")  # load anyway
    expect(hint).to_be_hidden()
    expect(page.locator("body")).to_have_attribute("data-model", "loading")
    page = visit.open()
    load_first(page)
    expect(page.locator("body")).to_have_attribute("data-model", "loading")
    expect(hint).to_be_hidden()
    # Users can ask for the advice again.
    page.click("[data-do=open-settings]")
    page.click("[data-do=install-advice]")
    expect(hint).to_be_visible()
    visit.close()


def test_an_ipad_that_asks_for_desktop_pages_is_one(
    browser: Browser, site: PageServer, playwright: Any
) -> None:
    options = {**device(playwright, "iPad Pro 11"), "user_agent": DESKTOP_IPAD}
    visit = Visit(browser, site, **options)
    found = visit.open().evaluate(HELPERS)
    visit.close()
    assert found["ios"] is True and found["guidance"]["manual"] is True


def test_elsewhere_the_browsers_own_prompt_is_used(
    browser: Browser, site: PageServer, playwright: Any
) -> None:
    large(site)
    visit = Visit(browser, site, **device(playwright, "Pixel 7"))
    page = visit.open()
    assert page.evaluate(HELPERS)["guidance"]["manual"] is True
    assert page.evaluate(PROMPT) is True
    assert page.evaluate(HELPERS)["guidance"]["manual"] is False
    load_first(page)
    page.click("#hint [data-do=install-now]")
    expect(page.locator("body")).to_have_attribute("data-model", "loading")
    assert page.evaluate("prompted") == 1
    visit.close()


def test_an_installed_page_and_a_desktop_are_left_alone(
    browser: Browser, site: PageServer, playwright: Any
) -> None:
    large(site)
    for options, installed in ((device(playwright, "iPhone 15"), True), ({}, False)):
        visit = Visit(browser, site, **options)
        if installed:
            visit.page.add_init_script("navigator.standalone = true")
        visit.page.add_init_script("""window.asked = 0;
          StorageManager.prototype.persist = async () => { window.asked += 1; return true; };""")
        page = visit.open()
        found = page.evaluate(HELPERS)
        assert found["standalone"] is found["guidance"]["installed"] is installed
        assert found["small"]["recommendInstall"] is False
        assert page.evaluate("asked") == 1  # the helper asked
        load_first(page)
        page.wait_for_selector("body[data-model=loading]", timeout=UI_MS)
        page.wait_for_function("asked === 2", timeout=UI_MS)  # asked again before the download
        expect(page.locator("#hint")).to_be_hidden()
        visit.close()


ESTIMATE = "StorageManager.prototype.estimate = async () => "
UNKNOWN = {"quotaMB": None, "usageMB": None, "availableMB": None}


def test_whatever_navigator_storage_does_nothing_is_refused(
    browser: Browser, site: PageServer
) -> None:
    """It may throw, never answer, lie or be missing: the numbers are null, or plausible."""
    visit, most = Visit(browser, site), 9_000_000_000_000
    page = visit.page
    page.goto(site.url + "probe.html")
    for script, numbers, fits in (
        ("for (const name of ['estimate', 'persisted']) "
         "StorageManager.prototype[name] = () => new Promise(() => {})", UNKNOWN, True),
        ("for (const name of ['estimate', 'persisted', 'persist']) StorageManager.prototype[name] = "
         "() => { throw new DOMException('denied', 'SecurityError'); }", UNKNOWN, True),
        (ESTIMATE + "undefined", UNKNOWN, True),
        (ESTIMATE + "({quota: NaN, usage: -5})", UNKNOWN, True),
        (ESTIMATE + "({quota: '10', usage: Infinity})", UNKNOWN, True),
        (ESTIMATE + "({usage: 3e6})", {**UNKNOWN, "usageMB": 3}, True),
        (ESTIMATE + "({quota: 5e6})", {**UNKNOWN, "quotaMB": 5, "availableMB": 5}, False),
        (ESTIMATE + "({quota: 5e6, usage: 9e6})",
         {"quotaMB": 5, "usageMB": 9, "availableMB": 0}, False),
        (ESTIMATE + f"({{quota: {most}, usage: 0}})",
         {"quotaMB": 9_000_000, "usageMB": 0, "availableMB": 9_000_000}, False),
        ("delete Navigator.prototype.storage", UNKNOWN, True),
    ):  # fmt: skip
        page.evaluate(f"() => {{ {script} }}")
        found = page.evaluate(HELPERS)
        assert {name: found["status"][name] for name in UNKNOWN} == numbers, script
        assert found["huge"]["fits"] is fits, script
        assert found["huge"]["recommendInstall"] is not fits, "a desktop"
        assert isinstance(found["persistent"], bool) and found["status"]["persisted"] is False
    for size in ("-1", "NaN", "Infinity", "'400'", "null", "undefined", "[1]", "true"):
        told = page.evaluate(f"""import('./device_storage.mjs').then(h => h.canCacheModel({size}))
          .then(() => '', error => error.name + ': ' + error.message)""")
        assert told.startswith("RangeError") and "number from 0 up" in told, size
    visit.close()


MAC = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) "
SAFARI_MAC = MAC + "AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Safari/605.1.15"
CHROME = "AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 26_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
AGENTS = (  # user agent, touch points, iOS?, a word from the steps
    (IPHONE + "Version/26.0 Mobile/15E148 Safari/604.1", 5, True, "three dots"),
    (IPHONE + "CriOS/150.0 Mobile/15E148 Safari/604.1", 5, True, "address bar"),
    (IPHONE + "FxiOS/150.0 Mobile/15E148 Safari/605.1.15", 5, True, 'Choose "Share"'),
    (IPHONE + "EdgiOS/150.0 Version/26.0 Mobile/15E148 Safari/604.1", 5, True, 'Choose "Share"'),
    (IPHONE + "Mobile/15E148 [FBAN/FBIOS;FBAV/500]", 5, True, "Open this page in Safari"),
    (IPHONE + "GSA/300.0 Mobile/15E148 Safari/604.1", 5, True, "Open this page in Safari"),
    (SAFARI_MAC, 5, True, "Add to Home Screen"),
    (SAFARI_MAC.replace("Version/26.0", "CriOS/150"), 5, True, "address bar"),
    (SAFARI_MAC, 0, False, "Add to Dock"),
    (MAC + CHROME, 10, False, "install symbol"),  # a Mac with a touch screen
    (MAC + "Gecko/20100101 Firefox/150.0", 10, False, ""),
    ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) " + CHROME, 10, False, "install symbol"),
    ("Mozilla/5.0 (Linux; Android 16; K) " + CHROME, 5, False, "Install app"),
    ("Mozilla/5.0 (Linux; Android 16; K; wv) " + CHROME, 5, False, "Open this page in Chrome"),
)


def test_ios_is_known_by_any_of_its_browsers_and_each_has_its_steps(
    browser: Browser, site: PageServer
) -> None:
    visit = Visit(browser, site)
    page = visit.page
    page.goto(site.url + "probe.html")
    become = """([agent, points]) => {
      Object.defineProperty(navigator, 'userAgent', {value: agent, configurable: true});
      Object.defineProperty(navigator, 'maxTouchPoints', {value: points, configurable: true}); }"""
    for number, (agent, points, ios, word) in enumerate(AGENTS):
        page.evaluate(become, [agent, points])
        found = page.evaluate(HELPERS, str(number))
        assert found["ios"] is found["status"]["ios"] is ios, agent
        steps = found["guidance"]["steps"]
        assert found["guidance"]["manual"] is True
        assert word in " ".join(steps) if word else steps == [], (agent, steps)
        if ios:
            assert found["small"]["recommendInstall"] is True, agent
    visit.close()


def test_python_has_the_same_helpers(probe: Probe) -> None:
    mine, other = probe("storage_helpers"), native("storage_helpers")
    for found in (mine, other):
        assert set(found["get_storage_status"]) == STATUS
        assert found["can_cache_model"]["fits"] is True
        assert "size_mb='400'" in found["refused"]
        status = found["get_storage_status"]
        assert status["availableMB"] == pytest.approx(status["quotaMB"] - status["usageMB"], abs=2)
    assert {k: type(v) for k, v in mine.items()} == {k: type(v) for k, v in other.items()}
    assert mine["is_standalone"] is False and other["is_standalone"] is True
