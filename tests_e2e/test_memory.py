"""How much memory a model may take: the page recognises phones and tablets and tells the worker, which limits loads."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from devtools.page_server import PageServer
from tests.checkpoints import pack, quantise, read_tensors
from tests.ops.matrices import to_bf16
from tests_e2e.conftest import GOLDENS, Probe, Visited, Worker
from tests_e2e.visit import ORGANISATION

# Replaces the engine's worker and notes what the page sends, so that Python need not boot.
NOTE_MESSAGES = """() => {
  window.sent = [];
  window.Worker = class extends EventTarget { postMessage(message) { sent.push(message); } terminate() {} };
}"""
PLAIN = "random:lfm2.5-350m"  # bf16
UI_MS = 120_000


def offered(size: int, memory: int | None) -> dict[str, Any]:
    model = {"id": "tiny/one", "label": "One", "kind": "chat", "size": size, "default": True}
    return model | ({"memory": memory} if memory else {})


@pytest.mark.parametrize("phone", [True, False])
def test_the_page_tells_a_phone_from_a_desktop(
    browser: Browser, site: PageServer, phone: bool
) -> None:
    """The list says what fits, by the server's own number, and the worker is told the kind of device."""
    site.site.offered = [offered(50_000_000, 1_300_000_000)]
    context = browser.new_context(has_touch=phone, is_mobile=phone)
    page: Page = context.new_page()
    page.add_init_script(f"({NOTE_MESSAGES})()")
    page.goto(site.url)
    page.wait_for_selector("body[data-ui=ready][data-config=ready]", timeout=UI_MS)
    fit = page.locator(".choice .fit")
    expect(fit).to_contain_text("needs 1.3 GB")
    if phone:
        expect(fit).to_contain_text("Unlikely to fit")
        expect(fit).to_contain_text("at most 1.2")
    page.wait_for_selector("body[data-engine=booting]", timeout=UI_MS)
    page.click(".choice >> nth=0")
    page.click("#hero-picker button[type=submit]")
    page.wait_for_function("sent.some(m => m.type === 'load')", timeout=UI_MS)
    sent = page.evaluate("sent")
    (load,) = (m for m in sent if m["type"] == "load")
    assert "memory_budget" not in load["options"], "the engine has its own"
    facts = [m["values"] for m in sent if m["type"] == "env"]
    told = [values["JERBOA_HANDHELD"] for values in facts if "JERBOA_HANDHELD" in values]
    assert told == ["1" if phone else ""]
    context.close()


def test_auto_is_4_bit_on_a_phone_and_too_much_is_refused(
    visited: Visited, site: PageServer
) -> None:
    """The worker refuses before it allocates anything. The error has the numbers of the load that was refused."""
    page = visited.context.new_page()
    page.goto(site.url + "probe.html")
    worker = Worker(page, "worker.mjs")

    def weights(handheld: str) -> int:
        worker.ask({"type": "env", "id": "env", "values": {"JERBOA_HANDHELD": handheld}})
        options = {"memory_budget": 1_000_000, "context": 512}
        answer = worker.ask(
            {"type": "load", "id": handheld + "load", "repo": PLAIN, "options": options}
        )
        assert answer["error_type"] == "MemoryBudgetError", answer
        found = re.search(r"weights (\d+) MB", answer["error"])
        assert found, answer
        return int(found[1])

    assert weights("1") < 0.3 * weights("")
    assert worker.ask({"type": "info", "id": "info"})["value"] is None
    page.close()


def test_quantised_while_loading_as_mlx_does(probe: Probe, site: PageServer) -> None:
    """A layer of a bf16 checkpoint, from the network to packed words on the browser's GPU."""
    file = read_tensors(GOLDENS / "gemma3-text-bf16" / "model.safetensors")
    layer = "model.layers.0.self_attn.o_proj"
    stored = file[f"{layer}.weight"]
    rows, cols = stored.array.shape
    assert cols % 64 == 32  # so groups are 32 wide
    got = probe(
        "quantised", site.url + "models", f"{ORGANISATION}/gemma3-text-bf16", layer, rows, cols
    )
    fields, scale, bias = quantise(stored.values, 4, 32)
    assert got["fields"] == pack(fields, 4).tobytes().hex()
    pairs = np.stack([to_bf16(scale), to_bf16(bias)], -1)
    assert got["pairs"] == pairs.tobytes().hex()
