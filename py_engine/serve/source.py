"""Where a model's config, weights and tokenizer come from: files of a repository, or a preset with random weights."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from py_engine.encode.settings import EmbedSettings, pools_rows, read_embed_settings
from py_engine.errors import FormatError, ModelError
from py_engine.generate.advice import not_applied, sampling_advice
from py_engine.generate.sampling import Sampling
from py_engine.host.gpu import Gpu
from py_engine.host.io import Io
from py_engine.inputs.bert_tokenizer import is_bert, tokenizer_json
from py_engine.inputs.byte_tokenizer import byte_tokenizer
from py_engine.inputs.chat_template import ChatTemplate, find_template
from py_engine.inputs.tokenizer import Tokenizer
from py_engine.kept.lock import Note
from py_engine.kept.opening import open_kept
from py_engine.models import encodes, is_tower, sets_of
from py_engine.sources.address import open_repository
from py_engine.sources.config import (
    DENSE_MODULES,
    POOLED,
    Config,
    quantization,
    read_config,
    read_generation_config,
)
from py_engine.sources.heads import settle_head
from py_engine.sources.jobs import TensorInfo
from py_engine.sources.repository import Repository
from py_engine.sources.safetensors import read_sets
from py_engine.weights.formats import StorageForm
from py_engine.weights.mlx_quant import quantization_of
from py_engine.weights.random import PRESETS, RandomStore
from py_engine.weights.store import WeightStore


class Source:
    """What a model is made of. Opened by `open_source`."""

    pinned: str  # see Loaded
    config: Config
    defaults: Sampling  # the sampling that generation_config.json advises
    embedding: EmbedSettings | None = None  # of an encoder: how its rows become vectors
    ignore_eos = False
    kept: bool | None = None  # see Loaded; known after `commit`
    repository: Repository | None = None  # of the weights' files; None: there are no files

    def make_store(self, gpu: Gpu, form: StorageForm, *, tower: bool = False) -> WeightStore:
        """An empty store of this model's weights on a GPU. `tower`: of its vision tower, beside that of the text
        model."""
        raise NotImplementedError

    async def tokenizer(self) -> tuple[Tokenizer, ChatTemplate]:
        """Raises HubError, FormatError."""
        raise NotImplementedError

    async def commit(self) -> None:
        """Keep what was read: the model is in use."""


@asynccontextmanager
async def open_source(
    address: str,
    io: Io,
    note: Note,
    *,
    read_only: bool = False,
    check: Callable[[], None] = lambda: None,
) -> AsyncIterator[Source]:
    """The source of the model at `address` for the length of a block. `note`, `read_only`, `check`: see open_kept
    (kept/opening.py). Raises HubError, ModelError."""
    if address.startswith("random:"):
        yield RandomSource(address)
        return
    repository = await open_repository(
        address, io, partial(open_kept, note=note, read_only=read_only, check=check)
    )
    try:
        yield await FileSource.open(repository, note)
    finally:
        await repository.close()


class RandomSource(Source):
    """`random:PRESET[-4bit]`: the shapes of a published model, weights from a hash on the GPU, bytes as tokens. End
    tokens are ignored."""

    ignore_eos = True

    def __init__(self, address: str) -> None:
        """Raises ModelError for a preset that does not exist."""
        self.pinned = address
        name = address.removeprefix("random:")
        if name not in PRESETS:
            raise ModelError(f"{address}: no such preset. Known: {', '.join(sorted(PRESETS))}")
        self.config = PRESETS[name]
        self.defaults = Sampling()
        if encodes(self.config):
            self.embedding = EmbedSettings()

    def make_store(self, gpu: Gpu, form: StorageForm, *, tower: bool = False) -> RandomStore:
        """A store whose `fill` computes the weights. A tower stays plain, as those of published models."""
        plain = {k: v for k, v in self.config.items() if k != "quantization"}
        return RandomStore(gpu, plain if tower else self.config, form)

    async def tokenizer(self) -> tuple[Tokenizer, ChatTemplate]:
        """Bytes as tokens, and no chat template."""
        tokenizer = await byte_tokenizer()
        return tokenizer, ChatTemplate(None, tokenizer)


class FileSource(Source):
    """A folder or hub repository with config.json, safetensors and tokenizer.json."""

    def __init__(self, repository: Repository) -> None:
        self.repository: Repository = repository
        self._tensors: Mapping[str, TensorInfo] = {}
        self._generation_config: Mapping[str, Any] = {}

    @classmethod
    async def open(cls, repository: Repository, note: Note) -> FileSource:
        """Read config.json and the headers of the weights. `note`: told where they contradict each other."""
        self = cls(repository)
        name, commit = repository.address.partition("@")[0], repository.revision
        self.pinned = repository.address if commit is None else f"{name}@{commit}"
        config = {**await read_config(repository), POOLED: await pools_rows(repository)}
        self._generation_config = await read_generation_config(repository)
        self.defaults = sampling_advice(self._generation_config)
        if left := not_applied(self._generation_config):
            note(f"generation_config.json asks for {', '.join(left)}, which has no effect here.")
        sets = [*sets_of(config)]
        if encodes(config):
            self.embedding = await read_embed_settings(repository)
            config = {**config, DENSE_MODULES: self.embedding.dense}
            sets += [module.folder for module in self.embedding.dense]
        self._tensors = await read_sets(repository, sets, note)
        self.config = await settle_head(repository, config, self._tensors, note)
        return self

    async def commit(self) -> None:
        """Keep the files for the next load, where the repository is one that is kept."""
        await self.repository.commit()
        self.kept = self.repository.kept

    def make_store(self, gpu: Gpu, form: StorageForm, *, tower: bool = False) -> WeightStore:  # noqa: ARG002
        """A store that a Loader fills from the repository."""
        return WeightStore(
            gpu, self._tensors, quantization_of(self._tensors, quantization(self.config)), form=form,
            family=str(self.config["model_type"]),
        )  # fmt: skip

    async def tokenizer(self) -> tuple[Tokenizer, ChatTemplate]:
        """Of tokenizer.json and the files beside it. A model that reads no texts gets a tokenizer of bytes."""
        if is_tower(self.config):
            tokenizer = await byte_tokenizer()
            return tokenizer, ChatTemplate(None, tokenizer)
        config = await self.repository.json_object("tokenizer_config.json")
        special = await self.repository.json_object("special_tokens_map.json")
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
        repository = self.repository
        if await repository.exists("tokenizer.json"):
            return await repository.bytes("tokenizer.json")
        vocabulary = await self._text("vocab.txt") if is_bert(config, self.config) else None
        if vocabulary is None:
            raise FormatError(
                f"{repository.address} has no tokenizer.json. Give a repository that has one, or make it: "
                "transformers.AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER)"
            )
        return tokenizer_json(vocabulary, config, special)

    async def _text(self, name: str) -> str | None:
        """A text file, None where there is no such file."""
        if not await self.repository.exists(name):
            return None
        return (await self.repository.bytes(name)).decode("utf-8", "replace")
