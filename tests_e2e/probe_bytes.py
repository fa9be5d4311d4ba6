"""Functions for probe.py: bytes on their way through JavaScript, from a response to a checksum."""

from __future__ import annotations

import hashlib
import random
from typing import Any

from py_engine.host import open_io


async def digests(sizes: list[int], part: int) -> list[list[str]]:
    """For each size the sha256 of so many random bytes: the host's, to which parts of `part` bytes are added, and
    hashlib's."""
    io, found = open_io(), []
    for size in sizes:
        data = random.Random(size).randbytes(size)
        whole, hasher = io.join([_host_bytes(data)]), io.sha256()
        for start in range(0, size, part):
            await hasher.update(io.slice(whole, start, min(start + part, size)))
        found.append([await hasher.hexdigest(), hashlib.sha256(data).hexdigest()])
        hasher.close()
    return found


async def fetched(url: str, ranges: list[tuple[int, int]], byob: bool) -> list[str]:
    """The sha256 of each of these ranges of a file. `byob`: whether streams read into memory that they are given."""
    import js
    from pyodide.ffi import create_proxy

    streams, io, found = js.ReadableStream.prototype, open_io(), []
    reader = streams.getReader

    def older(stream: Any, options: Any = None) -> Any:
        if options is not None:
            raise TypeError("this browser has no such reader")
        return reader.call(stream)

    proxy = create_proxy(older, capture_this=True)
    if not byob:
        streams.getReader = proxy
    try:
        for start, end in ranges:
            body = (await io.fetch(url, start=start, end=end)).body
            found.append(hashlib.sha256(io.to_bytes(body)).hexdigest())
            io.give_back(body)
    finally:
        streams.getReader = reader
        proxy.destroy()
    return found


async def memory_in_turn(nbytes: int) -> list[int]:
    """The first byte of memory that another slice has had before, and of memory that is fresh."""
    import js

    first = js.jerboa.buffers.take(nbytes)
    first[0] = 7
    js.jerboa.buffers.giveBack(first)
    again, other = js.jerboa.buffers.take(nbytes - 1), js.jerboa.buffers.take(nbytes)
    return [again[0], other[0], again.byteLength, other.byteLength]


def _host_bytes(data: bytes) -> object:
    from pyodide.ffi import to_js

    return to_js(data)
