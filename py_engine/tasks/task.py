"""What a task is: one thing that models can do, such as chat or embed, in one file of this folder.

From the file follow the Engine's method (`engine.NAME(...)`, waiting and not), the worker's message
(`{type: "NAME", id, ...fields of the request}`) and the command line's subcommand (`jerboa NAME MODEL ...`): the folder
is looked through, and no other file is edited. This is how a task is written (docs/adding-a-task.md builds one):

    @dataclass(frozen=True)
    class CountRequest(Request[Work[Counted, Total]]):      # what comes while it runs, what comes at its end
        texts: Annotated[Sequence[str], "the texts to count"]
        _: KW_ONLY                                          # above: words in their order; below: options by name
        upper: Annotated[bool, "count capitals only"] = False

    class Count(Task[CountRequest]):
        \"\"\"Count letters.\"\"\"                                # the help text
        name, request = "count", CountRequest

        def lacks(self, loaded): ...                        # why a model cannot do it, or None
        def prepare(self, loaded, request): ...             # -> Job; InputError at once for what is wrong

    class _Counting(Job[Counted, Total]):
        async def run(self, loaded, work): ...              # -> Total; begins again after a lost device

Fields of a request are of types that a message can carry: str, bool, int, float, Literal of str, a Sequence or Mapping
of these, `X | Y`, `| None`, Any. No field is named type, id, model or status. On the command line a Sequence of numbers
is one word with commas, and a Mapping is JSON. A dataclass checks nothing, so `prepare` does. Events and answers are
dataclasses; buffers in them become lists where JSON is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from py_engine.errors import AbortError
from py_engine.work import Answer, Event, Work

if TYPE_CHECKING:
    from py_engine.tasks.loaded import Loaded

W = TypeVar("W", bound="Work[Any, Any]")
R = TypeVar("R", bound="Request[Any]")

During = Literal["prefill", "decode"]
Told = tuple[str, Any]  # (status of a message, dataclass or mapping of its other keys)


@dataclass(frozen=True)
class Request(Generic[W]):
    """What a caller asks of a model. `W` is the Work that `Engine.ask` returns for it: its type says which events come,
    and which answer."""


class Job(Generic[Event, Answer]):
    """A request that was checked, with everything that its run must remember. It holds no buffer and no plan of a
    model: after the loss of the GPU device `run` gets another model.

    `status`: what Engine.info() says while it runs.
    """

    status: ClassVar[str] = "working"

    @property
    def phase(self) -> During:
        """What `run` is doing, for the report of a lost device."""
        return "prefill"

    async def run(self, loaded: Loaded, work: Work[Event, Answer]) -> Answer | None:
        """Do it: `work.emit` events, look at `work.abort` between small steps, return the answer. Return None if
        `work.finish` has given the answer already, so that the caller does not wait for a clean-up.

        After a DeviceLostError it is called again, with the model on another device: continue after the events that
        were emitted.
        """
        raise NotImplementedError

    def stopped(self) -> Answer:
        """The answer when the work is stopped now, before or while it runs. Raises AbortError where a part of an answer
        is of no use."""
        raise AbortError("stopped by the caller")

    def work(self, run: Any) -> Work[Event, Answer]:
        """The Work that the caller gets. It calls `run` with itself."""
        return Work(run)


class Task(Generic[R]):
    """One thing that models can do. The docstring of the class is the help of the method and the subcommand.

    `name`: the name of the method, the message and the subcommand; an identifier. `request`: its dataclass.
    """

    name: ClassVar[str]
    request: ClassVar[type[Request[Any]]]
    command: ClassVar[bool] = True  # False: it has no subcommand; `jerboa generate` does it
    uses_template: ClassVar[bool] = False  # whether it needs Jinja2, which a page must fetch first

    def lacks(self, loaded: Loaded) -> str | None:
        """What the model lacks for this task ("a decoder"); None: it can do it."""
        raise NotImplementedError

    def prepare(self, loaded: Loaded, request: R) -> Job[Any, Any]:
        """Check all of the request. Raises InputError before anything is queued."""
        raise NotImplementedError

    def unasked(self) -> Any:
        """The answer to a request that was stopped before a model could prepare it. Else raises AbortError."""
        raise AbortError("stopped by the caller")

    # What a page receives and a shell prints, where that is not simply the dataclass.

    def first(self, job: Job[Any, Any]) -> Iterable[Told]:  # noqa: ARG002
        """Messages that are sent before the run begins."""
        return ()

    def event(self, event: Any) -> Told:
        """The message for an event."""
        return "event", event

    def answer(self, answer: Any) -> Any:
        """What a `complete` message and `--json` hold: a dataclass or a mapping."""
        return answer

    def text(self, answer: Any) -> str | None:  # noqa: ARG002
        """What a terminal shows. None: the same as `--json`, indented."""
        return None
