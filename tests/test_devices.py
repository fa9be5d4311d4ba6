"""Several models on one device: they run side by side, are freed separately, share one memory budget, and recover from
a loss of the device.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from py_engine import Device, Engine
from py_engine.abort import Abort
from py_engine.errors import (
    AbortError,
    ClosedError,
    HostError,
    InputError,
    MemoryBudgetError,
    ModelError,
    OutOfMemoryError,
)
from py_engine.host import open_gpu
from py_engine.host.gpu import Gpu
from py_engine.serve import device as device_module
from py_engine.serve import recovery
from tests import reference
from tests.conftest import Runner, software_adapter

ONE, TWO = (str(reference.folder(n)) for n in ("qwen2-mlx4-g64", "qwen3.5-mlx4-g64"))
PROMPTS = ([40 + i % 150 for i in range(70)], [7 + i % 90 for i in range(50)])
NEW = 12
SETTINGS: dict[str, Any] = {"dtype": "f32", "context": 128, "self_check": False}
GREEDY: dict[str, Any] = {"max_tokens": NEW, "temperature": 0.0, "ignore_eos": True}


@pytest.fixture(params=["wgpu"])
def host(request: pytest.FixtureRequest) -> Iterator[str]:
    with software_adapter(request.param):
        yield request.param


@pytest.fixture
def kept(wgpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices are opened on the session's GPU, which a close leaves open: it has compiled the kernels already."""

    async def opening(_host: str | None) -> Gpu:
        return wgpu

    monkeypatch.setattr(device_module, "open_gpu", opening)
    monkeypatch.setattr(wgpu, "close", lambda: None)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Gpu]:
    """Every GPU that devices open. At the end each must be empty."""
    gpus: list[Gpu] = []

    async def opening(host: str | None) -> Gpu:
        gpus.append(await open_gpu(host))
        return gpus[-1]

    monkeypatch.setattr(device_module, "open_gpu", opening)
    monkeypatch.setattr(recovery, "_PAUSE_S", 0.0)
    return gpus


def on_device(
    run: Runner, host: str, work: Callable[[Device], Awaitable[None]], **options: Any
) -> None:
    """Do this with a device, and check that nothing stays allocated."""

    async def all_of_it() -> None:
        device = await Device.open(host, **options)
        try:
            await work(device)
        finally:
            await device.close()
        assert device._gpu.counters.live_buffers == 0

    run(all_of_it())


async def answer(engine: Engine, prompt: list[int], order: list[Engine] | None = None) -> list[int]:
    generation = engine.generate(prompt, **GREEDY)
    async for delta in generation:
        if order is not None:
            order += [engine] * delta.tokens
    return (await generation).tokens


def turns(order: list[Engine]) -> int:
    """How often the engine that gives a token is not the one that gave the token before."""
    return sum(a is not b for a, b in zip(order, order[1:], strict=False))


@pytest.mark.parametrize(
    "host", ["wgpu", pytest.param("dawn", marks=pytest.mark.slow)], indirect=True
)
def test_two_models_answer_at_once_as_they_do_alone(run: Runner, host: str) -> None:
    """Their tokens alternate. One model is freed while the other stays, to the byte."""

    async def work(device: Device) -> None:
        counters = device._gpu.counters
        one = await device.load(ONE, **SETTINGS)
        alone = await answer(one, PROMPTS[0])
        with_one = (counters.live_buffers, counters.live_bytes, counters.pipelines_created)
        two = await device.load(TWO, **SETTINGS)
        second = await answer(two, PROMPTS[1])
        for _ in range(2):
            order: list[Engine] = []
            got = await asyncio.gather(
                answer(one, PROMPTS[0], order), answer(two, PROMPTS[1], order)
            )
            assert list(got) == [alone, second]
            assert turns(order) > 3, "neither waits for the other's whole answer"
        assert [m["model"] for m in device.info()["models"]] == [ONE, TWO]
        await two.close()
        assert (counters.live_buffers, counters.live_bytes) == with_one[:2]
        with pytest.raises(ClosedError, match="engine is closed"):
            two.generate([1])
        compiled = counters.pipelines_created
        again = await device.load(ONE, **SETTINGS)
        assert counters.pipelines_created == compiled, "what one model compiled, others use"
        assert await answer(again, PROMPTS[0]) == alone
        await one.close()
        assert (await answer(again, PROMPTS[0])) == alone

    on_device(run, host, work)


