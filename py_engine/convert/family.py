"""How a file in names/ describes its family, and what follows: which tensors a file must have, and their shapes."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

from py_engine.convert import names as name_maps
from py_engine.convert.gguf import Gguf, GgufTensor
from py_engine.convert.metadata import Metadata
from py_engine.errors import FormatError, ModelError

Config = dict[str, Any]
Tensors = Mapping[str, GgufTensor]

# Llama 3's scaling: what it divides each pair's frequency by. It goes into the config.
ROPE_FACTORS = "rope_freqs.weight"
# Phi-3's scaling, below and above the length that it was trained for. They go into the config.
LONG_FACTORS = ("rope_factors_short.weight", "rope_factors_long.weight")
NOT_WEIGHTS = (ROPE_FACTORS, *LONG_FACTORS)
TOP_NAMES: Mapping[str, str] = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
EACH_HEAD = "{head}"  # in a Hugging Face name: one tensor a head there, one for all heads in GGUF


def no_more(metadata: Metadata, config: Config, tensors: Tensors) -> Config:
    """`Family.config` for a family whose config.json has only the common keys."""
    return {}


@dataclass(frozen=True)
class Family:
    """How a GGUF architecture becomes a Hugging Face model.

    `blocks`: GGUF's name of each module of a layer (`blk.N.NAME`) -> Hugging Face's (`model.layers.N.NAME`); all have a
    weight but those in `optional`. `biases`: those that always have a bias. `optional`: groups of tensors (weights or
    biases) of which every layer has all, or none has any. `top_biases`: of those outside the layers.
    """

    model_type: str
    hf_class: str
    blocks: Mapping[str, str]
    biases: tuple[str, ...] = ()
    optional: tuple[tuple[str, ...], ...] = ()
    top_biases: tuple[str, ...] = ()
    norm_offset: float = 0.0  # GGUF's norm weights minus Hugging Face's
    paired: bool = False  # q and k hold the halves of a head side by side: see GgufTensor
    partial: bool = False  # only a part of each head may be rotated
    wide_norms: bool = False  # q and k are normalised over all heads at once
    gated: bool = True  # the MLP has a gate
    eps: str = "rms_norm_eps"  # config.json's name of the norms' epsilon
    fixed: Mapping[str, Any] = field(default_factory=lambda: {"hidden_act": "silu"})
    carries: frozenset[str] = frozenset()  # of NOT_CARRIED: what `config` writes down
    config: Callable[[Metadata, Config, Tensors], Config] = no_more

    @property
    def layer_norm(self) -> bool:
        """Whether the norms are LayerNorms, for whose epsilon GGUF has another name."""
        return self.eps != "rms_norm_eps"


def architectures() -> list[str]:
    """GGUF architectures that can be converted: the files of names/."""
    found = (module.name for module in pkgutil.iter_modules(name_maps.__path__))
    return sorted(name.replace("_dense", "-dense") for name in found)


def family_of(gguf: Gguf, where: str) -> tuple[str, Family]:
    """The file's architecture and its family. Raises ModelError when it is not supported."""
    architecture = gguf.metadata.get("general.architecture")
    known = architectures()
    if architecture not in known:
        raise ModelError(
            f"{where}: architecture {architecture!r} cannot be converted; supported: {', '.join(known)}."
        )
    module = import_module(f"{name_maps.__name__}.{architecture.replace('-', '_')}")
    family: Family = module.FAMILY
    return architecture, family


def named(gguf: Gguf, family: Family, where: str) -> dict[str, GgufTensor]:
    """Hugging Face name -> tensor. Raises ModelError for a tensor that the family does not have."""
    found: dict[str, GgufTensor] = {}
    for name, tensor in gguf.tensors.items():
        if name in NOT_WEIGHTS:
            continue
        stem, _, suffix = name.rpartition(".")
        target = TOP_NAMES.get(stem)
        block = stem.split(".")
        if len(block) == 3 and block[0] == "blk" and block[1].isdecimal() and len(block[1]) < 6:
            inner = family.blocks.get(block[2])
            target = f"model.layers.{int(block[1])}.{inner}" if inner else None
        if target is None or suffix not in ("weight", "bias"):
            raise ModelError(
                f"{where}: tensor {name!r} has no place in {family.model_type}. It is a variant that is"
                " not supported; take another GGUF of the model."
            )
        found.update(_heads(f"{target}.{suffix}", tensor))
    return found


