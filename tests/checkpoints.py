"""Checkpoints taken apart and put together again: with other names or dtypes, quantised by MLX's rule, or broken."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests import reference
from tests.ops.matrices import from_bf16, to_bf16

_KINDS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "U32": "<u4"}


@dataclass(frozen=True)
class Stored:
    """A tensor as stored in the file; bf16 is kept as its bits."""

    dtype: str
    array: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, dtype: str) -> Stored:
        """float32 values, rounded to a float dtype."""
        if dtype == "BF16":
            return cls(dtype, to_bf16(values))
        return cls(dtype, values.astype(_KINDS[dtype]))

    @property
    def values(self) -> np.ndarray:
        """The values as float32."""
        return from_bf16(self.array) if self.dtype == "BF16" else self.array.astype(np.float32)


@dataclass
class Checkpoint:
    """config.json and tensors by name. `write` makes a folder that loads, with the tokenizer of the original."""

    config: dict[str, Any]
    tensors: dict[str, Stored]
    origin: Path

    @classmethod
    def golden(cls, name: str) -> Checkpoint:
        """The checkpoint of this name in tests/goldens/, with all tensors in one file."""
        folder = reference.folder(name)
        return cls(
            json.loads((folder / "config.json").read_text()),
            read_tensors(folder / "model.safetensors"),
            folder,
        )

    @property
    def text(self) -> dict[str, Any]:
        """The config of the text model, to read or to change."""
        inner: dict[str, Any] = self.config.get("text_config", self.config)
        return inner

    def rename(self, name: Callable[[str], str]) -> None:
        """Give every tensor another name."""
        self.tensors = {name(old): stored for old, stored in self.tensors.items()}

    def keep_layers(self, *kept: int) -> None:
        """Keep these layers only; they get the numbers 0, 1, .. in this order. What the config says of each layer is
        the caller's to change."""
        tensors = {}
        for name, stored in self.tensors.items():
            head, layers, tail = name.partition(".layers.")
            number, _, rest = tail.partition(".")
            if not layers:
                tensors[name] = stored
            elif int(number) in kept:
                tensors[f"{head}.layers.{kept.index(int(number))}.{rest}"] = stored
        self.tensors = tensors
        self.text["num_hidden_layers"] = len(kept)

    def find(self, end: str) -> str:
        """The one tensor name that ends with this text."""
        (name,) = (name for name in self.tensors if name.endswith(end))
        return name

    def write(self, folder: Path) -> str:
        """Write the folder; returns its path."""
        folder.mkdir()
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(self.origin / file, folder / file)
        (folder / "config.json").write_text(json.dumps(self.config))
        write_tensors(folder / "model.safetensors", self.tensors)
        return str(folder)


def read_tensors(file: Path) -> dict[str, Stored]:
    """Every tensor of a safetensors file."""
    raw = file.read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:begin])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        array = np.frombuffer(raw[begin + start : begin + end], _KINDS[entry["dtype"]])
        found[name] = Stored(entry["dtype"], array.reshape(entry["shape"]))
    return found


