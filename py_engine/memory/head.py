"""The heads of namespaces: which there are in a store, and which embedder each belongs to."""

from __future__ import annotations

import json
import urllib.parse
from dataclasses import asdict, dataclass
from typing import Any

from py_engine.arguments import shown
from py_engine.errors import FormatError, InputError, StorageError
from py_engine.host.io import Io
from py_engine.host.json_text import parse_json
from py_engine.host.store import BlobStore
from py_engine.memory.records import Identity

LAYOUT = 1  # of a namespace's files
MAX_NAME = 64  # bytes; three times as many in a folder's name


def folder_of(name: Any) -> str:
    """The folder of a namespace. Raises InputError for what is no name."""
    text = name.strip() if isinstance(name, str) else ""
    try:
        nbytes = len(text.encode())
    except UnicodeEncodeError:
        nbytes = 0
    if not 1 <= nbytes <= MAX_NAME or text != name or not text.isprintable():
        raise InputError(
            f"namespace={shown(name)}: give a name of 1 to {MAX_NAME} bytes, without spaces at its ends"
        )
    quoted = urllib.parse.quote(text, safe="")
    # A file system may take upper case for lower case, and hides names that begin with a dot.
    return "".join(f"%{ord(c):02X}" if c == "." else c for c in quoted)


@dataclass(frozen=True)
class Head:
    """Which files of a namespace count, and which embedder made its vectors."""

    generation: int
    identity: Identity

    @classmethod
    async def read(cls, store: BlobStore, io: Io, name: str) -> Head | None:
        """The head of a namespace; None if there is none. Raises StorageError for one that is damaged or newer."""
        try:
            text = io.to_bytes(await store.read(f"{folder_of(name)}/head.json"))
        except FileNotFoundError:
            return None
        try:
            value = parse_json(text, "its head")
            if value["layout"] != LAYOUT:
                raise StorageError(
                    f"the namespace {name!r} was written by another version of this engine: update it"
                )
            if value["namespace"] != name:
                raise StorageError(
                    f"this disk takes {name!r} for {value['namespace']!r}: choose another name"
                )
            who = value["embedder"]
            identity = Identity(who["model"], int(who["dimensions"]), dict(who["settings"]))
            return cls(int(value["generation"]), identity)
        except (FormatError, KeyError, TypeError, ValueError) as error:
            raise StorageError(
                f"the head of the namespace {name!r} is damaged ({error}): delete the namespace and add its texts anew"
            ) from None

    async def write(self, store: BlobStore, name: str) -> None:
        """Replace the namespace's head."""
        value = {
            "layout": LAYOUT,
            "namespace": name,
            "generation": self.generation,
            "embedder": asdict(self.identity),
        }
        await store.replace(f"{folder_of(name)}/head.json", json.dumps(value).encode() + b"\n")


async def namespaces(store: BlobStore, io: Io) -> list[dict[str, Any]]:
    """The namespaces of a store, by name: {"namespace", "model", "dimensions", "nbytes"} each. A damaged one has the
    reason as `error`."""
    found: dict[str, dict[str, Any]] = {}
    for file in await store.names():
        folder, _, rest = file.partition("/")
        name = urllib.parse.unquote(folder)
        try:
            if not rest or folder_of(name) != folder:
                continue
        except InputError:  # not ours
            continue
        entry = found.setdefault(name, {"namespace": name, "nbytes": 0})
        entry["nbytes"] += await store.size(file) or 0
    for name, entry in found.items():
        try:
            head = await Head.read(store, io, name)
        except StorageError as error:
            entry["error"] = str(error)
            continue
        if head:
            entry |= {"model": head.identity.model, "dimensions": head.identity.dimensions}
    return [found[name] for name in sorted(found)]


async def delete(store: BlobStore, name: str) -> None:
    """Delete a namespace with everything in it, also a damaged one. It is no error when it is absent."""
    folder = folder_of(name)
    async with store.lock(folder):
        await store.delete(folder)
        await store.close()
