"""The weights in an ONNX file, read without onnx: what torch's exporter makes of a network of linear layers.

Format: protobuf messages (https://protobuf.dev/programming-guides/encoding) of onnx.proto: ModelProto.graph = 7;
GraphProto.node = 1, initializer = 5; NodeProto.input = 1, output = 2, op_type = 4; TensorProto.dims = 1, data_type = 2,
name = 8, raw_data = 9.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FLOAT = 1  # TensorProto.DataType


@dataclass(frozen=True)
class Node:
    """An operation: names of what it reads and what it makes."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read_onnx(path: Path) -> tuple[dict[str, np.ndarray], list[Node]]:
    """The float32 initializers by name, and the nodes in their order."""
    graph = next(value for key, value in _fields(memoryview(path.read_bytes())) if key == 7)
    assert isinstance(graph, memoryview)
    tensors: dict[str, np.ndarray] = {}
    nodes: list[Node] = []
    for key, value in _fields(graph):
        if key == 5 and isinstance(value, memoryview):
            name, array = _tensor(value)
            if array is not None:
                tensors[name] = array
        elif key == 1 and isinstance(value, memoryview):
            parts: dict[int, list[str]] = {1: [], 2: [], 4: []}
            for part, text in _fields(value):
                if part in parts and isinstance(text, memoryview):
                    parts[part].append(str(text, "utf-8"))
            nodes.append(Node(parts[4][0], tuple(parts[1]), tuple(parts[2])))
    return tensors, nodes


def with_output(model: bytes, name: str) -> bytes:
    """The file with one more output: a value from the middle of its network (GraphProto.output = 12,
    ValueInfoProto.name = 1)."""
    found = b""
    for key, value in _fields(memoryview(model)):
        if key == 7 and isinstance(value, memoryview):
            value = memoryview(bytes(value) + _field(12, _field(1, name.encode())))
        found += (
            _varint(key << 3) + _varint(value) if isinstance(value, int) else _field(key, value)
        )
    return found


def _varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def _field(key: int, value: bytes | memoryview) -> bytes:
    return _varint(key << 3 | 2) + _varint(len(value)) + bytes(value)


def named_weights(tensors: Mapping[str, np.ndarray], nodes: list[Node]) -> dict[str, np.ndarray]:
    """The tensors with the names that the layers had in torch. The exporter transposes the matrix of a linear layer and
    calls it onnx::MatMul_N; the bias that is added to its product kept its name."""
    found = {name: array for name, array in tensors.items() if "::" not in name}
    product = {node.outputs[0]: node.inputs[1] for node in nodes if node.op == "MatMul"}
    for node in nodes:
        if node.op != "Add":
            continue
        made = [product[name] for name in node.inputs if name in product]
        bias = [name for name in node.inputs if name.endswith(".bias")]
        if made and bias and made[0] in tensors:
            found[bias[0].removesuffix("bias") + "weight"] = tensors[made[0]].T
    return found


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write float32 tensors as a safetensors file."""
    header, at = {}, 0
    for name, array in sorted(tensors.items()):
        size = 4 * array.size
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, array in sorted(tensors.items()):
            file.write(np.ascontiguousarray(array, np.float32).tobytes())


def _tensor(data: memoryview) -> tuple[str, np.ndarray | None]:
    shape, kind, name, raw = [], 0, "", None
    for key, value in _fields(data):
        if key == 1 and isinstance(value, int):
            shape.append(value)
        elif key == 1 and isinstance(value, memoryview):  # packed
            shape += [number for number, _ in _numbers(value)]
        elif key == 2 and isinstance(value, int):
            kind = value
        elif key == 8 and isinstance(value, memoryview):
            name = str(value, "utf-8")
        elif key == 9 and isinstance(value, memoryview):
            raw = value
    if kind != FLOAT or raw is None:
        return name, None
    return name, np.frombuffer(raw, "<f4").reshape(shape)


def _numbers(data: memoryview) -> Iterator[tuple[int, int]]:
    """Varints from the start of `data`, each with where the next begins."""
    at = 0
    while at < len(data):
        number = shift = 0
        while True:
            byte = data[at]
            at += 1
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        yield number, at


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message, by number."""
    at = 0
    while at < len(data):
        key, end = next(_numbers(data[at:]))
        at += end
        kind = key & 7
        if kind in (0, 2):
            number, end = next(_numbers(data[at:]))
            at += end
            if kind == 0:
                yield key >> 3, number
                continue
            size = number
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"byte {at}: no protobuf field")
        yield key >> 3, data[at : at + size]
        at += size
