"""Weights in the browser's own store: the next page finds them, damage is repaired, and a killed load is completed.
Only the kernels of loading are compiled here, and those of one small model on a phone.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from devtools.page_server import PageServer
from py_engine.sources.safetensors import FIRST_READ_BYTES
from tests.checkpoints import Checkpoint, Stored, dequantise
from tests_e2e.conftest import GOLDENS, Asked, Probe, TestHandler, blank_page, returning, set_quota
from tests_e2e.visit import ORGANISATION, PATIENCE_S

HOLD = """name => new Promise(held => navigator.locks.request(name, () => {
  held();
  return new Promise(done => { window.giveBack = done; });
}))"""
MODEL = "qwen3-mlx-mixed-untied"
WEIGHTS = "model.safetensors"
SIZE = (GOLDENS / MODEL / WEIGHTS).stat().st_size


@pytest.fixture
def context(browser: Browser, site: PageServer) -> Iterator[BrowserContext]:
    """A fresh profile."""
    context, _ = returning(browser, site)
    yield context
    context.close()


def open_probe(context: BrowserContext, site: PageServer) -> Probe:
    return Probe(blank_page(context, site), "py314")


def keep(
    probe: Probe, site: PageServer, revision: str = "", name: str = MODEL, form: str = "stored"
) -> dict[str, Any]:
    arguments = [site.url + "models", f"{ORGANISATION}/{name}{revision}", form]
    loaded: dict[str, Any] = probe("keep", *arguments)
    return loaded


def blob(probe: Probe, folder: str = "/blobs/") -> str:
    """The weights' file in the store."""
    files: dict[str, int] = probe("stored_files", folder)
    return max(files, key=files.__getitem__)


@pytest.fixture(scope="module")
def plain(site: PageServer) -> Path:
    """The folder of a model in bf16: one layer, and an embedding larger than a first read."""
    model = dequantise(Checkpoint.golden("qwen2-mlx4-g64"), "BF16")
    model.config |= {"num_hidden_layers": 1, "vocab_size": 6000}
    model.tensors = {k: v for k, v in model.tensors.items() if ".layers.1." not in k}
    values = 0.3 * np.random.default_rng(5).standard_normal((6000, 64))
    model.tensors[model.find("embed_tokens.weight")] = Stored.of(values, "BF16")
    return Path(model.write(site.site.models / ORGANISATION / "plain"))


