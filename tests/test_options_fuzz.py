"""Every option of every public call, with every kind of bad value: it raises InputError at once, or the value is
accepted.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.worker import Host
from py_engine import can_cache_model
from py_engine.errors import EngineError, InputError
from py_engine.generate.answer import Generation
from py_engine.generate.sampling import Sampling
from py_engine.graph.submit import GroupedSubmit
from py_engine.host.gpu import Gpu
from py_engine.serve.engine import Engine
from py_engine.serve.sync import SyncEngine
from tests import reference
from tests.conftest import Runner

FOLDER = reference.folder("qwen2-mlx4-g64")
SECONDS = 5  # a refusal takes milliseconds, but the machine may be busy


class Broken:
    """An object whose text cannot be made."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": [value]}
    return value


NASTY: dict[str, Any] = {
    "huge int": 10**400, "huger int": 10**5000, "minus": -1, "minus huge": -(10**400), "zero": 0, "nan": math.nan,
    "inf": math.inf, "minus inf": -math.inf, "minus zero": -0.0, "half": 0.5, "tiny": 5e-324, "true": True,
    "empty": "", "word": "seven", "digits": "7", "surrogate": "\ud800", "nul": "\0", "huge str": "x" * 1_000_000,
    "bytes": b"abc", "list": [], "list of lists": [[]], "list of None": [None], "list of str": ["a", "\udfff"],
    "huge list": [0] * 100_000, "tuple": (1, 2), "set": {1}, "dict": {}, "nested": nested(500), "object": object(),
    "broken": Broken(), "class": int, "function": len, "complex": 1j, "decimal": Decimal("1.5"),
    "fraction": Fraction(1, 3), "numpy int": np.int64(3), "numpy uint8": np.uint8(3), "numpy float": np.float32(0.5),
    "numpy nan": np.float32("nan"), "numpy bool": np.bool_(True), "numpy array": np.arange(3),
    "numpy scalar array": np.array(3), "path": Path("x"), "lists of str": [["a"]], "unhashable": [{}],
}  # fmt: skip
MESSAGES = [{"role": "user", "content": "hi"}]
SAMPLING = [
    "max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "seed", "stop", "ignore_eos",
]  # fmt: skip
LOADING = [
    name
    for name, parameter in inspect.signature(Engine.load).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
]


@pytest.fixture(scope="module")
def gpu(wgpu: Gpu) -> Gpu:
    return wgpu


@pytest.fixture(scope="module")
def engine(gpu: Gpu, run: Runner) -> Iterator[Engine]:
    loaded: Engine = run(Engine.load(str(FOLDER), gpu=gpu, dtype="f32", context=64))
    yield loaded
    run(loaded.close())


def tried(run: Runner, call: Callable[[], Any]) -> Any:
    """The result, or the engine's error. Any other exception fails the test."""

    async def work() -> Any:
        made = call()
        if isinstance(made, Generation):
            made.stop()
            return await made
        return await made if inspect.isawaitable(made) else made

    began = time.monotonic()
    try:
        found = run(work())
    except EngineError as error:
        found = error
        str(error).encode()  # the text can be printed and sent
        assert len(str(error)) < 3000, "a message holds no megabyte"
    assert time.monotonic() - began < SECONDS
    return found


@pytest.mark.parametrize("value", NASTY.values(), ids=NASTY)
def test_every_sampling_option(engine: Engine, run: Runner, value: Any) -> None:
    for name in SAMPLING:
        options = {"max_tokens": 1, name: value}
        for call in (
            partial(engine.chat, MESSAGES, **options),
            partial(engine.complete, "x", **options),
            partial(engine.generate, [1], **options),
        ):
            found = tried(run, call)
            assert not isinstance(found, EngineError) or isinstance(found, InputError), name


