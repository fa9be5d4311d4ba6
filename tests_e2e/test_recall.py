"""A memory in the page: documents picked there (a PDF among them), searched on the GPU, kept in the browser's store,
and written by two tabs at once."""

from __future__ import annotations

from typing import Any

from devtools.page_server import PageServer
from tests.pdf_writer import pdf
from tests_e2e.conftest import Visited, Worker, blank_page
from tests_e2e.visit import ORGANISATION

LINES = [f"line {i} about ferries, apples and trains" for i in range(100)]
PICK = """([box, files]) => boxes[box].worker.postMessage({type: 'files', id: 'files', name: 'picked',
  files: Object.entries(files).map(([name, bytes]) => new File([new Uint8Array(bytes)], name))})"""


def started(visited: Visited, site: PageServer) -> Worker:
    """A tab with its worker, which has the encoder loaded."""
    page = blank_page(visited.context, site)
    worker = Worker(page, "worker.mjs")
    worker.ask({"type": "env", "id": "env", "values": {"HF_ENDPOINT": site.url + "models"}})
    options = {"context": 80, "dtype": "f32", "self_check": True}
    load = {"type": "load", "id": "load", "repo": f"{ORGANISATION}/bert-f32", "options": options}
    assert worker.ask(load)["status"] == "ready"
    return worker


def ask(worker: Worker, type: str, **fields: Any) -> Any:
    answer = worker.ask({"type": f"memory_{type}", "id": type, "namespace": "e2e", **fields})
    assert answer["status"] == "result", answer
    return answer["value"]


def test_documents_are_recalled_by_two_tabs_and_after_a_reload(
    visited: Visited, site: PageServer
) -> None:
    one, two = started(visited, site), started(visited, site)
    one.page.evaluate(
        PICK,
        [
            one._box,
            {
                "a.pdf": list(pdf([["The first page."], ["The ferry leaves at nine."]])),
                "b.md": list(("# Apples\n\n" + "\n\n".join(LINES)).encode()),
                "c.bin": list(b"\x89PNG\r\n" * 9),
            },
        ],
    )
    one.answer("files")
    for worker, fields in (
        (one, {"files": "picked"}),
        (two, {"text": "\n\n".join(LINES), "name": "t"}),
    ):
        worker.post({"type": "memory_add", "id": "add", "namespace": "e2e", **fields})
    answers = [worker.answer("add") for worker in (one, two)]
    told = answers[0][-1]["value"]
    assert [entry["source"] for entry in told["added"]] == ["a.pdf", "b.md"]
    assert [entry["type"] for entry in told["failed"]] == ["DocumentError"]
    rows = [m["row"] for m in answers[0] if m["status"] == "row"]
    assert {(r["done"], r["total"]) for r in rows if r["source"] == "a.pdf"} >= {(1, 2), (2, 2)}
    assert answers[1][-1]["status"] == "result", answers[1]

    query = {"query": "The ferry leaves at nine.", "top_k": 3, "token_budget": 2000}
    found = [ask(worker, "recall", **query) for worker in (one, two)]
    assert found[0] == found[1], "each sees what the other added"
    best = found[0]["items"][0]
    assert (best["source"], best["page"], best["text"]) == ("a.pdf", 2, "The ferry leaves at nine.")
    assert best["score"] > 0.99
    sources = ask(two, "list")
    assert {s["source"] for s in sources} == {"a.pdf", "b.md", "t"}
    assert sum(s["pieces"] for s in sources) * 60 > 1 << 12, "so many numbers that the GPU searches"
    assert ask(one, "forget", source="t") > 3
    assert {s["source"] for s in ask(two, "list")} == {"a.pdf", "b.md"}
    for worker in (one, two):
        worker.page.close()

    again = started(visited, site)
    assert ask(again, "recall", **query)["items"][0]["id"] == best["id"]
    assert ask(again, "forget", all=True) > 2
    assert again.ask({"type": "memory_list", "id": "spaces"})["value"] == []
    again.page.close()
