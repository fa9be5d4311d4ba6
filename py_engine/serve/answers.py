"""Messages from the worker. serve/protocol.py says which messages answer which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from py_engine.serve.protocol import MessageId


@dataclass(frozen=True)
class Booting:
    """What the worker is doing before Python runs, in words."""

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
    """Python has ended, and this worker answers nothing any more. Sent by public/worker.mjs. `message`: why."""

    status: ClassVar[str] = "died"
    message: str


@dataclass(frozen=True)
class Log:
    """A line for debugging."""

    status: ClassVar[str] = "log"
    message: str


@dataclass(frozen=True)
class Crashed:
    """An earlier page or its process ended while the engine was working.

    `phase`: "load", "generate" or "calibrate". `model`: its address. `context`: tokens (null: not known). `group`:
    dispatches in a command buffer (null: all in one).
    """

    status: ClassVar[str] = "crashed"
    phase: str
    model: str
    context: int | None
    group: int | None


@dataclass(frozen=True)
class Calibrated:
    """This device was found to run `group` dispatches in `passes` passes in one command buffer, with the model whose
    plans have this `key`. The page stores it and sends it as `proven` with later loads."""

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
    """`loaded` of `total` bytes of weights have arrived (`total` 0: not known yet)."""

    status: ClassVar[str] = "progress"
    id: MessageId
    loaded: int
    total: int
    message: str


@dataclass(frozen=True)
class Note:
    """Something unusual about a load that goes on: damage was found and repaired, there is no room to store the model,
    another tab is waited for, the hub does not answer, this GPU computes some kernels wrongly."""

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
    """The GPU device was lost. A load or task that this interrupted goes on by itself, or ends with its own error.

    `state`, `during`, `losses` and `message` are those of DeviceEvent in serve/recovery.py. Between "lost" and
    "recovered" the model is loaded again: loading, progress and note messages come once more, with the id of its load.
    """

    status: ClassVar[str] = "device"
    state: str  # "lost", then "recovered" or "failed"
    during: str  # "load", "prefill", "decode" or "idle"
    losses: int
    message: str


@dataclass(frozen=True)
class Event:
    """News of a running task. The task chooses `status` and `body` (Task.event and Task.first); `body` is a dataclass
    or a mapping, whose keys stand beside the id."""

    id: MessageId
    status: str
    body: Any


@dataclass(frozen=True)
class Complete:
    """The answer of a task. `body` is what Task.answer makes of it; its keys stand beside the id."""

    status: ClassVar[str] = "complete"
    id: MessageId
    body: Any


@dataclass(frozen=True)
class Row:
    """A row of `diagnose`: {"phase": "device", "begin" or "end", ...}. A "begin" announces a test that may end the tab.
    The test waits for `filed`, but no longer than a second."""

    status: ClassVar[str] = "row"
    id: MessageId
    row: dict[str, Any]


@dataclass(frozen=True)
class Error:
    """A message failed. `error_type`: a class of py_engine/errors.py; `error`: its message. `id` is null when the error
    belongs to no message."""

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
