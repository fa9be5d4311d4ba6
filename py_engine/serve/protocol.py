"""The worker's messages: the whole wire format between a page and the engine's worker, written once.

A message is a plain object. To the worker it has a `type` and an `id` that the page chose (a string or a number); every
answer carries the same `id` and a `status`. A class below is a kind of message to the worker, its fields are the
object's other keys; those from the worker are in serve/answers.py. serve/wire.py reads and writes them.

    load          -> loading*, progress*, note*, then ready | error. The model before is unloaded when all but the
                     weights of the new one was found right: a load that fails or ends earlier leaves it in use
    TASK          -> events*, then complete | error: the name of a file in tasks/ (chat, complete, ...) with the fields
                     of its request beside type and id; queued, first come first served
    generate      -> as chat with `messages`, as complete with a `prompt`; their other fields stand in `options`
    interrupt     -> no answer of its own: the load, task, bench or diagnose with that id ends, wherever it
                     waits: text with complete and finish_reason "abort", the others with error AbortError
    diagnose      -> row*, then result | error
    count_tokens, info, unload, files, env, bench, cache_list, cache_delete, session_list, session_save,
    session_restore, session_delete -> result | error

Chat and complete tell dropped?, token* and complete as tasks/text.py has them.

Every message is answered: what is none, what has an id that is still being answered, and a field that is unknown
or of the wrong type with an error (InputError), under the message's id where it has one.

A page that asks one thing at a time may leave `id` out: then the answers have none, their keys are there in camel case
too (numTokens beside num_tokens), such messages are answered one after another, and an interrupt without id ends all
of them that are not answered yet. Keys of options may be in camel case in any message.

Without being asked the worker says booting*, then booted (or error with id null, when it cannot start), then crashed,
if an earlier run ended in the middle of something, to a page that has named this one; calibrated, device and log may
come at any time. When Python itself ends (its stack or its memory is used up) it says died, and answers nothing any
more: a page starts another worker. By `env` the page tells JERBOA_RUN (its name for this run), JERBOA_LEFT (runs that
it closed itself, with commas between), JERBOA_UNSEEN (those that it last saw hidden) and JERBOA_HIDDEN ("1" while it
is).
`files` and `env` are kept by public/worker.mjs itself, where File objects are at home.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

from py_engine.tasks.task import Request


class NoId(Enum):
    """In the place of an id that was left out."""

    NO_ID = "no id"


NO_ID = NoId.NO_ID
MessageId = str | int | NoId


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded; absent keys take the engine's defaults."""

    dtype: str | None = None  # "auto", "f32", "f16", "q8" or "q4"
    context: int | None = None  # tokens
    memory_budget: int | None = None  # GPU bytes at most; absent: on phones and tablets 1.2 GB
    group: int | None = None  # dispatches a command buffer; absent: everything in one
    tune: bool | None = (
        None  # true: measure kernels' forms on this device; false: nor use what was measured
    )
    self_check: bool | None = None  # absent: on all but software adapters
    make_room: bool | None = (
        None  # true: unload idle models where this one would not fit beside them
    )
    passes: int | None = None  # compute passes a command buffer; without `group` a dispatch each
    proven: dict[str, Any] | None = None  # of Calibrated messages: {key: {"group", "passes"}}


