"""How much a device can take in one command buffer: the state machine, and calibration with a real model on a real
device.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from py_engine.errors import DeviceLostError, StorageError
from py_engine.generate.build import _context
from py_engine.graph.calibrate import GROUPS, MAX_PLANS, Calibration
from py_engine.graph.submit import FLOOR, GroupedSubmit, SingleSubmit, default_strategy
from py_engine.host.gpu import Dispatch, Gpu
from py_engine.host.io_native import NativeIo
from py_engine.host.webkit import is_webkit, on_webkit, version_of, webkit_version
from py_engine.serve import calibration
from py_engine.serve.engine import Engine
from tests import reference
from tests.conftest import Runner

NAME = "qwen3-mlx4-g128"
APPLE = "Mozilla/5.0 ({}) AppleWebKit/605.1.15 (KHTML, like Gecko) {}"
MAC = "Macintosh; Intel Mac OS X 10_15_7"
CHROME = "Chrome/141.0.0.0 Safari/537.36"


# ---- who is WebKit


@pytest.mark.parametrize(
    ("agent", "ios", "webkit"),
    [
        (APPLE.format(MAC, "Version/26.0 Safari/605.1.15"), False, True),
        (APPLE.format("iPhone; CPU iPhone OS 18_7 like Mac OS X", "Version/26.0"), False, True),
        (APPLE.format("iPhone; CPU iPhone OS 18_7", "CriOS/141.0 Mobile/15E148"), False, True),
        (APPLE.format("iPad; CPU OS 18_7", "EdgiOS/141.0 Version/26.0"), False, True),
        (APPLE.format(MAC, "Version/26.0 Safari/605.1.15"), True, True),
        (APPLE.format("X11; Linux x86_64", "Version/26.0 Safari/605.1.15"), False, True),
        (APPLE.format(MAC, CHROME), False, False),  # an Apple GPU, but not WebKit
        (APPLE.format(MAC, CHROME + " Edg/141.0.0.0"), False, False),
        (APPLE.format("X11; Linux x86_64", "HeadlessChrome/141.0 Safari/537.36"), False, False),
        (APPLE.format("Linux; Android 16; Pixel 9", CHROME), False, False),
        ("Mozilla/5.0 (Macintosh; rv:145.0) Gecko/20100101 Firefox/145.0", False, False),
    ],
)
def test_webkit_is_known_by_its_name(agent: str, ios: bool, webkit: bool) -> None:
    assert is_webkit(agent, ios) is webkit


@pytest.mark.parametrize(
    ("agent", "version"),
    [
        (APPLE.format(MAC, "Version/26.1 Safari/605.1.15"), "Version/26.1"),  # iPads send this too
        (
            APPLE.format("iPhone; CPU iPhone OS 18_7 like Mac OS X", "Version/26.1 Mobile/15E148"),
            "OS 18_7 Version/26.1",
        ),
        (
            APPLE.format("iPad; CPU OS 26_1_2 like Mac OS X", "CriOS/141.0 Mobile/15E148"),
            "OS 26_1_2",
        ),
    ],
)
def test_an_update_of_webkit_is_seen(agent: str, version: str) -> None:
    assert version_of(agent) == version


def test_nothing_native_is_webkit() -> None:
    """Not even Dawn on Apple's GPUs: the vendor is not what decides."""
    assert (on_webkit(), webkit_version()) == (False, "")
    assert default_strategy() == SingleSubmit()