def write_tensors(file: Path, tensors: Mapping[str, Stored]) -> None:
    """Write a safetensors file."""
    header, at = {}, 0
    for name, stored in tensors.items():
        size = stored.array.nbytes
        header[name] = {
            "dtype": stored.dtype,
            "shape": list(stored.array.shape),
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps(header).encode()
    data = b"".join(np.ascontiguousarray(s.array).tobytes() for s in tensors.values())
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


def is_matrix(name: str, stored: Stored) -> bool:
    """Whether MLX would quantise this tensor: embeddings and linear layers, but not convolutions."""
    return name.endswith(".weight") and stored.array.ndim == 2 and stored.dtype != "U32"


def pack(fields: np.ndarray, bits: int) -> np.ndarray:
    """[rows, cols] of 4- or 8-bit fields -> u32 [rows, cols * bits / 32], lowest first."""
    per = 32 // bits
    shifts = (bits * np.arange(per)).astype(np.uint32)
    parts = fields.reshape(fields.shape[0], -1, per).astype(np.uint32) << shifts
    packed: np.ndarray = parts.sum(-1, dtype=np.uint32)
    return packed


def quantise(values: np.ndarray, bits: int, group: int) -> tuple[np.ndarray, ...]:
    """Quantise by MLX's rule, one operation a line. Returns fields [rows, cols], and scales and biases [rows, cols /
    group] in float32.

    Source: mlx/backend/cpu/quantized.cpp. tests/ops/test_layout.py compares it with mlx's own results.
    """
    groups = values.reshape(values.shape[0], -1, group)
    low, high = groups.min(2), groups.max(2)
    scale = np.maximum((high - low) / np.float32(2**bits - 1), np.float32(1e-7))
    from_low = np.abs(low) > np.abs(high)
    scale = np.where(from_low, scale, -scale)
    edge = np.where(from_low, low, high)
    steps = np.rint(edge / scale)
    scale = np.where(steps == 0, scale, edge / np.where(steps == 0, np.float32(1), steps))
    bias = np.where(steps == 0, np.float32(0), edge)
    fields = np.rint((groups - bias[..., None]) / scale[..., None])
    return np.clip(fields, 0, 2**bits - 1).astype(np.int64).reshape(values.shape), scale, bias


def convert(plain: Checkpoint, bits: int, packed: bool) -> Checkpoint:
    """The checkpoint that mlx_lm makes of a plain one. Groups are 64 wide, or 32 where 64 does not divide the width.

    Either packed, with the groups declared in the config, or dequantised to float32.
    """
    made: dict[str, Stored] = {}
    overrides: dict[str, Any] = {}
    for name, stored in plain.tensors.items():
        cols = stored.array.shape[-1]
        if not is_matrix(name, stored) or cols % 32:
            made[name] = stored
            continue
        stem, group = name.removesuffix(".weight"), math.gcd(cols, 64)
        fields, scale, bias = quantise(stored.values, bits, group)
        scales, biases = Stored.of(scale, stored.dtype), Stored.of(bias, stored.dtype)
        if packed:
            made[name] = Stored("U32", pack(fields, bits))
            made[f"{stem}.scales"], made[f"{stem}.biases"] = scales, biases
            overrides[stem] = {"bits": bits, "group_size": group}
        else:
            wide = [np.repeat(side.values, group, -1) for side in (scales, biases)]
            values = fields * wide[0].astype(np.float64) + wide[1]
            made[name] = Stored.of(values.astype(np.float32), "F32")
    config = dict(plain.config)
    if packed:
        config["quantization"] = {"bits": bits, "group_size": 64, **overrides}
    return Checkpoint(config, made, plain.origin)


def dequantise(checkpoint: Checkpoint, dtype: str) -> Checkpoint:
    """The plain checkpoint of `dtype` that a 4- or 8-bit one stands for."""
    made: dict[str, Stored] = {}
    for name, stored in checkpoint.tensors.items():
        stem = name.removesuffix(".weight")
        if name.endswith((".scales", ".biases")):
            continue
        if f"{stem}.scales" not in checkpoint.tensors or stored.dtype != "U32":
            made[name] = stored
            continue
        scales, biases = (checkpoint.tensors[f"{stem}.{k}"].values for k in ("scales", "biases"))
        declared = checkpoint.config["quantization"]
        declared = declared | declared.get(stem, {})
        bits, group = declared["bits"], declared["group_size"]
        assert bits in (4, 8)
        shifts = (bits * np.arange(32 // bits)).astype(np.uint32)
        fields = stored.array[..., None] >> shifts & np.uint32(2**bits - 1)
        fields = fields.reshape(stored.array.shape[0], -1)
        values = fields * np.repeat(scales, group, -1) + np.repeat(biases, group, -1)
        made[name] = Stored.of(values, dtype)
    config = {k: v for k, v in checkpoint.config.items() if not k.startswith("quantization")}
    return Checkpoint(config, made, checkpoint.origin)
