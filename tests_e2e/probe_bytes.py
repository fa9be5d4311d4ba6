"""Functions for probe.py: bytes on their way through JavaScript, from a response to a checksum."""

from __future__ import annotations

import hashlib
import random
from typing import Any

from py_engine.host import open_io


async def digests(sizes: list[int], part: int) -> list[list[str]]:
    """For each size, three sha256 of that many random bytes: the host's, which gets them in parts of `part` bytes; the
    host's of all at once; and hashlib's."""
    io, found = open_io(), []
    for size in sizes:
        data = random.Random(size).randbytes(size)
        whole, hasher = io.join([_host_bytes(data)]), io.sha256()
        for start in range(0, size, part):
            await hasher.update(io.slice(whole, start, min(start + part, size)))
        at_once = await io.digest(whole)
        found.append([await hasher.hexdigest(), at_once, hashlib.sha256(data).hexdigest()])
        hasher.close()
    return found


async def fetched(url: str, ranges: list[tuple[int, int]], byob: bool) -> list[str]:
    """The sha256 of each of these ranges of a file. `byob`: whether streams can read into memory of the caller."""
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


async def broken_off(nbytes: int) -> list[Any]:
    """Read a body that breaks off after `nbytes`: [bytes that came, bytes to be read, whether it ended, error]."""
    import js
    from pyodide.ffi import JsException, create_proxy, to_js

    begun = False

    def pull(controller: Any) -> None:
        nonlocal begun
        if begun:
            controller.error(js.Error.new("the line is dead"))
        else:
            controller.enqueue(js.Uint8Array.new(nbytes))
        begun = True

    proxy = create_proxy(pull)
    source = to_js({"pull": proxy}, dict_converter=js.Object.fromEntries)
    body = js.jerboa.body.open(js.ReadableStream.new(source), 2 * nbytes)
    try:
        came = await body.more(2 * nbytes, 10_000)
        given = int(body.part(0, came).byteLength)
        await body.more(1, 10_000)
    except JsException as error:
        return [came, given, body.done, str(error)]
    finally:
        proxy.destroy()
    return [came, given, body.done, ""]


async def memory_in_turn(nbytes: int) -> list[int]:
    """The first byte of reused memory and of fresh memory, then the sizes of both in bytes."""
    import js

    first = js.jerboa.buffers.take(nbytes)
    first[0] = 7
    js.jerboa.buffers.giveBack(first)
    again, other = js.jerboa.buffers.take(nbytes - 1), js.jerboa.buffers.take(nbytes)
    return [again[0], other[0], again.byteLength, other.byteLength]


def _host_bytes(data: bytes) -> object:
    from pyodide.ffi import to_js

    return to_js(data)
