"""A model in use, of any kind: what tasks get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

from py_engine.checks.self_check import Outcome
from py_engine.encode.settings import EmbedSettings
from py_engine.errors import InputError
from py_engine.generate.decoder import Decoder
from py_engine.generate.marks import Markup
from py_engine.generate.sampling import Sampling
from py_engine.graph.submit import SubmitStrategy
from py_engine.host.io import Io
from py_engine.inputs.chat_template import ChatTemplate
from py_engine.inputs.tokenizer import Tokenizer
from py_engine.inputs.window import Window
from py_engine.tasks import tasks_of
from py_engine.weights.store import StorageForm, WeightStore

T = TypeVar("T")


class Runtime(Protocol):
    """What runs a model's programs: a Decoder, or another kind. Tasks ask for the kind that they know."""

    def memory(self) -> dict[str, int]:
        """GPU bytes by kind, without the weights."""
        ...

    strategy: SubmitStrategy

    def release(self) -> None:
        """Free every buffer."""
        ...


@dataclass(eq=False)
class TextSettings:
    """What generating text takes beside a decoder and a tokenizer."""

    template: ChatTemplate
    markup: Markup
    window: Window
    sampling_defaults: Sampling
    stop_ids: tuple[int, ...]  # that the model's files name
    ignore_eos: bool = False

    @classmethod
    def of(
        cls,
        template: ChatTemplate,
        tokenizer: Tokenizer,
        context: int,
        sampling_defaults: Sampling,
        ignore_eos: bool = False,
    ) -> TextSettings:
        """Of the files of a repository, for a context of so many tokens."""
        markup = Markup.of(tokenizer, template.source)
        template.write_calls, template.think = markup.write_calls, markup.think
        return cls(
            template, markup, Window(context), sampling_defaults, tokenizer.stop_ids, ignore_eos
        )


@dataclass(eq=False)
class Loaded:
    """A model in use, with all that belongs to it."""

    name: str
    pinned: str  # the address of these very weights: with the commit of a hub's repository
    family: str
    dtype: str  # as asked
    form: StorageForm  # what became of plain matrices
    io: Io
    store: WeightStore
    runtime: Runtime
    tokenizer: Tokenizer
    generating: TextSettings | None  # of a model that generates text
    load_s: float
    peak_transient_bytes: int
    kept: bool | None  # whether the store has it for the next time; None: it came from no hub
    checked: Outcome | None  # of the self-check; None: not asked for
    takes: int  # GPU bytes at most, once the context is full: Estimate.peak_bytes
    embedding: EmbedSettings | None = None  # of a model that makes vectors of texts

    @property
    def decoder(self) -> Decoder:
        """What generates text. Raises InputError for a model of another kind."""
        return self.require(Decoder, "generate text")

    @property
    def text(self) -> TextSettings:
        """What generating text takes. Raises InputError for a model of another kind."""
        if self.generating is None:
            raise self.cannot("generate text")
        return self.generating

    def require(self, kind: type[T], to: str) -> T:
        """The runtime, if it is of this kind. Raises InputError, naming what the model can do instead of `to`."""
        if not isinstance(self.runtime, kind):
            raise self.cannot(to)
        return self.runtime

    def cannot(self, what: str) -> InputError:
        """The error for asking this model to do `what`."""
        can = ", ".join(tasks_of(self)) or "nothing that this engine knows"
        return InputError(f"{self.name} ({self.family}) cannot {what}; what it can do: {can}")

    @property
    def weights_bytes(self) -> int:
        """GPU bytes of the weights."""
        return self.store.nbytes

    def release(self) -> None:
        """Free every buffer."""
        self.runtime.release()
        self.store.release()
