"""The worker's wire format: every kind both ways, and what a page may get wrong."""

from __future__ import annotations

import json
import typing

import pytest

from py_engine.errors import InputError
from py_engine.serve.protocol import (
    Bench,
    Booted,
    Booting,
    CacheDelete,
    CacheList,
    Calibrated,
    Complete,
    CountTokens,
    Crashed,
    Device,
    Diagnose,
    Died,
    Dropped,
    Env,
    Error,
    Filed,
    Files,
    FromWorker,
    Generate,
    GenerateOptions,
    Info,
    Interrupt,
    Load,
    Loading,
    LoadOptions,
    Log,
    Note,
    Progress,
    Ready,
    Result,
    Row,
    SessionDelete,
    SessionList,
    SessionRestore,
    SessionSave,
    Token,
    ToWorker,
    Unload,
    given,
    parse,
    sent_id,
    to_wire,
)

TO_WORKER: list[ToWorker] = [
    Load(1, "org/name@main", LoadOptions(dtype="f16", context=512, group=40, passes=2)),
    Generate("a", messages=[{"role": "user", "content": "hi"}]),
    Generate(2, prompt="once", options=GenerateOptions(temperature=0.5, top_k=3, stop=["\n"])),
    Generate(3, messages=[], options=GenerateOptions(enable_thinking=True, tools=[{"name": "f"}])),
    Load(4, "org/name", LoadOptions(proven={"0123abcd": {"group": 32, "passes": 1}})),
    Interrupt(2),
    Unload(3),
    CountTokens(4, text="hi"),
    CountTokens(5, messages=[]),
    Info(6),
    Files(7, "folder", []),
    Env(8, {"HF_ENDPOINT": "http://localhost"}),
    Bench(
        9,
        "random:x",
        64,
        8,
        1,
        LoadOptions(context=128),
        profile=True,
        sampling=GenerateOptions(top_k=20),
    ),
    CacheList(10),
    Diagnose(16, ["sweep"], 2),
    Filed(16),
    CacheDelete(11),
    CacheDelete("c", "org/name@main"),
    SessionList(12),
    SessionSave(13, "one"),
    SessionRestore(14, "one"),
    SessionDelete(15, "one"),
]
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
FROM_WORKER: list[FromWorker] = [
    Dropped(5, [1, 2], 40),
    Booting("Fetching Python"),
    Booted("Pyodide 314.0.7", 500.0, True),
    Died("the stack is used up"),
    Log("a line"),
    Crashed("load", "org/name", 4096, None),
    Calibrated("0123abcd", 32, 1),
    Device("lost", "decode", 1, "unknown: driver reset"),
    Loading(1, "Fetching"),
    Note(1, "The model is not kept on this device: it is full."),
    Progress(1, 5, 10, "weights"),
    Ready(1, {"model": "x"}),
    Token(2, "hé", 30.5, 4),
    Token(2, "", 30.5, 4, "hm", [CALL]),
    Complete(2, "hé", 4, 30.5, "stop", 12, 3, 0.25),
    Complete(2, "", 4, 30.5, "tool_calls", 12, 3, 0.25, "hm", 2, [CALL], ["no"]),
    Row(16, {"phase": "begin", "test": "sweep", "setting": {"length": 3}}),
    Error(None, "HostError", "no"),
    Result(3, None),
]


@pytest.mark.parametrize("message", TO_WORKER, ids=lambda m: m.type)
def test_a_message_survives_the_wire(message: ToWorker) -> None:
    assert parse(json.loads(json.dumps(to_wire(message)))) == message


def test_every_kind_is_tried_here() -> None:
    assert {type(m) for m in TO_WORKER} == set(typing.get_args(ToWorker))
    assert {type(m) for m in FROM_WORKER} == set(typing.get_args(FromWorker))


@pytest.mark.parametrize("message", FROM_WORKER, ids=lambda m: m.status)
def test_answers_are_plain_objects_with_a_status(message: FromWorker) -> None:
    wire = to_wire(message)
    assert wire["status"] == type(message).__name__.lower()
    assert json.loads(json.dumps(wire)) == wire
    if not isinstance(message, (Booting, Booted, Died, Log, Crashed, Calibrated, Device)):
        assert "id" in wire


