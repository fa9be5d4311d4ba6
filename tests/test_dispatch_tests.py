"""The dispatch tests pass on sound devices. On devices that lose dispatches they say so, and say where the loss begins.

The faulty devices are real ones that skip all dispatches of a command buffer after the first few.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from py_engine.diagnostics.dispatch_tests import SWEEP, TESTS, run_dispatch_tests
from py_engine.errors import DeviceLostError, InputError
from py_engine.host.gpu import Buffer, BufferKind, Dispatch, Gpu, Recording
from tests.conftest import Runner, remember_pipelines
from tests.test_cli import ROOT, cli

Rows = list[dict[str, Any]]


def rows_of(gpu: Gpu, run: Runner, names: Sequence[str], most: int | None = None) -> Rows:
    """The rows of the tests. "begin" rows are checked and left out."""
    told: Rows = []

    async def tell(row: dict[str, Any]) -> None:
        json.dumps(row)  # rows are stored as JSON
        told.append(row)

    before = gpu.counters.live_buffers
    counts = run(run_dispatch_tests(gpu, tell, names, most))
    assert gpu.counters.live_buffers == before
    assert told.pop(0)["phase"] == "device"
    begins, ends = told[0::2], told[1::2]
    assert [r["phase"] for r in begins] == ["begin"] * len(begins)
    assert [(r["test"], r["setting"]) for r in begins] == [(r["test"], r["setting"]) for r in ends]
    assert counts["points"] == len(ends)
    assert counts["wrong"] == sum(r["ok"] is False for r in ends)
    return ends


def forget_behind(gpu: Gpu, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """From now on only the first `most` dispatches of each command buffer run."""
    record = gpu.record

    def faulty(buffers: Sequence[Sequence[Sequence[Dispatch]]], await_each: bool) -> Recording:
        cut: list[list[list[Dispatch]]] = []
        for passes in buffers:
            left = most
            cut.append([])
            for dispatches in passes:
                cut[-1].append(list(dispatches[:left]))
                left -= len(cut[-1][-1])
        return record(cut, await_each)

    monkeypatch.setattr(gpu, "record", faulty)


@pytest.fixture(scope="module")
def device(open_software_gpu: Callable[..., Gpu]) -> Gpu:
    """A device of this file's own, whose faults are taken back after each test."""
    gpu = open_software_gpu("wgpu")
    remember_pipelines(gpu)
    return gpu


def test_sound_device(gpu: Gpu, run: Runner) -> None:
    names = ["same-pipeline", "different-pipelines", "bind-groups", "sweep", "kv-dtype"]
    ends = rows_of(gpu, run, names, most=2)
    assert {r["test"] for r in ends} == set(names)
    assert [r for r in ends if not r["ok"]] == []


