"""Pictures in messages to the worker: the answer is transformers', whatever JavaScript object the picture is."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import FilePayload, expect

from devtools.page_server import PageServer
from tests_e2e.conftest import GOLDENS, Visited, Worker, blank_page
from tests_e2e.visit import ENGINE_MS, ORGANISATION, UI_MS, ask, kept_messages, load, offer

NAME = "qwen3.5-seen"
# Sends a message whose picture is made of base64 in one of several ways, and another message right behind it.
SEND = """async ([box, message, way, data]) => {
  const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
  message.messages[0].content[0].image = way === 'Blob' ? new Blob([bytes], { type: 'image/png' })
    : way === 'ArrayBuffer' ? bytes.buffer : way === 'pixels' ? new Uint8ClampedArray(bytes) : bytes;
  boxes[box].worker.postMessage(message);
  boxes[box].worker.postMessage({ type: 'info', id: `behind ${message.id}` });
}"""


@pytest.fixture(scope="module")
def worker(visited: Visited, site: PageServer) -> Iterator[Worker]:
    """The engine's worker with the tiny model that sees."""
    page = blank_page(visited.context, site)
    worker = Worker(page, "worker.mjs")
    worker.ask({"type": "env", "id": "env", "values": {"HF_ENDPOINT": site.url + "models"}})
    options = {"context": 512, "dtype": "f32", "self_check": False}
    asked = {"type": "load", "id": "load", "repo": f"{ORGANISATION}/{NAME}", "options": options}
    assert worker.ask(asked)["status"] == "ready"
    yield worker
    page.close()


def chat(id: str, part: dict[str, Any]) -> dict[str, Any]:
    content = [part, {"type": "text", "text": "What is this?"}]
    return {
        "type": "chat",
        "id": id,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 32,
        "temperature": 0,
        "ignore_eos": True,
        "enable_thinking": False,
    }


def file_of(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def expected(golden: Any) -> str:
    """The text that transformers gives for picture_0."""
    letters = sorted(_alphabet())
    return _text([letters[i] for i in golden["one.tokens"].tolist() if i < 256])


def test_a_picture_is_answered_in_the_page(visited: Visited, site: PageServer) -> None:
    """Attached, sent and answered; a second question keeps the picture. The answers are transformers'."""
    golden = np.load(GOLDENS / NAME / "seen.npz")
    offer(site, NAME)
    page = visited.context.new_page()
    page.goto(site.url + "?context=512&dtype=f32")
    page.wait_for_selector("body[data-ui=ready]", timeout=UI_MS)
    page.wait_for_function("document.body.dataset.engine", timeout=ENGINE_MS)
    if page.locator("body").get_attribute("data-engine") == "none":
        page.close()
        pytest.skip("this browser has no WebGPU")
    settings = "{temperature: 0, max_tokens: 32, thinking: 'off'}"
    page.evaluate(f"localStorage.setItem('jerboa.settings', JSON.stringify({settings}))")
    page.reload()
    page.wait_for_selector("body[data-engine=ready]", timeout=ENGINE_MS)
    load(page, NAME)
    page.click("#attach summary")
    with page.expect_file_chooser() as chooser:
        page.click("[data-do=pick-pictures]")
    picture = FilePayload(
        name="seen.png", mimeType="image/png", buffer=file_of(golden["picture_0"])
    )
    chooser.value.set_files(picture)
    expect(page.locator("#attached img")).to_have_count(1)
    ask(page, "What is this?")
    ask(page, "And now?")
    first, second = (m for m in kept_messages(page) if m["role"] == "assistant")
    assert first["content"]
    assert expected(golden).startswith(first["content"])
    assert second["stats"]["tokens"] > 0
    page.close()


def test_pictures_in_a_chat(worker: Worker) -> None:
    golden = np.load(GOLDENS / NAME / "seen.npz")
    pixels = golden["picture_0"]
    h, w, _ = pixels.shape
    file = base64.b64encode(file_of(pixels)).decode()
    url = {"url": f"data:image/png;base64,{file}"}
    first = worker.ask(chat("url", {"type": "image_url", "image_url": url}))
    assert first["status"] == "complete", first
    assert (first["image_tokens"], first["cached_tokens"]) == (15, 0)
    assert first["num_tokens"] == len(golden["one.tokens"])
    assert first["text"] == expected(golden)
    raw = base64.b64encode(np.ascontiguousarray(pixels).tobytes()).decode()
    for way in ("Blob", "ArrayBuffer", "Uint8Array", "pixels"):
        part = {"type": "image", **({"width": w, "height": h} if way == "pixels" else {})}
        data = raw if way == "pixels" else file
        worker.page.evaluate(SEND, [worker._box, chat(way, part), way, data])
        got = worker.answer(way)[-1]
        assert got.get("text") == first["text"], (way, got)
        # A file is known by its bytes, so its rows are not run again; raw pixels are another content.
        assert (got["cached_tokens"] > 15) == (way != "pixels"), way
    broken = worker.ask(chat("broken", {"type": "image", "image": "data:image/png;base64,AAAA"}))
    assert (broken["status"], broken["error_type"]) == ("error", "InputError")
    described = {"type": "describe", "id": "d", "image": url["url"], "prompt": "What is this?"}
    answer = worker.ask({**described, "max_tokens": 32, "temperature": 0, "ignore_eos": True})
    assert answer["text"] == first["text"]


def _alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    return list(pre_tokenizers.ByteLevel.alphabet())


def _text(letters: list[str]) -> str:
    """The text of letters of the byte-level alphabet."""
    from tokenizers import decoders

    return str(decoders.ByteLevel().decode(letters))
