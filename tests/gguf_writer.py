"""Writes small GGUF files for tests. It follows the format's specification and shares no code with the reader."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

# name -> (number, elements, bytes), from ggml.h
TYPES = {
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24),
    "Q8_0": (8, 32, 34),
    "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210),
    "BF16": (30, 1, 2),
}


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def value(v: Any) -> bytes:
    """The type number and the encoded value; types are chosen as llama.cpp's converter does."""
    if isinstance(v, bool):
        return struct.pack("<I?", 7, v)
    if isinstance(v, int):
        return struct.pack("<II", 4, v)
    if isinstance(v, float):
        return struct.pack("<If", 6, v)
    if isinstance(v, str | bytes):
        return struct.pack("<I", 8) + text(v)
    head = value(v[0])[:4] if v else struct.pack("<I", 4)
    if v and isinstance(v[0], int) and not isinstance(v[0], bool):
        head = struct.pack("<I", 5)
    body = b"".join(struct.pack("<i", e) if head[0] == 5 else value(e)[4:] for e in v)
    return struct.pack("<I", 9) + head + struct.pack("<Q", len(v)) + body


def write_gguf(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]],
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """The bytes of a file. `tensors`: name -> (type, row-major shape, bytes)."""
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, v in metadata.items():
        out += text(key) + value(v)
    offset, data = 0, b""
    for name, (kind, shape, raw) in tensors.items():
        out += text(name) + struct.pack("<I", len(shape))
        out += struct.pack(f"<{len(shape)}Q", *reversed(shape))
        out += struct.pack("<IQ", TYPES[kind][0], offset)
        padded = raw + bytes(-len(raw) % alignment)
        data += padded
        offset += len(padded)
    return out + bytes(-len(out) % alignment) + data


def float_tensor(array: np.ndarray[Any, Any]) -> tuple[str, tuple[int, ...], bytes]:
    """An F32 tensor."""
    return "F32", array.shape, array.astype("<f4").tobytes()


def byte_level_metadata() -> dict[str, Any]:
    """Metadata of a small byte-level tokenizer."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, extra = {}, 256
    for byte in range(256):
        letters[byte] = chr(byte) if byte in printable else chr(extra)
        extra += byte not in printable
    tokens = [letters[b] for b in range(256)]
    merges = ["h e", "l l", "he ll", "hell o", "\u0120 hello", "1 2"]
    tokens += [merge.replace(" ", "") for merge in merges]
    types = [1] * len(tokens)
    tokens += ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "[PAD0]"]
    types += [3, 3, 3, 4, 5]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": tokens.index("<|im_end|>"),
        "tokenizer.ggml.bos_token_id": tokens.index("<|endoftext|>"),
        "tokenizer.ggml.add_bos_token": False,
    }
