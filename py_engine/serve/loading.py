"""From a model's address to a decoder that is ready: config, tokenizer, weights, kernels, plans."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from py_engine.abort import Abort
from py_engine.errors import InputError, ModelError
from py_engine.generate.decoder import PREFILL_ROWS, Decoder
from py_engine.generate.sampling import Sampling
from py_engine.graph.kernels import Kernels
from py_engine.graph.submit import SubmitStrategy
from py_engine.host.gpu import Gpu
from py_engine.host.io import Io
from py_engine.inputs.chat_template import ChatTemplate
from py_engine.inputs.tokenizer import Tokenizer
from py_engine.models import build_model
from py_engine.models.layers import Model
from py_engine.weights.config import quantization_of, sampling_defaults
from py_engine.weights.hub import Repository, open_repository
from py_engine.weights.loader import Loader
from py_engine.weights.random import PRESETS, RandomStore, byte_tokenizer
from py_engine.weights.safetensors import read_tensors
from py_engine.weights.store import WeightStore

DEFAULT_CONTEXT = 4096
DTYPES = ("f32", "f16", "auto")


@dataclass(frozen=True)
class Progress:
    """Where a load is. Bytes in `loaded` and `total` when the phase is "weights", else 0."""

    phase: Literal["config", "weights", "kernels", "ready"]
    loaded: int = 0
    total: int = 0
    message: str = ""


@dataclass(eq=False)
class Loaded:
    """A model in use, with all that belongs to it."""

    name: str
    family: str
    dtype: str
    io: Io
    store: WeightStore | RandomStore
    decoder: Decoder
    tokenizer: Tokenizer
    template: ChatTemplate | None
    sampling_defaults: Sampling
    stop_ids: tuple[int, ...]
    ignore_eos: bool
    load_s: float
    peak_transient_bytes: int

    @property
    def weights_bytes(self) -> int:
        """GPU bytes of the weights."""
        return self.store.nbytes

    def release(self) -> None:
        """Free every buffer."""
        self.decoder.release()
        self.store.release()


async def load_model(
    address: str,
    gpu: Gpu,
    io: Io,
    *,
    dtype: str,
    context: int | None,
    strategy: SubmitStrategy | None,
    on_progress: Callable[[Progress], None] | None,
    abort: Abort,
) -> Loaded:
    """Load `address`. Whatever fails, nothing stays allocated. Raises as Engine.load says."""
    if dtype not in DTYPES:
        raise InputError(f"dtype={dtype!r}: choose one of {', '.join(DTYPES)}")
    started = io.now()
    tell = on_progress or (lambda _: None)
    tell(Progress("config", message=f"Reading {address}"))
    kernels = Kernels(gpu)
    if address.startswith("random:"):
        source: _Source = _RandomSource(address, gpu, kernels)
    else:
        source = await _FileSource.open(address, gpu, io, narrow=dtype == "f16")
    abort.check()
    tokenizer = asyncio.ensure_future(source.tokenizer())
    decoder: Decoder | None = None
    try:
        model = build_model(source.config, source.store)
        state = model.make_state(
            gpu, _context(context, model), _max_rows(context, model), "f32" if dtype == "f32" else "f16"
        )
        decoder = Decoder(gpu, kernels, model, state, strategy)
        decoder.trace()
        peak = await source.fill(kernels, tell, abort)
        tell(Progress("kernels", message="Compiling kernels"))
        await decoder.plan()
        tokens, template = await tokenizer
        await gpu.idle()
        tell(Progress("ready", message="Ready"))
        return Loaded(
            address, source.config.get("model_type", "?"), dtype, io, source.store, decoder, tokens, template,
            Sampling(**source.defaults), tokens.stop_ids, source.ignore_eos, io.now() - started, peak,
        )  # fmt: skip
    except BaseException:
        tokenizer.cancel()
        await asyncio.gather(tokenizer, return_exceptions=True)
        await kernels.settle()
        if decoder is not None:
            decoder.release()
        source.store.release()
        raise


def _context(asked: int | None, model: Model) -> int:
    if asked is None:
        return min(model.max_context, DEFAULT_CONTEXT)
    if isinstance(asked, bool) or not isinstance(asked, int) or not 1 <= asked <= model.max_context:
        raise InputError(f"context={asked!r}: this model takes 1 to {model.max_context} tokens")
    return asked


def _max_rows(asked: int | None, model: Model) -> int:
    """Rows of the largest prefill plan: no more than the context can fill."""
    context = _context(asked, model)
    return min(PREFILL_ROWS[0], -(-context // 16) * 16)


class _Source:
    """Where weights and tokenizer come from."""

    config: Mapping[str, Any]
    defaults: Mapping[str, Any]
    store: WeightStore | RandomStore
    ignore_eos = False

    async def tokenizer(self) -> tuple[Tokenizer, ChatTemplate | None]:
        raise NotImplementedError

    async def fill(
        self, kernels: Kernels, tell: Callable[[Progress], None], abort: Abort
    ) -> int:
        """Fill the store's buffers; the most host bytes held meanwhile."""
        raise NotImplementedError


