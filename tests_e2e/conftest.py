"""Fixtures for tests with real browsers and the real page server. Chromium is the system's (JERBOA_CHROMIUM) or
Playwright's own; WebKit runs where Playwright has it. The fixtures watch every page's requests: none may leave the
origin.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page, Route, sync_playwright

from devtools import page_server
from devtools.page_server import Handler, PageServer
from devtools.site import Site
from tests.packaged_tokenizers import tokenizer_json
from tests_e2e.visit import ORGANISATION, PATIENCE_S, Visit, offer, watched

HERE = Path(__file__).parent
GOLDENS = HERE.parent / "tests" / "goldens"
# Modules that workers import before their own script.
SHIMS = ("/webkit_shim.mjs", "/webkit_files.mjs", "/store_faults.mjs", "/live_buffers.mjs")
CRASH_FLAGS = [  # without these, Chromium gives no GPU any more after its GPU process died twice
    "--disable-gpu-process-crash-limit",
    "--disable-domain-blocking-for-3d-apis",
]
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    *CRASH_FLAGS,
]
WEBGPU_FLAGS = [
    *CHROMIUM_FLAGS,
    "--enable-unsafe-webgpu",
    # Clear workgroup memory in a loop, as py_engine/host/adapter_native.py does. SwiftShader then compiles a model's
    # kernels in a fifth of the time.
    "--disable-dawn-features=use_vulkan_zero_initialize_workgroup_memory_extension",
]
# Starts a worker, and stores its messages until the test asks for them.
OPEN = """([script, name]) => {
  const box = {inbox: [], wake: () => {}};
  box.worker = new Worker(script, {type: 'module', name});
  box.worker.onmessage = ({data}) => { box.inbox.push(data); box.wake(); };
  box.worker.onerror = event => {
    box.inbox.push({status: 'error', id: null, error_type: 'onerror', error: event.message}); box.wake(); };
  return (window.boxes ??= []).push(box) - 1;
}"""
TAKE = """async ([box, ms]) => {
  const {inbox} = boxes[box];
  if (!inbox.length) await new Promise(done => { boxes[box].wake = done; setTimeout(done, ms); });
  return inbox.splice(0);
}"""
POST = "([box, message]) => boxes[box].worker.postMessage(message)"
TERMINATE = "box => boxes[box].worker.terminate()"


# The messages of a page's own workers. `heard` holds all of them; a test may empty it.
HEAR = """(() => {
  window.heard = [];
  const Real = Worker;
  window.Worker = class extends Real {
    constructor(...given) {
      super(...given);
      this.addEventListener('message', ({data}) => heard.push(data));
    }
  };
})()"""


@dataclass
class Snapshot:
    """A memory snapshot of Pyodide 314 with the engine in it, as CacheStorage stored it."""

    store: str  # name of the cache
    key: str
    path: Path


class TestSite(Site):
    """The site with the tests' own worker and page, and the tokenizer.json files of tests/packaged_tokenizers.py.
    The hub's answers (listings and weights) are delayed by `stall_s`."""

    __test__ = False
    stall_s = 0.0
    snapshot: Snapshot | None = None  # taken on a first visit

    def find(self, path: str) -> Path | None:
        """Serves tests_e2e/probe*, the shims, tokenizers/NAME.json and the snapshot beside the page's files."""
        if path == "/snapshot":
            return self.snapshot.path if self.snapshot else None
        if path.startswith("/tokenizers/"):
            return tokenizer_json(path.removeprefix("/tokenizers/").removesuffix(".json"))
        if path.startswith("/probe") or path in SHIMS:
            return HERE / path.lstrip("/")
        return super().find(path)