@dataclass(frozen=True)
class GenerateOptions:
    """How an answer is sampled; absent keys take the model's generation_config, then the engine's defaults."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: list[str] | None = None
    enable_thinking: bool | None = None  # absent: the template's own choice; of a chat, as `tools`
    tools: list[dict[str, Any]] | None = None  # {"type": "function", "function": {...}} each


@dataclass(frozen=True)
class Load:
    """Load a model: a hub id with optional "@revision", "files:NAME" of an earlier `files`, or "random:PRESET". It
    takes the place of the model with the same name, and stays beside those with others."""

    type: ClassVar[str] = "load"
    id: MessageId
    repo: str
    options: LoadOptions = field(default_factory=LoadOptions)
    model: str | None = (
        None  # the name that other messages call it by; absent: the one model of a page
    )


@dataclass(frozen=True)
class Generate:
    """Answer a chat (`messages`: objects with role and content) or continue a `prompt`; exactly one of them."""

    type: ClassVar[str] = "generate"
    id: MessageId
    messages: list[dict[str, Any]] | None = None
    prompt: str | None = None
    options: GenerateOptions = field(default_factory=GenerateOptions)
    model: str | None = None  # which one, by the name of its load; absent: the one model


@dataclass(frozen=True)
class Ask:
    """A task's message: `type` is the task's name, the other keys are the fields of its request."""

    id: MessageId
    task: str
    request: Request[Any]
    model: str | None = None  # which one, by the name of its load; absent: the one model


@dataclass(frozen=True)
class Interrupt:
    """End the load, task, bench or diagnose of this id."""

    type: ClassVar[str] = "interrupt"
    id: MessageId


@dataclass(frozen=True)
class Unload:
    """Free the model; result: null."""

    type: ClassVar[str] = "unload"
    id: MessageId
    model: str | None = None  # which one, by the name of its load; absent: the one model


@dataclass(frozen=True)
class CountTokens:
    """Tokens of a chat as its template lays it out, or of a text; result: a number. `tools` and `enable_thinking` as in
    the options of generate."""

    type: ClassVar[str] = "count_tokens"
    id: MessageId
    messages: list[dict[str, Any]] | None = None
    text: str | None = None
    tools: list[dict[str, Any]] | None = None
    enable_thinking: bool | None = None
    model: str | None = None  # which one, by the name of its load; absent: the one model


@dataclass(frozen=True)
class Info:
    """Result: the object of `ready`, or null when there is no such model; with `models`, [{name, model, status,
    most_bytes}], where any is loaded by a name."""

    type: ClassVar[str] = "info"
    id: MessageId
    model: str | None = None  # which one, by the name of its load; absent: the one model


@dataclass(frozen=True)
class Files:
    """A folder that was picked or dropped, as File objects; afterwards "files:NAME" can be loaded. Result: how many."""

    type: ClassVar[str] = "files"
    id: MessageId
    name: str
    files: list[Any]


@dataclass(frozen=True)
class Env:
    """Settings such as HF_ENDPOINT or HF_TOKEN, strings; an empty string removes one. Result: null."""

    type: ClassVar[str] = "env"
    id: MessageId
    values: dict[str, Any]


@dataclass(frozen=True)
class CacheList:
    """Which models are kept on this device. Result: {kind, nbytes, models: [{model, commit, refs, nbytes, complete,
    used}]} (kept/inventory.py)."""

    type: ClassVar[str] = "cache_list"
    id: MessageId


@dataclass(frozen=True)
class CacheDelete:
    """Delete `model` ("org/name" or "org/name@revision") from this device; absent: all. Result: {nbytes, models,
    busy}: bytes given back, what is gone, what is being loaded and stayed."""

    type: ClassVar[str] = "cache_delete"
    id: MessageId
    model: str | None = None


@dataclass(frozen=True)
class SessionList:
    """The sessions saved on this device. Result: [{name, model, tokens, nbytes, saved_at}], the newest first."""

    type: ClassVar[str] = "session_list"
    id: MessageId


@dataclass(frozen=True)
class SessionSave:
    """Keep what the model has seen, in the place of an older session of that name. Result: as one of the list."""

    type: ClassVar[str] = "session_save"
    id: MessageId
    name: str
    model: str | None = None  # which one, by the name of its load; absent: the one model


@dataclass(frozen=True)
class SessionRestore:
    """Bring a session back into the model that it was saved from. Result: as one of the list."""

    type: ClassVar[str] = "session_restore"
    id: MessageId
    name: str
    model: str | None = None  # which one, by the name of its load; absent: the one model


@dataclass(frozen=True)
class SessionDelete:
    """Remove a session, if there is one. Result: null."""

    type: ClassVar[str] = "session_delete"
    id: MessageId
    name: str


@dataclass(frozen=True)
class Bench:
    """Load a model and measure it. Result: the object that `jerboa bench --json` prints."""

    type: ClassVar[str] = "bench"
    id: MessageId
    model: str
    prompt_tokens: int = 512
    new_tokens: int = 128
    runs: int = 3
    options: LoadOptions = field(default_factory=LoadOptions)
    probe: bool = False  # also the device's memory bandwidth
    profile: bool = False  # also the time of each kernel
    load: bool = False  # instead: how long its kept weights take to load (py_engine/diagnostics/load_bench.py)
    sampling: GenerateOptions = field(default_factory=GenerateOptions)  # absent: greedy


@dataclass(frozen=True)
class Diagnose:
    """Test how this device runs dispatches (py_engine/diagnostics/dispatch_tests.py); no model is wanted. Rows come as
    they are found; result: {"points", "wrong", "skipped"}."""

    type: ClassVar[str] = "diagnose"
    id: MessageId
    tests: list[str] | None = None  # absent: all
    most: int | None = None  # points of each test; absent: all


@dataclass(frozen=True)
class Filed:
    """The last "begin" row of this diagnose is kept where it outlives the tab: what it announces may be tried."""

    type: ClassVar[str] = "filed"
    id: MessageId


ToWorker = (
    Load
    | Generate
    | Ask
    | Interrupt
    | Unload
    | CountTokens
    | Info
    | Files
    | Env
    | Bench
    | Diagnose
    | Filed
    | CacheList
    | CacheDelete
    | SessionList
    | SessionSave
    | SessionRestore
    | SessionDelete
)
