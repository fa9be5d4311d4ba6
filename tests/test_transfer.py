"""Ranges of many buffers copied out and in as one run of bytes, on both native hosts."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from py_engine.graph import transfer
from py_engine.graph.transfer import Span, Transfer
from py_engine.host.gpu import Buffer, Gpu
from tests.conftest import Runner

SIZE = 4096


@pytest.fixture
def buffers(gpu: Gpu) -> Iterator[list[Buffer]]:
    """Three buffers of random bytes."""
    rng = random.Random(5)
    made = [gpu.create_buffer(f"part {i}", SIZE) for i in range(3)]
    for buffer in made:
        gpu.write(buffer, 0, rng.randbytes(SIZE))
    yield made
    for buffer in made:
        gpu.destroy_buffer(buffer)


@pytest.mark.parametrize("slice_bytes", [4, 100, 1024, 1 << 20])
def test_out_and_in(
    gpu: Gpu,
    run: Runner,
    buffers: list[Buffer],
    monkeypatch: pytest.MonkeyPatch,
    slice_bytes: int,
) -> None:
    """Slices cut spans at any place. The bytes beside the spans do not change."""
    monkeypatch.setattr(transfer, "SLICE_BYTES", slice_bytes)
    a, b, c = buffers
    spans = [
        Span(a, 0, 12),
        Span(b, 400, 0),
        Span(b, 400, 800),
        Span(a, 2000, 4),
        Span(c, 4000, 96),
    ]
    before = [run(gpu.read(buffer)) for buffer in buffers]
    by_name = {buffer: data for buffer, data in zip(buffers, before, strict=True)}
    wanted = b"".join(by_name[s.buffer][s.offset : s.offset + s.nbytes] for s in spans)
    live = gpu.counters.live_buffers

    async def out() -> bytes:
        async with Transfer(gpu, spans) as moved:
            assert moved.nbytes == len(wanted)
            return b"".join([await moved.read(start, end) for start, end in moved.slices()])

    async def back(data: bytes) -> None:
        async with Transfer(gpu, spans) as moved:
            for start, end in moved.slices():
                await moved.write(start, end, data[start:end])

    assert run(out()) == wanted
    other = bytes(255 - x for x in wanted)
    run(back(other))
    assert run(out()) == other
    run(back(wanted))
    assert [run(gpu.read(buffer)) for buffer in buffers] == before
    assert gpu.counters.live_buffers == live


def test_nothing_at_all(gpu: Gpu, run: Runner) -> None:
    async def move() -> list[tuple[int, int]]:
        async with Transfer(gpu, []) as moved:
            return list(moved.slices())

    assert run(move()) == []
