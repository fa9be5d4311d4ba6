"""A store that fails (store_faults.mjs) at every change that a load makes to it. At that change the page is killed,
or its worker ends, or there is no room from then on. Only the kernels of loading are compiled here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import BrowserContext

from devtools.page_server import PageServer
from py_engine.sources.safetensors import FIRST_READ_BYTES
from tests_e2e.conftest import (
    GOLDENS,
    WEBGPU_FLAGS,
    Asked,
    Probe,
    blank_page,
    kill,
    launch_chromium,
    returning,
    shim,
)
from tests_e2e.visit import ORGANISATION

MODEL = "qwen2-f32"
WEIGHTS = "model.safetensors"
SIZE = (GOLDENS / MODEL / WEIGHTS).stat().st_size
TENSORS = 293_120
STEP = 10_000  # bytes of a write of weights, and of a line in the journal
# Bytes that a kill may lose: a step that is written but not yet in the journal, or the file's head, which is read in
# one piece before the tensors are known.
LOST = max(STEP, FIRST_READ_BYTES)
WAITING = "Another tab or process is loading this model: waiting for it."
# Kinds of store, and the form in which they hold the weights.
KINDS = (("opfs", "stored"), ("cache-storage", "stored"))
QUANTISED = pytest.param(("opfs", "q4"), marks=pytest.mark.slow)
Places = tuple[tuple[int, str], ...]
# The change to fail at, and how: among the small files, within the weights, and long after the end of a load. None:
# every change.
QUICK = ((9, "kill"), (40, "half"), (10_000, "kill"))
EVERY = pytest.param(None, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def context(playwright: Any, site: PageServer) -> Iterator[BrowserContext]:
    """A profile in a Chromium of its own, because tests crash renderers. It visited the page before, so workers boot
    fast."""
    browser = launch_chromium(playwright, WEBGPU_FLAGS)
    context, _ = returning(browser, site)
    shim(context, "probe.mjs", lambda: "store_faults.mjs")
    yield context
    browser.close()


class Device:
    """Pages over one kind of store, one after the other."""

    def __init__(self, context: BrowserContext, site: PageServer, kind: str, form: str) -> None:
        self.context, self.site, self.kind, self.form = context, site, kind, form
        self.commit = site.local_hub.commit(site.site.models / ORGANISATION / MODEL)
        self.begin_anew()
        self.probe("clear_store")

    def begin_anew(self) -> None:
        """Open a fresh page and worker."""
        self.probe = Probe(blank_page(self.context, self.site), "py314")
        self.probe("write_in_steps", STEP)
        if self.kind != "opfs":
            self.probe("hide_opfs")

    def load(self, revision: str = "", model: str = MODEL) -> dict[str, Any]:
        """Load the weights; see probe.keep."""
        hub, repo = self.site.url + "models", f"{ORGANISATION}/{model}{revision}"
        loaded: dict[str, Any] = self.probe("keep", hub, repo, self.form)
        if loaded["notes"][:1] == [
            WAITING
        ]:  # Chromium takes two seconds to end a worker that does not react
            del loaded["notes"][0]
        return loaded

    def load_and_die(self, at: int, how: str) -> bool:
        """Start a first load that hangs at a change. Returns whether it reached that change."""
        self.probe("clear_store")
        self.probe("arm_store", at, how)
        arguments = [self.site.url + "models", f"{ORGANISATION}/{MODEL}", self.form]
        self.probe.worker.post({"id": "load", "name": "keep", "args": arguments})
        ends = self.probe.worker.wait(
            lambda m: m.get("id") == "load" or m.get("status") == "killed"
        )
        return "status" in ends[-1]

    def written(self) -> int:
        """How many bytes of the weights are stored."""
        files: dict[str, int] = self.probe("stored_files", "/blobs/")
        return max(files.values(), default=0)

    def close(self) -> None:
        """Delete everything."""
        self.probe("arm_store", 0, "")
        self.probe("clear_store")
        self.probe.worker.page.close()


@pytest.fixture
def device(
    request: pytest.FixtureRequest, context: BrowserContext, site: PageServer
) -> Iterator[Device]:
    """A device with an empty store of each kind."""
    device = Device(context, site, *request.param)
    yield device
    device.close()


@pytest.mark.parametrize("device", [*KINDS, QUANTISED], indirect=True, ids="-".join)
@pytest.mark.parametrize("places", [QUICK, EVERY], ids=["some", "every"])
def test_killed_at_a_change_of_the_store(
    device: Device, asked: Asked, places: Places | None
) -> None:
    """The next load is right, completes the store, and fetches again at most what LOST says. If the change did
    not happen, the page is killed; if half of it did, only the worker ends and the page lives. For weights that are
    quantised while loading, tensors in flight are fetched again too, which may be all of them here."""
    undisturbed = device.load()
    assert undisturbed["kept"] is True and undisturbed["kind"] == device.kind
    died = 0
    for k, how in places or ((k, "kill") for k in itertools.count(1)):
        if not device.load_and_die(k, how):
            break
        died += 1
        if how == "kill":
            kill(device.probe.worker.page)
        else:
            device.probe.worker.close()
        device.begin_anew()
        written = device.written()
        asked.clear()
        assert device.load() == undisturbed, f"killed at change {k}"
        if device.form == "stored":
            assert asked.nbytes(WEIGHTS) <= SIZE - written + LOST, f"killed at change {k}"
        asked.clear()
        assert device.load(f"@{device.commit}") == undisturbed, f"killed at change {k}"
        assert asked == [], f"killed at change {k}"
    assert died == len(QUICK) - 1 if places else died > 2 * 26, (
        "each step, and its line in the journal"
    )


@pytest.mark.parametrize("device", KINDS[:1], indirect=True, ids="-".join)
def test_a_warm_load_reads_and_uploads_every_byte_once(device: Device) -> None:
    undisturbed = device.load()
    device.begin_anew()
    device.probe("arm_store", 0, "")
    assert device.load(f"@{device.commit}") == undisturbed
    read, uploaded = device.probe("traffic")
    about = 40_000  # the index, the configuration, and the checksum table
    assert TENSORS <= read <= SIZE + about
    assert TENSORS <= uploaded <= TENSORS + about


@pytest.mark.parametrize("device", KINDS, indirect=True, ids="-".join)
@pytest.mark.parametrize("places", [QUICK, EVERY], ids=["some", "every"])
def test_no_room_from_a_change_of_the_store_on(device: Device, places: Places | None) -> None:
    """The load is right. It reports that nothing is stored, and then nothing is."""
    undisturbed = device.load()
    refused = 0
    for k in [k for k, _ in places] if places else itertools.count(1):
        device.probe("clear_store")
        device.probe("arm_store", k, "full")
        loaded = device.load()
        if device.probe("store_changes") < k:
            break
        refused += 1
        assert loaded["sums"] == undisturbed["sums"], f"no room from change {k} on"
        if loaded["kept"]:  # the refused change was the time of last use, on which nothing depends
            assert loaded["notes"] == [] and device.written() == SIZE, f"no room from change {k} on"
        else:
            (note,) = loaded["notes"]
            assert "not kept on this device" in note, f"no room from change {k} on"
            assert device.probe("stored_files", "models--") == {}, f"no room from change {k} on"
    assert refused >= (len(QUICK) - 1 if places else 50)


@pytest.mark.parametrize("device", KINDS, indirect=True, ids="-".join)
@pytest.mark.parametrize("places", [QUICK, EVERY], ids=["some", "every"])
def test_no_room_at_one_change_of_the_store(
    device: Device, asked: Asked, places: Places | None
) -> None:
    """An older model makes room, nothing is reported, and everything in the journal is stored."""
    undisturbed = device.load()
    refused = 0
    for k in [k for k, _ in places] if places else itertools.count(1):
        device.probe("clear_store")
        device.load(model="qwen2-mlx4-g64")
        device.probe("arm_store", k, "once")
        assert device.load() == undisturbed, f"no room at change {k}"
        if device.probe("store_changes") < k:
            break
        refused += 1
        device.probe("arm_store", 0, "")
        device.begin_anew()
        asked.clear()
        assert device.load(f"@{device.commit}") == undisturbed, f"no room at change {k}"
        assert asked == [], f"no room at change {k}"
    assert refused >= (len(QUICK) - 1 if places else 50)
