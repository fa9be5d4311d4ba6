"""The service worker: the page opens without its server, and a new version starts only when the user agrees."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, expect

from devtools.page_server import PageServer
from devtools.site import Site
from tests.waiting import wait_until
from tests_e2e.conftest import WEBGPU_FLAGS, chromium_path
from tests_e2e.published import PARTS, Published, published  # noqa: F401  (a fixture)
from tests_e2e.visit import PATIENCE_S, ask, kept_messages, load, offer

PATIENCE_MS = PATIENCE_S * 1000
CACHED = """async () => Object.fromEntries(await Promise.all((await caches.keys()).map(
  async name => [name, (await (await caches.open(name)).keys()).map(key => key.url)])))"""
PUT = """async ([name, path]) => (await caches.open(name)).put(path, new Response('kept'))"""
UPDATE = "async () => { await (await navigator.serviceWorker.getRegistration()).update(); }"


def opened(context: BrowserContext, url: str) -> Page:
    """A tab with the page, controlled by the service worker."""
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("body[data-ui=ready][data-config=ready]", timeout=PATIENCE_MS)
    page.wait_for_function("navigator.serviceWorker.controller !== null", timeout=PATIENCE_MS)
    return page


def shells(page: Page, path: str = "/some/app/") -> dict[str, list[str]]:
    """The caches for the copy of the page at this path: name -> addresses."""
    cached: dict[str, list[str]] = page.evaluate(CACHED)
    return {name: urls for name, urls in cached.items() if name.startswith(f"shell-{path} ")}


def test_a_new_version_waits_for_consent_in_each_tab(
    blind_chromium: Browser,
    published: tuple[Published, str],  # noqa: F811
) -> None:
    site, url = published
    context = blind_chromium.new_context()
    first = opened(context, url)
    for name, path in (
        ("weights", "some/tensor"),
        ("snapshot-0.0.1", "snapshot/py1/abc"),
        ("snapshot-314.0.7", "snapshot/py314/abc"),
        ("snapshot-314.0.7", f"snapshot/py314/{site.site.shell()['snapshots']['sources']}"),
    ):
        first.evaluate(PUT, [name, path])
    second = opened(context, url + "?context=512")
    assert second.title() == "one"
    shutil.copytree(site.out, site.out.with_name("other"))
    other = opened(context, url.replace("/app/", "/other/"))
    others = shells(other, "/some/other/")
    assert len(others) == 1
    other.close()
    assert len(shells(first)) == 1

    # The host sends no policy, so the worker adds it.
    headers = """async path => (await fetch(path)).headers.get('Content-Security-Policy')"""
    document, script = (second.evaluate(headers, path) for path in ("./", "worker.mjs"))
    assert "script-src 'self' 'wasm-unsafe-eval' 'unsafe-eval';" in document
    assert "script-src 'self' 'wasm-unsafe-eval';" in script
    inline = """() => { const node = document.createElement('script');
      node.textContent = 'window.ran = true'; document.head.append(node); return window.ran; }"""
    assert second.evaluate(inline) is None

    site.publish("two")
    first.evaluate(UPDATE)
    for tab in (first, second):
        expect(tab.locator("#hint")).to_contain_text("A new version is ready", timeout=PATIENCE_MS)
        assert tab.evaluate(PARTS) == ["one"] * 3
    second.evaluate("window.mine = true")
    first.click("#hint [data-do=update]")
    first.wait_for_function("document.title === 'two'", timeout=PATIENCE_MS)
    first.wait_for_selector("body[data-ui=ready]", timeout=PATIENCE_MS)
    assert first.evaluate(PARTS) == ["two"] * 3
    expect(first.locator("#hint")).to_be_hidden()
    # The other tab was not reloaded. It stays on its version, and so do its workers.
    assert second.evaluate("window.mine") is True
    assert second.evaluate(PARTS) == ["one"] * 3
    expect(second.locator("#hint")).to_be_visible()
    assert len(shells(second)) == 2

    # A newer sw.js of the same version does not change that.
    script = site.site.root / "sw.js"
    script.write_text(script.read_text() + "// newer\n")
    site.publish("two")
    first.evaluate("window.mine = true")
    first.evaluate(UPDATE)
    first.click("#hint [data-do=update]", timeout=PATIENCE_MS)
    first.wait_for_function("!window.mine && document.body.dataset.ui", timeout=PATIENCE_MS)
    assert second.evaluate(PARTS) == ["one"] * 3
    assert len(shells(second)) == 2
    cached = second.evaluate(CACHED)
    assert cached["weights"]
    assert "snapshot-0.0.1" not in cached
    assert [url.endswith("/abc") for url in cached["snapshot-314.0.7"]] == [False]

    second.click("#hint [data-do=update]")
    second.wait_for_function("document.title === 'two'", timeout=PATIENCE_MS)
    site.publish("three")
    first.evaluate(UPDATE)
    expect(first.locator("#hint")).to_be_visible(timeout=PATIENCE_MS)
    first.click("#hint [data-do=update]")
    first.wait_for_function("document.title === 'three'", timeout=PATIENCE_MS)
    assert len(shells(second)) == 2, "of two and three: nobody has one any more"
    assert second.evaluate(PARTS) == ["two"] * 3
    assert shells(second, "/some/other/") == others, "a copy in another folder has its own"
    context.close()


# The browser also checks for updates itself after a navigation, so the new worker may already exist, or be gone again.
FAILED_UPDATE = """async () => {
  const registration = await navigator.serviceWorker.getRegistration();
  let end;
  const ended = new Promise(done => { end = done; });
  const watch = worker => worker && worker.state !== 'redundant'
    ? worker.addEventListener('statechange', event => end(event.target.state)) : end('redundant');
  registration.addEventListener('updatefound', () => watch(registration.installing));
  if (registration.installing) watch(registration.installing);
  setTimeout(end, 60_000, 'no update within a minute');
  await registration.update();
  return await ended;
}"""


def test_an_update_that_fails_changes_nothing(
    blind_chromium: Browser,
    published: tuple[Published, str],  # noqa: F811
) -> None:
    """The update is cut, changed, refused or has no room: the old version goes on, and the next try uses what had
    arrived."""
    site, url = published
    context = blind_chromium.new_context()
    page = opened(context, url)
    session = context.new_cdp_session(page)
    quota = {"origin": page.evaluate("location.origin")}
    (one,) = shells(page)
    site.publish("two")
    for fault in ("cut", "wrong", "500", "no room"):
        if fault == "no room":
            # What had arrived would leave too little to store.
            for name in shells(page).keys() - {one}:
                page.evaluate("name => caches.delete(name)", name)
            used = page.evaluate("navigator.storage.estimate().then(e => e.usage)")
            session.send("Storage.overrideQuotaForOrigin", {**quota, "quotaSize": used + 100_000})
        else:
            site.faults["word.txt"] = fault
        assert page.evaluate(FAILED_UPDATE) == "redundant", fault
        site.faults.clear()
        expect(page.locator("#hint")).to_be_hidden()
        assert page.evaluate(PARTS) == ["one"] * 3
        page.reload()
        assert page.title() == "one"
        assert len(shells(page)) == (1 if fault == "no room" else 2), "no room is kept from others"
    session.send("Storage.overrideQuotaForOrigin", quota)
    page.evaluate(UPDATE)
    expect(page.locator("#hint")).to_contain_text("A new version is ready", timeout=PATIENCE_MS)

    # A tab is two versions old, and the policy changed while files did not. There is no room to note which tab has
    # which version.
    other = opened(context, url)
    other.click("#hint [data-do=update]")
    other.wait_for_function("document.title === 'two'", timeout=PATIENCE_MS)
    site.site.hub = "http://hub.example"
    site.publish("three")
    other.evaluate(UPDATE)
    other.wait_for_selector("#hint [data-do=update]", timeout=PATIENCE_MS)
    session.send("Storage.overrideQuotaForOrigin", {**quota, "quotaSize": 1})
    other.click("#hint [data-do=update]")
    other.wait_for_function("document.title === 'three'", timeout=PATIENCE_MS)
    policy = "fetch('boot.mjs').then(file => file.headers.get('Content-Security-Policy'))"
    assert "connect-src 'self' http://hub.example;" in other.evaluate(policy)
    assert page.evaluate(PARTS) == ["one"] * 3
    assert one in shells(page)
    context.set_offline(True)
    page.reload()
    assert page.title() == "three" and page.evaluate(PARTS) == ["three"] * 3
    page.goto(url + "diagnostics")  # ./dev run uses this address
    assert "Diagnostics" in page.inner_text("h1")
    gone = "caches.keys().then(all => all.filter(name => name.startsWith('shell-')).length === 1)"
    page.wait_for_function(gone, timeout=PATIENCE_MS)
    context.close()


def requests(log: Path) -> list[str]:
    """The address of every request that a page or its workers made, from Chromium's network log (--log-net-log). The
    browser's own requests have no origin."""
    found = json.loads(log.read_text())
    kind = found["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    started = [event.get("params", {}) for event in found["events"] if event["type"] == kind]
    return [p["url"] for p in started if p.get("initiator", "not an origin") != "not an origin"]


def test_page_and_model_work_without_their_server(
    site: PageServer, playwright: Any, tmp_path: Path
) -> None:
    """A profile on disk makes a first visit with a question. Then the server stops, and a new browser process asks
    the same question. Neither visit sends a request to another host, as Chromium's own log shows, not even from the
    service worker or the workers."""
    logs = [tmp_path / "first.json", tmp_path / "second.json"]

    def launch(log: Path) -> BrowserContext:
        context: BrowserContext = playwright.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=chromium_path(),
            args=[*WEBGPU_FLAGS, f"--log-net-log={log}"],
        )
        return context

    def answer(page: Page) -> str:
        ask(page, "hello")
        content: str = kept_messages(page)[1]["content"]
        return content

    offer(site)
    with PageServer(Site(models=site.site.models, offered=site.site.offered)) as server:
        context = launch(logs[0])
        page = context.new_page()
        heard: list[str] = []
        page.on("console", lambda message: heard.append(message.text))
        page.add_init_script("""localStorage.setItem('jerboa.settings',
          JSON.stringify({temperature: 0, max_tokens: 12, context: 512}));""")
        page.goto(server.url)
        page.wait_for_function("navigator.serviceWorker.controller !== null", timeout=PATIENCE_MS)
        page.wait_for_selector("body[data-engine=ready]", timeout=PATIENCE_MS)
        wait_until(
            "word of the memory snapshot",
            lambda: any("memory snapshot" in text for text in heard),
            lambda: page.wait_for_timeout(100),
            PATIENCE_S,
            lambda: heard,
        )
        assert any("memory snapshot stored" in text for text in heard), heard
        sources = server.site.shell()["snapshots"]["sources"]
        (snapshot,) = page.evaluate(CACHED)["snapshot-314.0.7"]
        assert snapshot.endswith(sources)
        debugger = context.new_cdp_session(page)
        assert debugger.send("Page.getInstallabilityErrors")["installabilityErrors"] == []
        assert debugger.send("Page.getAppManifest")["errors"] == []
        load(page)
        first = answer(page)
        context.close()

    context = launch(logs[1])
    page = context.new_page()
    page.goto(server.url + "?group=")
    page.wait_for_selector("body[data-ui=ready][data-config=ready]", timeout=PATIENCE_MS)
    expect(page.locator("#hero-picker .choice")).to_have_count(2)
    page.wait_for_selector("body[data-engine=ready]", timeout=PATIENCE_MS)
    # Nobody clicks Load: the model is stored whole, so it loads when the user starts to type.
    expect(page.locator("#hero-text")).to_contain_text("loads when you begin to write")
    assert page.evaluate("document.body.dataset.model") == "none"
    assert answer(page) == first != ""
    context.close()
    first_visit, second_visit = map(requests, logs)
    for path in ("sw.js", "engine.zip", "worker.mjs", "models/api/models/"):
        assert any(path in url for url in first_visit)
    assert not any("models/" in url for url in second_visit), "what loads unasked asks for nothing"
    assert [u for u in first_visit + second_visit if not u.startswith(server.url)] == []
