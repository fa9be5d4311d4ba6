"""WebKitGTK, the only WebKit that Debian has. It shares Safari's JavaScript engine and service workers, but has no
WebGPU. So these tests cover the page, Python in both places, the storage helpers, the message about missing WebGPU,
and all of it again without the server in a new browser process.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devtools.page_server import PageServer
from devtools.site import Site
from tests_e2e.conftest import TestHandler, TestSite
from tests_e2e.native import native
from tests_e2e.published import PARTS, Published, published  # noqa: F401  (a fixture)

WINDOW = Path(__file__).with_name("webkitgtk_window.py")
PATIENCE_S = 240
OFFERED = [{"id": "tiny/x", "label": "Tiny x", "endpoint": "local", "size": 1}]

READY = """const box = document.body.dataset;
  return box.ui === 'ready' && box.config === 'ready' && box.engine === 'none' && document.body.innerText;"""
CONTROLLED = "return navigator.serviceWorker.controller !== null"
HELPERS = """const h = await import('./device_storage.mjs');
  return [await h.getStorageStatus(), await h.canCacheModel(1), h.getInstallGuidance(), h.isIOS(),
    await h.requestPersistentStorage()];"""
# The engine's worker. The page does not start it without WebGPU, so the test does; `heard` holds its messages.
START = """window.heard = [];
  window.worker = new Worker('worker.mjs', {type: 'module'});
  worker.onmessage = ({data}) => heard.push(data); return true;"""
PROBE = """window.heard = [];
  window.probe = new Worker('probe.mjs', {type: 'module', name: 'py314'});
  probe.onmessage = ({data}) => heard.push(data); return true;"""
BOOTED = "return heard.find(m => m.status === 'booted' || m.status === 'error')"
STORED = "return heard.find(m => m.status === 'log' && m.message.includes('snapshot'))"
ASK = "worker.postMessage({type: 'load', id: 1, repo: 'tiny/x'}); return true;"
UPDATE = """const kept = await navigator.serviceWorker.getRegistration();
  await kept.update(); return kept.waiting !== null"""
TAKE_CHARGE = """const kept = await navigator.serviceWorker.getRegistration();
  kept.waiting?.postMessage({op: 'take-charge'}); return kept.waiting === null"""
REFUSED = "return heard.find(m => m.status === 'error')"


class WebDriver:
    """One browser process. It has the few commands of https://www.w3.org/TR/webdriver2/ that these tests need."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"
        options = {"binary": str(WINDOW), "args": []}
        wanted = {"webkitgtk:browserOptions": options, "timeouts": {"script": PATIENCE_S * 1000}}
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{session['sessionId']}"

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self._base + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return json.load(answer)["value"]

    def open(self, url: str) -> None:
        """Load an address."""
        self._call("POST", self._session + "/url", {"url": url})

    def run(self, body: str) -> Any:
        """The value that the body of an async function returns in the page."""
        script = f"""const done = arguments[arguments.length - 1];
          (async () => {{ {body} }})().then(done, error => done('raised ' + error));"""
        return self._call("POST", self._session + "/execute/async", {"script": script, "args": []})

    def until(self, body: str) -> Any:
        """Run it again and again until it returns a true value."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := self.run(body)):
            assert time.monotonic() < deadline, f"nothing came of: {body}"
            time.sleep(0.2)
        return found

    def close(self) -> None:
        """Close the browser."""
        # The driver may have ended with its session.
        with contextlib.suppress(urllib.error.URLError):
            self._call("DELETE", self._session)


@pytest.fixture
def display() -> Iterator[str]:
    """A virtual screen for windows."""
    if not (shutil.which("WebKitWebDriver") and shutil.which("Xvfb")):
        pytest.skip("no WebKitGTK: ./dev test --webkitgtk installs it where it may")
    reader, writer = os.pipe()
    command = ["Xvfb", "-displayfd", str(writer), "-screen", "0", "900x1200x24"]
    server = subprocess.Popen(command, pass_fds=[writer], stderr=subprocess.DEVNULL)
    yield ":" + os.read(reader, 16).decode().strip()
    server.terminate()
    server.wait()
    os.close(reader)
    os.close(writer)


@contextlib.contextmanager
def browser(display: str, profile: Path) -> Iterator[WebDriver]:
    """A new browser process on a profile."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "DISPLAY": display, "JERBOA_PROFILE": str(profile)}
    environment |= {"NO_AT_BRIDGE": "1", "LIBGL_ALWAYS_SOFTWARE": "1"}
    driver = subprocess.Popen(
        ["WebKitWebDriver", f"--port={port}"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with socket.socket() as knock:
                if knock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < deadline, "WebKitWebDriver does not listen"
            time.sleep(0.1)
        web = WebDriver(port)
        yield web
        web.close()
    finally:
        driver.terminate()
        driver.wait()


def test_all_but_the_gpu_works_with_and_without_the_server(display: str, tmp_path: Path) -> None:
    with PageServer(Site(offered=OFFERED)) as server, browser(display, tmp_path) as web:
        url = server.url
        web.open(url)
        assert "This browser has no WebGPU" in web.until(READY)
        status, fit, guidance, ios, persistent = web.run(HELPERS)
        assert set(status) == {
            "quotaMB", "usageMB", "availableMB", "persisted", "installed", "ios"
        }  # fmt: skip
        assert status["quotaMB"] > 0 and fit["fits"] is True
        assert (status["installed"], ios, guidance["installed"]) == (False, False, False)
        assert isinstance(persistent, bool)
        web.until(CONTROLLED)
        web.run(START)
        booted = web.until(BOOTED)
        assert booted["runtime"] == "Pyodide 314.0.7" and booted["snapshot"] is False
        assert "stored" in web.until(STORED)["message"]
        web.run(ASK)
        refused = web.until(REFUSED)
        assert refused["error_type"] == "NoAdapterError", refused

    with browser(display, tmp_path) as web:
        web.open(url + "?context=512")
        assert "This browser has no WebGPU" in web.until(READY)
        web.run(START)
        again = web.until(BOOTED)
        assert again["status"] == "booted" and again["snapshot"] is True, again
        print(
            f"boot in WebKitGTK: {booted['boot_ms']} ms cold, {again['boot_ms']} from the snapshot"
        )


def test_the_store_is_cut_into_entries_of_a_cache(display: str, tmp_path: Path) -> None:
    """WebKitGTK has a private file system, but no synchronous handles for it."""
    server = PageServer(TestSite())
    server.RequestHandlerClass = TestHandler
    with server, browser(display, tmp_path / "profile") as web:
        web.open(server.url + "probe.html")
        web.run(PROBE)

        def probe(name: str, *arguments: str) -> Any:
            call = {"id": name, "name": name, "args": arguments}
            web.run(f"probe.postMessage({json.dumps(call)}); return true;")
            answer = web.until(f"return heard.find(m => m.id === {json.dumps(name)})")
            assert "value" in answer, answer
            return answer["value"]

        assert probe("store_kinds") == ["cache-storage", "indexed-db"]
        files = native("store", "", str(tmp_path / "files"))
        assert probe("store", "Pieces", "test") == files
        assert probe("store", "Records", "test-records") == files


def test_an_open_tab_keeps_its_version(
    display: str,
    tmp_path: Path,
    published: tuple[Published, str],  # noqa: F811
) -> None:
    site, url = published
    parts = f"return await ({PARTS})()"
    with browser(display, tmp_path / "profile") as web:
        web.open(url)
        web.until(CONTROLLED)
        site.publish("two")
        web.until(UPDATE)
        web.until("return document.body.innerText.includes('A new version is ready')")
        web.until(TAKE_CHARGE)  # another tab's consent does the same
        assert web.run(parts) == ["one"] * 3
        web.open(url)
        web.until(READY)
        assert web.run(parts) == ["two"] * 3


def test_a_sha256_in_a_worker(display: str, tmp_path: Path, site: PageServer) -> None:
    """Its WebAssembly uses SIMD, which each engine compiles in its own way."""
    with browser(display, tmp_path) as web:
        web.open(site.url)
        ours, right = web.run("""
          const { start } = await import('/sha256.mjs');
          const bytes = Uint8Array.from({ length: 3 << 20 | 77 }, (_, i) => i * i >> 5), sum = start();
          await sum.update(bytes);
          const ours = await sum.digest();
          sum.close();
          const right = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
          return [ours, Array.from(right, byte => byte.toString(16).padStart(2, '0')).join('')];""")
    assert ours == right