def test_engines_on_a_callers_gpu_answer_at_once(run: Runner, wgpu: Gpu) -> None:
    async def work() -> None:
        one, two = [await Engine.load(ONE, gpu=wgpu, **SETTINGS) for _ in range(2)]
        got = await asyncio.gather(answer(one, PROMPTS[0]), answer(two, PROMPTS[0]))
        assert got[0] == got[1] == await answer(one, PROMPTS[0])
        await one.close()
        await two.close()
        assert wgpu.counters.live_buffers == 0
        assert wgpu.lost is None

    run(work())


def test_a_budget_is_for_all_and_room_is_made_where_asked(
    run: Runner, host: str, kept: None
) -> None:
    async def work(device: Device) -> None:
        notes: list[str] = []

        def tell(progress: Any) -> None:
            if progress.phase == "note":
                notes.append(progress.message)

        one = await device.load(ONE, **SETTINGS)
        two = await device.load(TWO, **SETTINGS)
        three = {**SETTINGS, "memory_budget": one.takes + two.takes + one.takes - 1}
        before = device._gpu.counters.live_bytes
        with pytest.raises(
            MemoryBudgetError, match=r"of which other models take .*make_room"
        ) as told:
            await device.load(ONE, **three)
        assert told.value.needed == one.takes
        assert told.value.budget == three["memory_budget"]
        assert ONE in str(told.value)
        assert TWO in str(told.value)
        assert device._gpu.counters.live_bytes == before
        # The least recently used model is unloaded, but not while it answers.
        generation = one.generate(PROMPTS[0], **GREEDY)
        heard = generation.__aiter__()
        await heard.__anext__()
        third = await device.load(ONE, make_room=True, on_progress=tell, **three)
        assert (await generation).finish_reason == "length"
        assert len(notes) == 1
        assert notes[0].startswith(f"{TWO} was unloaded to make room")
        assert device.engines == (one, third) or device.engines == (third, one)
        with pytest.raises(ClosedError, match=f"unloaded to make room for {ONE}"):
            two.generate([1])
        with pytest.raises(MemoryBudgetError):  # nothing is unloaded if that would not help
            await device.load(ONE, make_room=True, **{**SETTINGS, "memory_budget": 1000})
        assert len(device.engines) == 2

    on_device(run, host, work)


def test_the_devices_own_budget(run: Runner, host: str, kept: None) -> None:
    async def work(device: Device) -> None:
        with pytest.raises(MemoryBudgetError, match="1 MB"):
            await device.load(ONE, **SETTINGS)

    on_device(run, host, work, memory_budget=10_000)


