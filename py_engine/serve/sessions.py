"""Saved sessions: what a model has seen, kept on this device and brought back bit by bit.

A session is a folder of the store "sessions":

    NAME/session.json   tokens, snapshots, the key, and a sha256 of all that; written last: with it the session exists
    NAME/HEX.bin        KV rows of the tokens, the recurrent state if it is that of the tokens, snapshots (`_spans`)

A session goes back only into what it came from, down to the kernels. Another model, revision, dtype, device, host or
version would go on from it with slightly different numbers, or with nonsense.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from py_engine.arguments import shown
from py_engine.errors import FormatError, InputError, SessionError
from py_engine.generate.decoder import Decoder
from py_engine.graph.transfer import Span, Transfer, slices
from py_engine.host.gpu import Gpu
from py_engine.host.io import Io
from py_engine.host.json_text import parse_json
from py_engine.host.store import BlobStore
from py_engine.inputs.content_ids import MOST_NEGATIVE
from py_engine.tasks.loaded import Loaded
from py_engine.version import VERSION

LAYOUT = 2  # version of the file format; sessions of another one cannot be read
MAX_NAME = 80
HEADER = "session.json"
# Samples that are taken of each weight buffer for the key, and the bytes of one.
_SAMPLES, _SAMPLE_BYTES = 16, 256


_FIELDS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "saved_at": (int, float),
    "key": dict,
    "ids": list,
    "lives": bool,
    "snapshots": list,
    "data": str,
    "nbytes": int,
    "sha256": str,
}


@dataclass(frozen=True)
class SessionInfo:
    """A saved session. `tokens`: how many tokens the model has seen; `saved_at`: seconds since 1970."""

    name: str
    model: str
    tokens: int
    nbytes: int
    saved_at: float


def require_runnable(name: str, ids: Sequence[int]) -> None:
    """Raise SessionError where what a session is to hold was lost with its GPU and cannot be run again from its ids:
    rows of images and sounds (negative ids) are given with a prompt and not kept."""
    if min(ids) < 0:
        raise SessionError(
            f"cannot save {name!r}: the model had seen images or sounds, whose rows went with the lost GPU device. "
            "Ask with them once more, then save."
        )


class Sessions:
    """The sessions on this device, saved and restored by a loaded model. Nothing else may run on it meanwhile."""

    def __init__(self, gpu: Gpu, loaded: Loaded) -> None:
        self._gpu = gpu
        self._io: Io = loaded.io
        self._loaded = loaded
        self._key: dict[str, Any] | None = None

    async def save(self, name: str) -> SessionInfo:
        """Save the present state as `name`, replacing an older session of that name. Raises InputError,
        StorageError."""
        folder = _folder(name)
        decoder, key = self._loaded.decoder, await self._identity()
        prefix = decoder.prefix
        store = await self._open()
        try:
            async with store.lock(folder):
                data = f"{folder}/{secrets.token_hex(8)}.bin"
                spans = _spans(decoder, len(prefix.ids), prefix.lives, list(prefix.marks.values()))
                try:
                    nbytes, digest = await self._write(store, data, spans)
                    session = {
                        "name": name,
                        "saved_at": time.time(),
                        "key": key,
                        "ids": prefix.ids,
                        "lives": prefix.lives,
                        "snapshots": list(prefix.marks),
                        "data": data,
                        "nbytes": nbytes,
                        "sha256": digest,
                    }
                    await store.replace(f"{folder}/{HEADER}", _sealed(session))
                except BaseException:
                    await store.delete(data)
                    raise
                for old in await store.names(folder):
                    if old not in (data, f"{folder}/{HEADER}"):
                        await store.delete(old)
        finally:
            await store.close()
        return _info(session)

    async def restore(self, name: str) -> SessionInfo:
        """Bring a session back. All of it is checked before anything changes.

        Raises SessionError when there is none, when it is damaged, or when it belongs to another model, revision,
        dtype, device, host or version; InputError, StorageError, OutOfMemoryError. The present state then stays.
        """
        folder = _folder(name)
        store = await self._open()
        try:
            async with store.lock(folder, shared=True):
                session = await _read_header(self._io, store, folder, name)
                await self._check(session)
                await self._fill(store, session)
        finally:
            await store.close()
        return _info(session)

    async def all(self) -> list[SessionInfo]:
        """All sessions of this device, the newest first; those that cannot be read are left out."""
        store = await self._open()
        found = []
        try:
            for file in await store.names():
                folder, _, last = file.partition("/")
                if last == HEADER:
                    try:
                        found.append(_info(await _read_header(self._io, store, folder, folder)))
                    except SessionError:
                        continue
        finally:
            await store.close()
        return sorted(found, key=lambda info: -info.saved_at)

    async def delete(self, name: str) -> None:
        """Remove a session; an absent one is no error."""
        folder = _folder(name)
        store = await self._open()
        try:
            async with store.lock(folder):
                await store.delete(folder)
        finally:
            await store.close()

    async def _open(self) -> BlobStore:
        return await self._io.open_store("sessions")

    async def _write(self, store: BlobStore, file: str, spans: Sequence[Span]) -> tuple[int, str]:
        """Write the spans to a file. Returns its bytes and its sha256."""
        with closing(self._io.sha256()) as hasher:
            async with Transfer(self._gpu, spans) as transfer:
                for start, end in transfer.slices():
                    data = await transfer.read(start, end)
                    await hasher.update(data)
                    await store.write(file, start, data)
            if transfer.nbytes:
                await store.flush(file)
            return transfer.nbytes, await hasher.hexdigest()

    async def _check(self, session: Mapping[str, Any]) -> None:
        """Raise SessionError unless the session fits this model as it is now."""
        name, mine = session["name"], await self._identity()
        for field, here in mine.items():
            there = session["key"].get(field)
            if here != there:
                raise SessionError(
                    f"session {name!r} does not fit: its {field} is {_short(there)}, here it is {_short(here)}. "
                    "It goes back only into the same model, settings, device and version; delete it, or load those."
                )
        decoder = self._loaded.decoder
        tokens = len(session["ids"])
        if tokens > decoder.context:
            raise SessionError(
                f"session {name!r} has {tokens} tokens, more than the context of {decoder.context} that the model was "
                "loaded with. Load it with a larger context."
            )

    async def _fill(self, store: BlobStore, session: Mapping[str, Any]) -> None:
        """Check the bytes of a session, then move them to the GPU."""
        decoder, prefix = self._loaded.decoder, self._loaded.decoder.prefix
        ids, lengths = session["ids"], session["snapshots"]
        marks = {n: slot for slot, n in enumerate(lengths)}
        if len(marks) > decoder.snapshots.count:
            raise _damaged(session["name"])

        def spans() -> list[Span]:
            return _spans(decoder, len(ids), session["lives"], list(marks.values()))

        expected = sum(span.nbytes for span in spans())
        stored = await store.size(session["data"]) or 0  # no file where there are no bytes
        if not expected == session["nbytes"] == stored:
            raise _damaged(session["name"])
        with closing(self._io.sha256()) as hasher:
            for start, end in slices(expected):
                await hasher.update(await store.read(session["data"], start, end))
            if await hasher.hexdigest() != session["sha256"]:
                raise _damaged(session["name"])
        await decoder.begin_for(len(ids))
        decoder.state.turn_for(len(ids))
        async with Transfer(self._gpu, spans()) as transfer:
            for start, end in transfer.slices():
                await transfer.write(start, end, await store.read(session["data"], start, end))
        prefix.adopt(list(ids), session["lives"], marks)

    async def _identity(self) -> dict[str, Any]:
        """What a session belongs to, by name: it fits only where all of this is equal."""
        if self._key is None:
            loaded, gpu = self._loaded, self._gpu
            decoder = loaded.decoder
            self._key = {
                "layout": LAYOUT,
                "version": VERSION,
                "model": loaded.name,
                "weights": await self._weights(),
                "dtype": f"{loaded.dtype}, weights {loaded.form}, KV {decoder.state.cache.dtype}",
                "state": [[t.name, *t.shape] for t in decoder.state.recurrents]
                + [[k.name, k.shape[0], k.shape[2]] for k, _ in decoder.state.cache.tensors],
                "host": gpu.info.host,
                "device": {k: v for k, v in vars(gpu.info).items() if k != "host"},
                "features": sorted(decoder.programs.features),
                # Names and constants of all kernels in use: chosen forms and sizes change the order of sums.
                # So do the sizes of chunks, which the names of their passes hold.
                "kernels": _digest(decoder.programs.kernels),
            }
        return self._key

    async def _weights(self) -> str:
        """A sha256 of samples of every weight: it tells models with the same shapes apart."""
        spans = []
        for buffer in self._loaded.store.buffers:
            step = max(buffer.nbytes // _SAMPLES, _SAMPLE_BYTES) // 4 * 4
            spans += [
                Span(buffer, at, min(_SAMPLE_BYTES, buffer.nbytes - at))
                for at in range(0, buffer.nbytes, step)
            ]
        with closing(self._io.sha256()) as hasher:
            async with Transfer(self._gpu, spans) as transfer:
                for start, end in transfer.slices():
                    await hasher.update(await transfer.read(start, end))
            return await hasher.hexdigest()


def _spans(decoder: Decoder, rows: int, lives: bool, slots: Sequence[int]) -> list[Span]:
    """Where the bytes of a session stand on the GPU, in the order of the file."""
    spans = decoder.state.cache.spans(rows)
    if lives:
        spans += decoder.snapshots.live_spans()
    return spans + [decoder.snapshots.span(slot) for slot in slots]


def _folder(name: str) -> str:
    """The folder of a session. Raises InputError for a name that no store takes."""
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME:
        raise InputError(f"a session's name has 1 to {MAX_NAME} characters, unlike {shown(name)}")
    try:
        return quote(name, safe="").replace(".", "%2E")
    except UnicodeEncodeError as error:
        raise InputError(f"a session's name holds a lone surrogate: {shown(name)}") from error


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _digest(value: Any) -> str:
    return hashlib.sha256(_canonical(value)).hexdigest()


def _sealed(session: Mapping[str, Any]) -> bytes:
    return _canonical({"session": session, "sha256": _digest(session)})


async def _read_header(io: Io, store: BlobStore, folder: str, name: str) -> dict[str, Any]:
    """The session.json of a folder. Raises SessionError when it is missing or damaged."""
    try:
        raw = io.to_bytes(await store.read(f"{folder}/{HEADER}"))
    except FileNotFoundError:
        raise SessionError(
            f"there is no session {name!r} on this device: list_sessions() tells which there are"
        ) from None
    try:
        file = parse_json(raw, HEADER)
        session, digest = file["session"], file["sha256"]
    except (FormatError, KeyError, TypeError) as error:
        raise _damaged(name) from error
    if digest != _digest(session) or not _well_formed(session, folder):
        raise _damaged(name)
    layout = session["key"].get("layout")
    if layout != LAYOUT:
        raise SessionError(
            f"session {name!r} does not fit: its layout is {layout}, this engine's is {LAYOUT}. Delete it."
        )
    return dict(session)


def _well_formed(session: Any, folder: str) -> bool:
    """Whether every field has its type. The sha256 says only that nothing has changed since the file was written."""
    if not isinstance(session, dict) or any(
        not isinstance(session.get(field), kind) for field, kind in _FIELDS.items()
    ):
        return False
    return (
        all(type(n) is int and MOST_NEGATIVE <= n < 1 << 32 for n in session["ids"])
        and all(type(n) is int and 0 < n <= len(session["ids"]) for n in session["snapshots"])
        and session["data"].startswith(f"{folder}/")
        and isinstance(session["key"].get("model"), str)
    )


def _damaged(name: str) -> SessionError:
    return SessionError(
        f"session {name!r} is damaged (cut off or changed since it was saved): delete it"
    )


def _info(session: Mapping[str, Any]) -> SessionInfo:
    return SessionInfo(
        session["name"],
        session["key"]["model"],
        len(session["ids"]),
        session["nbytes"],
        session["saved_at"],
    )


def _short(value: Any) -> str:
    return f"{value!r:.60}"
