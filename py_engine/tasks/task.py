"""What a task is: one thing that models can do, such as to chat or to embed, in one file of this folder.

From the file follow the Engine's method (`engine.NAME(...)`, waiting and not), the worker's message
(`{type: "NAME", id, ...fields of the request}`) and the command line's subcommand (`jerboa NAME MODEL ...`): the folder
is looked through, nothing else is edited. A new one is written so (docs/adding-a-task.md builds one):

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
of these, `X | Y`, `| None`, Any; not named type, id or model. On the command line a Sequence of numbers is one word
with commas, and a Mapping is JSON. A frozen dataclass checks nothing: `prepare` does. Events and answers are
dataclasses (buffers in them become lists where JSON is wanted).
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
    """What is asked of a model. `W` is the Work that `Engine.ask` gives for it: its type says which events and which
    answer come."""


class Job(Generic[Event, Answer]):
    """A request that was checked, with all that one run of it needs to keep. It holds no buffer and no plan of a model:
    after the loss of the GPU device `run` gets another model.

    `status`: what the model is doing meanwhile, in Engine.info().
    """

    status: ClassVar[str] = "working"

    @property
    def phase(self) -> During:
        """What `run` is at, for whoever is told of a lost device."""
        return "prefill"

    async def run(self, loaded: Loaded, work: Work[Event, Answer]) -> Answer | None:
        """Do it: `work.emit` events, look at `work.abort` between small steps, return the answer (or None, if
        `work.finish` gave it earlier: nobody waits for what is cleaned up afterwards).

        On DeviceLostError it is called again with the model on another device: go on behind what was emitted.
        """
        raise NotImplementedError

    def stopped(self) -> Answer:
        """The answer of a work that is stopped now, before or while it runs. Raises AbortError where a part of an
        answer is of no use."""
        raise AbortError("stopped by the caller")

    def work(self, run: Any) -> Work[Event, Answer]:
        """The object that the caller gets."""
        return Work(run)


class Task(Generic[R]):
    """One thing that models can do. The docstring of the class is what method and subcommand say of it.

    `name`: of the method, the message, the subcommand; an identifier. `request`: its dataclass.
    """

    name: ClassVar[str]
    request: ClassVar[type[Request[Any]]]
    command: ClassVar[bool] = True  # False: another word of the command line does it
    uses_template: ClassVar[bool] = False  # whether a page has to fetch Jinja2 first

    def lacks(self, loaded: Loaded) -> str | None:
        """What the model has not that this takes ("a decoder"); None: it can do it."""
        raise NotImplementedError

    def prepare(self, loaded: Loaded, request: R) -> Job[Any, Any]:
        """Check all of the request. Raises InputError, before anything queues."""
        raise NotImplementedError

    def unasked(self) -> Any:
        """The answer of a work that was stopped before there was a model to prepare it. Raises AbortError."""
        raise AbortError("stopped by the caller")

    # What a page hears and a shell prints, where that is not simply the dataclass.

    def first(self, job: Job[Any, Any]) -> Iterable[Told]:  # noqa: ARG002
        """Messages that are known once it is prepared."""
        return ()

    def event(self, event: Any) -> Told:
        """The message of an event."""
        return "event", event

    def answer(self, answer: Any) -> Any:
        """What a `complete` message and `--json` hold of an answer: a dataclass or a mapping."""
        return answer

    def text(self, answer: Any) -> str | None:  # noqa: ARG002
        """What a terminal shows of an answer. None: the same as `--json`, indented."""
        return None
