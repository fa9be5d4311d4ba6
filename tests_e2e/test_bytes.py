"""Bytes on their way through a browser: read from responses, hashed in a worker, in memory that is reused."""

from __future__ import annotations

import hashlib

import pytest

from devtools.page_server import PageServer
from devtools.site import ROOT
from tests_e2e.conftest import Probe

MIB = 1 << 20
FILE = "vendor/py314/pyodide.asm.wasm"


def test_sha256_at_borders_of_blocks_and_buffers(probe: Probe) -> None:
    sizes = [0, 1, 55, 56, 63, 64, 65, 119, 120, 4000, MIB - 1, MIB, MIB + 1]
    for part in (64, 1000):
        for ours, at_once, right in probe(
            "digests", [size for size in sizes if size <= 4000], part
        ):
            assert ours == at_once == right
    for ours, at_once, right in probe("digests", [*sizes, 3 * MIB + 77], 4 * MIB):
        assert ours == at_once == right


def test_sha256_of_more_than_its_buffers_hold(probe: Probe) -> None:
    """20 MiB at once use all 16 buffers, so some must come back before the end."""
    for ours, at_once, right in probe("digests", [20 * MIB + 5], 20 * MIB + 5):
        assert ours == at_once == right


@pytest.mark.parametrize("byob", [True, False], ids=["own memory", "the browser's memory"])
def test_ranges_of_a_response(probe: Probe, site: PageServer, byob: bool) -> None:
    """Two of the ranges are as large as slices, and use the same memory one after the other."""
    data = (ROOT / ".vendor" / FILE.removeprefix("vendor/")).read_bytes()
    ranges = [(0, 1), (77, 77 + 3 * MIB), (1, 9 * MIB), (5, 9 * MIB + 5), (0, len(data))]
    right = [hashlib.sha256(data[start:end]).hexdigest() for start, end in ranges]
    assert probe("fetched", site.url + FILE, ranges, byob) == right


def test_what_came_before_a_transfer_broke_off_is_told_of_first(probe: Probe) -> None:
    came, given, done, error = probe("broken_off", 1000)
    assert came == given == 1000 and not done and "the line is dead" in error


def test_memory_of_a_slice_is_used_for_the_next_one(probe: Probe) -> None:
    again, fresh, *sizes = probe("memory_in_turn", 9 * MIB)
    assert (again, fresh) == (7, 0) and sizes == [9 * MIB - 1, 9 * MIB]
    again, fresh, *sizes = probe("memory_in_turn", 3 * MIB)
    assert (again, fresh) == (0, 0), "small ones stay by themselves"
