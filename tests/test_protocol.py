"""The worker's wire format: every kind of message in both directions, and the mistakes that a page may make."""

from __future__ import annotations

import json
import typing

import pytest

from py_engine.errors import InputError
from py_engine.serve.answers import (
    Booted,
    Booting,
    Calibrated,
    Complete,
    Crashed,
    Device,
    Died,
    Error,
    Event,
    FromWorker,
    Loading,
    Log,
    Note,
    Progress,
    Ready,
    Result,
    Row,
)
from py_engine.serve.protocol import (
    NO_ID,
    Ask,
    Bench,
    CacheDelete,
    CacheList,
    CountTokens,
    Diagnose,
    Env,
    Filed,
    Files,
    Generate,
    GenerateOptions,
    Info,
    Interrupt,
    Load,
    LoadOptions,
    MemoryAdd,
    MemoryForget,
    MemoryList,
    MemoryRecall,
    SessionDelete,
    SessionList,
    SessionRestore,
    SessionSave,
    ToWorker,
    Unload,
)
from py_engine.serve.wire import as_task, given, parse, sent_id, to_wire
from py_engine.tasks import tasks
from py_engine.tasks.chat import ChatRequest
from py_engine.tasks.complete import CompleteRequest
from py_engine.tasks.text import DroppedEvent, TextAnswer, TokenEvent

TO_WORKER: list[ToWorker] = [
    Load(1, "org/name@main", LoadOptions(dtype="f16", context=512, group=40, passes=2)),
    Generate("a", messages=[{"role": "user", "content": "hi"}]),
    Generate(2, prompt="once", options=GenerateOptions(temperature=0.5, top_k=3, stop=["\n"])),
    Generate(3, messages=[], options=GenerateOptions(enable_thinking=True, tools=[{"name": "f"}])),
    Load(4, "org/name", LoadOptions(proven={"0123abcd": {"group": 32, "passes": 1}})),
    Ask(
        20, "chat", ChatRequest([{"role": "user", "content": "hi"}], tools=[{"name": "f"}], top_k=3)
    ),
    Ask("b", "complete", CompleteRequest("once", stop="\n", max_tokens=2)),
    Ask(21, "complete", CompleteRequest(ids=[1, 2], ignore_eos=True)),
    Load(NO_ID, "org/name"),
    Generate(NO_ID, prompt="once", options=GenerateOptions(max_tokens=3)),
    Interrupt(NO_ID),
    Interrupt(2),
    Unload(3),
    CountTokens(4, text="hi"),
    CountTokens(5, messages=[]),
    Info(6),
    Files(7, "folder", []),
    Files(17, "folder", [], ["1_Pooling/config.json"]),
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
    MemoryAdd(30, "notes", files="picked", model="embedder"),
    MemoryAdd(31, text="a text", name="a.md"),
    MemoryRecall(32, "what?", "notes", 512, 4, 0.25, False, chat="chat", reranker="judge"),
    MemoryList(33),
    MemoryList(34, "notes"),
    MemoryForget(35, "notes", ["1f"]),
    MemoryForget(36, source="a.md"),
]
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
FROM_WORKER: list[FromWorker] = [
    Event(5, "dropped", DroppedEvent([1, 2], 40)),
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
    Event(2, "token", TokenEvent("hé", 30.5, 4)),
    Event(2, "token", TokenEvent("", 30.5, 4, "hm", [CALL])),
    Complete(2, TextAnswer("hé", 4, 30.5, "stop", 12, 3, 0.25)),
    Complete(2, TextAnswer("", 4, 30.5, "tool_calls", 12, 3, 0.25, "hm", 2, [CALL], ["no"])),
    Row(16, {"phase": "begin", "test": "sweep", "setting": {"length": 3}}),
    Error(None, "HostError", "no"),
    Result(3, None),
]


@pytest.mark.parametrize("message", TO_WORKER, ids=lambda m: getattr(m, "type", "task"))
def test_a_message_survives_the_wire(message: ToWorker) -> None:
    assert parse(json.loads(json.dumps(to_wire(message)))) == message


def test_every_kind_is_tried_here() -> None:
    assert {type(m) for m in TO_WORKER} == set(typing.get_args(ToWorker))
    assert {type(m) for m in FROM_WORKER} == set(typing.get_args(FromWorker))


@pytest.mark.parametrize("message", FROM_WORKER, ids=lambda m: m.status)
def test_answers_are_plain_objects_with_a_status(message: FromWorker) -> None:
    wire = to_wire(message)
    if not isinstance(message, Event):
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
        ({"type": "complete", "id": 1, "prompt": 5}, "complete.prompt must be str"),
        ({"type": "complete", "id": 1, "ids": [1, "a"]}, "complete.ids[1] must be int"),
        ({"type": "complete", "id": 1, "promt": "x"}, "'promt'"),
        ({"type": "complete", "id": 1, "stop": [5]}, "complete.stop[0] must be str"),
        ({"type": "complete", "id": 1, "stop": 5}, "complete.stop must be str or a list"),
        ({"type": "complete", "id": 1, "maxTokens": 5, "max_tokens": 5}, "twice"),
        ({"type": "chat", "id": 1}, "'messages'"),
        ({"type": "load"}, "'repo'"),
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


def test_generate_is_a_task_by_another_name() -> None:
    chat = parse({"type": "generate", "id": 1, "messages": [], "options": {"maxTokens": 4}})
    assert isinstance(chat, Generate)
    assert as_task(chat) == Ask(1, "chat", ChatRequest([], max_tokens=4))
    text = parse({"type": "generate", "id": 1, "prompt": "x", "options": {"stop": ["a"]}})
    assert isinstance(text, Generate)
    assert as_task(text) == Ask(1, "complete", CompleteRequest("x", stop=["a"]))
    with pytest.raises(InputError, match="enable_thinking"):
        as_task(Generate(1, prompt="x", options=GenerateOptions(enable_thinking=True)))


def test_without_an_id_keys_are_there_in_both_ways_of_writing() -> None:
    wire = to_wire(Complete(NO_ID, TextAnswer("Hello world!", 3, 75.0, "stop", 1, 0, 0.1)))
    assert wire["status"] == "complete" and wire["text"] == "Hello world!" and "id" not in wire
    assert wire["numTokens"] == wire["num_tokens"] == 3 and wire["finishReason"] == "stop"
    assert to_wire(Error(NO_ID, "HostError", "no")) == {
        "status": "error", "error_type": "HostError", "errorType": "HostError", "error": "no",
    }  # fmt: skip
    named = to_wire(Complete(1, TextAnswer("", 3, 75.0, "stop", 1, 0, 0.1)))
    assert "numTokens" not in named


def test_the_minimal_messages_are_read() -> None:
    load = parse({"type": "load", "repo": "Qwen/Qwen3.5-0.8B"})
    assert load == Load(NO_ID, "Qwen/Qwen3.5-0.8B")
    generate = parse({"type": "generate", "prompt": "...", "options": {}})
    assert generate == Generate(NO_ID, prompt="...")
    assert parse({"type": "interrupt"}) == Interrupt(NO_ID)


def test_tasks_and_other_messages_do_not_share_a_name() -> None:
    kinds = {kind.type for kind in typing.get_args(ToWorker) if kind is not Ask}
    assert not kinds & {*tasks()}
