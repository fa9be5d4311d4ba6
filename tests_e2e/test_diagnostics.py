"""The page /diagnostics: facts, rows from the worker, which the server files and the page saves; a GPU that fails,
and one that kills the tab.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from devtools.page_server import PageServer
from tests_e2e.conftest import kill, returning, shim
from tests_e2e.test_install import DESKTOP_IPAD, device
from tests_e2e.visit import PATIENCE_S


@pytest.fixture
def rows(site: PageServer, tmp_path: Path) -> Iterator[Path]:
    """The file that the server writes rows to."""
    site.rows = tmp_path / "rows" / "diagnostics.jsonl"
    yield site.rows
    site.rows = None


@pytest.fixture
def page(browser: Browser, site: PageServer) -> Iterator[Page]:
    if browser.browser_type.name == "webkit":
        pytest.skip("Playwright's WebKit has no WebGPU")
    context, outside = returning(browser, site, viewport={"width": 1000, "height": 900})
    yield context.new_page()
    context.close()
    assert not outside


def filed_rows(page: Page, rows: Path, count: int) -> list[dict[str, Any]]:
    """Wait for this many rows on the server, because the page does not wait for its posts."""
    for _ in range(300):
        lines = rows.read_text().splitlines()
        if len(lines) >= count:
            break
        page.wait_for_timeout(100)
    return [json.loads(line) for line in lines]


def test_rows_are_shown_filed_and_saved(page: Page, site: PageServer, rows: Path) -> None:
    page.goto(site.url + "diagnostics?tests=bind-groups,bisect&most=1")
    expect(page.locator("#facts")).to_contain_text("maxStorageBufferBindingSize")
    expect(page.locator("#facts")).to_contain_text("of")
    page.evaluate("['run', 'stop'].forEach(name => document.getElementById(name).click())")
    page.wait_for_timeout(500)  # the page gathers the facts for the first row meanwhile
    expect(page.locator("#state")).to_have_text("Stopped.")
    assert page.workers == []
    page.click("#run")
    expect(page.locator("#state")).to_contain_text("Done", timeout=PATIENCE_S * 1000)
    expect(page.locator("#state")).to_have_text("Done: 11 points, 0 wrong, 0 not tried.")
    assert page.locator("#rows tr").count() == 11
    assert page.locator("#rows .wrong").count() == 0
    page.set_viewport_size({"width": 390, "height": 844})
    last = page.locator("#rows tr").last
    last.scroll_into_view_if_needed()
    expect(last).to_be_in_viewport()
    with page.expect_download() as saved:
        page.click("#save")
    told = [json.loads(line) for line in saved.value.path().read_text().splitlines()]
    assert [r["phase"] for r in told] == ["page", "device", *["begin", "end"] * 11, "done"]
    assert told[0]["storage"]["ios"] is False and told[0]["adapter"]["limits"]
    for row in told[2:]:
        assert row["page"].endswith("most=1") and "Chrome" in row["agent"]
        assert row["limits"]["max_storage_buffers"] >= 8
        assert row["system"].startswith("Linux")
    stopped, *filed = filed_rows(page, rows, 1 + len(told))
    assert stopped["phase"] == "stopped"
    assert sorted(map(json.dumps, filed)) == sorted(map(json.dumps, told))


# Writes a part of a row, as a page does that dies meanwhile.
CUT = """async size => {
  const { KINDS, openStore } = await import('./blobs.mjs');
  const store = await openStore('diagnostics', true, [KINDS.Records]);
  await store.write('rows.jsonl', size, new TextEncoder().encode('{"phase": "beg'));
  await store.flush('rows.jsonl');
}"""


def test_a_gpu_that_reads_stale_words(
    page: Page, site: PageServer, rows: Path, browser: Browser
) -> None:
    """A shim makes Chromium fail as WebKit does, from the 13th change of pipelines in a command buffer on. The tests
    find exactly that and report it; dispatches one by one are right. Then the shim ends the tab: the test that was
    running is stored and can be saved."""
    limits = "stale=12"
    shim(page.context, "worker.mjs", lambda: f"webkit_shim.mjs?{limits}")
    page.goto(site.url + "diagnostics?tests=same-pipeline,different-pipelines,bisect&most=3&run")
    expect(page.locator("#state")).to_contain_text("Done", timeout=PATIENCE_S * 1000)
    ends = [r for r in map(json.loads, rows.read_text().splitlines()) if r["phase"] == "end"]
    one_by_one = [r for r in ends if r["setting"]["mode"] == "one by one"]
    assert one_by_one and all(r["ok"] for r in one_by_one)
    batched = [r for r in ends if r["setting"]["mode"] == "batched"]
    assert batched[0]["test"] == "same-pipeline" and batched[0]["ok"]
    told = next(r for r in batched if r["test"] == "different-pipelines")["detail"]
    assert told.endswith("1024 made by link 64 of a word untouched (7777.0)"), told
    lengths = {r["setting"]["length"]: r["ok"] for r in batched if r["test"] == "bisect length"}
    assert lengths[12] and not lengths[13]
    told = next(r for r in batched if r["setting"].get("length") == 27)["detail"]
    assert told.endswith("1024 made by link 27 of a word stale by 26 links"), told
    expect(page.locator("#rows .wrong").first).to_contain_text("made by link 64")

    limits = "passes=8"
    page.goto(site.url + "diagnostics?tests=bind-groups,sweep&most=3&run")
    at = "sweep: nbytes 65536, pipelines 32, length 441, group=32 passes=32"
    expect(page.locator("#state")).to_have_text(at, timeout=PATIENCE_S * 1000)
    page.wait_for_timeout(2000)  # to see that nothing more comes
    filed = [
        json.loads(line) for line in rows.read_text().splitlines()
    ]  # posts can arrive out of order
    ended = [r["setting"] for r in filed if r["phase"] == "end"]
    left = [r for r in filed if r["phase"] == "begin" and r["setting"] not in ended]
    assert [r["setting"]["mode"] for r in left] == ["group=32 passes=32"]
    with page.expect_download() as saved:  # during a run
        page.click("#save")
    told = saved.value.path().read_text()
    context = page.context
    kill(page)
    page = context.new_page()
    page.goto(site.url + "diagnostics")
    expect(page.locator("#broken")).to_contain_text("while it tried sweep")
    expect(page.locator("#broken")).to_contain_text("group=32 passes=32")
    with page.expect_download() as saved:  # after it
        page.click("#save")
    assert saved.value.path().read_text() == told
    page.evaluate(CUT, len(told.encode()))
    page.reload()
    expect(page.locator("#broken")).to_contain_text("while it tried sweep")
    expect(page.locator("#facts")).to_contain_text("Linux")
    with page.expect_download() as saved:
        page.click("#save")
    assert saved.value.path().read_text() == told


@pytest.mark.parametrize(
    ("name", "system"), [("iPhone 15", "iOS 17.5"), ("iPad Pro 11", "iPadOS 26.0")]
)
def test_the_system_of_who_gives_no_hints(
    browser: Browser, site: PageServer, playwright: Any, name: str, system: str
) -> None:
    """iPhones give no hints, nor do iPads that ask for desktop pages and name a Mac. On these, each read waits for
    what runs: a second command buffer in flight ends this page."""
    options = device(playwright, name)
    if "iPad" in name:
        options["user_agent"] = DESKTOP_IPAD
    context, _ = returning(browser, site, **options)
    context.add_init_script("Object.defineProperty(navigator, 'userAgentData', {value: undefined})")
    page = context.new_page()
    shim(context, "worker.mjs", lambda: "webkit_shim.mjs?queue=1")
    run = "?tests=same-pipeline,bisect,determinism&most=1&run" if "iPhone" in name else ""
    page.goto(site.url + "diagnostics" + run)
    expect(page.locator("#facts")).to_contain_text(system)
    if run:
        done = "Done: 13 points, 0 wrong, 0 not tried."
        expect(page.locator("#state")).to_have_text(done, timeout=PATIENCE_S * 1000)
    context.close()


def test_a_foreign_page_files_nothing(page: Page, site: PageServer, rows: Path) -> None:
    page.goto(site.url + "probe.html")
    post = "url => fetch(url, {method: 'POST', body: '{}'}).then(a => a.status)"
    assert page.evaluate(post, "diagnostics/rows") == 200
    foreign = page.context.request.post(
        site.url + "diagnostics/rows", data="{}", headers={"Origin": "http://evil.example"}
    )
    assert foreign.status == 403
    too_long = page.context.request.post(
        site.url + "diagnostics/rows",
        data=json.dumps({"x": "y" * (1 << 17)}),
        headers={"Origin": site.url.rstrip("/")},
    )
    assert too_long.status == 400
    assert rows.read_text() == "{}\n"
