"""The engine for callers that block: in scripts, beside a running loop, interrupted, and at the end of a program."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

import py_engine
from py_engine.errors import ContextError, HubError, InputError, SessionError
from py_engine.serve import background
from py_engine.serve.engine import Engine
from py_engine.serve.sync import LoadOptions, SyncEngine, load
from tests import reference
from tests.conftest import Runner, software_adapter

ROOT = Path(__file__).parent.parent
FOLDER = str(reference.folder("qwen2-mlx4-g64"))
GOLDEN = reference.prompt("qwen2-mlx4-g64", reference.lengths("qwen2-mlx4-g64")[0])


def engine_threads() -> int:
    """The number of the engine's threads; other tests leave threads of other kinds."""
    return sum(thread.name == "jerboa" for thread in threading.enumerate())


@pytest.fixture(scope="module")
def model() -> Iterator[SyncEngine]:
    with software_adapter("wgpu"), load(FOLDER, host="wgpu", dtype="f32", context=512) as model:
        yield model


def test_tokens_are_the_references(model: SyncEngine) -> None:
    answer = model.generate(GOLDEN.ids, max_tokens=len(GOLDEN.greedy), temperature=0).result()
    reference.assert_same_tokens(answer.tokens, GOLDEN)
    assert reference.nmse(list(model.logits(GOLDEN.ids)), GOLDEN.logits) < reference.NMSE_F32


def test_deltas_come_while_it_runs_and_again(model: SyncEngine) -> None:
    generation = model.complete("abc", max_tokens=40, temperature=0, ignore_eos=True)
    seen = []
    for delta in generation:
        seen.append(delta)
        if len(seen) == 1:
            assert "running" in repr(generation)
    assert "".join(delta.text for delta in seen) == generation.text
    assert sum(delta.tokens for delta in seen) == 40
    assert list(generation) == seen, "what came is there for whoever looks again"
    assert generation.finish_reason == "length" and generation.reasoning == ""
    assert generation.dropped is None and generation.tool_calls == []


def test_leaving_the_loop_stops_it(model: SyncEngine) -> None:
    for generation in (model.complete("abc", max_tokens=400, ignore_eos=True),):
        for _ in generation:
            break
        answer = generation.result()
        assert answer.finish_reason == "abort" and answer.completion_tokens < 400


def test_an_error_in_the_loop_stops_it(model: SyncEngine) -> None:
    generation = model.complete("abc", max_tokens=400, ignore_eos=True)
    with pytest.raises(ZeroDivisionError):
        for _ in generation:
            1 / 0  # noqa: B018
    assert generation.finish_reason == "abort"


def test_bad_input_is_the_callers_at_once(model: SyncEngine) -> None:
    for call, kind in (
        (lambda: model.complete(""), InputError),
        (lambda: model.complete("a", temperature=-1), InputError),
        (lambda: model.complete("a", tempo=1), InputError),  # type: ignore[call-arg]
        (lambda: model.generate([1], max_tokens=9999), ContextError),
        (lambda: model.restore_session("../x"), SessionError),
    ):
        with pytest.raises(kind):
            call()
    assert model.info()["status"] == "ready"


def test_beside_a_running_loop_and_from_several_threads(model: SyncEngine, run: Runner) -> None:
    alone = model.complete("abc", max_tokens=20, temperature=0).text

    async def inside() -> str:
        return model.complete("abc", max_tokens=20, temperature=0).text

    assert run(inside()) == alone
    got: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: got.append(model.complete("abc", max_tokens=20, temperature=0).text)
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert got == [alone] * 4


def test_waiting_in_a_callback_of_its_own_is_refused(model: SyncEngine) -> None:
    with pytest.raises(InputError, match="callback"):
        model._call(lambda: model.count_tokens("a"))


def test_progress_is_told_in_the_callers_thread() -> None:
    told: list[tuple[int, str]] = []
    me = threading.get_ident()
    with software_adapter("wgpu"):
        loaded = load(
            FOLDER, host="wgpu", on_progress=lambda p: told.append((threading.get_ident(), p.phase))
        )
        loaded.close()
    assert {thread for thread, _ in told} == {me}
    phases = [phase for _, phase in told]
    assert phases[0] == "config" and phases[-1] == "ready" and "weights" in phases


