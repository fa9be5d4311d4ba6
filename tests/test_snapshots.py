"""Copies of buffers on both native hosts. tests_e2e/test_gpu.py tests them in the browser."""

from __future__ import annotations

import pytest

from py_engine.blocks.snapshots import BUDGET_BYTES, FEWEST, MOST, Snapshots
from py_engine.errors import OutOfMemoryError
from py_engine.graph.trace import Tensor
from py_engine.host.gpu import Binding, Buffer, Gpu
from tests.conftest import Runner


def tensors(gpu: Gpu, *sizes: int) -> tuple[list[Tensor], list[Buffer]]:
    """u32 vectors, each in the second half of a buffer."""
    made = []
    for n in sizes:
        buffer = gpu.create_buffer(f"{n} words", 1024)
        made.append((Tensor(buffer.label, (n,), "u32", Binding(buffer, 512, 4 * n)), buffer))
    return [tensor for tensor, _ in made], [buffer for _, buffer in made]


def test_save_and_restore(gpu: Gpu, run: Runner) -> None:
    state, buffers = tensors(gpu, 3, 65)
    snapshots = Snapshots(gpu, state)
    assert snapshots.nbytes == MOST * 4 * (3 + 65)

    def fill(value: int) -> None:
        for i, buffer in enumerate(buffers):
            gpu.write(buffer, 0, bytes([value + 16 * i]) * 1024)  # each buffer has its own values

    fill(1)
    run(snapshots.save(5))
    fill(2)
    run(snapshots.save(0))
    fill(3)
    run(snapshots.restore(5))
    after = [run(gpu.read(buffer)) for buffer in buffers]
    for data, n, three, one in zip(
        after, (3, 65), (b"\x03", b"\x13"), (b"\x01", b"\x11"), strict=True
    ):
        assert data == three * 512 + one * 4 * n + three * (512 - 4 * n)
    run(snapshots.restore(0))
    assert run(gpu.read(buffers[1], 512, 4)) == b"\x12" * 4
    snapshots.release()
    for buffer in buffers:
        gpu.destroy_buffer(buffer)


@pytest.mark.parametrize(
    "nbytes, count", [(BUDGET_BYTES // 4, 4), (BUDGET_BYTES, FEWEST), (16, MOST)]
)
def test_as_many_as_the_budget_holds(gpu: Gpu, nbytes: int, count: int) -> None:
    """The real device makes them, and its count of bytes is what the engine reports."""
    before = gpu.counters.live_bytes
    try:
        snapshots = Snapshots(gpu, [Tensor("state", (nbytes // 4,))])
    except OutOfMemoryError:
        pytest.skip("this adapter's buffers are smaller")
    assert snapshots.count == count
    assert gpu.counters.live_bytes - before == snapshots.nbytes == count * nbytes
    snapshots.release()
    assert gpu.counters.live_bytes == before


def test_none_without_a_recurrent_state(gpu: Gpu) -> None:
    snapshots = Snapshots(gpu, [])
    assert (snapshots.count, snapshots.nbytes) == (0, 0)
