"""Messages from the worker; serve/protocol.py tells which answers what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from py_engine.serve.protocol import MessageId


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
class Event:
    """What a task has come to; `status` and `body` (a dataclass or an object, its keys stand beside the id) are the
    task's: Task.event and Task.first."""

    id: MessageId
    status: str
    body: Any


@dataclass(frozen=True)
class Complete:
    """The answer of a task; `body` is what Task.answer gives of it, its keys stand beside the id."""

    status: ClassVar[str] = "complete"
    id: MessageId
    body: Any


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
    | Event
    | Complete
    | Row
    | Error
    | Result
)