def test_numbers_as_javascript_sends_them() -> None:
    message = parse(
        {"type": "generate", "id": 1.0, "prompt": "x", "options": {"top_k": 5.0, "temperature": 1}}
    )
    assert isinstance(message, Generate)
    assert message.options.top_k == 5 and isinstance(message.options.top_k, int)
    assert message.options.temperature == 1.0


def test_null_counts_as_absent() -> None:
    message = parse(
        {"type": "load", "id": 1, "repo": "x", "options": {"context": None, "dtype": "f32"}}
    )
    assert isinstance(message, Load)
    assert given(message.options) == {"dtype": "f32"}


@pytest.mark.parametrize(
    "data, told",
    [
        ("load", "object"),
        (None, "object"),
        ({"id": 1}, "unknown message type None"),
        ({"type": "laod", "id": 1}, "'laod'"),
        ({"type": "load", "id": 1}, "'repo'"),
        ({"type": "load", "repo": "x"}, "'id'"),
        ({"type": "load", "id": 1, "repo": 5}, "load.repo must be str"),
        ({"type": "load", "id": True, "repo": "x"}, "load.id"),
        ({"type": "load", "id": [], "repo": "x"}, "load.id must be str or int"),
        ({"type": "load", "id": 1, "repo": "x", "revision": "y"}, "'revision'"),
        ({"type": "load", "id": 1, "repo": "x", "options": 5}, "load.options"),
        ({"type": "load", "id": 1, "repo": "x", "options": {"bits": 4}}, "'bits'"),
        ({"type": "load", "id": 1, "repo": "x", "options": {"context": 1.5}}, "context must be int"),
        ({"type": "generate", "id": 1}, "either messages or prompt"),
        ({"type": "generate", "id": 1, "prompt": "x", "messages": []}, "either messages or prompt"),
        ({"type": "generate", "id": 1, "messages": "hi"}, "must be a list"),
        ({"type": "generate", "id": 1, "messages": ["hi"]}, "messages[0] must be an object"),
        ({"type": "generate", "id": 1, "prompt": "x", "options": {"stop": "a"}}, "stop must be a list"),
        ({"type": "generate", "id": 1, "prompt": "x", "options": {"seed": "a"}}, "seed must be int"),
        ({"type": "count_tokens", "id": 1}, "either messages or text"),
        ({"type": "load", "id": "x" * 1000, "repo": "x"}, "more than 256"),
        ({"type": "load", "id": 1, "repo": 10**5000}, "bits"),
        ({"type": "load", "id": 1, "repo": "x", "y" * 10**6: 1}, "(1000000 in all)"),
        ({"type": "x" * 10**6, "id": 1}, "(1000000 in all)"),
        ({"type": 10**5000, "id": 1}, "bits"),
        ({"type": ["load"], "id": 1}, "['load']"),
        ({"type": "generate", "id": 1, "prompt": "x", "options": {"temperature": 10**400}}, "bits"),
        ({"type": "bench", "id": 1, "model": "m", "runs": 10**9}, "bench.runs"),
        ({"type": "bench", "id": 1, "model": "m", "prompt_tokens": -1}, "bench.prompt_tokens"),
        ({"type": "bench", "id": 1, "model": "m", "new_tokens": 10**400}, "bench.new_tokens"),
        ({"type": "bench", "id": 1, "model": "m", "new_tokens": float("nan")}, "bench.new_tokens"),
        ({"type": "diagnose", "id": 1, "most": 0}, "diagnose.most"),
    ],
)  # fmt: skip
def test_a_wrong_message_is_refused_by_name(data: object, told: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(data)
    assert told in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "data, told",
    [(None, None), (5, None), ({}, None), ({"id": 1.0}, 1), ({"id": 1.5}, None), ({"id": True}, None),
     ({"id": "x" * 1000}, "x" * 256), ({"id": [1]}, None), ({"id": float("nan")}, None), ({"id": 2**70}, 2**70)],
)  # fmt: skip
def test_a_refused_message_is_answered_under_its_id(data: object, told: object) -> None:
    assert sent_id(data) == told
