"""Many loads and generations in the page's worker: no GPU buffer stays, and the heaps of JavaScript, Python and
WebAssembly do not grow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route

from devtools.page_server import PageServer
from tests_e2e.conftest import Worker, blank_page, shim
from tests_e2e.visit import ORGANISATION, PATIENCE_S, watched

MODEL = "qwen2-mlx4-g64"


# A leak of one object a round shows after enough rounds, and one of a few dozen (a model's buffers) after two. The
# device that was closed last, with its objects, stays until the browser frees it.
ODD_OBJECTS = 15
# The WebAssembly memory grows by a fifth at a time and never shrinks, so one step in hundreds of rounds is no leak.
WASM_BYTES = {"load": 100_000, "generation": 5_000}


@dataclass
class Heaps:
    """A worker's heaps at one time, without garbage."""

    js_objects: int  # objects and functions of scripts, and what the browser keeps for them
    python_objects: int  # objects that Python's garbage collector tracks
    wasm_bytes: int  # of the memory that Python runs in
    buffers: int  # GPU buffers


class Inspected:
    """A page's worker, with DevTools attached."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._session = page.context.new_cdp_session(page)
        self._session.on("Target.attachedToTarget", self._attached)
        self._session.on("Target.receivedMessageFromTarget", self._received)
        self._targets: list[str] = []
        self._answers: dict[int, dict[str, Any]] = {}
        self._id = 0
        self._chunks: list[str] = []
        attach = {"autoAttach": True, "waitForDebuggerOnStart": False, "flatten": False}
        self._session.send("Target.setAutoAttach", attach)
        self.worker = Worker(page, "worker.mjs")

    def _attached(self, event: dict[str, Any]) -> None:
        if event["targetInfo"]["url"].endswith("/worker.mjs"):
            self._targets.append(event["sessionId"])

    def _received(self, event: dict[str, Any]) -> None:
        message = json.loads(event["message"])
        if "id" in message:
            self._answers[message["id"]] = message
        elif message["method"] == "HeapProfiler.addHeapSnapshotChunk":
            self._chunks.append(message["params"]["chunk"])

    def _send(self, method: str) -> dict[str, Any]:
        """Send a command to the worker's own target."""
        self._id += 1
        message = json.dumps({"id": self._id, "method": method})
        (target,) = self._targets
        self._session.send("Target.sendMessageToTarget", {"sessionId": target, "message": message})
        for _ in range(int(PATIENCE_S * 50)):
            if self._id in self._answers:
                answer: dict[str, Any] = self._answers.pop(self._id)["result"]
                return answer
            self.page.wait_for_timeout(20)
        pytest.fail(f"no answer to {method}")

    def heaps(self) -> Heaps:
        """The collectors run in turn, because what one frees may hold objects of the other."""
        (worker,) = (w for w in self.page.workers if w.url.endswith("/worker.mjs"))
        worker.evaluate("() => performance.clearResourceTimings()")  # it holds up to 250 requests
        for _ in range(3):
            objects, wasm = worker.evaluate("() => pythonHeap()")
            self._send("HeapProfiler.collectGarbage")
        buffers = worker.evaluate("() => liveBuffers.count")
        return Heaps(self._js_objects(), objects, wasm, buffers)

    def _js_objects(self) -> int:
        self._chunks.clear()
        self._send("HeapProfiler.takeHeapSnapshot")
        return count_objects(json.loads("".join(self._chunks)))


def count_objects(snapshot: dict[str, Any]) -> int:
    """Count the nodes of a heap snapshot that scripts made, or the browser for them. Code and V8's own objects are
    not counted, because V8 makes and frees them at will. DevTools' HeapSnapshot reads the same format."""
    meta = snapshot["snapshot"]["meta"]
    nodes, edges, names = snapshot["nodes"], snapshot["edges"], snapshot["strings"]
    step, edge_step = len(meta["node_fields"]), len(meta["edge_fields"])
    edge_count, to_node = (
        meta["node_fields"].index("edge_count"),
        meta["edge_fields"].index("to_node"),
    )
    wanted = {meta["node_types"][0].index(kind) for kind in ("object", "closure", "native")}
    found, models, edge = set(), set(), 0
    for node in range(0, len(nodes), step):
        name, end = names[nodes[node + 1]], edge + edge_step * nodes[node + edge_count]
        if name == "system / AllocationSite":  # it describes a literal in compiled code
            models |= {edges[i + to_node] for i in range(edge, end, edge_step)}
        # blink::NetworkResourcesData is DevTools' own log.
        if nodes[node] in wanted and not name.startswith(("system / ", "blink::NetworkResources")):
            found.add(node)
        edge = end
    return len(found - models)


@pytest.fixture(scope="module")
def inspected(browser: Browser, site: PageServer) -> Iterator[Inspected]:
    """The engine's worker, with the local hub."""
    context, outside = watched(browser, site)
    shim(context, "worker.mjs", lambda: "live_buffers.mjs")
    more = Path(__file__).with_name("python_heap.py").read_text()

    def answer(route: Route) -> None:
        route.fulfill(status=200, body=f"{route.fetch().text()}\n{more}")

    context.route("**/app/worker.py", answer)
    inspected = Inspected(blank_page(context, site))
    values = {"HF_ENDPOINT": site.url + "models"}
    inspected.worker.ask({"type": "env", "id": "env", "values": values})
    yield inspected
    context.close()
    assert not outside


def load(worker: Worker) -> None:
    message = {"type": "load", "id": "load", "repo": f"{ORGANISATION}/{MODEL}"}
    ready = worker.ask({**message, "options": {"context": 64, "dtype": "f32"}})
    assert ready["status"] == "ready", ready


def generate(worker: Worker) -> str:
    """Generate two tokens."""
    options = {"max_tokens": 2, "temperature": 0}
    message = {"type": "generate", "id": "generate", "prompt": "abc", "options": options}
    answer = worker.ask(message)
    assert answer["status"] == "complete", answer
    return str(answer["text"])


def growth(inspected: Inspected, once: Callable[[], object], rounds: int) -> Heaps:
    """What `rounds` more rounds leave behind. The first rounds warm up and do not count."""
    for _ in range(max(1, rounds // 5)):
        once()
    before = inspected.heaps()
    for _ in range(rounds):
        once()
    after = inspected.heaps()
    print(before, after)  # shown if the test fails
    return Heaps(*(b - a for a, b in zip(vars(before).values(), vars(after).values(), strict=True)))


def assert_flat(left: Heaps, rounds: int, wasm_bytes: int) -> None:
    """See ODD_OBJECTS and WASM_BYTES."""
    assert left.buffers == 0
    assert left.python_objects <= rounds // 10, left
    assert left.js_objects <= ODD_OBJECTS + rounds // 10, left
    assert left.wasm_bytes <= wasm_bytes * rounds, left


@pytest.mark.parametrize("rounds", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_short_generations(inspected: Inspected, rounds: int) -> None:
    load(inspected.worker)
    left = growth(inspected, lambda: generate(inspected.worker), rounds)
    assert_flat(left, rounds, WASM_BYTES["generation"])


@pytest.mark.slow  # the native tests/test_long_run.py always runs
@pytest.mark.parametrize("rounds", [2, 100])
def test_loads_and_disposes(inspected: Inspected, rounds: int) -> None:
    worker = inspected.worker

    def once() -> None:
        load(worker)
        generate(worker)
        worker.ask({"type": "unload", "id": "unload"})

    left = growth(inspected, once, rounds)
    assert_flat(left, rounds, WASM_BYTES["load"])
    assert inspected.heaps().buffers == 0
