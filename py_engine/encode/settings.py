"""Reads from a repository how its model makes vectors of texts, as sentence-transformers does.

modules.json names the modules that follow the network, 1_Pooling/config.json says how rows become a vector,
2_Dense/config.json what the vector is multiplied by (blocks/projections.py),
sentence_bert_config.json gives the most tokens, config_sentence_transformers.json the prompts before a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from py_engine.errors import FormatError, ModelError
from py_engine.ops.pool import Pooling
from py_engine.sources.config import Part, short
from py_engine.sources.repository import Repository

MAX_PROMPTS = 256
MAX_PROMPT_CHARS = 1 << 16
# Names after pooling_mode_ in a config, or values of the newer `pooling_mode`. A sum divided by the root of the length
# has the direction of the mean.
_POOLINGS: Mapping[str, Pooling] = {
    "cls_token": "first",
    "cls": "first",
    "mean_tokens": "mean",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean",
    "lasttoken": "last",
}
_DOCUMENTS = ("document", "passage", "corpus")  # possible names of the prompt for documents


@dataclass(frozen=True)
class EmbedSettings:
    """How texts become vectors. `most`: the most tokens of a text; None: as many as the model has positions. `prompts`:
    texts to put before a text, by the name of the task. `default`: the task of the prompt that is used when none is
    named. `lower`: whether texts are lower-cased first, with their prompts. `dense`: the config.json of each Dense
    module."""

    pooling: Pooling = "mean"
    most: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None
    lower: bool = False
    dense: Sequence[Part] = ()

    def text(self, prompt: str, text: str) -> str:
        """What the tokenizer gets. Lower-cased character by character, as the tokenizers library does it, which
        knows no final sigma."""
        whole = prompt + text
        return "".join(map(str.lower, whole)) if self.lower else whole

    def prompt(self, task: str | None) -> str | None:
        """The prompt to put before texts for a task; None: the model does not know the task. Every model knows "query"
        and "document", as in sentence-transformers' encode_query and encode_document."""
        usual = self.prompts.get(self.default, "") if self.default else ""
        if task is None:
            return usual
        if task in self.prompts:
            return self.prompts[task]
        if task == "document":
            return next((self.prompts[name] for name in _DOCUMENTS if name in self.prompts), usual)
        return usual if task == "query" else None

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that `prompt` knows."""
        return sorted({*self.prompts, "query", "document"})


async def read_embed_settings(repository: Repository) -> EmbedSettings:
    """The settings of a repository. Without a modules.json the vector is the mean of all rows.

    Raises ModelError for modules and poolings that are not supported, FormatError, HubError.
    """
    pooled, dense = await _modules(repository)
    limits = await repository.json_object("sentence_bert_config.json")
    tokenizer = await repository.json_object("tokenizer_config.json")
    extra = await repository.json_object("config_sentence_transformers.json")
    prompts = _prompts(extra)
    pooling: Pooling = "mean"
    if pooled is not None:
        pooling = _pooling(await _module(repository, pooled), any(prompts.values()))
    default = extra.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise FormatError(
            f"config_sentence_transformers.json: default_prompt_name {short(default)} is none of the prompts "
            f"({', '.join(sorted(prompts)) or 'there are none'})"
        )
    most = limits.get("max_seq_length")
    if most is None:
        # transformers writes 1e30 where nothing is known.
        given = tokenizer.get("model_max_length")
        most = int(given) if isinstance(given, (int, float)) and 0 < given < 1 << 24 else None
    elif type(most) is not int or not 1 <= most < 1 << 24:
        raise FormatError(f"sentence_bert_config.json: max_seq_length is {short(most)}")
    layers = [await _module(repository, folder) for folder in dense]
    return EmbedSettings(
        pooling, most, prompts, default, limits.get("do_lower_case") is True, layers
    )


async def _module(repository: Repository, folder: str) -> Part:
    """The config.json of a module."""
    name = f"{folder}/config.json"
    values = await repository.json_object(name)
    if not values:
        raise FormatError(
            f"{repository.address}: modules.json names {folder}, but {name} is missing or empty: "
            "fetch the repository with its folders"
        )
    return Part(values, file=name)


async def pools_rows(repository: Repository) -> bool:
    """Whether the repository's modules.json has a Pooling module, which makes one vector of a text. Raises FormatError,
    HubError."""
    return "Pooling" in [kind for kind, _ in await _listed(repository)]


async def _listed(repository: Repository) -> list[tuple[str, str]]:
    """The modules of modules.json, as (type, folder); none if there is no such file."""
    if not await repository.exists("modules.json"):
        return []
    modules = await repository.json("modules.json")
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise FormatError("modules.json is no list of modules")
    return [
        (str(module.get("type", "")).rpartition(".")[2], str(module.get("path", "")))
        for module in modules
    ]


async def _modules(repository: Repository) -> tuple[str | None, list[str]]:
    """The folder of the pooling module, and those of the Dense modules after it; none if there is no modules.json."""
    pooled, dense, before = None, [], ""
    for kind, path in await _listed(repository):
        if kind == "Pooling":
            pooled = path
        elif kind == "Dense":
            if before not in ("Pooling", "Dense"):
                raise ModelError(
                    f"modules.json: {path!r}, a Dense module, follows {before or 'nothing'}; supported is one behind"
                    " the pooling, or behind another"
                )
            dense.append(path)
        elif kind not in ("Transformer", "Normalize"):
            raise ModelError(
                f"modules.json: {kind or 'a module without a type'} follows the network, which is not supported; "
                "supported: Transformer, Pooling, Dense, Normalize"
            )
        before = kind
    return pooled, dense


def _pooling(config: Mapping[str, Any], prompts: bool) -> Pooling:
    if prompts and config.get("include_prompt", True) is False:
        raise ModelError(
            "1_Pooling: include_prompt is false; pooling a text without its prompt is not supported"
        )
    given = config.get("pooling_mode")
    modes = [given] if isinstance(given, str) else given if isinstance(given, list) else None
    if modes is None:
        modes = [
            key.removeprefix("pooling_mode_")
            for key, value in config.items()
            if key.startswith("pooling_mode_") and value is True
        ]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise ModelError(
            f"1_Pooling/config.json: pooling {' and '.join(map(str, modes)) or 'of no kind'} is not supported; "
            f"supported, one at a time: {', '.join(_POOLINGS)}"
        )
    return _POOLINGS[modes[0]]


def _prompts(extra: Mapping[str, Any]) -> Mapping[str, str]:
    prompts = extra.get("prompts")
    if prompts is None:
        return {}
    if (
        not isinstance(prompts, dict)
        or len(prompts) > MAX_PROMPTS
        or not all(isinstance(p, str) and len(p) <= MAX_PROMPT_CHARS for p in prompts.values())
    ):
        raise FormatError("config_sentence_transformers.json: prompts is no object of texts")
    return prompts