def test_sound_device_model_and_bisect(
    device: Gpu, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["kernels", "forward", "bisect", "determinism"]
    peak, create = 0, device.create_buffer

    def watched(label: str, nbytes: int, kind: BufferKind = "storage") -> Buffer:
        nonlocal peak
        buffer = create(label, nbytes, kind)
        peak = max(peak, device.counters.live_bytes)
        return buffer

    monkeypatch.setattr(device, "create_buffer", watched)
    ends = rows_of(device, run, names)
    assert [r for r in ends if not r["ok"]] == []
    assert 2 * (64 << 20) < peak < 200e6  # as docs/mobile.md says
    axes = {r["test"]: r["setting"] for r in ends}
    assert axes["bisect length"]["length"] == 441 and axes["bisect nbytes"]["nbytes"] == 64 << 20
    labels = [r["setting"]["label"] for r in ends if r["test"] == "forward"]
    assert labels[0] == "lm_head" and labels[-1] == "embed" and "delta" in labels


def test_the_least_that_fails_is_found(
    device: Gpu, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_behind(device, monkeypatch, 47)
    ends = rows_of(device, run, ["bisect", "sweep"])
    tried = {}
    for row in ends:
        if row["test"] == "bisect length" and row["setting"]["mode"] == "batched":
            tried[row["setting"]["length"]] = row["ok"]
    assert tried[47] is True and tried[48] is False
    assert all(r["ok"] for r in ends if r["setting"]["mode"] == "one by one")
    groups = {
        n: all(r["ok"] for r in ends if r["setting"]["mode"].startswith(f"group={n} "))
        for n in SWEEP
    }
    assert groups == {n: n <= 47 for n in SWEEP}


def test_what_is_wrong_is_said(device: Gpu, run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_behind(device, monkeypatch, 31)
    row = rows_of(device, run, ["different-pipelines"])[0]
    assert row["ok"] is False
    # The last of 64 links writes the buffer that link 31 (of an even number of links) wrote last.
    assert row["detail"] == "1024 of 1024 words are wrong: 1024 stale by 34 links"
    row = rows_of(device, run, ["same-pipeline"])[0]
    assert (row["ok"], row["detail"]) == (False, "counted [31], not 300")


def test_the_entry_where_a_forward_pass_breaks(
    device: Gpu, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_behind(device, monkeypatch, 10)
    ends = {r["setting"]["entry"]: r for r in rows_of(device, run, ["forward"])}
    assert [n for n, r in sorted(ends.items()) if not r["ok"]] == [11, 12, 13]
    assert "512 untouched (7777.0)" in ends[13]["detail"]  # the first link itself never ran


def test_a_forward_pass_that_reads_what_was_there_before(
    device: Gpu, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dispatches after the twelfth of a command buffer run before the others, so they read an older token's words."""
    record = device.record

    def early(buffers: Sequence[Sequence[Sequence[Dispatch]]], await_each: bool) -> Recording:
        turned = [[[*p[12:], *p[:12]] for p in passes] for passes in buffers]
        return record(turned, await_each)

    monkeypatch.setattr(device, "record", early)
    ends = {r["setting"]["entry"]: r for r in rows_of(device, run, ["forward"])}
    assert [n for n, r in sorted(ends.items()) if not r["ok"]] == [13]
    assert ends[13]["setting"]["label"] == "lm_head"
    assert ends[13]["detail"].startswith("512 of 512 logits differ")


def test_no_room_is_not_a_wrong_result(
    device: Gpu, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(device.limits, max_buffer_bytes=1 << 20, max_binding_bytes=1 << 20)
    monkeypatch.setattr(device, "limits", small)
    ends = rows_of(device, run, ["bisect"])
    sizes = {r["setting"]["nbytes"]: r["ok"] for r in ends if r["test"] == "bisect nbytes"}
    assert sizes == {4 << 10: True, 64 << 10: True, 1 << 20: True, 16 << 20: None, 64 << 20: None}


def test_a_lost_device_is_the_last_row(
    device: Gpu, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: Rows = []

    async def tell(row: dict[str, Any]) -> None:
        told.append(row)

    async def lost(recording: Recording) -> None:
        raise DeviceLostError("gone")

    monkeypatch.setattr(device, "replay", lost)
    with pytest.raises(DeviceLostError):
        run(run_dispatch_tests(device, tell, ["bind-groups", "sweep"]))
    assert [r["phase"] for r in told] == ["device", "begin", "end"]
    assert told[-1]["ok"] is False and "lost" in told[-1]["detail"]
    with pytest.raises(InputError, match="known are same-pipeline"):
        run(run_dispatch_tests(device, tell, ["nonsense"]))
    assert "nonsense" not in TESTS


def test_the_page_offers_every_test() -> None:
    page = (ROOT / "public" / "diagnostics.html").read_text(encoding="utf-8")
    assert re.findall(r'type="checkbox" name="([^"]+)"', page) == list(TESTS)


def test_from_the_command_line() -> None:
    done = cli("doctor", "--host", "wgpu", "--probes", "bind-groups", "kv-dtype")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["phase"] for r in rows] == ["device", *["begin", "end"] * 4, "done"]
    assert rows[-1] == {"phase": "done", "points": 4, "wrong": 0, "skipped": 0}
