"""A hub with faulty answers, over the browser's own fetch. tests/test_cache.py and tests/test_hub.py test this in
CPython.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from devtools.page_server import PageServer
from tests.hub_server import HubServer, hub_server
from tests_e2e.conftest import GOLDENS, Probe, blank_page
from tests_e2e.visit import ORGANISATION

MODEL = "qwen2-f32"
WEIGHTS = "model.safetensors"
SIZE = (GOLDENS / MODEL / WEIGHTS).stat().st_size
FAULTS = (404, 416, "html", "short", "stall", "drop", "redirect-loop", "wrong-range")
PASSING = (503, "short", "stall", "drop", "wrong-range")
# No browser unpacks a range of a compressed body. A whole one it unpacks, without saying so.
PACKED = ("gzip", "gzip-whole")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """A hub on two ports of the loopback interface, which the page's connect-src lists."""
    root = tmp_path_factory.mktemp("faults")
    shutil.copytree(GOLDENS / MODEL, root / ORGANISATION / MODEL)
    with hub_server(root, cdn_host="127.0.0.1") as server:
        yield server


@pytest.fixture(scope="module")
def loading(browser: Browser, site: PageServer, hub: HubServer) -> Iterator[Loading]:
    """A page that loads from that hub."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site.site, "hub", "http://127.0.0.1:*")
        context = browser.new_context()
        yield Loading(Probe(blank_page(context, site), "py314"), hub)
        context.close()


class Loading:
    """Loads of the weights in a page. The page waits at most a second for the hub, and not at all between two tries."""

    def __init__(self, probe: Probe, hub: HubServer) -> None:
        self.probe, self.hub = probe, hub
        self.right = self.load()["sums"]

    def load(self, *faults: int | str | None) -> dict[str, Any]:
        """Load into an empty store while requests for the weights have these faults; see probe.keep."""
        self.probe("clear_store")
        self.hub.clear_faults()
        self.hub.fail(WEIGHTS, *faults)
        repository = f"{ORGANISATION}/{MODEL}"
        found: dict[str, Any] = self.probe("keep", self.hub.url, repository, "stored", 1.0)
        return found

    def stored(self) -> int:
        """How many bytes of the weights are stored."""
        files: dict[str, int] = self.probe("stored_files", "/blobs/")
        return max(files.values(), default=0)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_ends_the_load(loading: Loading, fault: int | str) -> None:
    """The error is typed, and half a file does not count as whole."""
    kind, message = loading.load(None, *[fault] * 100)["error"]
    assert kind == "HubError" and WEIGHTS in message, message
    assert loading.stored() < SIZE


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_is_got_over(loading: Loading, fault: int | str) -> None:
    found = loading.load(None, fault)
    assert found["sums"] == loading.right and found["kept"] is True


@pytest.mark.parametrize("fault", PACKED)
def test_packed_bodies_are_unpacked_or_refused(loading: Loading, fault: str) -> None:
    found = loading.load(None, *[fault] * 100)
    if "error" in found:
        assert found["error"][0] == "HubError" and loading.stored() < SIZE
    else:
        assert found["sums"] == loading.right
