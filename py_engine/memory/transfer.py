"""A namespace as lines of JSON, to carry it to another device: the first names the embedder, each other one is a piece
with its vector (f16, base64)."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from py_engine.errors import InputError
from py_engine.host.json_text import JsonError, read_json
from py_engine.memory.head import LAYOUT
from py_engine.memory.namespace import Namespace
from py_engine.memory.records import Identity, Piece
from py_engine.ops.nearest import padded


async def written(space: Namespace) -> bytes:
    """The lines of a namespace. Raises StorageError."""
    width, stride = 2 * space.identity.dimensions, space.stride
    head = {"jerboa_memory": LAYOUT, "namespace": space.name, "embedder": asdict(space.identity)}
    lines = [_line(head)]
    async for first, data in space.vectors():
        for at in range(0, len(data), stride):
            record = space.records.get(first + at // stride)
            if record is not None:
                vector = base64.b64encode(data[at : at + width]).decode()
                lines.append(_line({"id": record.id, **record.piece.to_dict(), "vector": vector}))
    return b"".join(lines)


def read(
    data: Any, identity: Identity
) -> tuple[Sequence[Piece], Sequence[str], Sequence[bytes] | None]:
    """(pieces, their ids, their vectors); no vectors where they are of another embedder. Raises InputError."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InputError("data: give the bytes that `export` returned")
    first, *lines = bytes(data).splitlines() or [b""]
    head = _value(first, 1)
    if head.get("jerboa_memory") != LAYOUT:
        raise InputError("data: this is no export of a memory, or one of a later version")
    same = head.get("embedder") == asdict(identity)
    pieces, ids, vectors = [], [], []
    for number, text in enumerate(lines, 2):
        value = _value(text, number)
        id, vector = value.pop("id", None), value.pop("vector", "")
        if not isinstance(id, str) or not 1 <= len(id) <= 64:
            raise InputError(f"data: line {number} has no id")
        pieces.append(Piece.checked(value, f"line {number}"))
        ids.append(id)
        if same:
            vectors.append(_vector(vector, identity.dimensions, number))
    return pieces, ids, vectors if same else None


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _value(text: bytes, number: int) -> dict[str, Any]:
    try:
        value = read_json(text)
    except JsonError as error:
        raise InputError(f"data: line {number} is damaged ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"data: line {number} is no object")
    return value


def _vector(text: Any, dimensions: int, number: int) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        data = b""
    # The exponent of what is no number is all ones.
    if len(data) != 2 * dimensions or any(high & 0x7C == 0x7C for high in data[1::2]):
        raise InputError(f"data: line {number} has no vector of {dimensions} numbers")
    return data + bytes(2 * (padded(dimensions) - dimensions))
