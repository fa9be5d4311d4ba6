"""Real weights in the page's worker: Gemma 3 270M gives the answer of transformers in float32 and of the native
engine.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from devtools.package_models import MODELS, PackageModelError, by_name, prepare
from devtools.page_server import PageServer
from tests import reference
from tests.conftest import missing_adapter
from tests_e2e.conftest import TestSite, Worker, blank_page
from tests_e2e.native import native
from tests_e2e.visit import watched

NAME = "gemma-3-270m"
PROMPT = "Water boils at a temperature of"
# Four tokens with margins above 1.6, which 8 bits do not change; each takes 2 s on SwiftShader.
ANSWER = " 100"
COUNT = len(ANSWER)
CONTEXT = 64


@pytest.mark.real_model
def test_real_weights_answer_in_the_browser(browser: Browser) -> None:
    """From the prompt's text to the answer's text: hub client, 8-bit weights, tokenizer, kernels, sampler."""
    golden = reference.real_models()[NAME]
    case = next(case for case in golden["cases"] if case["prompt"] == PROMPT)
    try:
        folder = prepare(by_name(NAME), bits=8)
    except PackageModelError as error:
        missing_adapter(f"the packaged model is not to be had: {error}")
    repo = folder.relative_to(MODELS).as_posix()
    with PageServer(TestSite(models=MODELS)) as server:
        hub = server.url + "models"
        context, outside = watched(browser, server)
        worker = Worker(blank_page(context, server), "worker.mjs")
        worker.ask({"type": "env", "id": "env", "values": {"HF_ENDPOINT": hub}})
        options = {"dtype": "f32", "context": CONTEXT}
        ready = worker.ask({"type": "load", "id": "load", "repo": repo, "options": options})
        assert ready["status"] == "ready", ready
        sampling = {"temperature": 0, "max_tokens": COUNT}
        answer = worker.ask(
            {"type": "generate", "id": "answer", "prompt": PROMPT, "options": sampling}
        )
        context.close()
        mine = native("greedy", hub, repo, [case["prompt_ids"]], COUNT, CONTEXT, host="wgpu")
    assert not outside
    assert answer["status"] == "complete", answer
    assert answer["prompt_tokens"] == len(case["prompt_ids"])
    assert answer["num_tokens"] == COUNT
    assert mine["tokens"] == [case["tokens"][:COUNT]]
    assert answer["text"] == ANSWER