def test_ios_begins_with_a_small_context(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (_context(None, 40960), _context(None, 1000)) == (4096, 1000)
    monkeypatch.setattr("py_engine.generate.build.is_ios", lambda: True)
    assert (_context(None, 40960), _context(None, 300), _context(2048, 40960)) == (512, 300, 2048)


# ---- the state machine


class Device:
    """Runs `right` dispatches in a pass, and `passes` passes, correctly. With more it computes wrongly or dies."""

    def __init__(self, right: int, passes: int = 0, dies: bool = False) -> None:
        self.right, self.passes, self.dies = right, passes, dies
        self.tried: list[GroupedSubmit] = []
        self.file = json.dumps(Calibration().to_dict())

    def climb(self, most: int, plan: str = "plan") -> GroupedSubmit:
        """One run of a page, until nothing is left to try or it dies. Returns the setting in use at the end."""
        record = Calibration.from_dict(json.loads(self.file))
        record.bury()
        while candidate := record.next(plan, most):
            record.begin(candidate, plan, "run")
            self.file = json.dumps(record.to_dict())
            self.tried.append(candidate)
            limit = self.right if candidate.passes == 1 else self.passes
            if candidate.dispatches <= limit:
                record.confirm()
            elif self.dies:
                return record.best(plan)
            else:
                record.refuse("wrong numbers")
            self.file = json.dumps(record.to_dict())
        return record.best(plan)


def test_everything_is_proven_step_by_step() -> None:
    device = Device(1000)
    assert device.climb(most=100) == GroupedSubmit(128)
    assert device.tried == [GroupedSubmit(n) for n in (8, 16, 32, 64, 128)]
    assert device.climb(most=100) == GroupedSubmit(128)
    assert len(device.tried) == 5, "what is known is not tried again"
    assert device.climb(most=100, plan="other") == GroupedSubmit(128)
    assert len(device.tried) == 10, "another model proves for itself"


def test_the_other_axis_goes_on_where_the_first_ended() -> None:
    device = Device(20, passes=40)
    assert device.climb(most=400) == GroupedSubmit(32, 32)
    steps = [(8, 1), (16, 1), (32, 1), (32, 32), (64, 64)]
    assert [(c.dispatches, c.passes) for c in device.tried] == steps


@pytest.mark.parametrize(("right", "passes"), [(0, 0), (8, 0), (20, 8), (60, 600), (7, 9)])
def test_what_died_is_never_tried_again(right: int, passes: int) -> None:
    """Over several starts, each axis causes at most one death, and what was proven before stays in use."""
    device = Device(right, passes, dies=True)
    ends = [device.climb(most=500) for _ in range(6)]
    assert len(device.tried) == len(set(device.tried))
    deaths = [c for c in device.tried if c.dispatches > (right if c.passes == 1 else passes)]
    assert len(deaths) <= 2
    most = max([1, *[n for n in GROUPS if n <= max(right, passes)]])
    assert ends[-1].dispatches == most
    assert device.climb(most=500, plan="other").dispatches == most, "nor by another model"
    assert len([c for c in device.tried if c in deaths]) == len(deaths)


def test_while_a_candidate_is_tried_nothing_of_its_axis_is_used() -> None:
    record = Calibration(proven={"a": GroupedSubmit(64), "b": GroupedSubmit(8)})
    record.begin(GroupedSubmit(32), "c", "run")
    assert (record.best("a"), record.best("b"), record.best("c")) == (
        FLOOR,
        GroupedSubmit(8),
        FLOOR,
    )
    record.withdraw()
    assert record.best("a") == GroupedSubmit(64)
    assert record.bury() is None


def test_plans_that_end_the_page_by_the_floor_are_left_alone() -> None:
    """A plan that ends the page even at the smallest setting is not tried again. What other plans have proven still
    holds, and they go on."""
    record = Calibration(proven={"a": GroupedSubmit(8)})
    record.begin(FLOOR, "large", "run")
    assert record.best("a") == GroupedSubmit(8), "another tab meanwhile"
    record = Calibration.from_dict(json.loads(json.dumps(record.to_dict())))
    assert record.bury() == FLOOR
    record = Calibration.from_dict(json.loads(json.dumps(record.to_dict())))
    assert (record.next("large", 400), record.best("large")) == (None, FLOOR)
    assert (record.next("a", 400), record.best("a")) == (GroupedSubmit(16), GroupedSubmit(8))


def test_old_plans_are_forgotten() -> None:
    record = Calibration()
    for i in range(2 * MAX_PLANS):
        record.begin(GroupedSubmit(8), str(i), "run")
        record.confirm()
    assert list(record.proven) == [str(i) for i in range(MAX_PLANS, 2 * MAX_PLANS)]


@pytest.mark.parametrize(
    "change",
    [
        {"layout": 1},
        {"left_alone": None},
        {"proven": {"a": {"group": 10**9, "passes": 1}}},
        {"proven": {"a": {"group": 64, "passes": 5}}},
        {"failed": {}},
        {"proven": {"a": {"group": 0, "passes": 1}}},
        {"proven": {"a": {"group": True, "passes": 1}}},
        {"trying": [8, 1]},
        {"failed": [3]},
    ],
)
def test_a_spoilt_record_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="calibration|group"):
        Calibration.from_dict({**Calibration().to_dict(), **change})
    with pytest.raises(ValueError, match="calibration"):
        Calibration.from_dict([])