class TestHandler(Handler):
    """Delays answers where the test asks for it. A browser that is closed while it loads is no error."""

    __test__ = False

    def handle(self) -> None:
        """One connection."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def _hub_listing(self, name: str, revision: str, blobs: bool) -> None:
        time.sleep(self.server.site.stall_s)  # type: ignore[attr-defined]
        super()._hub_listing(name, revision, blobs)

    def _hub_file(self, name: str, revision: str, file_name: str) -> None:
        if file_name.endswith(".safetensors"):
            time.sleep(self.server.site.stall_s)  # type: ignore[attr-defined]
        super()._hub_file(name, revision, file_name)


class Worker:
    """A worker in a page, with its messages in the order of arrival."""

    def __init__(self, page: Page, script: str, name: str = "") -> None:
        self.page = page
        self._box = page.evaluate(OPEN, [script, name])
        self._seen: list[dict[str, Any]] = []

    def post(self, message: dict[str, Any]) -> None:
        """Send a message."""
        self.page.evaluate(POST, [self._box, message])

    def wait(
        self, wanted: Callable[[dict[str, Any]], bool], timeout: float = PATIENCE_S
    ) -> list[dict[str, Any]]:
        """All messages up to the first wanted one. Fails at the timeout, or if an error without an id arrives."""
        taken: list[dict[str, Any]] = []
        deadline = time.monotonic() + timeout
        while True:
            while self._seen:
                message = self._seen.pop(0)
                taken.append(message)
                if wanted(message):
                    return taken
                if message.get("status") == "error" and message.get("id") is None:
                    pytest.fail(f"the worker failed: {message['error']}")
            left = deadline - time.monotonic()
            if left < 0:
                pytest.fail(
                    f"no such message within {timeout:g} s; came: {json.dumps(taken)[-2000:]}"
                )
            self._seen += self.page.evaluate(TAKE, [self._box, min(left, 5) * 1000])

    def ask(self, message: dict[str, Any], timeout: float = PATIENCE_S) -> dict[str, Any]:
        """Send a message; returns the last message that answers it."""
        self.post(message)
        return self.answer(message["id"], timeout)[-1]

    def answer(self, id: int | str, timeout: float = PATIENCE_S) -> list[dict[str, Any]]:
        """The messages of this id, up to the one that ends the answer. Messages of other ids are dropped."""
        last = ("ready", "complete", "error", "result")
        taken = self.wait(lambda m: m.get("id") == id and m.get("status") in last, timeout)
        return [m for m in taken if m.get("id") == id]

    def close(self) -> None:
        """End the worker, whatever it is doing."""
        self.page.evaluate(TERMINATE, self._box)


class Probe:
    """Calls functions of probe.py inside Pyodide."""

    def __init__(self, page: Page, runtime: str) -> None:
        self.runtime = runtime
        self.worker = Worker(page, "probe.mjs", runtime)
        self._id = 0

    def __call__(self, name: str, *args: Any) -> Any:
        """The function's result. An EngineError is returned as {"error": [type, message]}."""
        self._id += 1
        self.worker.post({"id": self._id, "name": name, "args": list(args)})
        answer = self.worker.wait(lambda m: m.get("id") == self._id)[-1]
        assert "value" in answer, answer["error"]
        return answer["value"]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """The page server, with the golden checkpoints as repositories tiny/NAME."""
    models = tmp_path_factory.mktemp("hub")
    (models / ORGANISATION).mkdir()
    for folder in GOLDENS.iterdir():
        if (folder / "config.json").is_file():
            shutil.copytree(folder, models / ORGANISATION / folder.name)
    server = PageServer(TestSite(models=models))
    server.RequestHandlerClass = TestHandler
    with server:
        yield server


class Asked(list[tuple[str, str]]):
    """The requests to the hub, in order: (file name, or "" for the listing; the Range header)."""

    def nbytes(self, name: str) -> int:
        """How many bytes of a file were requested, all by range."""
        ranges = [r.removeprefix("bytes=").split("-") for file, r in self if file == name]
        return sum(int(last) + 1 - int(first) for first, last in ranges)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """The requests to the local hub, from now on."""
    seen = Asked()
    file, listing = TestHandler._hub_file, TestHandler._hub_listing

    def hub_file(self: TestHandler, name: str, revision: str, file_name: str) -> None:
        seen.append((file_name, self.headers.get("Range", "")))
        file(self, name, revision, file_name)

    def hub_listing(self: TestHandler, name: str, revision: str, blobs: bool) -> None:
        seen.append(("", ""))
        listing(self, name, revision, blobs)

    monkeypatch.setattr(TestHandler, "_hub_file", hub_file)
    monkeypatch.setattr(TestHandler, "_hub_listing", hub_listing)
    # The listing gives a sha256 for files from this size on.
    monkeypatch.setattr(page_server, "LARGE_FILE", 1000)
    return seen


@pytest.fixture(scope="session")
def playwright() -> Iterator[Any]:
    """Playwright itself."""
    with sync_playwright() as it:
        yield it


def chromium_path() -> str | None:
    """The Chromium that JERBOA_CHROMIUM names, or the system's; None stands for Playwright's own."""
    return os.environ.get("JERBOA_CHROMIUM") or shutil.which("chromium")


def launch_chromium(playwright: Any, flags: list[str]) -> Browser:
    """Start Chromium. Each context gets a fresh profile."""
    browser: Browser = playwright.chromium.launch(executable_path=chromium_path(), args=flags)
    return browser


@pytest.fixture(scope="session", params=["chromium", "webkit"])
def browser(request: pytest.FixtureRequest, playwright: Any) -> Iterator[Browser]:
    """Each browser that is installed."""
    if request.param == "chromium":
        browser = launch_chromium(playwright, WEBGPU_FLAGS)
    else:
        try:
            browser = playwright.webkit.launch()
        except Error:
            pytest.skip("Playwright has no WebKit here: python -m playwright install webkit")
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def blind_chromium(playwright: Any) -> Iterator[Browser]:
    """A Chromium that has navigator.gpu but no adapter."""
    browser = launch_chromium(playwright, CHROMIUM_FLAGS)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def kept_profile(
    playwright: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrowserContext]:
    """Chromium with a profile on disk. A private window would have its file system in memory, without a quota of its
    own."""
    context: BrowserContext = playwright.chromium.launch_persistent_context(
        tmp_path_factory.mktemp("profile"), executable_path=chromium_path(), args=WEBGPU_FLAGS
    )
    yield context
    context.close()


