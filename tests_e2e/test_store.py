"""The browser's stores do what plain files do: the same calls, the same answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext

from devtools.page_server import PageServer
from tests_e2e.conftest import Probe, blank_page, kill, set_quota
from tests_e2e.native import native

KINDS = ("Opfs", "Pieces", "Records", "Memory")


@pytest.mark.parametrize("kind", KINDS)
def test_store_equals_files(probe: Probe, kind: str, tmp_path: Path) -> None:
    name = f"test-{kind}-{probe.runtime}"
    assert probe("store", kind, name) == native("store", kind, str(tmp_path))


@pytest.mark.parametrize("kind", ["Opfs", "Pieces", "Records"])
def test_a_used_up_quota_is_said_and_loses_nothing(
    kept_profile: BrowserContext, site: PageServer, kind: str
) -> None:
    page = blank_page(kept_profile, site)
    probe = Probe(page, "py314")
    probe("random_number")  # Python is there before the quota is
    set_quota(page, site, 60 << 20)
    seen = probe("fill_store", kind, f"full-{kind}", 100)
    page.close()
    assert 0 < seen["count"] < 100
    assert "no more room" in seen["full"] and seen["good"] and seen["left"] == []


@pytest.mark.parametrize("kind", ["Opfs", "Records"])
def test_a_record_outlives_a_renderer_that_dies_behind_it(
    kept_profile: BrowserContext, site: PageServer, kind: str
) -> None:
    page = blank_page(kept_profile, site)
    Probe(page, "py314")("write_record", kind, "before it was tried")
    kill(page)
    page = blank_page(kept_profile, site)
    assert Probe(page, "py314")("read_records", kind) == ["before it was tried"] * 2
    page.close()
