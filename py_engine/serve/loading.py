"""From a model's address to a decoder that is ready: config, tokenizer, weights, kernels, plans."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from py_engine.abort import Abort
from py_engine.checks.autotune import chosen_forms
from py_engine.encode.build import build_runtime
from py_engine.encode.encoder import Encoder
from py_engine.encode.settings import EmbedSettings, read_embed_settings
from py_engine.errors import FormatError, ModelError
from py_engine.generate.advice import not_applied, sampling_advice
from py_engine.generate.decoder import Decoder
from py_engine.generate.sampling import Sampling
from py_engine.graph.kernels import Kernels
from py_engine.graph.submit import SubmitStrategy, default_strategy
from py_engine.host.gpu import Gpu
from py_engine.host.io import Io
from py_engine.host.profile import profile_of
from py_engine.inputs.bert_tokenizer import is_bert, tokenizer_json
from py_engine.inputs.byte_tokenizer import byte_tokenizer
from py_engine.inputs.chat_template import ChatTemplate, find_template
from py_engine.inputs.tokenizer import Tokenizer
from py_engine.kept.lock import Note
from py_engine.kept.opening import open_kept
from py_engine.models import encodes, unread
from py_engine.serve.memory import Estimate, MakeRoom, Setting, Taken, estimate, require_room
from py_engine.serve.options import DEFAULTS, LoadOptions, Progress, check_choice, storage_of
from py_engine.sources.config import Config, quantization, read_config, read_generation_config
from py_engine.sources.heads import settle_head
from py_engine.sources.hub import open_repository
from py_engine.sources.jobs import TensorInfo
from py_engine.sources.repository import Repository
from py_engine.sources.safetensors import read_tensors, some
from py_engine.tasks.loaded import Loaded, TextSettings
from py_engine.weights.loader import Loader
from py_engine.weights.mlx_quant import quantization_of
from py_engine.weights.random import PRESETS, RandomStore
from py_engine.weights.store import StorageForm, WeightStore


async def load_model(
    address: str,
    gpu: Gpu,
    io: Io,
    options: LoadOptions = DEFAULTS,
    *,
    kernels: Kernels | None = None,
    make_room: MakeRoom | None = None,
    tell: Callable[[Progress], object] = lambda _: None,
    abort: Abort | None = None,
    before_weights: Callable[[], Awaitable[object]] | None = None,
) -> Loaded:
    """Load `address`. Whatever fails, nothing stays allocated. Raises as Engine.load says.

    `kernels`: those of the device's models; None: its own. `make_room`: what other models of the device take; None:
    nothing. `before_weights` is awaited when all but the weights was read and found right, before anything large is
    allocated.
    """
    started = io.now()
    abort = abort or Abort()
    kernels = Kernels(gpu) if kernels is None else kernels
    dtype, context, tune = options.dtype, options.context, options.tune
    strategy, self_check = options.strategy or default_strategy(), options.self_check
    if make_room is None:
        budget = options.memory_budget or profile_of(io.handheld).memory_budget

        async def make_room(_: int) -> Taken:
            return Taken(budget)

    tell(Progress("config", message=f"Reading {address}"))

    def note(message: str) -> None:
        tell(Progress("note", message=message))

    if gpu.warning:
        note(gpu.warning)
    async with _open(address, io, note, check=abort.check) as source:
        abort.check()
        setting = setting_of(dtype, context, source.config, io)
        room = await require_room(
            address, source.config, source.make_store, gpu, setting, make_room
        )
        if tune:
            tell(Progress("config", message="Measuring kernels on this device"))
            if strategy.await_each:
                tune = None  # measuring wants many dispatches in a command buffer, which this device may not take
        begun: asyncio.Future[tuple[Tokenizer, ChatTemplate]] | None = None
        store: WeightStore | None = None
        runtime: Decoder | Encoder | None = None
        try:
            forms = await chosen_forms(room.calls, gpu, io, kernels, tune)
            abort.check()
            begun = asyncio.ensure_future(source.tokenizer())
            embedding = await source.embedding() if encodes(source.config) else None
            if before_weights is not None:
                await asyncio.shield(begun)
                abort.check()
                await before_weights()
            store = source.make_store(gpu, setting.form)
            runtime = build_runtime(
                source.config, store, gpu, kernels,
                context=context, kv_dtype=setting.kv_dtype, classes=options.context_classes, strategy=strategy,
                forms=forms,
            )  # fmt: skip
            await gpu.check()
            if left := unread(store):
                note(f"The weights hold tensors that this model does not read: {some(left)}.")
            wanted = not gpu.info.fallback if self_check is None else self_check
            peak = await source.fill(store, _Filling(gpu, kernels, strategy, tell, abort))
            await kernels.compiled(partial(_tell_compiling, tell))
            if wanted:
                tell(Progress("kernels", message="Checking what this GPU computes"))
            checked = await runtime.self_check().run() if wanted else None
            for wrong in checked.wrong if checked else ():
                note(f"self-check: {wrong}")
            await runtime.plan()
            tokens, template = await begun
            await gpu.idle()
            await source.commit()
            tell(Progress("ready", message="Ready"))
            text = None
            if isinstance(runtime, Decoder):
                text = TextSettings.of(
                    template, tokens, runtime.context, source.defaults, source.ignore_eos
                )
            return Loaded(
                address, source.pinned, source.config.get("model_type", "?"), dtype, setting.form, io, store, runtime,
                tokens, text, io.now() - started, peak, source.kept, checked, room.peak_bytes, embedding,
            )  # fmt: skip
        except BaseException:
            if begun is not None:
                begun.cancel()
                await asyncio.gather(begun, return_exceptions=True)
            await kernels.forget_failed()
            if runtime is not None:
                runtime.release()
            if store is not None:
                store.release()
            raise


def _tell_compiling(tell: Callable[[Progress], object], done: int, of: int) -> None:
    tell(Progress("kernels", message=f"Compiling the GPU's programs: {done} of {of}"))


async def estimate_model(
    address: str, gpu: Gpu, io: Io, *, dtype: str, context: int | None
) -> Estimate:
    """What load_model would take on a device like `gpu`. Raises as Engine.estimate says."""
    check_choice(dtype, None)
    async with _open(address, io, lambda _: None, look=True) as source:
        setting = setting_of(dtype, context, source.config, io)
        return await estimate(source.config, source.make_store, gpu, setting)


@asynccontextmanager
async def _open(
    address: str,
    io: Io,
    note: Note,
    *,
    look: bool = False,
    check: Callable[[], None] = lambda: None,
) -> AsyncIterator[_Source]:
    """The source of a model for the length of a block. `note`, `look`, `check`: see kept/opening.py."""
    if address.startswith("random:"):
        yield _RandomSource(address)
        return
    repository = await open_repository(
        address, io, partial(open_kept, note=note, look=look, check=check)
    )
    try:
        yield await _FileSource.open(repository, note)
    finally:
        await repository.close()


def setting_of(dtype: str, context: int | None, config: Config, io: Io) -> Setting:
    """What loading a model of this config as `dtype` means on this device."""
    if dtype == "auto":
        dtype = profile_of(io.handheld).dtype
        if dtype == "q4" and encodes(config):
            # Vectors are compared with those of other devices; of MiniLM in 4 bits their cosine is 0.88.
            dtype = "f16"
    form, kv_dtype = storage_of(dtype)
    if form in ("q4", "q8") and quantization(config) is not None:
        form = "stored"  # whoever quantised it left some layers plain on purpose
    return Setting(form, kv_dtype, context)


@dataclass(frozen=True)
class _Filling:
    """What brings weights to a GPU, and whom it tells."""

    gpu: Gpu
    kernels: Kernels
    strategy: SubmitStrategy
    tell: Callable[[Progress], object]
    abort: Abort


class _Source:
    """Where weights and tokenizer come from."""

    pinned: str  # see Loaded
    config: Config
    defaults: Sampling
    ignore_eos = False
    kept: bool | None = None

    def make_store(self, gpu: Gpu, form: StorageForm) -> WeightStore:
        """An empty store of this model's weights on a GPU."""
        raise NotImplementedError

    async def tokenizer(self) -> tuple[Tokenizer, ChatTemplate]:
        raise NotImplementedError

    async def embedding(self) -> EmbedSettings:
        """How an encoder's rows become vectors."""
        return EmbedSettings()

    async def fill(self, store: WeightStore, by: _Filling) -> int:
        """Fill the store's buffers; the most host bytes held meanwhile."""
        raise NotImplementedError

    async def commit(self) -> None:
        """The model is in use: keep what was read."""