# ---- with a model


def forgetful(
    gpu: Gpu, limit: int, where: Callable[[Dispatch], bool] = lambda _: True
) -> Callable[..., Any]:
    """`gpu.record` of a device that loses what a command buffer writes after its first `limit` dispatches. Only command
    buffers with a dispatch for which `where` is true are cut."""
    record = gpu.record

    def cut(command_buffers: Any, await_each: bool) -> Any:
        flat = [[d for part in passes for d in part] for passes in command_buffers]
        return record([[d[:limit] if any(map(where, d)) else d] for d in flat], await_each)

    return cut


class Death(BaseException):
    """Stands for the death of the process."""


@pytest.fixture
def webkit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> NativeIo:
    """A machine that reports itself as WebKit, with an empty store."""
    monkeypatch.setattr("py_engine.graph.submit.on_webkit", lambda: True)
    monkeypatch.setenv("JERBOA_HOME", str(tmp_path))
    return NativeIo()


def open_engine(run: Runner, gpu: Gpu, io: NativeIo, **options: Any) -> Engine:
    engine: Engine = run(
        Engine.load(
            str(reference.folder(NAME)), gpu=gpu, io=io, dtype="f32", context=512, **options
        )
    )
    return engine


async def always() -> bool:
    return True


def test_a_model_is_calibrated_on_the_device(
    open_software_gpu: Callable[..., Gpu],
    webkit: NativeIo,
    run: Runner,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The device loses everything after the 12th dispatch of a command buffer. Calibration finds 8, and stores it."""
    gpu = open_software_gpu("wgpu")
    engine = open_engine(run, gpu, webkit)
    assert engine.info()["submit"] == {"dispatches": 1, "passes": 1}
    prompt = [5, 9, 100, 33]
    right = run(engine.generate_ids(prompt, 6))
    heard: list[tuple[str, GroupedSubmit]] = []

    def confirmed(key: str, strategy: GroupedSubmit) -> None:
        heard.append((key, strategy))

    monkeypatch.setattr(gpu, "record", forgetful(gpu, 12))
    assert engine.calibrator
    buffers = gpu.counters.live_buffers
    run(engine.calibrator.climb(engine.exclusive, always, confirmed, "run"))
    assert gpu.counters.live_buffers == buffers
    assert [s for _, s in heard] == [GroupedSubmit(8)]
    assert engine.info()["submit"] == {"dispatches": 8, "passes": 1}
    assert run(engine.generate_ids(prompt, 6)) == right
    # Without calibration that device's answers are wrong.
    run(engine.close())
    hasty = open_engine(run, gpu, webkit, strategy=GroupedSubmit(512))
    assert hasty.calibrator is None
    assert run(hasty.generate_ids(prompt, 6)) != right
    run(hasty.close())
    # The next load starts where this one ended: from the record or, if that is gone, from what the page kept.
    again = open_engine(run, gpu, webkit)
    assert again.info()["submit"] == {"dispatches": 8, "passes": 1}
    run(again.close())
    kept = {key: {"group": s.dispatches, "passes": s.passes} for key, s in heard}
    with monkeypatch.context() as patch:
        patch.setattr(calibration, "webkit_version", lambda: "Version/26.1")
        updated = open_engine(run, gpu, webkit, proven=kept)
        assert updated.info()["submit"] == {"dispatches": 1, "passes": 1}
        run(updated.close())
    for file in (Path(run(webkit.open_store(calibration.STORE)).root)).glob("*.json"):
        file.unlink()
    spoilt = dict.fromkeys(kept, {"group": 10**6, "passes": 1})
    for proven, group in ((kept, 8), ({"another": {"group": 64, "passes": 1}}, 1), (spoilt, 1)):
        again = open_engine(run, gpu, webkit, proven=proven)
        assert again.info()["submit"] == {"dispatches": group, "passes": 1}
        run(again.close())


@pytest.mark.parametrize("peacefully", [False, True])
def test_a_death_while_trying_is_remembered(
    open_software_gpu: Callable[..., Gpu],
    webkit: NativeIo,
    run: Runner,
    monkeypatch: pytest.MonkeyPatch,
    peacefully: bool,
) -> None:
    """The candidate is recorded before it is tried. A run that ended normally does not count against it."""
    gpu = open_software_gpu("wgpu")
    engine = open_engine(run, gpu, webkit)
    tried: list[GroupedSubmit] = []
    numbers = calibration._numbers

    async def deadly(decoder: Any, strategy: GroupedSubmit) -> bytes:
        if strategy != FLOOR:
            (file,) = Path((await webkit.open_store(calibration.STORE)).root).glob("*.json")
            trying = json.loads(file.read_text())["trying"]
            assert trying == {"group": strategy.dispatches, "passes": strategy.passes}
            tried.append(strategy)
        if strategy.dispatches > 8:
            raise Death
        return await numbers(decoder, strategy)

    def ignore(key: str, strategy: GroupedSubmit) -> None:
        pass

    monkeypatch.setattr(calibration, "_numbers", deadly)
    writes = calibration.Calibrator._write
    assert engine.calibrator

    def climb(name: str, left: tuple[str, ...]) -> None:
        dead = False

        async def write(self: Any, store: Any, record: Any) -> None:
            if not dead:  # a dead process writes nothing more
                await writes(self, store, record)

        async def deadly_numbers(decoder: Any, strategy: GroupedSubmit) -> bytes:
            nonlocal dead
            try:
                return await deadly(decoder, strategy)
            except Death:
                dead = True
                raise

        monkeypatch.setattr(calibration.Calibrator, "_write", write)
        monkeypatch.setattr(calibration, "_numbers", deadly_numbers)
        assert engine.calibrator
        try:
            run(engine.calibrator.climb(engine.exclusive, always, ignore, name, left))
        except Death:
            pass

    climb("first", ())
    assert tried == [GroupedSubmit(8), GroupedSubmit(16)]
    climb("second", ("first",) if peacefully else ())
    assert tried[2:] == ([GroupedSubmit(16)] if peacefully else [GroupedSubmit(16, 16)])
    climb("third", ())
    climb("fourth", ())
    assert len(tried) == (4 if peacefully else 3)
    assert engine.info()["submit"] == {"dispatches": 8, "passes": 1}
    run(engine.close())


def test_every_plan_of_generations_is_tried(
    open_software_gpu: Callable[..., Gpu],
    webkit: NativeIo,
    run: Runner,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The device computes wrongly only when sampling, or only in the prefill of short texts. Also: what stops a plan
    from being tried."""
    gpu = open_software_gpu("wgpu")
    engine = open_engine(run, gpu, webkit)
    calibrator = engine.calibrator
    assert calibrator
    store = run(webkit.open_store(calibration.STORE, records=True))

    def climb() -> list[GroupedSubmit]:
        found: list[GroupedSubmit] = []
        engine._loaded.decoder.strategy = FLOOR
        run(calibrator.climb(engine.exclusive, always, lambda _, group: found.append(group), "run"))
        return found

    def draws(dispatch: Dispatch) -> bool:
        return dispatch.pipeline.label.startswith("sample_choose")

    def short(dispatch: Dispatch) -> bool:
        return dispatch.pipeline.label.startswith("attention_prefill") and dispatch.groups[0] == 1

    for where, groups in ((draws, [8, 16]), (short, [8])):
        with monkeypatch.context() as patch:
            patch.setattr(gpu, "record", forgetful(gpu, 12, where))
            assert [group.dispatches for group in climb()] == groups
        (name,) = run(store.names())
        run(store.delete(name))

    async def lose(*_: Any) -> bytes:
        raise DeviceLostError("for want of memory", "")

    with monkeypatch.context() as patch:
        patch.setattr(calibration, "_numbers", lose)
        with pytest.raises(DeviceLostError):
            climb()
    assert climb()[0] == GroupedSubmit(8), "answers go one by one, too: nothing is given up"
    run(store.delete(name))

    async def hold() -> list[GroupedSubmit]:
        async with store.lock(calibration.LOCK):
            found: list[GroupedSubmit] = []
            await calibrator.climb(engine.exclusive, always, lambda _, group: found.append(group))
            return found

    assert run(hold()) == [], "another tab is at it"
    assert run(store.names()) == []

    async def refuse(*_: Any) -> None:
        raise StorageError("refused")

    record = b"what was seen so far"
    run(store.replace(name, record))
    for method in ("read", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(type(store), method, refuse)
            with pytest.raises(StorageError):
                climb()
        assert bytes(run(store.read(name))) == record, "nothing is tried that is not on record"
    monkeypatch.setattr(type(store), "persistent", False)
    assert climb() == [] and engine.info()["submit"] == {"dispatches": 1, "passes": 1}
    run(engine.close())
