"""Whether the head of a checkpoint repeats its embedding, found out from a few of their bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from py_engine.weights.config import Config
from py_engine.weights.jobs import TensorInfo
from py_engine.weights.repository import Repository

PIECE_BYTES = 16 << 10
PIECES = 6  # the first and the last among them: tokens that were added stand at the end


async def settle_head(
    repo: Repository,
    config: Config,
    tensors: Mapping[str, TensorInfo],
    note: Callable[[str], None],
) -> Config:
    """`config` with a `tie_word_embeddings` that fits the files: an lm_head that is there is used, unless it is the
    embedding once more (published files of tied models often hold such a copy, which would take its memory twice).

    Raises HubError.
    """
    heads = [name for name in tensors if _is(name, "lm_head.weight")]
    embeddings = [name for name in tensors if _is(name, "embed_tokens.weight")]
    said = config.get("tie_embedding", config.get("tie_word_embeddings"))
    if not heads and said is False:
        note(
            "config.json says tie_word_embeddings false, but the weights hold no lm_head.weight: the embedding serves"
            " as head."
        )
    if len(heads) != 1 or len(embeddings) != 1 or said is False:
        return config
    head, embedding = tensors[heads[0]], tensors[embeddings[0]]
    same = await _same(repo, head, embedding)
    if said and not same:
        note(
            f"config.json says tie_word_embeddings true, but {head.name} differs from {embedding.name}: it is used."
        )
    own = {key: value for key, value in config.items() if key != "tie_embedding"}
    return {**own, "tie_word_embeddings": same}


def _is(name: str, end: str) -> bool:
    return name == end or name.endswith("." + end)


async def _same(repo: Repository, a: TensorInfo, b: TensorInfo) -> bool:
    """Whether pieces of two tensors, evenly spread, are equal."""
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
