"""The worker's messages: the whole wire format between a page and the engine's worker, written once.

A message is a plain object. To the worker it has a `type` and an `id` that the page chose (a string or a number); every
answer carries the same `id` and a `status`. A class below is a kind of message, its fields are the object's other keys.

    load          -> loading*, progress*, note*, then ready | error. The model before is unloaded when all but the
                     weights of the new one was found right: a load that fails or ends earlier leaves it in use
    generate      -> dropped?, token*, then complete | error         (queued, first come first served)
    interrupt     -> no answer of its own: the load, generate, bench or diagnose with that id ends, wherever it
                     waits: a generate with complete and finish_reason "abort", the others with error AbortError
    diagnose      -> row*, then result | error
    count_tokens, info, unload, files, env, bench, cache_list, cache_delete, session_list, session_save,
    session_restore, session_delete -> result | error

Every message is answered: what is none, what has an id that is still being answered, and a field that is unknown
or of the wrong type with an error (InputError), under the message's id where it has one.

Without being asked the worker says booting*, then booted (or error with id null, when it cannot start), then crashed,
if an earlier run ended in the middle of something, to a page that has named this one; calibrated, device and log may
come at any time. When Python itself ends (its stack or its memory is used up) it says died, and answers nothing any
more: a page starts another worker. By `env` the page tells JERBOA_RUN (its name for this run), JERBOA_LEFT (runs that
it closed itself, with commas between), JERBOA_UNSEEN (those that it last saw hidden) and JERBOA_HIDDEN ("1" while it
is).
`files` and `env` are kept by public/worker.mjs itself, where File objects are at home.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, ClassVar

from py_engine.arguments import real, shown, whole
from py_engine.errors import InputError

MessageId = str | int
MAX_ID = 256  # characters
MAX_BENCH = 1_000_000  # tokens of a bench's prompt or answer
MAX_RUNS = 1000


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


# ---- to the worker ---------------------------------------------------------------------------------------------------


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
class Interrupt:
    """End the load, generate, bench or diagnose of this id."""

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
_KINDS: dict[str, type[ToWorker]] = {kind.type: kind for kind in typing.get_args(ToWorker)}


# ---- from the worker -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Booting:
    """What the worker is at before Python runs, in words."""

    status: ClassVar[str] = "booting"
    message: str


@dataclass(frozen=True)
class Booted:
    """Python runs: which runtime, after how long, and whether it came from a memory snapshot."""

    status: ClassVar[str] = "booted"
    runtime: str
    boot_ms: float
    snapshot: bool


@dataclass(frozen=True)
class Died:
    """Python has ended and this worker answers nothing any more; public/worker.mjs says it. `message`: why."""

    status: ClassVar[str] = "died"
    message: str


@dataclass(frozen=True)
class Log:
    """A line for whoever looks for a fault."""

    status: ClassVar[str] = "log"
    message: str


@dataclass(frozen=True)
class Crashed:
    """The page or its process ended while the engine was at work: `phase` is "load", "generate" or "calibrate", `model`
    which one, `context` its tokens (null: not known), `group` dispatches a command buffer (null: all in one)."""

    status: ClassVar[str] = "crashed"
    phase: str
    model: str
    context: int | None
    group: int | None


@dataclass(frozen=True)
class Calibrated:
    """This device was found to take `group` dispatches in `passes` passes in one command buffer, with the model whose
    plans have this `key`. The page keeps it and gives it back as the `proven` of later loads."""

    status: ClassVar[str] = "calibrated"
    key: str
    group: int
    passes: int


@dataclass(frozen=True)
class Loading:
    """A load has entered a new phase."""

    status: ClassVar[str] = "loading"
    id: MessageId
    message: str


@dataclass(frozen=True)
class Progress:
    """Bytes of weights that have come, of how many (0: not known yet)."""

    status: ClassVar[str] = "progress"
    id: MessageId
    loaded: int
    total: int
    message: str


@dataclass(frozen=True)
class Note:
    """Something out of the ordinary about a load that goes on: damage that was found and repaired, no room to keep the
    model, another tab that is waited for, a hub that does not answer, kernels that this GPU computes wrongly."""

    status: ClassVar[str] = "note"
    id: MessageId
    message: str


@dataclass(frozen=True)
class Ready:
    """The model answers from now on; `info` is Engine.info()."""

    status: ClassVar[str] = "ready"
    id: MessageId
    info: dict[str, Any]


@dataclass(frozen=True)
class Device:
    """The GPU device was lost; a load or generate that it interrupted goes on by itself, or ends with its own error.

    `state`, `during`, `losses` and `message` are those of DeviceEvent in serve/recovery.py. Between "lost" and
    "recovered" the model is loaded again: loading, progress and note come once more, with the id of its load.
    """

    status: ClassVar[str] = "device"
    state: str  # "lost", then "recovered" or "failed"
    during: str  # "load", "prefill", "decode" or "idle"
    losses: int
    message: str


@dataclass(frozen=True)
class Dropped:
    """The chat does not fit the context: the model does not see these messages (places in those of the generate), which
    took so many tokens. Once, before the first token, for every answer that leaves some out."""

    status: ClassVar[str] = "dropped"
    id: MessageId
    messages: list[int]
    tokens: int


@dataclass(frozen=True)
class Token:
    """New text (never half a character); `num_tokens` generated so far, `tps` tokens per second since the first.

    What the model thinks comes as `reasoning`, before all text; a tool call comes whole, as OpenAI's API has it.
    """

    status: ClassVar[str] = "token"
    id: MessageId
    text: str
    tps: float
    num_tokens: int
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Complete:
    """The whole answer. `finish_reason`: "stop", "length", "tool_calls" or "abort".

    `text` is the answer itself, `reasoning` what was thought before it. `tool_calls`: {"id", "type": "function",
    "function": {"name", "arguments": JSON text}}; `tool_call_errors`: why others stayed text, and what schemas forbid.
    """

    status: ClassVar[str] = "complete"
    id: MessageId
    text: str
    num_tokens: int
    tps: float
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    ttft_s: float
    reasoning: str = ""
    reasoning_tokens: int = 0
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    tool_call_errors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """What `diagnose` has come to: {"phase": "device", "begin" or "end", ...}. A "begin" comes before what may end the
    tab is tried, which waits for `filed`, a second at most."""

    status: ClassVar[str] = "row"
    id: MessageId
    row: dict[str, Any]


@dataclass(frozen=True)
class Error:
    """It failed: the class of py_engine/errors.py and its message. `id` is null when no message can be blamed."""

    status: ClassVar[str] = "error"
    id: MessageId | None
    error_type: str
    error: str


@dataclass(frozen=True)
class Result:
    """The answer to a question."""

    status: ClassVar[str] = "result"
    id: MessageId
    value: Any


FromWorker = (
    Booting
    | Booted
    | Died
    | Log
    | Crashed
    | Calibrated
    | Device
    | Loading
    | Progress
    | Note
    | Ready
    | Dropped
    | Token
    | Complete
    | Row
    | Error
    | Result
)


# ---- both ways -------------------------------------------------------------------------------------------------------


def to_wire(message: ToWorker | FromWorker) -> dict[str, Any]:
    """The plain object of a message."""
    if isinstance(message, ToWorker):
        return {"type": message.type, **asdict(message)}
    return {"status": message.status, **asdict(message)}


def parse(data: Any) -> ToWorker:
    """The message of an object that a page sent. Keys whose value is null count as absent.

    Raises InputError naming the field that is missing, unknown or of the wrong type.
    """
    if not isinstance(data, Mapping):
        raise InputError(f"a message is an object with type and id, not {shown(data)}")
    name = data.get("type")
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise InputError(
            f"unknown message type {shown(name)}: known are {', '.join(sorted(_KINDS))}"
        )
    message = _build(kind, {k: v for k, v in data.items() if k != "type"}, kind.type)
    if isinstance(message.id, str) and len(message.id) > MAX_ID:
        raise InputError(f"{kind.type}.id has {len(message.id)} characters, more than {MAX_ID}")
    if isinstance(message, Generate) and (message.messages is None) == (message.prompt is None):
        raise InputError("generate wants either messages or prompt")
    if isinstance(message, CountTokens) and (message.messages is None) == (message.text is None):
        raise InputError("count_tokens wants either messages or text")
    if isinstance(message, Bench):
        whole("bench.prompt_tokens", message.prompt_tokens, 1, MAX_BENCH)
        whole("bench.new_tokens", message.new_tokens, 1, MAX_BENCH)
        whole("bench.runs", message.runs, 1, MAX_RUNS)
    if isinstance(message, Diagnose) and message.most is not None:
        whole("diagnose.most", message.most, 1, MAX_BENCH)
    return typing.cast(ToWorker, message)


def sent_id(data: Any) -> MessageId | None:
    """The id to answer a message under that is refused; a long one is cut, and what is none is None."""
    value = data.get("id") if isinstance(data, Mapping) else None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    return value[:MAX_ID] if isinstance(value, str) else value


def given(options: LoadOptions | GenerateOptions) -> dict[str, Any]:
    """The options that were set, as keyword arguments."""
    return {k: v for k, v in vars(options).items() if v is not None}


def _build(kind: type[Any], data: Mapping[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}
    values = {}
    for key, value in data.items():
        if key not in known:
            raise InputError(f"{where} has no field {shown(key)}: known are {', '.join(known)}")
        if value is not None:
            values[key] = _checked(hints[key], value, f"{where}.{key}")
    for name, f in known.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise InputError(f"{where} needs the field {name!r}")
    return kind(**values)


def _checked(hint: Any, value: Any, where: str) -> Any:
    """`value` if it is of the annotated type; objects of options become their class, lists are looked into."""
    if hint is Any:
        return value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        choices = [a for a in args if a is not type(None)]
        if len(choices) == 1:
            return _checked(choices[0], value, where)
        for choice in choices:
            try:
                return _checked(choice, value, where)
            except InputError:
                continue
        names = " or ".join(c.__name__ for c in choices)
        raise InputError(f"{where} must be {names}, not {shown(value)}")
    if hint in (LoadOptions, GenerateOptions):
        if not isinstance(value, Mapping):
            raise InputError(f"{where} must be an object, not {shown(value)}")
        return _build(hint, value, where)
    if origin is list:
        if not isinstance(value, list):
            raise InputError(f"{where} must be a list, not {shown(value)}")
        return [_checked(args[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{where} must be an object, not {shown(value)}")
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return real(where, value, -1e300, 1e300)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)  # JavaScript has one kind of number
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InputError(f"{where} must be {hint.__name__}, not {shown(value)}")
    return value
