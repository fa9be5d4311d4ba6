"""What a load waits for: seconds of each of its parts."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from py_engine.host.gpu import Gpu
from py_engine.host.io import Hasher, Io
from py_engine.host.store import BlobStore


@contextmanager
def watched(io: Io, gpu: Gpu) -> Iterator[dict[str, float]]:
    """Within the block, add up the seconds that calls take: `fetch` (with the writes that it waits for), `write` and
    `flush` of the store, `sha256`, and `upload`, the copy into the GPU's queue. What the GPU does is not among them.
    Parts overlap, since the next slice is fetched while one is uploaded."""
    seconds: dict[str, float] = defaultdict(float)
    open_store, sha256 = io.open_store, io.sha256

    async def opened(name: str, *, records: bool = False) -> BlobStore:
        store = await open_store(name, records=records)
        _watch(store, {"write": "write", "flush": "flush"}, seconds)
        return store

    def hasher() -> Hasher:
        made = sha256()
        _watch(made, {"update": "sha256", "hexdigest": "sha256"}, seconds)
        return made

    upload = gpu.write_parts

    def uploaded(*given: Any) -> None:
        began = time.perf_counter()
        upload(*given)
        seconds["upload"] += time.perf_counter() - began

    replaced = {"open_store": opened, "sha256": hasher}
    watched_calls = {"fetch": "fetch", "digest": "sha256"}
    _watch(io, watched_calls, seconds)
    vars(io).update(replaced)
    vars(gpu).update(write_parts=uploaded)
    try:
        yield seconds
    finally:
        for name in (*watched_calls, *replaced):
            delattr(io, name)
        del gpu.write_parts


def _watch(owner: object, parts: dict[str, str], seconds: dict[str, float]) -> None:
    """Let these methods of an object add what they take to the part of that name."""
    for method, part in parts.items():
        vars(owner)[method] = _timed(getattr(owner, method), part, seconds)


def _timed(
    work: Callable[..., Awaitable[Any]], part: str, seconds: dict[str, float]
) -> Callable[..., Awaitable[Any]]:
    async def timed(*given: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return await work(*given, **options)
        finally:
            seconds[part] += time.perf_counter() - began

    return timed
