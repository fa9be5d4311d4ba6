"""Several models on one device, for callers that block."""

from __future__ import annotations

import gc
import inspect
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from py_engine.errors import HubError, InputError, MemoryBudgetError
from py_engine.serve import background
from py_engine.serve.device import Device
from py_engine.serve.sync import SharedLoadOptions, SyncEngine
from py_engine.serve.sync_device import SyncDevice
from tests import reference
from tests.conftest import software_adapter
from tests.test_sync import engine_threads

WRITER, ENCODER = (str(reference.folder(name)) for name in ("qwen2-mlx4-g64", "bert-f32"))


@pytest.fixture
def device() -> Iterator[SyncDevice]:
    """At the end nothing of the device is left."""
    threads = engine_threads()
    with software_adapter("wgpu"), SyncDevice.open("wgpu") as device:
        counters = device._device._gpu.counters
        yield device
    assert engine_threads() == threads and counters.live_buffers == 0


def test_two_models_at_once_and_each_freed_alone(device: SyncDevice) -> None:
    counters = device._device._gpu.counters
    golden = reference.prompt("qwen2-mlx4-g64", reference.lengths("qwen2-mlx4-g64")[0])
    writer = device.load(WRITER, dtype="f32", context=512)
    writer.generate(golden.ids, max_tokens=4).result()  # it then has all its buffers
    alone = counters.live_bytes
    encoder = device.load(ENCODER, dtype="f32")
    running = writer.generate(golden.ids, max_tokens=len(golden.greedy), temperature=0)
    first = encoder.embed(["hello"]).result()
    reference.assert_same_tokens(running.result().tokens, golden)
    assert {m["model"] for m in device.info()["models"]} == {ENCODER, WRITER}
    assert "2 models" in repr(device)
    encoder.close()
    encoder.close()
    assert counters.live_bytes == alone
    with device.load(ENCODER, dtype="f32") as encoder:
        again = encoder.embed(["hello"]).result()
        assert np.array_equal(first[0], again[0])
    assert counters.live_bytes == alone
    reference.assert_same_tokens(
        writer.generate(golden.ids, max_tokens=len(golden.greedy), temperature=0).result().tokens,
        golden,
    )
    device.close()
    with pytest.raises(InputError, match="closed"):
        writer.complete("a")


def test_a_load_that_fails_leaves_the_others(device: SyncDevice) -> None:
    encoder = device.load(ENCODER, dtype="f32")
    before = device._device._gpu.counters.live_bytes
    with pytest.raises(HubError, match="no such folder"):
        device.load("/no/such/folder")
    with pytest.raises(MemoryBudgetError):
        device.load(WRITER, memory_budget=before + 1000)
    assert device._device._gpu.counters.live_bytes == before
    assert encoder.tasks == ["embed", "similarity"]
    alone = SyncEngine.estimate(WRITER, host="wgpu", context=64).peak_bytes
    writer = device.load(WRITER, context=64, memory_budget=alone + 1000, make_room=True)
    assert writer.tasks and encoder.info()["status"] == "closed"
    assert [m["model"] for m in device.info()["models"]] == [WRITER]


def test_a_device_is_in_use_as_long_as_its_models() -> None:
    threads = engine_threads()
    with software_adapter("wgpu"):
        device = SyncDevice.open("wgpu")
        encoder = device.load(ENCODER, dtype="f32")
        gone = weakref.ref(device)
        del device
        gc.collect()
        assert encoder.tasks == ["embed", "similarity"]
        del encoder
        gc.collect()
    assert gone() is None and engine_threads() == threads


def test_options_are_those_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("open", "load"):
        theirs, ours = (inspect.signature(getattr(c, name)) for c in (Device, SyncDevice))
        named = {p.name for p in ours.parameters.values()} - {"progress", "on_progress"}
        assert named <= {*theirs.parameters}
    assert "host" not in SharedLoadOptions.__annotations__
    monkeypatch.setattr(background, "IN_BROWSER", True)
    with pytest.raises(InputError, match="browser"):
        SyncDevice.open()