def set_quota(page: Page, site: PageServer, nbytes: int) -> None:
    """Limit what Chromium lets the origin store, until the page's context is closed."""
    session = page.context.new_cdp_session(page)
    origin = site.url.rstrip("/")
    session.send("Storage.overrideQuotaForOrigin", {"origin": origin, "quotaSize": nbytes})


def shim(context: BrowserContext, script: str, address: Callable[[], str]) -> None:
    """Workers of this script that start from now on import the module at `address()` first."""

    def answer(route: Route) -> None:
        real = route.fetch()
        headers = {k: v for k, v in real.headers.items() if k not in ("content-length", "etag")}
        body = f"import './{address()}';\n{real.text()}"
        route.fulfill(status=200, headers=headers, body=body)

    context.route(f"**/{script}", answer)


def kill(page: Page) -> None:
    """End the page's renderer at once. Its scripts and workers get no notice."""
    with page.expect_event("crash"), contextlib.suppress(Error):
        page.goto("chrome://crash")
    with contextlib.suppress(Error):
        page.close()


def blank_page(context: BrowserContext, site: PageServer) -> Page:
    """A page of the origin that does nothing by itself."""
    page = context.new_page()
    page.goto(site.url + "probe.html")
    return page


@dataclass
class Visited:
    """A profile that visited the page before: it holds a memory snapshot of Pyodide 314 with the engine in it."""

    context: BrowserContext
    cold: dict[str, Any]  # what the first boot reported
    early: dict[str, Any]  # the answer to a message that was sent before the boot ended


def visit_first(context: BrowserContext, site: PageServer) -> Visited:
    """Visit the page once with this profile."""
    page = blank_page(context, site)
    first = Worker(page, "worker.mjs")
    first.post({"type": "info", "id": "early"})
    cold = first.wait(lambda m: m["status"] == "booted")[-1]
    early = first.answer("early")[-1]
    log = first.wait(lambda m: m["status"] == "log" and "snapshot" in m["message"])[-1]
    assert "stored" in log["message"], log
    page.close()
    return Visited(context, cold, early)


# What a first visit left in CacheStorage: [name of the cache, key, base64].
TAKE_SNAPSHOT = """async () => {
  const name = (await caches.keys()).find(name => name.startsWith('snapshot-'));
  const store = await caches.open(name);
  const [{ url }] = await store.keys();
  const reader = new FileReader();
  reader.readAsDataURL(await (await store.match(url)).blob());
  await new Promise(done => { reader.onload = done; });
  return [name, url, reader.result.split(',')[1]];
}"""
LEAVE_SNAPSHOT = """async ([name, key]) => {
  const store = await caches.open(name);
  await store.put(key, new Response(await (await fetch('snapshot')).arrayBuffer()));
}"""


def keep_snapshot(visited: Visited, site: PageServer) -> None:
    """From now on the server has the snapshot that `visited` holds."""
    page = blank_page(visited.context, site)
    store, key, body = page.evaluate(TAKE_SNAPSHOT)
    page.close()
    path = site.site.models / "snapshot"
    path.write_bytes(base64.b64decode(body))
    site.site.snapshot = Snapshot(store, key, path)  # type: ignore[attr-defined]


def returning(
    browser: Browser, site: PageServer, **options: Any
) -> tuple[BrowserContext, list[str]]:
    """As `watched`, with a profile that visited the page before. Its workers boot in a fifth of the time, and none
    makes a snapshot during the test."""
    if site.site.snapshot is None:  # type: ignore[attr-defined]
        context, _ = watched(browser, site)
        keep_snapshot(visit_first(context, site), site)
        context.close()
    snapshot = site.site.snapshot  # type: ignore[attr-defined]
    context, outside = watched(browser, site, **options)
    page = blank_page(context, site)
    page.evaluate(LEAVE_SNAPSHOT, [snapshot.store, snapshot.key])
    page.close()
    return context, outside


@pytest.fixture(scope="session")
def visited(browser: Browser, site: PageServer) -> Iterator[Visited]:
    """One profile for all tests that need no fresh one. Its workers boot from the snapshot."""
    context, outside = watched(browser, site)
    visited = visit_first(context, site)
    keep_snapshot(visited, site)
    yield visited
    context.close()
    assert not outside


@pytest.fixture
def page(visited: Visited, site: PageServer) -> Iterator[Page]:
    """A blank page of the origin."""
    page = blank_page(visited.context, site)
    yield page
    page.close()


@pytest.fixture(scope="session", params=["py314", "py27"])
def probe(request: pytest.FixtureRequest, visited: Visited, site: PageServer) -> Iterator[Probe]:
    """probe.py in a worker, in each Pyodide. All tests share it."""
    page = blank_page(visited.context, site)
    yield Probe(page, request.param)
    page.close()


@pytest.fixture
def visit(browser: Browser, site: PageServer) -> Iterator[Visit]:
    """The page without its engine; it offers two models."""
    offer(site)
    visit = Visit(browser, site)
    yield visit
    visit.close()
