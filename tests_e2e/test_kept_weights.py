"""Weights in the browser's own store: found again by the next page, repaired, finished after a kill. Nothing compiles
here but the kernels of loading."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext

from devtools import page_server
from devtools.page_server import PageServer
from tests_e2e.conftest import (
    GOLDENS,
    ORGANISATION,
    PATIENCE_S,
    Probe,
    TestHandler,
    blank_page,
    watched,
)

MODEL = "qwen3-mlx-mixed-untied"
WEIGHTS = "model.safetensors"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What the hub was asked for: (file name or "", range)."""
    seen: list[tuple[str, str]] = []
    file, listing = TestHandler._hub_file, TestHandler._hub_listing

    def hub_file(self: TestHandler, name: str, revision: str, file_name: str) -> None:
        seen.append((file_name, self.headers.get("Range", "")))
        file(self, name, revision, file_name)

    def hub_listing(self: TestHandler, name: str, revision: str, blobs: bool) -> None:
        seen.append(("", ""))
        listing(self, name, revision, blobs)

    monkeypatch.setattr(TestHandler, "_hub_file", hub_file)
    monkeypatch.setattr(TestHandler, "_hub_listing", hub_listing)
    monkeypatch.setattr(page_server, "LARGE_FILE", 1000)  # the listing gives a sha256 from here on
    return seen


@pytest.fixture
def context(browser: Browser, site: PageServer) -> Iterator[BrowserContext]:
    """A fresh profile."""
    context, _ = watched(browser, site)
    yield context
    context.close()


def open_probe(context: BrowserContext, site: PageServer) -> Probe:
    return Probe(blank_page(context, site), "py314")


def keep(probe: Probe, site: PageServer, revision: str = "") -> dict[str, Any]:
    loaded: dict[str, Any] = probe("keep", site.url + "models", f"{ORGANISATION}/{MODEL}{revision}")
    return loaded


def blob(probe: Probe) -> str:
    """The weights' file in the store."""
    files: dict[str, int] = probe("stored_files", "/blobs/")
    return max(files, key=files.__getitem__)


def test_the_next_page_needs_no_request_and_repairs_what_is_damaged(
    context: BrowserContext, site: PageServer, asked: list[tuple[str, str]]
) -> None:
    probe = open_probe(context, site)
    cold = keep(probe, site)
    assert cold["kept"] is True and cold["notes"] == []
    commit = site.local_hub.commit(site.site.models / ORGANISATION / MODEL)
    probe.worker.page.close()

    probe = open_probe(context, site)
    asked.clear()
    warm = keep(probe, site, f"@{commit}")
    assert warm == cold and asked == []
    size = (GOLDENS / MODEL / WEIGHTS).stat().st_size
    name = blob(probe)
    assert probe("stored_files", name) == {name: size}

    probe("flip", name, size // 2)
    repaired = keep(probe, site)
    assert repaired["sums"] == cold["sums"]
    assert [note.split(" ", 1)[1] for note in repaired["notes"]] == [
        "was damaged in this device's store: fetching it again."
    ]
    assert [name for name, _ in asked] == ["", WEIGHTS], "the listing, and one tensor"
    asked.clear()

    context.set_offline(True)
    offline = keep(probe, site)
    assert offline["sums"] == cold["sums"] and "using the copy here" in offline["notes"][0]
    context.set_offline(False)


def test_a_page_that_dies_while_loading_loses_nothing_that_was_stored(
    context: BrowserContext,
    site: PageServer,
    asked: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = (GOLDENS / MODEL / WEIGHTS).stat().st_size
    held = [True]
    send = TestHandler._send_file

    def send_half(self: TestHandler, file: Any, etag: str, extra: dict[str, str]) -> None:
        """Of the weights' large range, half comes and then nothing more."""
        start, _, end = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if held[0] and file.name == WEIGHTS and start.isdigit() and int(end) > size // 2:
            self.send_response(206)
            self.send_header("Content-Length", str(int(end) + 1 - int(start)))
            self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
            self.end_headers()
            self.wfile.write(file.read_bytes()[int(start) : (int(start) + int(end)) // 2])
            self.wfile.flush()
            while held[0]:
                time.sleep(0.05)
            return
        send(self, file, etag, extra)

    monkeypatch.setattr(TestHandler, "_send_file", send_half)
    probe = open_probe(context, site)
    probe("random_number")
    probe.worker.post(
        {"id": 99, "name": "keep", "args": [site.url + "models", f"{ORGANISATION}/{MODEL}"]}
    )
    deadline = time.monotonic() + 60
    while not any(name == WEIGHTS for name, _ in asked) and time.monotonic() < deadline:
        probe.worker.page.wait_for_timeout(100)
    probe.worker.page.wait_for_timeout(1500)  # what came is written
    probe.worker.close()
    probe.worker.page.close()
    held[0] = False

    probe = open_probe(context, site)
    asked.clear()
    finished = keep(probe, site)
    assert finished["kept"] is True and finished["notes"] == []
    fetched = 0
    for name, asked_range in asked:
        if name == WEIGHTS:
            start, end = asked_range.removeprefix("bytes=").split("-")
            fetched += int(end) + 1 - int(start)
    assert fetched < 0.75 * size, "what was stored is not asked for again"
    assert keep(probe, site) == finished


def test_the_page_lists_what_is_kept_and_deletes_it(
    context: BrowserContext, site: PageServer, asked: list[tuple[str, str]], tmp_path: Path
) -> None:
    probe = open_probe(context, site)
    keep(probe, site)
    page = context.new_page()
    page.goto(site.url)
    page.wait_for_selector("[data-engine=ready]", timeout=1000 * PATIENCE_S)
    page.click("[data-do=open-settings]")
    row = page.locator("#stored li")
    row.wait_for(timeout=60_000)
    assert row.count() == 1 and f"{ORGANISATION}/{MODEL}" in row.inner_text()
    assert "in all" in page.inner_text("#stored-note")
    row.scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "stored.png")
    page.click("#stored [data-do=delete-model]")
    page.click("#confirm [value=yes]")
    page.wait_for_function("!document.querySelector('#stored li')", timeout=60_000)
    assert page.is_hidden("#delete-models")
    assert probe("stored_files", "models--") == {}