def test_a_load_that_fails_leaves_no_thread() -> None:
    before = engine_threads()
    with pytest.raises(HubError, match="no such folder"), software_adapter("wgpu"):
        load("/no/such/folder", host="wgpu")
    assert engine_threads() == before


def test_what_is_closed_says_so_and_what_is_forgotten_is_closed() -> None:
    before = engine_threads()
    with software_adapter("wgpu"):
        first = load(FOLDER, host="wgpu", context=64)
        first.close()
        first.close()
        assert first.info()["status"] == "closed" and "closed" in repr(first)
        with pytest.raises(InputError, match="closed"):
            first.complete("a")
        second = load(FOLDER, host="wgpu", context=64)
        running = second.complete("abc", max_tokens=8, ignore_eos=True)
        gone = weakref.ref(second)
        del second
        assert running.result().completion_tokens == 8, "it is in use as long as its answer"
        del running
        gc.collect()
    assert gone() is None
    assert engine_threads() == before


def test_options_are_those_of_the_engine() -> None:
    """`gpu` and `io` belong to an event loop of the caller, `abort` is Ctrl-C, and `proven` and `before_weights` are
    for the page."""
    taken = {
        name: str(p.annotation)
        for name, p in inspect.signature(Engine.load).parameters.items()
        if name not in ("model", "gpu", "io", "abort", "proven", "before_weights")
    }
    own = inspect.signature(load).parameters
    here = {name: str(value) for name, value in inspect.get_annotations(LoadOptions).items()}
    here |= {name: str(own[name].annotation) for name in ("progress", "on_progress")}
    plain = {
        name: text.removeprefix("ForwardRef('").removesuffix("', module='py_engine.serve.sync')")
        for name, text in here.items()
    }
    assert plain == taken
    for name in ("chat", "complete", "embed", "generate", "count_tokens"):
        theirs, ours = (inspect.signature(getattr(c, name)) for c in (Engine, SyncEngine))
        assert theirs.parameters == ours.parameters


def test_in_a_browser_it_says_what_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "IN_BROWSER", True)
    with pytest.raises(InputError, match="await jerboa.Engine.load"):
        py_engine.load(FOLDER)


@pytest.mark.skipif(sys.platform == "win32", reason="another way to press Ctrl-C")
@pytest.mark.parametrize("what", ["load", "chat", "result"])
def test_ctrl_c_ends_what_waits(what: str) -> None:
    """A model that is already loaded stays usable."""
    program = f"""
import signal, sys, py_engine
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
what = {what!r}
def begun(*_): print("now", flush=True)
model = None
try:
    if what == "load":
        py_engine.load("random:qwen3-0.6b", host="wgpu", on_progress=lambda p: begun() if p.phase != "ready" else None)
    model = py_engine.load({FOLDER!r}, host="wgpu", context=2048)
    running = model.complete("abc", ignore_eos=True)
    if what == "result":
        begun()
        running.result()
    for n, delta in enumerate(running):
        if n == 2: begun()
    print("ended by itself")
except KeyboardInterrupt:
    if model:
        assert running.finish_reason == "abort", running
        assert len(model.complete("abc", max_tokens=3, ignore_eos=True).result().tokens) == 3
    print("stopped")
"""
    with software_adapter("wgpu"):
        process = subprocess.Popen(
            [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    with process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "now\n", process.stderr.read()
        time.sleep(0.1)
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert out.splitlines()[-1] == "stopped", err
    assert process.returncode == 0, err


def test_a_program_that_closes_nothing_ends() -> None:
    program = f"""
import py_engine
model = py_engine.load({FOLDER!r}, host="wgpu", context=2048)
running = model.complete("abc", ignore_eos=True)
next(iter(running))
print("end")
"""
    with software_adapter("wgpu"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True,
            text=True, timeout=60,
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr, done.stderr


def test_a_generation_whose_engine_is_closed_is_given_up() -> None:
    with software_adapter("wgpu"), load(FOLDER, host="wgpu", context=2048) as model:
        running = model.complete("abc", ignore_eos=True)
        assert asyncio.run(asyncio.to_thread(lambda: next(iter(running)))) is not None
    assert "done" in repr(running)