class _RandomSource(_Source):
    """`random:PRESET[-4bit]`: true shapes, weights from a hash on the GPU, bytes as tokens, end tokens ignored."""

    ignore_eos = True

    def __init__(self, address: str, gpu: Gpu, kernels: Kernels) -> None:
        name = address.removeprefix("random:")
        if name not in PRESETS:
            raise ModelError(f"{address}: no such preset. Known: {', '.join(sorted(PRESETS))}")
        self.config = PRESETS[name]
        self.defaults = {}
        self.store = RandomStore(gpu, self.config)

    async def tokenizer(self) -> tuple[Tokenizer, ChatTemplate | None]:
        return await byte_tokenizer(), None

    async def fill(
        self, kernels: Kernels, tell: Callable[[Progress], None], abort: Abort
    ) -> int:
        assert isinstance(self.store, RandomStore)
        await self.store.fill(kernels, abort)
        return 0


class _FileSource(_Source):
    """A folder or hub repository with config.json, safetensors and tokenizer.json."""

    def __init__(self, repository: Repository, gpu: Gpu) -> None:
        self._repository = repository
        self._gpu = gpu
        self._generation_config: Mapping[str, Any] = {}

    @classmethod
    async def open(cls, address: str, gpu: Gpu, io: Io, *, narrow: bool) -> _FileSource:
        repository = await open_repository(address, io)
        self = cls(repository, gpu)
        self.config = await repository.json("config.json")
        if not isinstance(self.config, dict):
            raise ModelError(f"{address}: config.json is not a JSON object")
        if await repository.exists("generation_config.json"):
            self._generation_config = await repository.json("generation_config.json")
        self.defaults = sampling_defaults(self._generation_config)
        tensors = await read_tensors(repository)
        self.store = WeightStore(
            gpu, tensors, quantization_of(self.config), narrow=narrow,
            family=str(self.config.get("model_type", "?")),
        )  # fmt: skip
        return self

    async def tokenizer(self) -> tuple[Tokenizer, ChatTemplate | None]:
        repository = self._repository
        config = (
            await repository.json("tokenizer_config.json")
            if await repository.exists("tokenizer_config.json")
            else {}
        )
        tokenizer = await Tokenizer.load(
            await repository.bytes("tokenizer.json"), config, self._generation_config, self.config
        )
        return tokenizer, await ChatTemplate.find(repository, config)

    async def fill(
        self, kernels: Kernels, tell: Callable[[Progress], None], abort: Abort
    ) -> int:
        assert isinstance(self.store, WeightStore)
        jobs = self.store.jobs
        total = sum(job.end - job.start for job in jobs)
        loaded = 0

        def count(n: int) -> None:
            nonlocal loaded
            loaded += n
            tell(Progress("weights", min(loaded, total), total))

        count(0)
        loader = Loader(self._gpu, kernels, self._repository, count, abort)
        await loader.run(jobs)
        tell(Progress("weights", total, total))
        return loader.peak_bytes