@pytest.mark.parametrize("value", NASTY.values(), ids=NASTY)
def test_every_argument_of_the_calls(engine: Engine, run: Runner, value: Any) -> None:
    calls: dict[str, Callable[[], Any]] = {
        "chat messages": lambda: engine.chat(value, max_tokens=1),
        "chat message": lambda: engine.chat([value], max_tokens=1),
        "chat content": lambda: engine.chat([{"role": "user", "content": value}], max_tokens=1),
        "chat role": lambda: engine.chat([{"role": value, "content": "hi"}], max_tokens=1),
        "chat key": lambda: engine.chat([{"role": "user", "content": "hi", "extra": value}], max_tokens=1),
        "chat tool_calls": lambda: engine.chat(
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": value}], max_tokens=1
        ),
        "chat tools": lambda: engine.chat(MESSAGES, tools=value, max_tokens=1),
        "chat tool": lambda: engine.chat(MESSAGES, tools=[value], max_tokens=1),
        "chat tool name": lambda: engine.chat(
            MESSAGES, tools=[{"type": "function", "function": {"name": value}}], max_tokens=1
        ),
        "chat tool type": lambda: engine.chat(MESSAGES, tools=[{"type": value, "function": {"name": "f"}}]),
        "chat thinking": lambda: engine.chat(MESSAGES, enable_thinking=value, max_tokens=1),
        "complete": lambda: engine.complete(value, max_tokens=1),
        "count_tokens": lambda: engine.count_tokens(value),
        "count_tokens tools": lambda: engine.count_tokens(MESSAGES, tools=value),
        "count_tokens thinking": lambda: engine.count_tokens(MESSAGES, enable_thinking=value),
        "generate": lambda: engine.generate(value, max_tokens=1),
        "generate id": lambda: engine.generate([value], max_tokens=1),
        "generate_ids": lambda: engine.generate_ids([value], max_tokens=1),
        "generate_ids max": lambda: engine.generate_ids([1], max_tokens=value)
        if not isinstance(value, (np.integer,)) else None,
        "logits": lambda: engine.logits(value),
        "logits id": lambda: engine.logits([value]),
        "logits reuse": lambda: engine.logits([1], reuse=value),
        "save_session": lambda: engine.save_session(value),
        "restore_session": lambda: engine.restore_session(value),
        "delete_session": lambda: engine.delete_session(value),
        "can_cache_model": lambda: can_cache_model(value),
        "GroupedSubmit": lambda: GroupedSubmit(value, 1) and GroupedSubmit(1, value),
    }  # fmt: skip
    for name, call in calls.items():
        try:
            tried(run, call)
        except BaseException as error:
            raise AssertionError(f"{name}: {type(error).__name__}") from error


@pytest.mark.parametrize("name", LOADING)
def test_every_option_of_a_load(gpu: Gpu, run: Runner, name: str) -> None:
    """A bad option is refused before the folder is looked for. The folder does not exist, so a good one fails too."""
    for kind, value in NASTY.items():
        if name in ("on_progress", "on_device", "before_weights") and callable(value):
            continue  # a callback is called, and may raise anything
        found = tried(run, lambda: Engine.load("no/such folder", **{"gpu": gpu, name: value}))  # noqa: B023
        assert isinstance(found, EngineError), (name, kind)
        if name in inspect.signature(Engine.estimate).parameters:
            tried(run, lambda: Engine.estimate("no/such folder", **{"gpu": gpu, name: value}))  # noqa: B023


def test_every_kind_of_address(gpu: Gpu, run: Runner) -> None:
    for value in NASTY.values():
        if isinstance(value, str) and value.isalnum():
            continue  # it could be a folder's name
        assert isinstance(tried(run, lambda: Engine.load(value, gpu=gpu)), EngineError)  # noqa: B023
        assert isinstance(tried(run, lambda: Engine.estimate(value, gpu=gpu)), EngineError)  # noqa: B023


def test_unknown_options_are_named_with_what_is_near(engine: Engine, gpu: Gpu, run: Runner) -> None:
    for call, told in (
        (lambda: engine.chat(MESSAGES, temprature=1), "Did you mean temperature"),  # type: ignore[call-arg]
        (lambda: engine.complete("x", max_token=1), "Did you mean max_tokens"),  # type: ignore[call-arg]
        (lambda: engine.generate([1], topk=1), "Did you mean top_k"),  # type: ignore[call-arg]
        (lambda: engine.chat(MESSAGES, **{"x" * 10**6: 1}), "(1000000 in all)"),  # type: ignore[arg-type]
        (lambda: engine.count_tokens("x", enable_thinkng=True), "Did you mean enable_thinking"),  # type: ignore[call-arg]
        (lambda: Engine.load("x", gpu=gpu, contxt=5), "Did you mean context"),  # type: ignore[call-arg]
        (lambda: Engine.estimate("x", gpu=gpu, dtyp="f16"), "Did you mean dtype"),  # type: ignore[call-arg]
        (lambda: SyncEngine.estimate("x", dtyp="f16"), "Did you mean dtype"),  # type: ignore[call-arg]
        (lambda: engine.logits([1], reus=True), "Did you mean reuse"),  # type: ignore[call-arg]
    ):
        found = tried(run, call)
        assert isinstance(found, InputError) and told in str(found), found


