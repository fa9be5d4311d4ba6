"""Finds out whether the head of a checkpoint repeats its embedding, by comparing some of their bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from py_engine.sources.config import Config, bare
from py_engine.sources.jobs import TensorInfo
from py_engine.sources.repository import Repository

PIECE_BYTES = 16 << 10
PIECES = 6  # the first and the last bytes are among them, since added tokens are at the end


async def settle_head(
    repo: Repository,
    config: Config,
    tensors: Mapping[str, TensorInfo],
    note: Callable[[str], None],
) -> Config:
    """`config` with a `tie_word_embeddings` that fits the files. An lm_head in the files is used, unless it equals the
    embedding: published files of tied models often hold such a copy, which would take the memory twice.

    Raises HubError.
    """
    heads, embeddings = (_modules(tensors, name) for name in ("lm_head", "embed_tokens"))
    said = config.get("tie_embedding", config.get("tie_word_embeddings"))
    if not heads and said is False:
        note(
            "config.json says tie_word_embeddings false, but the weights hold no lm_head.weight: the embedding serves"
            " as head."
        )
    if len(heads) != 1 or len(embeddings) != 1 or said is False:
        return config
    head, embedding = heads[0], embeddings[0]
    same = True
    # Packed fields may be equal where their scales are not.
    for part in ("weight", "scales", "biases"):
        pair = tensors.get(f"{head}.{part}"), tensors.get(f"{embedding}.{part}")
        same = same and await _same(repo, *pair)
    if said and not same:
        note(
            f"config.json says tie_word_embeddings true, but {head}.weight differs from {embedding}.weight: it is used."
        )
    own = {key: value for key, value in config.items() if key != "tie_embedding"}
    return {**own, "tie_word_embeddings": same}


def _modules(tensors: Mapping[str, TensorInfo], name: str) -> list[str]:
    """The text model's modules of this name that have a weight, not a draft head's (`mtp.embed_tokens`)."""
    names = (tensor.removesuffix(".weight") for tensor in tensors if tensor.endswith(".weight"))
    return [module for module in names if bare(module) == name]


async def _same(repo: Repository, a: TensorInfo | None, b: TensorInfo | None) -> bool:
    """Whether evenly spread pieces of two tensors are equal. Two missing tensors are equal, too."""
    if a is None or b is None:
        return a is b
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    last = max(0, a.nbytes - PIECE_BYTES)
    for start in sorted({last * i // (PIECES - 1) for i in range(PIECES)}):
        size = min(PIECE_BYTES, a.nbytes - start)
        pieces = [
            repo.io.to_bytes(await repo.read(t.file, t.start + start, t.start + start + size))
            for t in (a, b)
        ]
        if pieces[0] != pieces[1]:
            return False
    return True