def _heads(name: str, tensor: GgufTensor) -> Iterator[tuple[str, GgufTensor]]:
    """The tensor under its name; or its rows, where Hugging Face has one tensor for each head."""
    if EACH_HEAD not in name:
        yield name, tensor
        return
    for head in range(tensor.rows):
        start = tensor.start + head * tensor.row_nbytes
        row = replace(tensor, shape=tensor.shape[-1:], start=start)
        yield name.replace(EACH_HEAD, str(head)), row


def check_shapes(config: Mapping[str, Any], family: Family, names: Tensors, where: str) -> None:
    """Check that every tensor is there, none too many, and each of the right shape. Raises ModelError."""
    wanted = dict(_wanted(config, family, names))
    for name, shape in wanted.items():
        tensor = names.get(name)
        if tensor is None or tensor.shape != shape:
            got = "missing" if tensor is None else f"{list(tensor.shape)}"
            raise ModelError(
                f"{where}: {name} is {got}, expected {list(shape)} from the file's own numbers."
                " The file is damaged: fetch it again."
            )
    for name in names:
        if name not in wanted:
            raise ModelError(f"{where}: {name} is not part of a {config['model_type']}.")


def _wanted(
    config: Mapping[str, Any], family: Family, names: Tensors
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Hugging Face name and shape of every tensor."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (vocabulary, hidden)
    for name in family.top_biases:
        yield f"{TOP_NAMES[name]}.bias", (vocabulary if name == "output" else hidden,)
    shapes = block_shapes(config, family)
    for layer in range(config["num_hidden_layers"]):
        for part in parts(family, names):
            stem, _, suffix = part.rpartition(".")
            name = f"model.layers.{layer}.{family.blocks[stem]}.{suffix}"
            shape = shapes.get(stem, (hidden,))
            heads = shape[0] if EACH_HEAD in name else 1
            for head in range(heads):
                one = shape[-1:] if EACH_HEAD in name else shape
                yield (
                    name.replace(EACH_HEAD, str(head)),
                    one if suffix == "weight" else one[:1],
                )


def parts(family: Family, names: Tensors) -> list[str]:
    """GGUF's names, within a layer, of the tensors that the layers of this file have."""
    optional = {part for group in family.optional for part in group}
    found = [f"{stem}.weight" for stem in family.blocks if f"{stem}.weight" not in optional]
    found += [f"{stem}.bias" for stem in family.biases]
    for group in family.optional:
        if has(family, names, group):
            found += group
    return found


def has(family: Family, names: Tensors, group: tuple[str, ...]) -> bool:
    """Whether some layer has a tensor of the group."""
    targets = []
    for part in group:
        stem, _, suffix = part.rpartition(".")
        target = family.blocks[stem].replace(EACH_HEAD, "0")
        targets.append(f".{target}.{suffix}")
    return any(name.endswith(tuple(targets)) for name in names)


def block_shapes(config: Mapping[str, Any], family: Family) -> dict[str, tuple[int, ...]]:
    """GGUF's name of a module within a layer -> shape of its weight, where that is not [hidden size]."""
    hidden, width, d = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * d, config["num_key_value_heads"] * d
    up = width if family.gated and "ffn_gate" in family.blocks or not family.gated else 2 * width
    norms: dict[str, tuple[int, ...]] = {"attn_q_norm": (d,), "attn_k_norm": (d,)}
    if family.wide_norms:
        norms = {"attn_q_norm": (queries,), "attn_k_norm": (keys,)}
    elif EACH_HEAD in family.blocks.get("attn_q_norm", ""):
        norms = {"attn_q_norm": (queries // d, d), "attn_k_norm": (keys // d, d)}
    return {
        "attn_q": (queries, hidden),
        "attn_k": (keys, hidden),
        "attn_v": (keys, hidden),
        "attn_qkv": (queries + 2 * keys, hidden),
        "attn_output": (hidden, queries),
        "ffn_gate": (width, hidden),
        "ffn_up": (up, hidden),  # gate and up together, if there is no ffn_gate
        "ffn_down": (hidden, width),
        **norms,
    }


def embedding(names: Tensors, where: str) -> GgufTensor:
    """The embedding's tensor. Raises FormatError when there is none."""
    found = names.get("model.embed_tokens.weight")
    if found is None:
        raise FormatError(f"{where}: tensor token_embd.weight is missing. Fetch the file again.")
    return found
