"""Converts a GGUF file to a folder in MLX's layout: safetensors, config.json, tokenizer.json, chat template. Needs
numpy (extra `convert`).

    model.safetensors        linears and embedding packed as MLX affine; vectors in the smallest float that holds them
    config.json              Hugging Face keys, `quantization` as mlx_lm writes it; written last, so a broken-off
                             conversion is no model
    tokenizer.json, tokenizer_config.json (with chat_template), generation_config.json

What differs between families is in names/, one file for each.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from py_engine.convert.family import check_shapes, family_of, named
from py_engine.convert.gguf import GgufTensor, parse_gguf
from py_engine.convert.gguf_tokenizer import GgufTokenizer, build_tokenizer
from py_engine.errors import FormatError, InputError
from py_engine.sources.config import BITS, GROUP_SIZES

try:
    from py_engine.convert.config import config_of, sampling
    from py_engine.convert.tensors import PLAIN_BITS, Item, plan
    from py_engine.convert.writer import Writer
except ImportError as error:
    raise InputError(
        "Converting needs numpy, which is not installed: pip install 'jerboa[convert]'."
    ) from error

_EMBEDDINGS = ("model.embed_tokens", "lm_head")
Progress = Callable[[int, int], None]


def convert(
    path: str | Path,
    out: str | Path,
    bits: int = 4,
    group_size: int = 64,
    on_progress: Progress | None = None,
    *,
    embedding_bits: int | None = None,
) -> dict[str, Any]:
    """Convert a GGUF file of an architecture of names/ into folder `out`; returns its config.json.

    `bits`: 2, 3, 4, 5, 6 or 8 quantise every linear layer and the embedding in groups of `group_size` (those whose
    input is not a multiple of it stay plain, as in mlx_lm). GGUF's own groups have 32: with these, blocks that
    fit into `bits` are copied without loss (Q8_0 into 8, Q5_0 into 5 and more, Q4_0 into 4 and more); of K blocks only
    the scales are rounded. `embedding_bits`: of the embedding and the head, if not `bits`; small models lose most
    there. 16 leaves all plain in f16 (bf16 where f16 would overflow); 32 is exact. `on_progress(done, total)` counts
    values. Raises InputError, FormatError, ModelError.
    """
    _check(bits, group_size, embedding_bits)
    where, folder = str(path), _path(out)
    data = _map(_path(path))
    gguf = parse_gguf(data, where)
    architecture, family = family_of(gguf, where)
    names = named(gguf, family, where)
    config = config_of(gguf, architecture, family, names, data, where)
    check_shapes(config, family, names, where)
    tokenizer = build_tokenizer(gguf.metadata, where)
    if len(tokenizer.tokenizer["model"]["vocab"]) > config["vocab_size"]:
        raise FormatError(f"{where}: more tokens than rows of the embedding. The file is damaged.")
    config |= {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_ids}
    if tokenizer.pad_id is not None:
        config["pad_token_id"] = tokenizer.pad_id
    if bits in BITS:
        packing: dict[str, Any] = {"group_size": group_size, "bits": bits, "mode": "affine"}
        for name in _EMBEDDINGS if embedding_bits not in (None, bits) else ():
            if f"{name}.weight" in names and config["hidden_size"] % group_size == 0:
                packing[name] = {"group_size": group_size, "bits": embedding_bits}
        config["quantization"] = config["quantization_config"] = packing

    if family.paired:
        names = _paired(names, config["head_dim"])
    widths = dict.fromkeys(_EMBEDDINGS, embedding_bits or bits)
    work = plan(names, family, data, bits, group_size, widths)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").unlink(missing_ok=True)
        (folder / "model.safetensors.index.json").unlink(missing_ok=True)
        _write_tensors(folder / "model.safetensors", work, on_progress)
        _write_tokenizer(folder, tokenizer, config, sampling(gguf))
        config = {
            key: config[key] for key in sorted(config) if config[key] is not None or key in _NULLS
        }
        _write_json(folder / "config.json", config)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}).") from error
    return config


# Keys that are written even when null, since transformers would take another value for a missing key.
_NULLS = frozenset({"sliding_window", "sliding_window_pattern"})


def _check(bits: int, group_size: int, embedding_bits: int | None) -> None:
    """Raise InputError for options that are not supported."""
    if bits not in (*BITS, *PLAIN_BITS):
        raise InputError(
            f"--bits {bits}: choose one of {', '.join(map(str, (*BITS, *PLAIN_BITS)))}."
        )
    if group_size not in GROUP_SIZES:
        raise InputError(
            f"--group-size {group_size}: choose one of {', '.join(map(str, GROUP_SIZES))}."
        )
    if embedding_bits is not None and not (bits in BITS and embedding_bits in BITS):
        raise InputError(
            f"--embedding-bits {embedding_bits} with --bits {bits}: both must be one of {', '.join(map(str, BITS))}."
        )


def _path(path: str | Path) -> Path:
    """The path with a leading `~` resolved. Raises InputError where no such user is known."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: there is no such user. Give the whole path.") from error


def _map(path: Path) -> mmap.mmap:
    """The file's bytes. They are mapped; the map is closed when the last array that uses it is gone."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise FormatError(f"{path} is empty; it is not a GGUF file.")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error


def _paired(names: dict[str, GgufTensor], head_dim: int) -> dict[str, GgufTensor]:
    """The tensors, with those of q and k marked as paired: the halves of each head are interleaved."""
    return {
        name: replace(tensor, paired=head_dim)
        if (".q_proj." in name or ".k_proj." in name)
        else tensor
        for name, tensor in names.items()
    }


def _write_tensors(path: Path, work: list[Item], on_progress: Progress | None) -> None:
    total, done = sum(math.prod(item.tensor.shape) for item in work), 0
    with Writer(path, [part for item in work for part in item.parts]) as writer:
        for item in work:
            for values in item.write(writer):
                done += values
                if on_progress is not None:
                    on_progress(done, total)


def _write_tokenizer(
    folder: Path, tokenizer: GgufTokenizer, config: dict[str, Any], defaults: dict[str, Any]
) -> None:
    """Write the tokenizer's files and generation_config.json. `defaults`: of sampling."""
    generation = {"eos_token_id": tokenizer.eos_ids, **defaults}
    for key in ("bos_token_id", "pad_token_id"):
        if config.get(key) is not None:
            generation[key] = config[key]
    _write_json(folder / "tokenizer.json", tokenizer.tokenizer, indent=None)
    _write_json(folder / "tokenizer_config.json", tokenizer.config)
    _write_json(folder / "generation_config.json", generation)


def _write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=indent, ensure_ascii=False), encoding="utf-8")
    partial.replace(path)
