"""From a model's address to a decoder that is ready: config, tokenizer, weights, kernels, plans."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from py_engine.abort import Abort
from py_engine.errors import InputError, ModelError
from py_engine.generate.decoder import PREFILL_ROWS, Decoder
from py_engine.generate.sampling import Sampling
from py_engine.graph.kernels import Kernels
from py_engine.graph.submit import SubmitStrategy
from py_engine.host.gpu import Gpu
from py_engine.host.io import Io
from py_engine.inputs.byte_tokenizer import byte_tokenizer
from py_engine.inputs.chat_template import ChatTemplate, find_template
from py_engine.inputs.tokenizer import Tokenizer
from py_engine.models import build_model
from py_engine.models.layers import Model
from py_engine.models.state import State
from py_engine.weights.config import Config, quantization, read_config, read_generation_config
from py_engine.weights.hub import Repository, open_repository
from py_engine.weights.loader import Loader
from py_engine.weights.mlx_quant import quantization_of
from py_engine.weights.random import PRESETS, RandomStore
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
    template: ChatTemplate
    has_template: bool
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
        source: _Source = _RandomSource(address, gpu)
    else:
        source = await _FileSource.open(address, gpu, io, narrow=dtype == "f16")
    abort.check()
    tokenizer = asyncio.ensure_future(source.tokenizer())
    state: State | None = None
    decoder: Decoder | None = None
    try:
        model = build_model(source.config, source.store)
        state = model.make_state(
            gpu,
            _context(context, model),
            _max_rows(context, model),
            "f32" if dtype == "f32" else "f16",
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
            template.available,
            Sampling.make(Sampling(), source.defaults, ()), tokens.stop_ids, source.ignore_eos,
            io.now() - started, peak,
        )  # fmt: skip
    except BaseException:
        tokenizer.cancel()
        await asyncio.gather(tokenizer, return_exceptions=True)
        await kernels.settle()
        if decoder is not None:
            decoder.release()
        elif state is not None:
            state.release()
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


def _sampling_defaults(generation: Config) -> dict[str, Any]:
    """generation_config.json's own advice; `do_sample` false means greedy, and so does a missing file."""
    if not generation.get("do_sample", "temperature" in generation):
        return {}
    known = {f.name for f in fields(Sampling)} - {"seed", "stop_ids"}
    return {"temperature": 1.0} | {k: v for k, v in generation.items() if k in known}


class _Source:
    """Where weights and tokenizer come from."""

    config: Config
    defaults: Mapping[str, Any]
    store: WeightStore | RandomStore
    ignore_eos = False

    async def tokenizer(self) -> tuple[Tokenizer, ChatTemplate]:
        raise NotImplementedError

    async def fill(self, kernels: Kernels, tell: Callable[[Progress], None], abort: Abort) -> int:
        """Fill the store's buffers; the most host bytes held meanwhile."""
        raise NotImplementedError


class _RandomSource(_Source):
    """`random:PRESET[-4bit]`: true shapes, weights from a hash on the GPU, bytes as tokens, end tokens ignored."""

    ignore_eos = True

    def __init__(self, address: str, gpu: Gpu) -> None:
        name = address.removeprefix("random:")
        if name not in PRESETS:
            raise ModelError(f"{address}: no such preset. Known: {', '.join(sorted(PRESETS))}")
        self.config = PRESETS[name]
        self.defaults = {}
        self.store = RandomStore(gpu, self.config)

    async def tokenizer(self) -> tuple[Tokenizer, ChatTemplate]:
        tokenizer = await byte_tokenizer()
        return tokenizer, ChatTemplate(None, tokenizer)

    async def fill(self, kernels: Kernels, tell: Callable[[Progress], None], abort: Abort) -> int:
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
        self.config = await read_config(repository)
        self._generation_config = await read_generation_config(repository)
        self.defaults = _sampling_defaults(self._generation_config)
        tensors = await read_tensors(repository)
        self.store = WeightStore(
            gpu, tensors, quantization_of(tensors, quantization(self.config)), narrow=narrow,
            family=str(self.config["model_type"]),
        )  # fmt: skip
        return self

    async def tokenizer(self) -> tuple[Tokenizer, ChatTemplate]:
        config = await self._json("tokenizer_config.json")
        tokenizer = await Tokenizer.load(
            await self._repository.bytes("tokenizer.json"),
            config,
            self._generation_config,
            self.config,
        )
        texts = [await self._text(name) for name in ("chat_template.jinja", "chat_template.json")]
        return tokenizer, ChatTemplate(find_template(config, *texts), tokenizer)

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

    async def fill(self, kernels: Kernels, tell: Callable[[Progress], None], abort: Abort) -> int:
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
