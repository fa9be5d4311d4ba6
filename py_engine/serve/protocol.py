"""The worker's messages: the whole wire format between a page and the engine's worker, written once.

A message is a plain object. A message to the worker has a `type`, and an `id` that the page chose (a string or a
number). Every answer carries the same `id` and a `status`. Each class below is a kind of message to the worker; its
fields are the other keys of the object. Messages from the worker are in serve/answers.py. serve/wire.py reads and
writes them.

    load          -> loading*, progress*, note*, then ready | error. The previous model is unloaded once everything but
                     the weights of the new one was found right. A load that fails or ends earlier leaves it in use
    TASK          -> events*, then complete | error. The type is the name of a task (chat, complete, ...); the fields
                     of its request stand beside type and id. Tasks are queued, first come first served
    generate      -> as chat with `messages`, as complete with a `prompt`; their other fields stand in `options`
    interrupt     -> no answer of its own. The load, task, bench, diagnose or memory_add with that id ends, also one
                     that waits:
                     text with complete and finish_reason "abort", the others with error AbortError
    diagnose      -> row*, then result | error
    memory_add    -> row*, then result | error
    count_tokens, info, unload, files, env, bench, cache_list, cache_delete, session_list, session_save,
    session_restore, session_delete, memory_recall, memory_list, memory_forget -> result | error

Chat and complete answer with dropped?, token* and complete (tasks/text.py).

Every message is answered. The answer is an error (InputError), under the message's id where it has one, to something
that is no message, to an id that is still being answered, and to a field that is unknown or of the wrong type.

A page that asks one thing at a time may leave `id` out. Then the answers have no id either, and their keys come in
camel case too (numTokens beside num_tokens). Such messages are answered one after another, and an interrupt without id
ends all that are not answered yet. Keys of options may be in camel case in any message.

The worker says some things unasked: booting*, then booted, or error with id null when it cannot start; then crashed, if
an earlier run ended in the middle of its work and the page has named this run. Messages calibrated, device and log may
come at any time. When Python itself ends (its stack or memory is used up), died comes, and no answer after it: the page
starts another worker. With `env` the page sets JERBOA_RUN (its name for this run), JERBOA_LEFT (runs that it closed
itself, separated by commas), JERBOA_UNSEEN (runs that were hidden when it last saw them) and JERBOA_HIDDEN ("1" while
the page is hidden).
public/worker.mjs handles `files` and `env` itself, since File objects live in JavaScript.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

from py_engine.tasks.task import Request


class NoId(Enum):
    """Stands for an id that was left out."""

    NO_ID = "no id"


NO_ID = NoId.NO_ID
MessageId = str | int | NoId


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded. Absent keys take the engine's defaults."""

    dtype: str | None = None  # "auto", "f32", "f16", "q8" or "q4"
    kv: str | None = None  # the KV cache: "auto", "f32", "f16" or "q8"
    vision: str | None = None  # the tower for pictures: "auto", "lazy" or "off"
    context: int | None = None  # tokens
    memory_budget: int | None = None  # the most GPU bytes; absent: 1.2 GB on phones and tablets
    group: int | None = None  # dispatches in a command buffer; absent: all in one
    # true: measure the forms of kernels on this device; absent: use what was measured before; false: do not.
    tune: bool | None = None
    self_check: bool | None = None  # absent: on all but software adapters
    # true: unload idle models where this one would not fit beside them.
    make_room: bool | None = None
    # Compute passes in a command buffer. Without `group`, each pass holds one dispatch.
    passes: int | None = None
    proven: dict[str, Any] | None = None  # from Calibrated messages: {key: {"group", "passes"}}


@dataclass(frozen=True)
class GenerateOptions:
    """How an answer is sampled. Absent keys take the model's generation_config, then the engine's defaults."""

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
    # For chats only, like `tools`; absent: the template chooses.
    enable_thinking: bool | None = None
    tools: list[dict[str, Any]] | None = None  # {"type": "function", "function": {...}} each


@dataclass(frozen=True)
class Load:
    """Load a model: a hub id with optional "@revision", "files:NAME" of an earlier `files`, or "random:PRESET". It
    replaces the model of the same name; models of other names stay."""

    type: ClassVar[str] = "load"
    id: MessageId
    repo: str
    options: LoadOptions = field(default_factory=LoadOptions)
    # The name by which other messages call it; absent: the one model of a page.
    model: str | None = None


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
    """Free the model. Result: null."""

    type: ClassVar[str] = "unload"
    id: MessageId
    model: str | None = None  # which one, by the name of its load; absent: the one model


@dataclass(frozen=True)
class CountTokens:
    """Count the tokens of a chat as the template lays it out, or of a text. Result: a number. `tools` and
    `enable_thinking` as in the options of generate."""

    type: ClassVar[str] = "count_tokens"
    id: MessageId
    messages: list[dict[str, Any]] | None = None
    text: str | None = None
    tools: list[dict[str, Any]] | None = None
    enable_thinking: bool | None = None
    model: str | None = None  # which one, by the name of its load; absent: the one model


