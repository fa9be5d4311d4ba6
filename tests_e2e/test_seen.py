"""Pictures in messages to the worker: the answer is transformers', whatever JavaScript object the picture is."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from devtools.page_server import PageServer
from tests_e2e.conftest import GOLDENS, Visited, Worker, blank_page
from tests_e2e.visit import ORGANISATION

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


def test_pictures_in_a_chat(worker: Worker) -> None:
    golden = np.load(GOLDENS / NAME / "seen.npz")
    pixels = golden["picture_0"]
    h, w, _ = pixels.shape
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    file = base64.b64encode(out.getvalue()).decode()
    url = {"url": f"data:image/png;base64,{file}"}
    first = worker.ask(chat("url", {"type": "image_url", "image_url": url}))
    assert first["status"] == "complete", first
    assert (first["image_tokens"], first["cached_tokens"]) == (15, 0)
    tokens = golden["one.tokens"].tolist()
    assert first["num_tokens"] == len(tokens)
    letters = sorted(_alphabet())
    assert first["text"] == _text([letters[i] for i in tokens if i < 256])
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