class _RandomSource(_Source):
    """`random:PRESET[-4bit]`: true shapes, weights from a hash on the GPU, bytes as tokens, end tokens ignored."""

    ignore_eos = True

    def __init__(self, address: str) -> None:
        self.pinned = address
        name = address.removeprefix("random:")
        if name not in PRESETS:
            raise ModelError(f"{address}: no such preset. Known: {', '.join(sorted(PRESETS))}")
        self.config = PRESETS[name]
        self.defaults = Sampling()

    def make_store(self, gpu: Gpu, form: StorageForm) -> RandomStore:
        return RandomStore(gpu, self.config, form)

    async def tokenizer(self) -> tuple[Tokenizer, ChatTemplate]:
        tokenizer = await byte_tokenizer()
        return tokenizer, ChatTemplate(None, tokenizer)

    async def fill(self, store: WeightStore, by: _Filling) -> int:
        assert isinstance(store, RandomStore)
        await store.fill(by.kernels, by.abort, by.strategy)
        return 0


class _FileSource(_Source):
    """A folder or hub repository with config.json, safetensors and tokenizer.json."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._tensors: Mapping[str, TensorInfo] = {}
        self._generation_config: Mapping[str, Any] = {}

    @classmethod
    async def open(cls, repository: Repository, note: Note) -> _FileSource:
        """Read config.json and the headers of the weights. `note`: told of what they say differently."""
        self = cls(repository)
        name, commit = repository.address.partition("@")[0], repository.revision
        self.pinned = repository.address if commit is None else f"{name}@{commit}"
        config = await read_config(repository)
        self._generation_config = await read_generation_config(repository)
        self.defaults = sampling_advice(self._generation_config)
        if left := not_applied(self._generation_config):
            note(f"generation_config.json asks for {', '.join(left)}, which has no effect here.")
        self._tensors = await read_tensors(repository, note)
        self.config = await settle_head(repository, config, self._tensors, note)
        return self

    async def commit(self) -> None:
        await self._repository.commit()
        self.kept = self._repository.kept

    def make_store(self, gpu: Gpu, form: StorageForm) -> WeightStore:
        return WeightStore(
            gpu, self._tensors, quantization_of(self._tensors, quantization(self.config)), form=form,
            family=str(self.config["model_type"]),
        )  # fmt: skip

    async def tokenizer(self) -> tuple[Tokenizer, ChatTemplate]:
        config = await self._json("tokenizer_config.json")
        special = await self._json("special_tokens_map.json")
        tokenizer = await Tokenizer.load(
            await self._tokenizer_json(config, special),
            config,
            self._generation_config,
            self.config,
            special,
        )
        texts = [await self._text(name) for name in ("chat_template.jinja", "chat_template.json")]
        return tokenizer, ChatTemplate(find_template(config, *texts), tokenizer)

    async def _tokenizer_json(self, config: Mapping[str, Any], special: Mapping[str, Any]) -> bytes:
        """The file, or what stands for it where an old BERT has a vocab.txt alone."""
        repository = self._repository
        if await repository.exists("tokenizer.json"):
            return await repository.bytes("tokenizer.json")
        vocabulary = await self._text("vocab.txt") if is_bert(config, self.config) else None
        if vocabulary is None:
            raise FormatError(
                f"{repository.address} has no tokenizer.json. Give a repository that has one, or make it: "
                "transformers.AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER)"
            )
        return tokenizer_json(vocabulary, config, special)

    async def embedding(self) -> EmbedSettings:
        return await read_embed_settings(self._repository)

    async def _json(self, name: str) -> dict[str, Any]:
        """A file that may be missing, as an object."""
        if not await self._repository.exists(name):
            return {}
        value = await self._repository.json(name)
        if not isinstance(value, dict):
            raise ModelError(f"{self._repository.address}: {name} is not a JSON object")
        return value

    async def _text(self, name: str) -> str | None:
        if not await self._repository.exists(name):
            return None
        return (await self._repository.bytes(name)).decode("utf-8", "replace")

    async def fill(self, store: WeightStore, by: _Filling) -> int:
        loaded = 0
        here = self._repository.local and self._repository.kept
        message = "Reading weights kept on this device" if here else ""

        def count(n: int) -> None:
            nonlocal loaded
            loaded += n
            by.tell(Progress("weights", min(loaded, loader.total), loader.total, message))

        loader = Loader(by.gpu, by.kernels, self._repository, count, by.abort, by.strategy)
        await loader.run(store.jobs)
        by.tell(Progress("weights", loader.total, loader.total, message))
        return loader.peak_bytes
