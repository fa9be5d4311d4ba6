"""The browser's stores do what plain files do: the same calls give the same results."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext

from devtools.page_server import PageServer
from tests_e2e.conftest import Probe, blank_page, kill, set_quota, shim
from tests_e2e.native import native

KINDS = ("Opfs", "Pieces", "Records", "Memory")


@pytest.mark.parametrize("kind", KINDS)
def test_store_equals_files(probe: Probe, kind: str, tmp_path: Path) -> None:
    name = f"test-{kind}-{probe.runtime}"
    assert probe("store", kind, name) == native("store", kind, str(tmp_path))


def test_a_file_that_another_tab_has_open(probe: Probe) -> None:
    read, written, refused = probe("store_twice", "Opfs", f"twice-{probe.runtime}")
    assert (read, written) == ("read here", "written here")
    assert refused.startswith("StorageError") and "in use by another tab" in refused


def test_the_private_file_system_as_webkit_has_it(
    browser: Browser, site: PageServer, tmp_path: Path
) -> None:
    """No real WebKit was available. webkit_files.mjs says where this behaviour is described."""
    context = browser.new_context()
    shim(context, "probe.mjs", lambda: "webkit_files.mjs")
    probe = Probe(blank_page(context, site), "py314")
    test_a_file_that_another_tab_has_open(probe)
    for older in (True, False):
        probe("older_webkit", older)
        seen = probe("store", "Opfs", f"older-{older}")
        assert seen == native("store", "Opfs", str(tmp_path / str(older)))
    context.close()


def test_the_lock_of_a_page_that_died_is_free_within_five_seconds(
    kept_profile: BrowserContext, site: PageServer
) -> None:
    pages = [blank_page(kept_profile, site) for _ in range(2)]
    first, second = (Probe(page, "py314") for page in pages)
    assert first("lock", "one", True) is not None
    assert second("lock", "one", False) is None
    died = time.monotonic()
    kill(pages[0])
    assert second("lock", "one", True) is not None
    assert time.monotonic() - died < 5  # promised on any machine
    pages[1].close()


@pytest.mark.parametrize("kind", ["Opfs", "Pieces", "Records"])
def test_a_used_up_quota_is_said_and_loses_nothing(
    kept_profile: BrowserContext, site: PageServer, kind: str
) -> None:
    page = blank_page(kept_profile, site)
    probe = Probe(page, "py314")
    probe("random_number")  # so that Python boots before the quota is set
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
