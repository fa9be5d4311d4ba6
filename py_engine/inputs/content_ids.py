"""Ids for what enters a prompt as rows in place of tokens: rows of an image, frames of a sound.

They are negative, so no vocabulary has them. They are hashed from the content, so two prompts share a beginning only
where they have the same content: the KV cache and saved sessions compare nothing but ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

MOST_NEGATIVE = -(1 << 64)


def content_ids(
    kind: str, count: int, parts: Iterable[bytes | bytearray | memoryview]
) -> list[int]:
    """One id for each of `count` rows, from -1 down to -2^64: 64 bits of a SHA-256 of the content and the row's number.

    `kind` names what makes the rows ("qwen3_5 image"). `parts`: everything that decides the rows and their positions,
    which is the pixels or samples as the model gets them, and their shape.
    """
    whole = hashlib.sha256(kind.encode())
    for part in parts:
        view = memoryview(part).cast("B")
        # The length goes before each part, so that different lists of parts never give the same bytes.
        whole.update(len(view).to_bytes(8, "little"))
        whole.update(view)
    seed = whole.digest()
    return [_row_id(seed, row) for row in range(count)]


def _row_id(seed: bytes, row: int) -> int:
    digest = hashlib.sha256(seed + row.to_bytes(8, "little")).digest()
    return -1 - int.from_bytes(digest[:8], "little")