@pytest.mark.parametrize(
    "kind, form", [("opfs", "stored"), ("cache-storage", "stored"), ("cache-storage", "q4")]
)
def test_the_next_page_needs_no_request_and_repairs_what_is_damaged(
    context: BrowserContext, site: PageServer, plain: Path, asked: Asked, kind: str, form: str
) -> None:
    model = MODEL if form == "stored" else plain.name

    def fresh() -> Probe:
        probe = open_probe(context, site)
        if kind != "opfs":
            probe("hide_opfs")
        return probe

    probe = fresh()
    cold = keep(probe, site, "", model, form)
    assert cold["kept"] is True and cold["notes"] == [] and cold["kind"] == kind
    commit = site.local_hub.commit(site.site.models / ORGANISATION / model)
    probe.worker.page.close()

    probe = fresh()
    asked.clear()
    warm = keep(probe, site, f"@{commit}", model, form)
    assert warm == cold and asked == []
    name = blob(probe, "/blobs/" if form == "stored" else "/derived/")
    (size,) = probe("stored_files", name).values()
    if form == "stored":
        assert size == SIZE
    else:
        raw = (plain / WEIGHTS).stat().st_size
        assert 0.28 * raw < size < 0.29 * raw
        largest = probe("stored_files", "/blobs/")[blob(probe)]
        assert largest <= FIRST_READ_BYTES, "of the checkpoint's own weights"

    probe("flip", name, size // 2)
    repaired = keep(probe, site, "", model, form)
    assert repaired["sums"] == cold["sums"]
    assert [note.split(" was ")[1] for note in repaired["notes"]] == [
        "damaged in this device's store: fetching it again."
    ]
    assert [name for name, _ in asked] == ["", WEIGHTS], "the listing, and one tensor"

    context.set_offline(True)
    offline = keep(probe, site, "", model, form)
    assert offline["sums"] == cold["sums"] and "using the copy here" in offline["notes"][0]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """While the list is [True], only half of a large range of the weights arrives, and then nothing more."""
    held = [True]
    send = TestHandler._send_file

    def send_half(self: TestHandler, file: Any, etag: str, extra: dict[str, str]) -> None:
        start, _, end = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if held[0] and file.name == WEIGHTS and start.isdigit() and int(end) > SIZE // 2:
            self.send_response(206)
            self.send_header("Content-Length", str(int(end) + 1 - int(start)))
            self.send_header("Content-Range", f"bytes {start}-{end}/{SIZE}")
            self.end_headers()
            self.wfile.write(file.read_bytes()[int(start) : (int(start) + int(end)) // 2])
            self.wfile.flush()
            while held[0]:
                time.sleep(0.05)
            return
        send(self, file, etag, extra)

    monkeypatch.setattr(TestHandler, "_send_file", send_half)
    yield held
    held[0] = False


def begin(probe: Probe, site: PageServer) -> None:
    """Start a load without waiting for its end."""
    arguments = [site.url + "models", f"{ORGANISATION}/{MODEL}"]
    probe("random_number")  # so that Python has booted
    probe.worker.post({"id": 99, "name": "keep", "args": arguments})


def end(probe: Probe) -> dict[str, Any]:
    """The outcome of the load that was started."""
    answer: dict[str, Any] = probe.worker.wait(lambda m: m.get("id") == 99)[-1]
    loaded: dict[str, Any] = answer["value"]
    return loaded


def until(reached: Callable[[], bool]) -> None:
    """Wait for what another tab or worker does."""
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.2)


def test_a_second_tab_waits_and_takes_over_from_one_that_dies(
    context: BrowserContext, site: PageServer, asked: Asked, held: list[bool]
) -> None:
    """The second tab does not request again what the first one stored."""
    first, second = open_probe(context, site), open_probe(context, site)
    begin(first, site)
    until(lambda: max(second("stored_files", "/blobs/").values(), default=0) > 0.4 * SIZE)
    begin(second, site)
    page = second.worker.page
    until(lambda: page.evaluate("async () => (await navigator.locks.query()).pending.length") == 1)
    held[0] = False
    asked.clear()
    first.worker.page.close()
    finished = end(second)
    assert finished["kept"] is True
    assert finished["notes"] == ["Another tab or process is loading this model: waiting for it."]
    assert 0 < asked.nbytes(WEIGHTS) < 0.75 * SIZE
    assert keep(second, site)["sums"] == finished["sums"]


def test_two_tabs_fetch_once(context: BrowserContext, site: PageServer, asked: Asked) -> None:
    tabs = [open_probe(context, site) for _ in range(2)]
    for tab in tabs:
        begin(tab, site)
    loaded = [end(tab) for tab in tabs]
    assert loaded[0]["sums"] == loaded[1]["sums"]
    assert asked.nbytes(WEIGHTS) <= 1.05 * SIZE


def test_an_older_model_makes_room_and_without_room_nothing_is_kept(
    kept_profile: BrowserContext, site: PageServer
) -> None:
    """Chromium reserves a MiB or more for each open file, so the numbers are coarse."""
    large, small, used = "lfm2-conv-bias-untied-f32", "qwen2-f32", {}
    probe = Probe(blank_page(kept_profile, site), "py314")
    for name in (large, "gemma3-text-bf16", MODEL):
        used[name] = keep(probe, site, name=name)
    set_quota(probe.worker.page, site, 2_500_000)
    loaded = keep(probe, site, name=small)
    assert loaded["kept"] is True and loaded["notes"] == []
    there = " ".join(probe("stored_files", "/blobs/"))
    assert small in there and MODEL in there and large not in there, "the oldest one is gone"
    set_quota(probe.worker.page, site, 300_000)
    again = keep(probe, site, name=large)
    assert again["sums"] == used[large]["sums"]
    assert again["kept"] is False and "not kept on this device" in again["notes"][0]
    set_quota(probe.worker.page, site, 10**9)
    assert keep(probe, site, name=large) == used[large]
    probe.worker.page.close()


def test_a_phone_keeps_what_it_quantised(
    context: BrowserContext, site: PageServer, plain: Path, asked: Asked
) -> None:
    """A phone quantises a plain checkpoint by default, and stores and counts the result. The next page gives the
    same tokens without a request."""

    def run(revision: str = "") -> Any:
        arguments = [site.url + "models", f"{ORGANISATION}/{plain.name}{revision}", [[1, 2, 3]], 8]
        probe = open_probe(context, site)
        try:
            return probe("greedy", *arguments, 64, True), probe("stored_files", "models--")
        finally:
            probe.worker.page.close()

    cold, files = run()
    assert cold["info"]["kept"] is True and cold["info"]["weights_as"] == "q4"
    raw = (plain / WEIGHTS).stat().st_size
    assert asked.nbytes(WEIGHTS) == raw
    (derived,) = (size for path, size in files.items() if "/derived/" in path)
    assert 0.28 * raw < derived < 0.29 * raw
    small = sum(p.stat().st_size for p in plain.iterdir()) - raw
    # Of the checkpoint's own weights only the first read is stored, and the index.
    assert sum(files.values()) < derived + FIRST_READ_BYTES + small + 8000
    asked.clear()
    warm, again = run(f"@{site.local_hub.commit(plain)}")
    assert asked == [] and warm["tokens"] == cold["tokens"]
    assert again.keys() == files.keys() and warm["info"]["kept"] is True


def test_the_page_lists_what_is_kept_and_deletes_it(
    context: BrowserContext, site: PageServer
) -> None:
    """One by one and all at once, by keyboard. The model that another tab is loading is not deleted. The list also
    works without a GPU."""
    probe = open_probe(context, site)
    for name in ("qwen2-f32", "gemma3-text-bf16", MODEL):
        keep(probe, site, name=name)
    page = context.new_page()
    page.add_init_script("delete Navigator.prototype.gpu")
    page.goto(site.url)
    page.wait_for_selector("body[data-ui=ready]")
    page.click("[data-do=open-settings]")
    rows, note = page.locator("#stored li"), page.locator("#stored-note")
    expect(rows).to_have_count(3, timeout=1000 * PATIENCE_S)
    assert f"{ORGANISATION}/{MODEL}" in rows.first.inner_text(), "the last used one first"
    expect(note).to_contain_text(re.compile(r"^\d+ kB in all. The browser may remove them"))
    expect(rows.first.locator("button")).to_have_accessible_name(
        f"Delete model: {ORGANISATION}/{MODEL}"
    )

    def press_delete(answer: str) -> None:
        page.keyboard.press("Enter")
        expect(page.locator("#confirm")).to_contain_text("Delete")
        page.focus(f"#confirm [value={answer}]")
        page.keyboard.press("Enter")

    rows.first.locator("button").focus()
    press_delete("no")
    expect(rows).to_have_count(3)
    expect(rows.first.locator("button")).to_be_focused()
    press_delete("yes")
    expect(rows).to_have_count(2)
    expect(rows.first.locator("button")).to_be_focused()
    expect(page.locator("#announce")).to_contain_text("given back")

    name = f"jerboa:models:models--{ORGANISATION}--qwen2-f32"
    probe.worker.page.evaluate(HOLD, name)
    page.focus("#delete-models")
    press_delete("yes")
    expect(rows).to_have_count(1)
    expect(note).to_contain_text(f"{ORGANISATION}/qwen2-f32 stays: it is being loaded")
    probe.worker.page.evaluate("giveBack()")
    page.focus("#delete-models")
    press_delete("yes")
    expect(rows).to_have_count(0)
    expect(note).to_have_text("None yet. A model that was loaded from the hub is kept here.")
    expect(note).to_be_focused()
    assert page.is_hidden("#delete-models")
    assert probe("stored_files", "models--") == {}