@dataclass(frozen=True)
class Info:
    """What a model says of itself. Result: the object of `ready`, or null when there is no such model. Where models are
    loaded by names, it also has `models`, [{name, model, status, most_bytes}]."""

    type: ClassVar[str] = "info"
    id: MessageId
    model: str | None = None  # which one, by the name of its load; absent: the one model


@dataclass(frozen=True)
class Files:
    """A folder that was picked or dropped, as File objects. `paths`: where each is in the folder ("config.json",
    "1_Pooling/config.json"); absent: all at its top. Afterwards "files:NAME" can be loaded. Result: the number of
    files."""

    type: ClassVar[str] = "files"
    id: MessageId
    name: str
    files: list[Any]
    paths: list[str] | None = None


@dataclass(frozen=True)
class Env:
    """Settings such as HF_ENDPOINT or HF_TOKEN, strings; an empty string removes one. Result: null."""

    type: ClassVar[str] = "env"
    id: MessageId
    values: dict[str, Any]


@dataclass(frozen=True)
class CacheList:
    """List the models that are stored on this device. Result: {kind, nbytes, models: [{model, commit, refs, nbytes,
    complete, used}]} (kept/inventory.py)."""

    type: ClassVar[str] = "cache_list"
    id: MessageId


@dataclass(frozen=True)
class CacheDelete:
    """Delete `model` ("org/name" or "org/name@revision") from this device; absent: all. Result: {nbytes, models,
    busy}: bytes that were freed, models that were deleted, models that stayed since they are being loaded."""

    type: ClassVar[str] = "cache_delete"
    id: MessageId
    model: str | None = None


@dataclass(frozen=True)
class SessionList:
    """List the sessions saved on this device. Result: [{name, model, tokens, nbytes, saved_at}], the newest first."""

    type: ClassVar[str] = "session_list"
    id: MessageId


@dataclass(frozen=True)
class SessionSave:
    """Save what the model has seen, replacing an older session of that name. Result: an entry of the list."""

    type: ClassVar[str] = "session_save"
    id: MessageId
    name: str
    model: str | None = None  # which one, by the name of its load; absent: the one model


@dataclass(frozen=True)
class SessionRestore:
    """Bring a session back into the model that it was saved from. Result: an entry of the list."""

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
class MemoryAdd:
    """Add to a namespace: a `text` under a `name`, or all files of an earlier `files` message, by its name. Documents
    (Markdown, HTML, PDF, program text) are split. Rows {source, unit, done, total, stored} tell how far it is. Result:
    {added: [{source, pieces, notes}], failed: [{source, type, message}]}."""

    type: ClassVar[str] = "memory_add"
    id: MessageId
    namespace: str = "default"
    text: str | None = None
    name: str | None = None
    files: str | None = None
    model: str | None = None  # the embedder, by the name of its load; absent: the one model


@dataclass(frozen=True)
class MemoryRecall:
    """Find what a namespace says about a query (Memory.recall). Result: {context, items, tokens}."""

    type: ClassVar[str] = "memory_recall"
    id: MessageId
    query: str
    namespace: str = "default"
    token_budget: int = 1024
    top_k: int = 8
    min_score: float | None = None
    hybrid: bool = True
    chat: str | None = (
        None  # the model that counts tokens, by the name of its load; absent: the embedder
    )
    reranker: str | None = None  # a model that does `rerank`, by the name of its load
    model: str | None = None  # the embedder, by the name of its load; absent: the one model


@dataclass(frozen=True)
class MemoryList:
    """List the namespaces on this device: [{namespace, model, dimensions, nbytes}]; or the sources of one: [{source,
    pieces, characters, added}]. No model is needed."""

    type: ClassVar[str] = "memory_list"
    id: MessageId
    namespace: str | None = None


@dataclass(frozen=True)
class MemoryForget:
    """Forget pieces of a namespace by `ids`, all of a `source`, or with `all` the namespace itself. Result: how many
    pieces there were. No model is needed."""

    type: ClassVar[str] = "memory_forget"
    id: MessageId
    namespace: str = "default"
    ids: list[str] | None = None
    source: str | None = None
    all: bool = False


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
    load: bool = False  # measure instead how long its stored weights take to load (diagnostics/load_bench.py)
    sampling: GenerateOptions = field(default_factory=GenerateOptions)  # absent: greedy


@dataclass(frozen=True)
class Diagnose:
    """Test how this device runs dispatches (py_engine/diagnostics/dispatch_tests.py). No model is needed. Rows come as
    they are measured. Result: {"points", "wrong", "skipped"}."""

    type: ClassVar[str] = "diagnose"
    id: MessageId
    tests: list[str] | None = None  # absent: all
    most: int | None = None  # points of each test; absent: all


@dataclass(frozen=True)
class Filed:
    """The page has stored the last "begin" row of this diagnose where it outlives the tab: the test may start."""

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
    | MemoryAdd
    | MemoryRecall
    | MemoryList
    | MemoryForget
)