def test_memory_of_the_device_that_is_used_up(
    run: Runner, host: str, kept: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver refuses an allocation: another model is unloaded if the caller asked for that; otherwise the error
    names it."""

    async def work(device: Device) -> None:
        one = await device.load(ONE, **SETTINGS)
        gpu, live = device._gpu, device._gpu.counters.live_bytes
        make = gpu._make_buffer

        def full(label: str, size: int, kind: Any) -> Any:
            if gpu.counters.live_bytes + size > 1.5 * live:
                raise OutOfMemoryError(f"out of memory at {label}")
            return make(label, size, kind)

        monkeypatch.setattr(gpu, "_make_buffer", full)
        with pytest.raises(OutOfMemoryError, match=r"Other models on this device take .*make_room"):
            await device.load(ONE, **SETTINGS)
        assert device._gpu.counters.live_bytes == live
        again = await device.load(ONE, make_room=True, **SETTINGS)
        assert device.engines == (again,)
        with pytest.raises(ClosedError, match="make room"):
            await one.logits([1])
        assert len(await answer(again, PROMPTS[0])) == NEW

    on_device(run, host, work)


def test_loads_take_turns_beside_an_answer(run: Runner, host: str, kept: None) -> None:
    async def work(device: Device) -> None:
        one = await device.load(ONE, **SETTINGS)
        alone = await answer(one, PROMPTS[0])
        ready: list[str] = []

        async def load(name: str, **options: Any) -> Engine:
            engine = await device.load(TWO, **SETTINGS, **options)
            ready.append(name)
            return engine

        stop = Abort()
        loads = [asyncio.ensure_future(load("first")), asyncio.ensure_future(load("second"))]
        third = asyncio.ensure_future(load("third", abort=stop))
        await asyncio.sleep(0)
        stop.set()
        with pytest.raises(AbortError):
            await third
        assert await answer(one, PROMPTS[0]) == alone
        await asyncio.gather(*loads)
        assert ready == ["first", "second"]
        before = device._gpu.counters.live_bytes
        with pytest.raises(ModelError):
            await device.load("random:no-such", **SETTINGS)
        assert device._gpu.counters.live_bytes == before

    on_device(run, host, work)


def test_a_compile_that_failed_is_tried_again(
    run: Runner, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device owns the kernels: one load's failed compile must not stop the next load."""

    async def work(device: Device) -> None:
        compile_ = device._gpu.create_pipeline
        labels: list[str] = []

        async def fail(label: str, *rest: Any) -> Any:
            labels.append(label)
            if len(labels) == 3:
                raise HostError(f"{label}: not this time")
            return await compile_(label, *rest)

        monkeypatch.setattr(device._gpu, "create_pipeline", fail)
        with pytest.raises(HostError, match="not this time"):
            await device.load(ONE, **SETTINGS)
        assert device._gpu.counters.live_buffers == 0
        first = len(labels)
        engine = await device.load(ONE, **SETTINGS)
        assert labels[first:] == [labels[2]]
        assert len(await answer(engine, PROMPTS[0])) == NEW

    on_device(run, host, work)


def test_unloaded_in_use_and_closed_in_a_load(run: Runner, host: str) -> None:
    async def work(device: Device) -> None:
        one = await device.load(ONE, **SETTINGS)
        generation = one.generate(PROMPTS[0], **GREEDY)
        heard = generation.__aiter__()
        await heard.__anext__()
        await one.close()
        assert (await generation).finish_reason == "abort"
        assert device._gpu.counters.live_buffers == 0
        begun = asyncio.Event()

        def tell(progress: Any) -> None:
            if progress.phase == "weights":
                begun.set()

        loads = [
            asyncio.ensure_future(device.load(TWO, on_progress=tell, **SETTINGS)),
            asyncio.ensure_future(device.load(ONE, **SETTINGS)),
        ]
        await begun.wait()
        await device.close()
        for error in await asyncio.gather(*loads, return_exceptions=True):
            assert isinstance(error, ClosedError), error
            assert "device" in str(error)
        with pytest.raises(ClosedError, match="open another one"):
            await device.load(ONE)

    on_device(run, host, work)


def test_all_models_come_back_from_a_loss(run: Runner, host: str, opened: list[Gpu]) -> None:
    """While both answer, and while both are idle: there is one new device, the loss is reported once, and the answers
    are the same."""
    events: list[tuple[str, str]] = []

    async def work(device: Device) -> None:
        one = await device.load(ONE, **SETTINGS)
        two = await device.load(TWO, **SETTINGS)
        alone = [await answer(one, PROMPTS[0]), await answer(two, PROMPTS[1])]
        pending = one.generate(PROMPTS[0], **GREEDY), two.generate(PROMPTS[1], **GREEDY)
        heard = [generation.__aiter__() for generation in pending]
        for each in heard:
            await each.__anext__()
        opened[-1]._device.destroy()  # type: ignore[attr-defined]
        assert [(await generation).tokens for generation in pending] == alone
        assert len(opened) == 2
        assert [state for state, _ in events] == ["lost", "recovered"]

        events.clear()
        opened[-1]._device.destroy()  # type: ignore[attr-defined]
        # Asking one model brings back the other too.
        assert await answer(two, PROMPTS[1]) == alone[1]
        await asyncio.gather(*device._revivals)
        assert {one._gpu, two._gpu} == {opened[-1]}
        assert await answer(one, PROMPTS[0]) == alone[0]
        assert len(opened) == 3
        assert events == [("lost", "idle"), ("recovered", "idle")]

        # A loss while a second model loads.
        events.clear()
        await two.close()

        def lose(progress: Any) -> None:
            if progress.phase == "kernels" and len(opened) == 3:
                opened[-1]._device.destroy()  # type: ignore[attr-defined]

        two = await device.load(TWO, on_progress=lose, **SETTINGS)
        answers = await asyncio.gather(answer(one, PROMPTS[0]), answer(two, PROMPTS[1]))
        assert list(answers) == alone
        assert events == [("lost", "load"), ("recovered", "load")]
        assert len(opened) == 4

    def heard_of(event: Any) -> None:
        events.append((event.state, event.during))

    on_device(run, host, work, on_device=heard_of)
    assert sum(gpu.counters.live_buffers for gpu in opened) == 0


def test_what_is_wrong_is_said_at_once(run: Runner, host: str) -> None:
    async def work(device: Device) -> None:
        with pytest.raises(InputError, match="Did you mean context"):
            await device.load(ONE, contxt=5)
        with pytest.raises(InputError, match="make_room"):
            await device.load(ONE, make_room="yes")  # type: ignore[arg-type]

    on_device(run, host, work)
    with pytest.raises(InputError):
        run(Device.open("wgpu", memory_budget=0))
