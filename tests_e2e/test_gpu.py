"""BrowserGpu in a real browser. The same probe.py runs in Pyodide and in CPython, where the native host is the
reference.
"""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Browser

from devtools.page_server import PageServer
from tests_e2e.conftest import Probe, blank_page
from tests_e2e.native import native
from tests_e2e.visit import watched


def test_device_says_what_it_is(probe: Probe) -> None:
    info = probe("info")
    assert info["adapter"]["host"] == "browser"
    assert info["limits"]["max_binding_bytes"] >= 128 << 20
    # The line for Tint. A browser whose compiler refuses it must answer with none.
    if "subgroups" in info["features"]:
        assert info["enable"] in ("enable subgroups;", "")


def test_kernel_over_uploaded_words(probe: Probe) -> None:
    assert probe("round_trip", 1000) == native("round_trip", 1000)


def test_traced_matvec_is_bitwise_native(probe: Probe) -> None:
    """Norm, quantised matvec and residual through trace, planner and replay, on Dawn over SwiftShader in both hosts."""
    mine, reference = probe("traced"), native("traced")
    assert mine["y"] == reference["y"]
    assert all(value == value and value for value in mine["y"])
    assert mine["dispatches"] == reference["dispatches"]


@pytest.mark.parametrize(
    "arguments",
    [
        (12, 4, 1000, False, 1),  # ended by max_steps
        (200, 4, 30, False, 4),  # ended by the halt, with steps in flight after it
        (100, 4, 20, True, 5),  # one command buffer in flight at a time
        (3, 1, 1000, False, 2),
        (12, 4, 1000, False, 1, 0, True),  # the first result is there already
        (4, 4, 1000, True, 5, 0, True),
        (1, 4, 1000, False, 1, 0, True),
    ],
)
def test_decode_loop_equals_native(probe: Probe, arguments: tuple[Any, ...]) -> None:
    mine, reference = probe("decode", *arguments), native("decode", *arguments)
    for run in (mine, reference):
        run["results"] = [result for batch in run.pop("batches") for result in batch]
        counted = run.pop("counted")
        run["made"] = [v for k, v in counted.items() if k.endswith("_created")]
        assert counted["upload_bytes"] == 0
        assert counted["readback_bytes"] % 16 == 0
        assert counted["buffers_created"] == (1 if arguments[3] else arguments[1])  # the ring
        assert counted["pipelines_created"] == counted["bind_groups_created"] == 0
    assert mine == reference


def test_tokens_are_submitted_ahead(probe: Probe) -> None:
    """At least three steps are submitted before the first one is read."""
    assert probe("decode", 40, 4, 1000, False, 1)["in_flight"] >= 3
    assert probe("decode", 40, 4, 1000, True, 1)["in_flight"] == 1


def test_timed_passes(probe: Probe) -> None:
    """As in CPython, apart from the clock: Chromium rounds it to 0.1 ms."""
    if "timestamp-query" not in probe("info")["features"]:
        pytest.skip("no timestamp queries in this browser")
    mine, reference = probe("timed", 50), native("timed", 50)
    for run in (mine, reference):
        stamps = [stamp for pair in run.pop("stamps") for stamp in pair]
        assert len(stamps) == 6 and stamps == sorted(stamps)
    assert mine == reference == {"count": 200, "left": 0}


def test_forms_of_kernels_are_measured_once_and_kept(probe: Probe) -> None:
    """They go through the browser's own store. The second time nothing is compiled to measure them."""
    found = probe("tunings")
    assert found["known"] and found["kept"], found
    assert found["compiled"][0] >= 2 and found["compiled"][1] == 0
    assert found["left"] == 0


def test_stop_submits_nothing_more(probe: Probe) -> None:
    run = probe("decode", 2000, 4, 10**6, False, 1, 7)
    results = [result for batch in run["batches"] for result in batch]
    assert 7 <= len(results) < 2000
    assert run["state"][3] == len(results), "a step ran whose result was never given"
    assert run["again"] == []


def test_batches_cross_at_most_once_per_16_ms(probe: Probe) -> None:
    run = probe("paced", 3000)
    assert run["results"] == 3000
    assert run["batches"] <= run["ms"] / 16 + 3, run
    assert run["first_batch"] < 100  # the first token does not wait for others


def test_second_loop_waits_for_the_ring(probe: Probe) -> None:
    first, second = probe("two_loops")
    assert first == list(range(1, len(first) + 1))
    assert second == list(range(second[0], second[0] + 5))
    assert second[0] > first[-1]


def test_a_loop_that_failed_leaves_the_next_one_alone(probe: Probe) -> None:
    got = probe("fail_while_decoding")
    assert "cannot read a token back" in got["error"] and "65535" in got["error"]
    assert got["tokens"] == list(range(1, 10))


@pytest.mark.parametrize(
    "name, kind, words",
    [
        ("bad_shader", "HostError", ["broken kernel", "nonsense"]),
        ("bad_binding", "HostError", ["layer 3 scale", "256"]),
        ("bad_upload", "HostError", ["small", "32"]),
        ("too_big", "OutOfMemoryError", ["monster"]),
        ("lose_while_decoding", "DeviceLostError", ["Load the model again"]),
    ],
)
def test_errors_name_what_failed(probe: Probe, name: str, kind: str, words: list[str]) -> None:
    type_, message = probe(name)["error"]
    assert type_ == kind
    assert all(word in message for word in words), message
    out = [1, 1.5, 2, 2.5, 3, 3.5]
    assert probe("round_trip", len(out))["out"] == out, "the worker went on working"


def test_fetched_bytes_go_to_the_gpu_as_they_are(probe: Probe) -> None:
    answer = probe("upload_js", 50_000)
    assert answer["same"]
    assert answer["uploaded"] == answer["size"] == 50_000


def test_without_a_gpu_it_says_what_to_do(blind_chromium: Browser, site: PageServer) -> None:
    context, outside = watched(blind_chromium, site)
    probe = Probe(blank_page(context, site), "py314")
    no_adapter = probe("info")["error"]
    probe("hide_webgpu")
    no_webgpu = probe("info")["error"]
    context.close()
    assert no_adapter[0] == no_webgpu[0] == "NoAdapterError"
    assert "asked for 2 s" in no_adapter[1]
    assert "navigator.gpu is missing" in no_webgpu[1]
    assert all("chrome://gpu" in message for _, message in (no_adapter, no_webgpu))
    assert not outside