def test_numbers_of_numpy_are_numbers(engine: Engine, run: Runner) -> None:
    plain = run(engine.generate_ids([1, 2, 3], 4, temperature=0.5, top_k=3, seed=7))
    options = {"temperature": np.float32(0.5), "top_k": np.int64(3), "seed": np.uint32(7)}
    assert run(engine.generate_ids(np.array([1, 2, 3]), np.int64(4), **options)) == plain  # type: ignore[arg-type]
    made = Sampling.make(Sampling(), options, ())
    assert type(made.top_k) is int and type(made.temperature) is float


def test_ids_that_are_none_are_named(engine: Engine, run: Runner) -> None:
    wrong: tuple[tuple[Any, str], ...] = (
        ([1, 2.0], "ids[1] is 2.0"), ([1, "2"], "ids[1] is '2'"), ([True], "ids[0] is True"), ([-1], "ids[0] is -1"),
        ([1, 10**400], "ids[1] is a whole number"), ([engine.vocab_size], f"from 0 to {engine.vocab_size - 1}"),
        ("12", "not '12'"), (5, "not 5"), (None, "not None"), ({1: 2}, "not {1: 2}"),
    )  # fmt: skip
    for ids, told in wrong:
        for call in (lambda: engine.generate(ids, max_tokens=1), lambda: engine.logits(ids)):  # noqa: B023
            found = tried(run, call)
            assert isinstance(found, InputError) and told in str(found), found


@pytest.mark.parametrize("value", NASTY.values(), ids=NASTY)
def test_the_worker_answers_whatever_comes(run: Runner, value: Any) -> None:
    """Bad values as a message, as its type, its id, one of its fields, and an option."""

    async def answered(message: Any) -> None:
        heard: list[dict[str, Any]] = []

        async def nothing() -> None: ...

        host = Host(heard.append, nothing)
        began = time.monotonic()
        host.receive(message)
        while not any(m["status"] in ("error", "result", "ready", "complete") for m in heard):
            assert time.monotonic() - began < SECONDS, message
            await asyncio.sleep(0.01)
        last = heard[-1]
        if last["status"] == "error":
            assert last["error_type"] in ("InputError", "HubError", "ModelError", "StorageError"), (
                last
            )
            assert len(last["error"]) < 3000
            last["error"].encode()

    for message in (
        value,
        {"type": value, "id": 1},
        {"type": "info", "id": value},
        {"type": "interrupt", "id": [value]},
        {"type": "generate", "id": 1, "prompt": value},
        {"type": "generate", "id": 1, "messages": value},
        {"type": "generate", "id": 1, "prompt": "x", "options": value},
        {"type": "generate", "id": 1, "prompt": "x", "options": {"temperature": value}},
        {"type": "load", "id": 1, "repo": "no/such", "options": {"context": value, "dtype": "f64"}},
        {"type": "load", "id": 1, "repo": "no/such", "options": {"proven": value, "dtype": "f64"}},
        {"type": "bench", "id": 1, "model": "random:none", "runs": value, "prompt_tokens": 0},
        {"type": "diagnose", "id": 1, "tests": ["none"], "most": value},
        {"type": "count_tokens", "id": 1, "text": value},
        {"type": "session_save", "id": 1, "name": value},
        {"type": "cache_delete", "id": 1, "model": ["x", value]},
        {"type": "cache_delete", "id": 1, "model": f"no/{'such' * 250_000}"},
        {"type": "info", "id": 1, "more": value},
    ):
        run(answered(message))
