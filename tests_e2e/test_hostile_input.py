"""Hostile files of a model in the browser, where a recursion that is too deep ends Python for good.

tests/test_sandbox.py measures the memory of the same templates: CPython's objects are larger than a browser's.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from playwright.sync_api import Page

from devtools.page_server import PageServer
from tests.hostile_templates import HOSTILE
from tests.template_fuzz import Grammar
from tests.test_json_text import REFUSED
from tests_e2e.conftest import Probe, Worker
from tests_e2e.visit import ORGANISATION

SECONDS = 5.0  # the limit is 1 s on an idle machine; test machines have two busy cores


def test_hostile_templates(probe: Probe) -> None:
    """Each is refused soon, with its guard's message. Python is still alive afterwards."""
    probe("prepare_chat")
    assert [found["error"] for found in probe("templates", ["ok"])] == [""]
    for source, reason in HOSTILE:
        (found,) = probe("templates", [source])
        assert found["seconds"] < SECONDS, (source[:999], found)
        assert any(part in found["error"] for part in plain(reason)), (source[:99], found)


def plain(reason: str) -> list[str]:
    """The words of a pattern's alternatives, up to the first special character."""
    return [choice.split(".")[0] for choice in reason.split("|")]


def test_random_templates(probe: Probe, skip_unless_slow: Callable[[], None]) -> None:
    """The older Pyodide runs the same sandbox, but more slowly."""
    if probe.runtime == "py27":
        skip_unless_slow()
    probe("prepare_chat")
    sources = [Grammar(seed).source() for seed in range(40)]
    for source, found in zip(sources, probe("templates", sources), strict=True):
        assert found["seconds"] < SECONDS, (source[:999], found)


def test_json_that_nests_or_lies(probe: Probe) -> None:
    small = {name: case for name, case in REFUSED.items() if len(case[0]) < 1 << 20}
    told = probe("json_refusals", [data.decode("latin-1") for data, _ in small.values()])
    assert all(text.startswith("it is not valid JSON") for text in told)
    assert probe("json_refusals", ["{}"]) == [""]


def test_a_load_of_brackets_only_and_then_others(page: Page, site: PageServer) -> None:
    """config.json, weights or tokenizer of 100,000 brackets: the load ends in an error, and the worker still
    answers."""
    deep = b"[" * 100_000
    good = site.site.models / ORGANISATION / "lfm2-mlx4-g64"
    for name in (
        "config.json",
        "tokenizer_config.json",
        "model.safetensors",
        "generation_config.json",
    ):
        folder = good.with_name("deep-" + name.partition(".")[0].replace("_", "-"))
        folder.mkdir(exist_ok=True)
        for file in good.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        nested = b'{"a":' + deep
        header = len(nested).to_bytes(8, "little") + nested
        (folder / name).write_bytes(header if name.endswith("safetensors") else deep)
    worker = Worker(page, "worker.mjs")
    for folder in sorted(good.parent.glob("deep-*")):
        repo = f"{ORGANISATION}/{folder.name}"
        worker.ask({"type": "env", "id": "env", "values": {"HF_ENDPOINT": site.url + "models"}})
        answer = worker.ask({"type": "load", "id": folder.name, "repo": repo, "options": {}})
        assert answer["status"] == "error" and answer["error_type"] == "FormatError", answer
        assert "nest more than 64 deep" in answer["error"], json.dumps(answer)[:500]
        assert worker.ask({"type": "info", "id": "alive"})["value"] is None
    worker.close()
