"""The page /diagnostics: facts, rows of two tests through the worker, filed on the server and saved; a run cut off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from devtools.page_server import PageServer
from tests_e2e.conftest import PATIENCE_S, watched


@pytest.fixture
def rows(site: PageServer, tmp_path: Path) -> Iterator[Path]:
    """Where the server files them."""
    site.rows = tmp_path / "rows" / "diagnostics.jsonl"
    yield site.rows
    site.rows = None


@pytest.fixture
def page(browser: Browser, site: PageServer) -> Iterator[Page]:
    if browser.browser_type.name == "webkit":
        pytest.skip("Playwright's WebKit has no WebGPU")
    context, outside = watched(browser, site, viewport={"width": 1000, "height": 900})
    yield context.new_page()
    context.close()
    assert not outside


def filed_rows(page: Page, rows: Path, count: int) -> list[dict[str, Any]]:
    """So many rows on the server; the page does not wait for its posts."""
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
    page.click("#run")
    expect(page.locator("#state")).to_contain_text("Done", timeout=PATIENCE_S * 1000)
    expect(page.locator("#state")).to_have_text("Done: 11 points, 0 wrong, 0 not tried.")
    assert page.locator("#rows tr").count() == 11
    assert page.locator("#rows .wrong").count() == 0
    with page.expect_download() as saved:
        page.click("#save")
    told = [json.loads(line) for line in saved.value.path().read_text().splitlines()]
    assert [r["phase"] for r in told] == ["page", "device", *["begin", "end"] * 11, "done"]
    assert told[0]["storage"]["ios"] is False and told[0]["adapter"]["limits"]
    for row in told[2:]:
        assert row["page"].endswith("most=1") and "Chrome" in row["agent"]
        assert row["limits"]["max_storage_buffers"] >= 8
    filed = filed_rows(page, rows, len(told))
    assert sorted(map(json.dumps, filed)) == sorted(map(json.dumps, told))

    # A run whose last row announces what never ended.
    page.evaluate(
        "localStorage.setItem('jerboa.diagnostics', localStorage.getItem('jerboa.diagnostics')"
        ".split('\\n').slice(0, 3).join('\\n'))"
    )
    page.reload()
    expect(page.locator("#broken")).to_contain_text("while it tried bind-groups")
    with page.expect_download() as saved:
        page.click("#save")
    assert len(saved.value.path().read_text().splitlines()) == 3


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
