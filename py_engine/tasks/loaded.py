"""A loaded model of any kind, as tasks get it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from py_engine.blocks.kv_cache import KvDtype
from py_engine.checks.self_check import Outcome
from py_engine.encode.reranking import Judge
from py_engine.encode.settings import EmbedSettings
from py_engine.encode.vision import Vision
from py_engine.errors import InputError
from py_engine.generate.decoder import Decoder
from py_engine.generate.marks import Markup
from py_engine.generate.runtime import Runtime
from py_engine.generate.sampling import Sampling
from py_engine.host.io import Io
from py_engine.inputs.chat_template import ChatTemplate
from py_engine.inputs.tokenizer import Tokenizer
from py_engine.inputs.window import Window
from py_engine.pictures.reader import PictureReader
from py_engine.tasks import tasks_of
from py_engine.weights.formats import StorageForm
from py_engine.weights.store import WeightStore

T = TypeVar("T")


@dataclass(eq=False)
class TextSettings:
    """What a model needs to generate text, beside a decoder and a tokenizer."""

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
        """From the files of a repository, for a context of so many tokens."""
        markup = Markup.of(tokenizer, template.source)
        template.write_calls, template.think = markup.write_calls, markup.think
        return cls(
            template, markup, Window(context), sampling_defaults, tokenizer.stop_ids, ignore_eos
        )


@dataclass(eq=False)
class Loaded:
    """A loaded model with everything that belongs to it."""

    name: str
    pinned: str  # the address of exactly these weights: with the commit, for a repository on a hub
    family: str
    dtype: str  # as the caller gave it
    form: StorageForm  # the form that plain matrices got
    kv_dtype: KvDtype  # of the KV cache, before the self-check
    io: Io
    store: WeightStore
    runtime: Runtime
    tokenizer: Tokenizer
    generating: TextSettings | None  # None: the model does not generate text
    load_s: float
    peak_transient_bytes: int
    kept: (
        bool | None
    )  # whether it is stored on this device for the next load; None: it came from no hub
    checked: Outcome | None  # result of the self-check; None: there was none
    takes: int  # the most GPU bytes, when the context is full: Estimate.peak_bytes
    embedding: EmbedSettings | None = None  # None: the model does not make vectors of texts
    vision: Vision | None = None  # None: the model does not see pictures
    reader: PictureReader | None = (
        None  # prepares pictures for `vision`; None: `unprepared` says why
    )
    unprepared: str = ""

    @property
    def decoder(self) -> Decoder:
        """The decoder. Raises InputError for a model that does not generate text."""
        return self.require(Decoder, "generate text")

    @property
    def text(self) -> TextSettings:
        """The settings for text. Raises InputError for a model that does not generate text."""
        if self.generating is None:
            raise self.cannot("generate text")
        return self.generating

    def require(self, kind: type[T], to: str) -> T:
        """The runtime, if it is of this kind. Else raises InputError: the model cannot do `to`, but these tasks."""
        if not isinstance(self.runtime, kind):
            raise self.cannot(to)
        return self.runtime

    def cannot(self, what: str) -> InputError:
        """The error for a model that is asked to do `what`. It names the tasks that the model can do."""
        can = ", ".join(tasks_of(self)) or "nothing that this engine knows"
        return InputError(f"{self.name} ({self.family}) cannot {what}; what it can do: {can}")

    @cached_property
    def judge(self) -> Judge | None:
        """How a decoder is asked to judge documents; None: it cannot be."""
        return Judge.of(self.tokenizer) if isinstance(self.runtime, Decoder) else None

    @property
    def weights_bytes(self) -> int:
        """GPU bytes of the weights."""
        return self.store.nbytes

    def release(self) -> None:
        """Free every buffer."""
        if self.vision is not None:
            self.vision.release()
        self.runtime.release()
        self.store.release()
